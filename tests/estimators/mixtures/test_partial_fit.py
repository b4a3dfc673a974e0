"""`partial_fit`: what blocks make of a mixture, what is kept between them, what is refused."""

import copy
import io
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from simulated_device import NAME, simulated_device
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skgmmot import DifferentiableGaussianMixture
from skgmmot._inputs import places
from skgmmot.estimators.mixtures import _partial_fit
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, FULL, SPHERICAL

NAMES = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]
K, d = 3, 2


def stream(n_blocks, n=200, seed=0, offset=0.0):
    """Blocks of samples of three overlapping clusters."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [3.0, 1.0], [-1.0, 3.0]])
    scales = np.array([[1.0, 0.5], [0.7, 1.2], [1.0, 1.0]])
    for _ in range(n_blocks):
        k = rng.choice(K, size=n, p=[0.5, 0.3, 0.2])
        yield centres[k] + scales[k] * rng.normal(size=(n, d)) + offset


def mixture(covariance_type="full", **options):
    """Three components, unfitted."""
    options = {"random_state": 0} | options
    return DifferentiableGaussianMixture(K, covariance_type=covariance_type, **options)


def learned(blocks, model=None, **options):
    """The model after some blocks."""
    model = mixture(**options) if model is None else model
    for X in blocks:
        model.partial_fit(X)
    return model


def state(model):
    """All numbers that a model has learned, as bytes."""
    kept = list(getattr(model, "_running", {"type": None}).values())[1:]
    numbers = [np.asarray(getattr(model, name)) for name in NAMES] + kept
    counts = [getattr(model, n, None) for n in ("n_steps_", "n_samples_seen_", "lower_bound_")]
    return [a.tobytes() for a in numbers], counts


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"max_iter": 0}, {"acceleration": "squarem"}])
def test_the_first_block_is_fitted(covariance_type, dtype, options):
    (X,) = (X.astype(dtype) for X in stream(1))
    options = {"n_init": 2, "init_params": "k-means++"} | options
    ours, fit = mixture(covariance_type, **options), mixture(covariance_type, **options).fit(X)
    ours.partial_fit(X)
    for name in NAMES:
        assert np.array_equal(getattr(ours, name), getattr(fit, name))
        assert getattr(ours, name).dtype == dtype
    assert ours.n_steps_ == 1 and ours.n_iter_ == fit.n_iter_ and not ours.converged_
    assert not hasattr(ours, "lower_bounds_")
    if fit.n_iter_:
        assert ours.lower_bound_ == pytest.approx(fit.lower_bound_, rel=1e-12)


def dense_sums(w, m, S, X, a):
    """Raw sums of a block over its weight, by SciPy's densities."""
    joint = np.stack([w[k] * multivariate_normal(m[k], S[k]).pdf(X) for k in range(K)])
    resp = joint / joint.sum(0) * a / a.sum()
    log_likelihood = (a * np.log(joint.sum(0))).sum() / a.sum()
    return [resp.sum(1), resp @ X, np.einsum("kn,ni,nj->kij", resp, X, X), log_likelihood]


def dense_m_step(s0, s1, s2, reg_covar, covariance_type):
    """The mixture that raw sums give, its covariances as matrices."""
    w, m = s0 / s0.sum(), s1 / s0[:, None]
    within = s2 - np.einsum("k,ki,kj->kij", s0, m, m)
    S = within / s0[:, None, None]
    if covariance_type == "tied":
        S = np.stack([within.sum(0) / s0.sum()] * K)
    if covariance_type in ("diag", "spherical"):
        S = np.stack([np.diag(np.diag(s)) for s in S])
    if covariance_type == "spherical":
        S = np.stack([np.eye(d) * np.trace(s) / d for s in S])
    return w, m, S + reg_covar * np.eye(d)


def full_covariances(model):
    """The covariances of a fitted model as matrices."""
    theta = model._params()
    return theta.covariance_type.to_full(theta.covariances, K, d).numpy()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_stepwise_em_on_raw_sums(covariance_type, weighted):
    rng, reg_covar, decay = np.random.default_rng(1), 1e-3, 0.7
    blocks = [X[: rng.integers(20, 200)] for X in stream(8)]
    weights = [5 * rng.random(len(X)) if weighted else np.ones(len(X)) for X in blocks]
    unit = {"full": np.stack([np.eye(d)] * K), "tied": np.eye(d)}
    unit |= {"diag": np.ones((K, d)), "spherical": np.ones(K)}
    w, m, S = np.array([0.2, 0.3, 0.5]), blocks[0][:K].copy(), np.stack([np.eye(d)] * K)
    given = {"weights_init": w, "means_init": m, "precisions_init": unit[covariance_type]}
    options = {"partial_fit_decay": decay, "reg_covar": reg_covar, "max_iter": 3, "tol": 0.0}
    model = mixture(covariance_type, **given, **options)
    seen = 0.0
    for t, (X, a) in enumerate(zip(blocks, weights, strict=True)):
        model.partial_fit(X, sample_weight=a if weighted else None)
        if t == 0:
            for _ in range(3):
                running = dense_sums(w, m, S, X, a)
                w, m, S = dense_m_step(*running[:3], reg_covar, covariance_type)
        else:
            odds = (t + 2) ** -decay / (1 - (t + 2) ** -decay) * a.sum() / (seen / t)
            eta = odds / (1 + odds)
            sums = dense_sums(w, m, S, X, a)
            running = [(1 - eta) * p + eta * q for p, q in zip(running, sums, strict=True)]
            w, m, S = dense_m_step(*running[:3], reg_covar, covariance_type)
        seen += a.sum()
        np.testing.assert_allclose(model.weights_, w, rtol=1e-10)
        np.testing.assert_allclose(model.means_, m, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(full_covariances(model), S, rtol=1e-10, atol=1e-10)
        assert model.lower_bound_ == pytest.approx(running[3], rel=1e-10)
        assert model.n_samples_seen_ == pytest.approx(seen) and model.n_steps_ == t + 1
    assert model.n_iter_ == 3 + 7


def test_one_pass_reaches_the_likelihood_of_a_batch_fit(covariance_type):
    blocks = list(stream(100, 2000))
    X = np.vstack(blocks)
    batch = mixture(covariance_type).fit(X)
    assert learned(blocks, mixture(covariance_type)).score(X) > batch.score(X) - 1e-3


def test_weights_are_repeated_rows(covariance_type):
    rng = np.random.default_rng(2)
    blocks = list(stream(5))
    counts = [rng.integers(0, 3, size=len(X)) for X in blocks]
    options = {"means_init": [[0, 0], [3, 1], [-1, 3]], "tol": 1e-9, "max_iter": 1000}
    weighted, repeated = mixture(covariance_type, **options), mixture(covariance_type, **options)
    for X, a in zip(blocks, counts, strict=True):
        weighted.partial_fit(X, sample_weight=a)
        repeated.partial_fit(np.repeat(X, a, axis=0))
    for name in NAMES:
        found, expected = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert weighted.n_samples_seen_ == repeated.n_samples_seen_ == sum(map(np.sum, counts))


@pytest.mark.parametrize("unit", [1e-300, 1e-9, 7.0, 1e200])
def test_the_unit_of_all_weights_does_not_matter(unit):
    one, other = mixture(), mixture()
    for X in stream(4):
        a = np.abs(X[:, 0])
        one.partial_fit(X, sample_weight=a)
        other.partial_fit(X, sample_weight=unit * a)
    np.testing.assert_allclose(one.means_, other.means_, rtol=1e-8)


def test_a_short_last_block_moves_the_mixture_little():
    *blocks, last = stream(20)
    model = learned(blocks)
    whole, short = (copy.deepcopy(model).partial_fit(X) for X in (last, last[:2]))
    moved, little = (np.abs(m.means_ - model.means_).max() for m in (whole, short))
    assert 0 < little < 0.1 * moved


@pytest.mark.parametrize("dtype, offset", [(np.float64, 1e7), (np.float32, 1e3)])
def test_blocks_far_from_the_origin_keep_their_digits(covariance_type, dtype, offset):
    near = learned(stream(10), mixture(covariance_type))
    far = learned((X.astype(dtype) for X in stream(10, offset=offset)), mixture(covariance_type))
    tolerance = 1e-6 if dtype == np.float64 else 2e-3
    np.testing.assert_allclose(far.covariances_, near.covariances_, atol=tolerance)
    np.testing.assert_allclose(far.means_ - offset, near.means_, atol=tolerance)


def test_a_stream_that_drifts_away_is_followed(covariance_type):
    blocks = [X + 1e6 * t for t, X in enumerate(stream(8))]
    model = DifferentiableGaussianMixture(1, covariance_type=covariance_type, reg_covar=0.0)
    mean, square = 0.0, 0.0
    for t, X in enumerate(blocks):
        model.partial_fit(X)
        eta = (t + 2) ** -0.6 if t else 1.0
        mean = (1 - eta) * mean + eta * X.mean(0)
        square = (1 - eta) * square + eta * np.square(X).mean(0)
    variances = square - mean**2
    theta = model._params()
    found = theta.full_covariances()[0].diagonal().numpy()
    expected = [variances.mean()] * d if covariance_type == "spherical" else variances
    np.testing.assert_allclose(theta.means[0], mean, rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_blocks_of_float32_and_float64_may_take_turns():
    blocks = list(stream(6))
    mixed = learned([X.astype([np.float32, np.float64][t % 2]) for t, X in enumerate(blocks)])
    np.testing.assert_allclose(mixed.means_, learned(blocks).means_, atol=1e-5)
    assert mixed.means_.dtype == np.float64


def test_fixed_weights_stay(covariance_type):
    options = {"fixed_weights": True, "weights_init": [0.5, 0.3, 0.2]}
    model = learned(stream(5), mixture(covariance_type, **options))
    np.testing.assert_array_equal(model.weights_, options["weights_init"])


def test_a_component_that_dies_keeps_its_covariance():
    X, *blocks = stream(4)
    model = learned([X, X[:, [1, 0]]])
    model.weights_, model.means_ = np.array([0.6, 0.4, 0.0]), model.means_.copy()
    covariance, mean = model.covariances_[2], model.means_[2]
    learned(blocks, model)
    np.testing.assert_array_equal(model.weights_[2], 0)
    np.testing.assert_array_equal(model.covariances_[2], covariance)
    np.testing.assert_allclose(model.means_[2], mean, rtol=1e-14)


def test_lost_components_are_warned_of_once():
    X, *blocks = stream(3)
    model = learned([X]).set_params(reg_covar=1e-3)
    model.means_ = model.means_ + np.array([[0.0], [0.0], [1e4]])
    huge = [np.full(len(b), 1e30) for b in blocks]  # what came before counts for nothing
    with pytest.warns(ConvergenceWarning, match="lost their samples: 1 of 3"):
        model.partial_fit(blocks[0], sample_weight=huge[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(blocks[1], sample_weight=huge[1])
    assert model.weights_[2] == 0 and 2 not in model.predict(X)


class Ball(CovarianceType):
    """One variance for all components and features, ``(1, 1)``."""

    name, base, shared = "ball", SPHERICAL, True

    def shape(self, n_components, n_features):
        return (1, 1)

    def n_parameters(self, n_components, n_features):
        return 1

    def to_base(self, covariances, n_components, n_features):
        return covariances.expand(n_components, 1)

    def nearest(self, matrices, weights):
        return (SPHERICAL.nearest(matrices, weights).mT @ weights / weights.sum()).view(1, 1)

    def estimate(self, mass, shift, scatter, reg_covar):
        within = scatter - mass.unsqueeze(-1) * SPHERICAL.outer(shift, shift)
        return within.sum(0, keepdim=True) / mass.sum() + reg_covar


class Isotropic(Ball):
    """Spherical covariances, stored as matrices."""

    name, base, shared = "isotropic", FULL, False

    def shape(self, n_components, n_features):
        return (n_components, n_features, n_features)

    def to_base(self, covariances, n_components, n_features):
        return covariances

    def nearest(self, matrices, weights):
        full = FULL.nearest(matrices, weights)
        traces = full.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        return traces * torch.eye(full.shape[-1], dtype=full.dtype)

    def estimate(self, mass, shift, scatter, reg_covar):
        return self.nearest(FULL.estimate(mass, shift, scatter, reg_covar), mass)


@pytest.mark.parametrize("kind", [Ball(), Isotropic()], ids=lambda kind: kind.name)
def test_types_of_ones_own_learn_and_go_on(kind, monkeypatch):
    monkeypatch.setitem(COVARIANCE_TYPES, kind.name, kind)
    blocks = list(stream(30, 500))
    model = learned(blocks, mixture(kind.name))
    X = np.vstack(blocks)
    assert model.score(X) > mixture(kind.name).fit(X).score(X) - 5e-3
    if kind.name == "isotropic":
        expected = learned(blocks, mixture("spherical"))
        np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-8, atol=1e-8)
    fit = mixture(kind.name).fit(X)
    before = fit.means_.copy()
    assert np.abs(fit.partial_fit(blocks[0]).means_ - before).max() < 0.1


# --- what is kept --------------------------------------------------------------------------------


def by_joblib(model):
    """Saved and loaded by joblib."""
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "saved",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, by_joblib],
    ids=["pickle", "deepcopy", "joblib"],
)
def test_a_saved_model_goes_on_to_the_same_bits(covariance_type, dtype, saved):
    blocks = [X.astype(dtype) for X in stream(8)]
    model = mixture(covariance_type)
    for X in blocks:
        model = saved(learned([X], model))
    assert state(model) == state(learned(blocks, mixture(covariance_type)))


def test_a_clone_has_learned_nothing():
    model = learned(stream(3), partial_fit_decay=0.8)
    fresh = clone(model)
    assert set(vars(fresh)) == set(fresh.get_params()) and fresh.partial_fit_decay == 0.8
    assert state(learned(stream(3), fresh)) == state(model)


def test_threads_change_no_bit(covariance_type):
    blocks = list(stream(3, 20_000))
    n_threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(state(learned(blocks, mixture(covariance_type))))
    finally:
        torch.set_num_threads(n_threads)
    assert found[0] == found[1] == found[2]


def test_a_fit_starts_anew():
    first, *blocks = stream(4)
    model = learned(blocks).fit(first)
    expected = mixture().fit(first)
    assert set(vars(model)) == set(vars(expected))
    assert state(model) == state(expected)


def test_a_warm_fit_goes_on_from_the_blocks():
    blocks = list(stream(20))
    model = learned(blocks, warm_start=True, tol=1e-6, max_iter=1000)
    X = np.vstack(blocks)
    before = model.score(X)
    model.fit(X)
    assert model.converged_ and model.score(X) >= before and not hasattr(model, "n_steps_")


def test_after_a_fit_its_samples_count_as_one_block():
    X, block = np.vstack(list(stream(50))), *stream(1, seed=1)
    fit = mixture(tol=1e-8, max_iter=1000).fit(X)
    long, equal = copy.deepcopy(fit), copy.deepcopy(fit)
    long.partial_fit(block + 1.0)
    equal.n_samples_seen_ = len(block)
    equal.partial_fit(block + 1.0)
    assert long.n_samples_seen_ == len(X) + len(block) and long.n_steps_ == 2
    moved, much = (np.abs(m.means_ - fit.means_).max() for m in (long, equal))
    assert 0 < moved < 0.05 * much
    assert long.n_iter_ == fit.n_iter_ + 1 and not long.converged_


def test_after_a_fit_blocks_are_as_after_a_first_block(covariance_type):
    first, *blocks = stream(5)
    options = {"tol": 1e-13, "max_iter": 5000, "reg_covar": 1e-2}
    fitted = learned(blocks, mixture(covariance_type, **options).fit(first))
    expected = learned([first, *blocks], mixture(covariance_type, **options))
    for name in NAMES:
        found = getattr(fitted, name)
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-6, atol=1e-6)
    assert fitted.n_steps_ == 5 and fitted.lower_bound_ == pytest.approx(expected.lower_bound_)


def test_parameters_set_by_hand_count():
    *blocks, last = stream(5)
    model = learned(blocks)
    edited, expected = copy.deepcopy(model), copy.deepcopy(model)
    edited.means_ = edited.means_[::-1].copy()
    edited.weights_, edited.covariances_ = edited.weights_[::-1], edited.covariances_[::-1]
    edited.partial_fit(last)
    expected.partial_fit(last)
    np.testing.assert_allclose(edited.means_[::-1], expected.means_, rtol=1e-9, atol=1e-9)
    assert edited.n_steps_ == expected.n_steps_


def test_a_mixture_made_by_hand_learns():
    model = mixture()
    model.weights_, model.means_ = [0.5, 0.3, 0.2], [[0, 0], [3, 1], [-1, 3]]
    model.covariances_ = np.stack([np.eye(d)] * K)
    X, *blocks = stream(30)
    model.partial_fit(X)
    assert model.n_samples_seen_ == 2 * len(X) and model.n_steps_ == 2
    assert np.isfinite(model.lower_bound_) and model.n_features_in_ == d
    model = learned(blocks, model)
    np.testing.assert_allclose(model.means_, [[0, 0], [3, 1], [-1, 3]], atol=0.3)


def test_decay_of_one_averages_all_and_a_small_one_follows():
    here, there = list(stream(20)), [X + 10 for X in stream(20, seed=1)]
    options = {"means_init": [[0, 0], [3, 1], [-1, 3]]}
    slow, fast = (learned(here + there, partial_fit_decay=a, **options) for a in (1.0, 0.55))
    new = np.vstack(there)
    assert fast.score(new) > slow.score(new)


@pytest.mark.parametrize("kind", ["list", "frame", "torch", "fortran"])
def test_every_kind_of_array_gives_the_same(kind):
    kinds = {
        "list": np.ndarray.tolist,
        "frame": lambda X: pd.DataFrame(X, columns=["a", "b"]),
        "torch": torch.tensor,
        "fortran": np.asfortranarray,
    }
    found = learned(map(kinds[kind], stream(3)))
    assert isinstance(found.means_, np.ndarray)
    np.testing.assert_allclose(found.means_, learned(stream(3)).means_, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_on_another_device_give_the_same(covariance_type, dtype):
    blocks = [torch.tensor(X, dtype=dtype) for X in stream(3)]
    expected = learned(blocks, mixture(covariance_type))
    with simulated_device() as name:
        found = learned((X.to(name) for X in blocks), mixture(covariance_type))
        assert found.means_.device.type == NAME
        np.testing.assert_allclose(found.means_.cpu().numpy(), expected.means_, rtol=1e-6)


# --- blocks that a function returns, and large files ----------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_function_of_blocks_is_one_pass_over_them(covariance_type, weighted):
    blocks = list(stream(6))
    pairs = [(X, np.abs(X[:, 0])) for X in blocks]
    one_by_one = mixture(covariance_type)
    for X, a in pairs:
        one_by_one.partial_fit(X, sample_weight=a if weighted else None)
    n_passes = []

    def read():
        n_passes.append(1)
        yield from pairs if weighted else blocks

    assert state(mixture(covariance_type).partial_fit(read)) == state(one_by_one)
    assert len(n_passes) == 1
    apart = mixture(covariance_type).partial_fit(pairs[0][0], sample_weight=pairs[0][1])
    later = apart.partial_fit(
        lambda: iter(blocks[1:]), sample_weight=lambda: (a for _, a in pairs[1:])
    )
    assert later.n_steps_ == 6


def test_a_large_file_is_taken_block_by_block(tmp_path, monkeypatch):
    X = np.vstack(list(stream(6)))
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    monkeypatch.setattr(places, "MEMORY_MAP_BYTES", 0)
    monkeypatch.setattr(places, "BLOCK_BYTES", 200 * X.itemsize * d)
    assert state(mixture().partial_fit(mapped)) == state(learned(stream(6)))


def test_after_a_fit_to_blocks_their_samples_count():
    blocks = list(stream(6))
    weights = [np.full(len(X), 2.0) for X in blocks]
    model = mixture().fit(lambda: iter(zip(blocks, weights, strict=True)))
    assert model.n_samples_seen_ == 2 * 6 * len(blocks[0])
    assert model.partial_fit(blocks[0]).n_samples_seen_ == 13 * len(blocks[0])
    assert repr(mixture().fit(lambda: iter(blocks)).n_samples_seen_) == "1200"


def test_blocks_without_weight_are_passed_over():
    *blocks, last = stream(4)
    none = (last, np.zeros(len(last)))
    pairs = [none, *((X, np.ones(len(X))) for X in blocks), none]
    found = mixture().partial_fit(lambda: iter(pairs))
    assert found.n_steps_ == 3
    np.testing.assert_allclose(found.means_, learned(blocks).means_, rtol=1e-12)
    with pytest.raises(ValueError, match="must have a positive sum, got all zeros"):
        found.partial_fit(lambda: iter([none]))


@pytest.mark.parametrize("fitted", [False, True])
def test_a_bad_block_among_good_ones_leaves_the_model_whole(fitted):
    blocks = list(stream(3))
    model = learned(blocks) if fitted else mixture()
    before = dict(vars(model))
    for bad, text in (
        (np.full((5, d), np.nan), r"block 2 of X \(from row 400\) is invalid: X must be finite"),
        (np.ones((5, d + 1)), r"block 2 of X .* invalid: X has 3 features"),
        (blocks[0].astype(np.float32), "blocks must have one dtype"),
    ):
        with pytest.raises(ValueError, match=text):
            model.partial_fit(lambda bad=bad: iter([*blocks[:2], bad]))
        assert vars(model) == before
    with pytest.raises(ValueError, match="blocks with rows, got none"):
        model.partial_fit(lambda: iter([]))
    with pytest.raises(ValueError, match="without gradients"):
        model.partial_fit(lambda: iter([torch.tensor(blocks[0], requires_grad=True)]))
    assert vars(model) == before


def test_a_first_block_of_a_function_must_have_enough_rows():
    blocks = list(stream(2))
    with pytest.raises(ValueError, match="n_components = 3, n_samples = 2"):
        mixture().partial_fit(lambda: iter([blocks[0][:2], blocks[1]]))


# --- what is refused -----------------------------------------------------------------------------


def refusals():
    """Blocks and parameters that cannot be taken, by what the error says."""
    (X,) = stream(1)
    bad = X.copy()
    bad[3, 1] = np.nan
    tensor = torch.tensor(X)
    return {
        "X must be finite, got NaN in 1 of 200 rows": (bad, {}, {}),
        "X has 4 features, but": (np.hstack([X, X]), {}, {}),
        "minimum of 1 is required|at least 1 sample": (X[:0], {}, {}),
        r"X must have shape \(n_samples, n_features\)": (X[:, 0], {}, {}),
        "X must not require a gradient in partial_fit": (
            tensor.clone().requires_grad_(),
            {},
            {},
        ),
        "sample_weight must not require a gradient": (
            tensor,
            {},
            {"sample_weight": torch.ones(len(X), requires_grad=True)},
        ),
        "sample_weight must have a positive sum|at least one non-zero": (
            X,
            {},
            {"sample_weight": np.zeros(len(X))},
        ),
        "sample_weight must be finite and non-negative": (
            X,
            {},
            {"sample_weight": -np.ones(len(X))},
        ),
        "sample_weight must have a finite sum, got inf": (
            X,
            {},
            {"sample_weight": np.full(len(X), 1e308)},
        ),
        "n_components must be 3, as in the blocks so far, got 4": (X, {"n_components": 4}, {}),
        "covariance_type must be that of the fit": (X, {"covariance_type": "diag"}, {}),
        "'partial_fit_decay' parameter .* must be a float in the range": (
            X,
            {"partial_fit_decay": 0.5},
            {},
        ),
        "'reg_covar' parameter": (X, {"reg_covar": -1.0}, {}),
        "X must be smaller than": (1e200 * X, {}, {}),
    }


@pytest.mark.parametrize("text", refusals())
def test_what_cannot_be_taken_leaves_the_model_whole(text):
    blocks = list(stream(3))
    model = learned(blocks)
    before = state(model)
    X, parameters, options = refusals()[text]
    with pytest.raises(ValueError, match=text):
        model.set_params(**parameters).partial_fit(X, **options)
    assert state(model) == before
    model.set_params(**mixture().get_params())
    assert state(model.partial_fit(blocks[0])) == state(learned([*blocks, blocks[0]]))


def test_a_refused_first_block_leaves_nothing():
    (X,) = stream(1)
    for wrong, text in ((X[:1], "minimum of 2"), (X[:2], "n_samples >= n_components")):
        model = mixture()
        with pytest.raises(ValueError, match=text):
            model.partial_fit(wrong)
        assert set(vars(model)) == set(model.get_params())


def test_an_interrupted_block_leaves_the_model_whole(monkeypatch):
    blocks = list(stream(3))
    model = learned(blocks)
    before = state(model)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_partial_fit, "stepwise_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(blocks[0])
    assert state(model) == before
    assert state(model.partial_fit(blocks[0])) == state(learned([*blocks, blocks[0]]))


def test_collapsed_covariances_are_refused_and_leave_the_model_whole():
    model = learned(stream(3), reg_covar=0.0)
    before = state(model)
    point = np.full((50, d), 0.25)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        model.partial_fit(point, sample_weight=np.full(50, 1e100))
    assert state(model) == before


def test_names_of_features_are_those_of_the_first_block():
    blocks = [pd.DataFrame(X, columns=["a", "b"]) for X in stream(2)]
    model = learned(blocks)
    assert list(model.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(blocks[0][["b", "a"]])


def test_balanced_plans_have_no_partial_fit():
    model = mixture(e_step="sinkhorn")
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError) as caught:
        model.partial_fit(next(stream(1)))
    assert "partial_fit needs e_step='posterior', got 'sinkhorn'" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="'e_step' parameter"):
        mixture(e_step="other").partial_fit(next(stream(1)))


def test_no_gradient_is_refused_where_none_is_recorded():
    tensors = [torch.tensor(X, requires_grad=True) for X in stream(2)]
    with torch.no_grad():
        model = learned(tensors)
    assert not torch.as_tensor(model.means_).requires_grad
    np.testing.assert_allclose(model.means_, learned(stream(2)).means_, rtol=1e-12)


def test_after_a_differentiable_fit_blocks_are_constants():
    first, *blocks = stream(3)
    model = mixture(gradient="one_step").fit(torch.tensor(first, requires_grad=True))
    assert model.means_.requires_grad
    learned(blocks, model)
    assert isinstance(model.means_, torch.Tensor) and not model.means_.requires_grad
    assert not hasattr(model, "solution_")


def test_a_drowned_unit_is_warned_of_at_the_caller():
    with pytest.warns(UserWarning, match="reg_covar must be small") as caught:
        mixture().partial_fit(1e-6 * next(stream(1)))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", ["noise", "labels"])
def test_after_a_fit_with_noise_or_classes_components_go_on_alone(kind, rng):
    X = np.concatenate([rng.normal(size=(200, 2)), rng.uniform(-20, 20, size=(50, 2))])
    y, options = np.r_[np.zeros(200), np.ones(50)], {"random_state": 0, "n_components": 2}
    changed = {"noise": "uniform"} if kind == "noise" else {"labels": "y"}
    fitted = DifferentiableGaussianMixture(**options, **changed).fit(X, y)
    plain = DifferentiableGaussianMixture.from_parameters(
        fitted.weights_, fitted.means_, fitted.covariances_, "full", random_state=0
    )
    plain.n_samples_seen_ = fitted.n_samples_seen_
    fitted.set_params(noise="none", labels="ignore")
    with pytest.raises(ValueError, match=r"must be '(none|ignore)' for standard errors"):
        fitted.standard_errors(X)
    for mixture in (fitted, plain):
        mixture.partial_fit(X)
    for name in ("noise_weight_", "noise_log_density_", "noise_bounds_", "classes_", "error_"):
        assert not hasattr(fitted, name)
    for name in ("weights_", "means_", "covariances_", "lower_bound_", "n_samples_seen_"):
        np.testing.assert_array_equal(getattr(fitted, name), getattr(plain, name))
    assert fitted.predict_proba(X).shape == (250, 2)
    assert fitted.bic(X) == plain.bic(X)
    assert fitted.weights_.sum() == pytest.approx(1, rel=1e-12)
