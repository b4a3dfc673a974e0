"""SlicedWassersteinGMM: fits, units, starts, batches, interruptions, and what it refuses."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.datasets import make_ring_square_line
from skgmmot.fitting import sliced
from skgmmot.metrics import sliced_wasserstein_distance

#: Fewer directions than the default, and faster.
FAST = {"n_init": 1, "n_projections": 12, "random_state": 0}
#: Fits that end at once, where it does not matter how near.
SHORT = {"tol": 1.0}


def two_clouds(rng):
    return np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(9, 1, (100, 2))])


@pytest.fixture
def clouds(rng):
    """Two clouds of 300 and 100 samples in the plane."""
    return two_clouds(rng)


def fitted(X, n_components=2, **params):
    return SlicedWassersteinGMM(n_components, **FAST | params).fit(X)


@pytest.fixture(scope="module")
def fit_of_all():
    """A short fit to the clouds, for all tests; none of them may change it."""
    return fitted(two_clouds(np.random.default_rng(0)), **SHORT)


@pytest.fixture
def earlier_fit(fit_of_all):
    """A copy of it."""
    return copy.deepcopy(fit_of_all)


def centres(clouds):
    """The means of the two clouds, the larger first."""
    return np.stack([clouds[:300].mean(0), clouds[300:].mean(0)])


def by_weight(mixture):
    """Parameters in the order of the weights."""
    order = np.argsort(-np.asarray(mixture.weights_))
    return np.asarray(mixture.weights_)[order], np.asarray(mixture.means_)[order]


# --- what it finds -----------------------------------------------------------------------------


@pytest.mark.usefixtures("random_seed")
def test_no_seed_draws_components_together(clouds):
    for seed in range(4):
        mixture = fitted(clouds, covariance_type="tied", random_state=seed, tol=0.05)
        assert mixture.sliced_wasserstein_ < 0.3


@pytest.mark.usefixtures("random_seed")
def test_two_clouds_are_found_with_weights_means_and_covariances(clouds, covariance_type):
    mixture = fitted(clouds, covariance_type=covariance_type)
    weights, means = by_weight(mixture)
    assert mixture.converged_
    assert np.abs(weights - [0.75, 0.25]).max() < 0.01
    assert np.abs(means - centres(clouds)).max() < 0.1
    em = {"covariance_type": covariance_type, "random_state": 0}
    reference = DifferentiableGaussianMixture(2, **em).fit(clouds)
    found, expected = (m._params().full_covariances() for m in (mixture, reference))
    order = [np.argsort(-m.weights_) for m in (mixture, reference)]
    assert (found[order[0]] - expected[order[1]]).abs().max() < 0.25
    assert mixture.score(clouds) > reference.score(clouds) - 0.01


@pytest.mark.usefixtures("random_seed")
def test_refining_ends_at_a_maximum_of_the_likelihood(clouds):
    clouds[300:] -= 5  # they overlap: apart, both fits may be the same
    plain, refined = fitted(clouds), fitted(clouds, refine="em")
    assert not hasattr(plain, "lower_bound_")
    reference = DifferentiableGaussianMixture(2, tol=1e-9, random_state=0).fit(clouds)
    assert abs(refined.score(clouds) - reference.score(clouds)) < 1e-5
    assert abs(refined.lower_bound_ - refined.score(clouds)) < 1e-5
    assert refined.score(clouds) >= plain.score(clouds)


def test_bad_starts_end_near_the_best_likelihood():
    # the study's data, and starts from which EM ends far away
    X, _ = make_ring_square_line(random_state=5)
    losses = {"em": [], "sliced": []}
    for seed in range(2):
        rng = np.random.default_rng(seed)
        A = 0.1 * rng.uniform(size=(10, 2, 2))
        start = {
            "weights_init": np.full(10, 0.1),
            "means_init": X.mean(0) + rng.uniform(-1, 1, size=(10, 2)),
            "precisions_init": np.linalg.inv(A @ A.transpose(0, 2, 1) + 1e-3 * np.eye(2)),
        }
        em = DifferentiableGaussianMixture(10, tol=1e-6, max_iter=1000, **start).fit(X)
        losses["em"].append(-em.score(X))
        losses["sliced"].append(-fitted(X, 10, refine="em", **start).score(X))
    best = 1.64024  # of EM from ten starts by k-means, at tol=1e-6
    assert max(losses["sliced"]) < best + 0.02
    assert max(losses["em"]) > best + 0.05


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_of_scaled_and_moved_data_is_the_fit_scaled_and_moved(clouds, covariance_type):
    options = {"covariance_type": covariance_type, "max_iter": 12}
    mixture = fitted(clouds, **options)
    for scale, offset in [(1e-6, 1.0), (1e6, -1e9)]:
        other = fitted(offset + scale * clouds, **options)
        assert other.n_iter_ == mixture.n_iter_
        assert np.abs((other.means_ - offset) / scale - mixture.means_).max() < 1e-4
        assert np.allclose(other.covariances_ / scale**2, mixture.covariances_, rtol=1e-4)
        assert np.isclose(other.sliced_wasserstein_ / scale, mixture.sliced_wasserstein_, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("p", [2, 20])
def test_a_fit_of_tiny_or_huge_data_is_the_fit_scaled(clouds, p):
    options = {"p": p, "max_iter": 10}
    one = fitted(clouds, **options)
    for scale in (2.0**-480, 2.0**480):
        other = fitted(clouds * scale, **options)
        assert np.allclose(other.means_ / scale, one.means_, rtol=1e-6, atol=1e-6)
        assert np.allclose(other.covariances_ / scale / scale, one.covariances_, rtol=1e-6)
        assert np.isclose(other.sliced_wasserstein_ / scale, one.sliced_wasserstein_, rtol=1e-6)


@pytest.mark.usefixtures("random_seed")
def test_the_distance_is_recorded_and_falls(clouds):
    mixture = fitted(clouds, tol=1e-3, learning_rate=0.02, n_projections=40)
    curve = np.array(mixture.sliced_wassersteins_)
    assert len(curve) == 1 + mixture.n_iter_ // 10
    assert curve[-1] < 0.1 * curve[0]
    assert mixture.sliced_wasserstein_ < 1.05 * curve.min()  # along other lines


@pytest.mark.usefixtures("random_seed")
def test_a_smaller_tolerance_takes_more_steps(clouds):
    assert fitted(clouds, tol=0.5).n_iter_ < fitted(clouds, tol=1e-2).n_iter_


@pytest.mark.usefixtures("random_seed")
def test_one_component_is_mean_and_covariance(rng):
    X = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 5
    mixture = fitted(X, 1)
    assert np.abs(mixture.means_ - X.mean(0)).max() < 0.02
    assert np.abs(mixture.covariances_[0] - np.cov(X.T)).max() < 0.1 * np.cov(X.T).max()


def sgd(parameters, learning_rate):
    """torch's gradient descent with momentum, as an optimiser of the fit."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize(
    "params",
    [
        {"projections": "random"},
        {"projections": "orthogonal"},
        {"projections": "max", "n_projections": 4},
        {"optimizer": "adam"},
        {"optimizer": sgd, "learning_rate": 0.3},
        {"p": 1.0},
        {"p": 3.0},
        {"batch_size": 100},
        {"init_params": "kmeans"},
        {"init_params": "random"},
        {"init_params": "random_from_data"},
        {"n_init": 2},
    ],
    ids=lambda params: "-".join(str(getattr(v, "__name__", v)) for v in params.values()),
)
def test_every_option_finds_the_two_clouds(clouds, params):
    mixture = fitted(clouds, **params, tol=0.05)
    weights, means = by_weight(mixture)
    assert np.abs(weights - [0.75, 0.25]).max() < 0.05
    assert np.abs(means - centres(clouds)).max() < 0.5


@pytest.mark.usefixtures("random_seed")
def test_more_starts_are_no_worse(rng):
    X = np.concatenate([rng.normal(c, 0.5, (60, 2)) for c in ([0, 0], [5, 0], [0, 5], [5, 5])])
    # (with the first seed the first start is the better one)
    options = {"init_params": "random_from_data", "tol": 0.05, "random_state": 7}
    first, several = (fitted(X, 4, n_init=n, **options) for n in (1, 2))
    assert several.sliced_wasserstein_ <= first.sliced_wasserstein_
    # the descents, before their ends are compared with others
    assert several.sliced_wassersteins_[-1] <= first.sliced_wassersteins_[-1]


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("scales", [np.ones(30), np.logspace(-3, 3, 30)], ids=["equal", "unequal"])
def test_no_direction_collapses_in_many_features(rng, scales):
    # fifty lines say little of thirty features, and nothing of thin directions
    X = rng.normal(size=(300, 30)) * scales
    mixture = SlicedWassersteinGMM(1, random_state=0, max_iter=60, tol=0.1, n_init=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(X)
    held_out = rng.normal(size=(1000, 30)) * scales
    reference = GaussianMixture(1).fit(X)
    assert mixture.score(held_out) > reference.score(held_out) - 0.5
    variances = np.linalg.eigvalsh(mixture.covariances_[0] / np.outer(scales, scales))
    assert variances.min() > 0.5 * np.linalg.eigvalsh(np.cov((X / scales).T)).min()
    ours, theirs = (sliced_wasserstein_distance(m, X) for m in (mixture, reference))
    assert ours <= 1.01 * theirs


def test_no_component_collapses_where_one_feature_decides_the_distance():
    # (proline is in the hundreds; the descent's components explain it best, and are a thousandth as
    # wide as their samples in what else was measured)
    X, held_out = train_test_split(load_wine().data, random_state=2)
    mixture = SlicedWassersteinGMM(3, random_state=2).fit(X)
    reference = DifferentiableGaussianMixture(3, random_state=2).fit(X)
    for rows in (X, held_out):
        assert mixture.score(rows) > reference.score(rows) - 3
        ours, theirs = (sliced_wasserstein_distance(m, rows) for m in (mixture, reference))
        assert ours <= 1.01 * theirs


def test_no_component_collapses_where_starts_are_bad(rng):
    centres = rng.normal(size=(4, 10)) * 6
    X = np.concatenate([rng.normal(c, 1, (100, 10)) for c in centres])
    start = {"means_init": X.mean(0) + 1e-3 * rng.normal(size=(4, 10))}
    mixture = SlicedWassersteinGMM(4, random_state=0, n_init=1, **start).fit(X)
    likeliest = DifferentiableGaussianMixture(4, random_state=0).fit(X).score(X)
    assert mixture.score(X) > likeliest - 10


def test_the_fit_is_no_worse_than_its_start_or_em():
    X = StandardScaler().fit_transform(load_iris().data)
    em = DifferentiableGaussianMixture(3, random_state=0).fit(X)
    start = {"weights_init": em.weights_, "means_init": em.means_}
    start["precisions_init"] = em.precisions_
    bound = 1.01 * sliced_wasserstein_distance(em, X)
    # steps far too long lead nowhere
    for options in ({}, start):
        options |= {"learning_rate": 10.0, "n_projections": 50, "max_iter": 20}
        with pytest.warns(ConvergenceWarning):
            mixture = fitted(X, 3, **options)
        assert sliced_wasserstein_distance(mixture, X) < bound


@pytest.mark.usefixtures("random_seed")
def test_high_dimensions_are_fitted(rng):
    d = 40
    centres = rng.normal(size=(3, d)) * 3
    labels = rng.integers(3, size=600)
    X = centres[labels] + rng.normal(size=(600, d))
    mixture = fitted(X, 3, covariance_type="diag", n_projections=50)
    found = np.linalg.norm(mixture.means_[:, None] - centres, axis=2).argmin(0)
    assert sorted(found) == [0, 1, 2]
    assert (found[labels] == mixture.predict(X)).mean() > 0.99


# --- data of all kinds -------------------------------------------------------------------------


def test_repeated_samples_are_sample_weights(clouds):
    a = np.arange(len(clouds)) % 3
    start = {"means_init": [[0.0, 0.0], [8.0, 8.0]], "weights_init": [0.5, 0.5]}
    start["precisions_init"] = np.stack([np.eye(2)] * 2)
    start |= FAST | SHORT
    weighted = SlicedWassersteinGMM(2, **start).fit(clouds, sample_weight=a)
    repeated = SlicedWassersteinGMM(2, **start).fit(np.repeat(clouds, a, axis=0))
    assert np.abs(weighted.means_ - repeated.means_).max() < 1e-6
    assert np.abs(weighted.weights_ - repeated.weights_).max() < 1e-6


def test_every_kind_of_array_gives_the_same_fit_in_kind(array_kind, clouds, fit_of_all):
    X = array_kind(clouds)
    mixture = fitted(X, **SHORT)
    assert isinstance(mixture.means_, np.ndarray)
    expected = fit_of_all.means_
    assert np.allclose(mixture.means_, expected)
    if isinstance(X, torch.Tensor):
        means = fitted(X.requires_grad_(), **SHORT).means_
        assert isinstance(means, torch.Tensor) and np.allclose(means, expected)


@pytest.mark.usefixtures("random_seed")
def test_float32_stays_float32(clouds):
    mixture = fitted(clouds.astype(np.float32), tol=0.1)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert getattr(mixture, name).dtype == np.float32
    assert np.abs(by_weight(mixture)[1] - centres(clouds)).max() < 0.1


def test_a_gradient_that_is_asked_for_is_not_carried(clouds):
    X = torch.tensor(clouds, requires_grad=True)
    assert not fitted(X, **SHORT).means_.requires_grad


def test_clones_pickles_pipelines_and_searches_work(clouds, fit_of_all):
    mixture = fit_of_all
    again = pickle.loads(pickle.dumps(mixture))
    assert np.array_equal(again.predict(clouds), mixture.predict(clouds))
    assert not hasattr(clone(mixture), "means_")
    pipeline = make_pipeline(StandardScaler(), SlicedWassersteinGMM(2, **FAST | SHORT))
    assert len(set(pipeline.fit_predict(clouds))) == 2
    search = GridSearchCV(
        SlicedWassersteinGMM(**FAST | SHORT),
        {"n_components": [1, 2]},
        cv=ShuffleSplit(2, random_state=0),
    ).fit(clouds[::2])
    assert search.best_params_ == {"n_components": 2}


def test_an_integer_seed_repeats_the_fit(clouds, fit_of_all):
    assert np.array_equal(fitted(clouds, **SHORT).means_, fit_of_all.means_)


# --- starting, stopping, going on --------------------------------------------------------------


def test_no_steps_show_the_start(clouds):
    mixture = fitted(clouds, max_iter=0, means_init=[[1.0, 2.0], [3.0, 4.0]])
    assert np.allclose(mixture.means_, [[1, 2], [3, 4]])
    assert mixture.n_iter_ == 0 and not mixture.converged_


def test_a_fit_that_stops_early_warns(clouds):
    with pytest.warns(ConvergenceWarning, match="did not converge. Try different init parameters"):
        mixture = fitted(clouds, max_iter=15)
    assert mixture.n_iter_ == 15 and not mixture.converged_


@pytest.mark.usefixtures("random_seed")
def test_a_warm_start_goes_on_from_the_last_fit(clouds):
    mixture = SlicedWassersteinGMM(2, warm_start=True, max_iter=0, **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # the first shows where fits start
        distances = [mixture.fit(clouds).sliced_wasserstein_]
        mixture.set_params(max_iter=30)
        distances += [mixture.fit(clouds).sliced_wasserstein_ for _ in range(3)]
    assert (np.diff(distances) < 1e-9 * distances[-1]).all()
    assert distances[-1] < 0.5 * distances[0]
    with pytest.raises(ValueError, match=r"warm_start needs a fit of shape .* = \(3, 2\)"):
        mixture.set_params(n_components=3).fit(clouds)
    assert mixture.means_.shape == (2, 2)


@pytest.mark.usefixtures("random_seed")
def test_partial_fits_learn_from_batches(rng, clouds):
    mixture = SlicedWassersteinGMM(2, **FAST)
    for _ in range(25):
        mixture.partial_fit(clouds[rng.integers(len(clouds), size=200)])
    weights, means = by_weight(mixture)
    assert mixture.n_iter_ == 250 and not mixture.converged_
    assert np.abs(weights - [0.75, 0.25]).max() < 0.1
    assert np.abs(means - centres(clouds)).max() < 0.5
    mixture.partial_fit(clouds[:1])  # later batches may be small
    with pytest.raises(
        ValueError, match="X has 3 features, but SlicedWassersteinGMM is expecting 2"
    ):
        mixture.partial_fit(rng.normal(size=(10, 3)))


def test_an_interrupted_fit_keeps_the_best_so_far(clouds, monkeypatch):
    original, calls = sliced.SlicedObjective.loss, []

    def loss(self, mixture):
        calls.append(1)
        if len(calls) > 55:
            raise KeyboardInterrupt
        return original(self, mixture)

    monkeypatch.setattr(sliced.SlicedObjective, "loss", loss)
    mixture = SlicedWassersteinGMM(2, **FAST)
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(clouds)
    assert mixture.n_iter_ == 50 and not mixture.converged_
    assert mixture.sliced_wasserstein_ < mixture.sliced_wassersteins_[0]
    assert np.isfinite(mixture.score(clouds))


def test_a_failed_fit_leaves_the_earlier_one(earlier_fit):
    mixture = earlier_fit
    before = mixture.means_.copy()
    with pytest.raises(ValueError, match="X must be finite"):
        mixture.fit(np.full((10, 2), np.nan))
    assert np.array_equal(mixture.means_, before)


def test_verbose_shows_a_bar(clouds, capsys):
    fitted(clouds, verbose=1, **SHORT)
    assert "distance=" in capsys.readouterr().err
    fitted(clouds, **SHORT)
    assert not capsys.readouterr().err


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"p": 0.5}, "The 'p' parameter of SlicedWassersteinGMM must be a float in the range"),
        ({"n_projections": 0}, "The 'n_projections' parameter"),
        ({"projections": "spiral"}, "The 'projections' parameter"),
        ({"learning_rate": 0.0}, "The 'learning_rate' parameter"),
        ({"optimizer": "newton"}, "The 'optimizer' parameter"),
        ({"batch_size": 0}, "The 'batch_size' parameter"),
        ({"refine": "sgd"}, "The 'refine' parameter"),
        ({"tol": -1.0}, "The 'tol' parameter"),
        ({"device": "nowhere"}, "device must be one that torch has here, got 'nowhere'"),
    ],
)
def test_parameters_out_of_range_are_refused(clouds, params, message):
    with pytest.raises(ValueError, match=message):
        fitted(clouds, **params)


def test_an_optimizer_that_is_none_is_refused_and_the_earlier_fit_kept(clouds, earlier_fit):
    mixture = earlier_fit
    before = mixture.means_.copy()
    mixture.set_params(optimizer=lambda parameters, learning_rate: None)
    with pytest.raises(
        TypeError, match=r"optimizer must return a torch\.optim\.Optimizer, got None"
    ):
        mixture.fit(clouds)
    assert np.array_equal(mixture.means_, before)


def test_fewer_samples_than_components_are_refused(clouds):
    with pytest.raises(ValueError, match=r"Expected n_samples >= n_components .* n_samples = 3"):
        fitted(clouds[:3], 4)
    weights = np.zeros(len(clouds))
    weights[0] = 1
    with pytest.raises(ValueError, match=r"n_samples = 1"):
        SlicedWassersteinGMM(2).fit(clouds, sample_weight=weights)


@pytest.mark.parametrize(
    ("dtype", "scale", "message"),
    [
        ("float64", 1e-160, r"X must be wider than 1.5e-151 .* got a width of"),
        ("float64", 1e-300, r"X must be wider than 1.5e-151"),
        ("float32", 1e-25, r"X must be wider than 1.1e-16 for covariances in torch.float32"),
        ("float64", 1e160, r"X must be smaller than 1.3e\+151"),
        ("float32", 1e26, r"X must be smaller than 1.8e\+16"),
    ],
)
def test_samples_whose_variances_leave_the_range_of_numbers_are_refused(
    clouds, dtype, scale, message
):
    with pytest.raises(ValueError, match=message):
        fitted((clouds * scale).astype(dtype))


def test_an_exponent_whose_powers_leave_the_range_of_numbers_is_refused(clouds):
    with pytest.raises(ValueError, match=r"p must be smaller for these samples, got 5000"):
        fitted(clouds, p=5000, max_iter=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(clouds, value):
    clouds[7, 1] = value
    with pytest.raises(ValueError, match=r"X must be finite, got .* \(first: row 7\)"):
        fitted(clouds)


def test_nothing_can_be_asked_before_the_fit(clouds):
    with pytest.raises(NotFittedError, match="This SlicedWassersteinGMM instance is not fitted"):
        SlicedWassersteinGMM().predict(clouds)


def finite(mixture):
    return all(
        np.isfinite(getattr(mixture, name)).all()
        for name in ("weights_", "means_", "covariances_", "precisions_cholesky_")
    )


@pytest.mark.parametrize("value", [0.0, 123456.789])
def test_constant_features_stay_constant(clouds, value, covariance_type):
    X = np.column_stack([clouds, np.full(len(clouds), value)])
    mixture = fitted(X, covariance_type=covariance_type, tol=0.1)
    assert finite(mixture)
    assert np.abs(mixture.means_[:, 2] - value).max() < 0.1
    assert len(set(mixture.predict(X))) == 2


def test_constant_data_are_a_point():
    mixture = fitted(np.full((20, 2), 3.0))
    assert finite(mixture)
    assert np.abs(mixture.means_[mixture.weights_ > 0.01] - 3).max() < 0.05


def test_duplicates_are_points_with_mass():
    X = np.repeat([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], [10, 20, 30], axis=0)
    mixture = fitted(X, 3)
    weights, means = by_weight(mixture)
    assert finite(mixture)
    assert np.abs(weights - [1 / 2, 1 / 3, 1 / 6]).max() < 0.01
    assert np.abs(means - [[0, 4], [4, 0], [0, 0]]).max() < 0.05


@pytest.mark.usefixtures("random_seed")
def test_one_feature_needs_one_direction(clouds):
    mixture = fitted(clouds[:, :1])
    weights, means = by_weight(mixture)
    assert np.abs(weights - [0.75, 0.25]).max() < 0.02
    assert np.abs(means - centres(clouds)[:, :1]).max() < 0.1


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("size", [1e3, 1e8])
def test_far_outliers_get_their_share_of_the_mass(clouds, size):
    X = np.concatenate([clouds, np.full((40, 2), size)])
    mixture = fitted(X, covariance_type="spherical")
    weights, means = by_weight(mixture)
    assert finite(mixture)
    assert np.abs(weights - [400 / 440, 40 / 440]).max() < 0.01
    assert np.abs(means[1] / size - 1).max() < 0.02


@pytest.mark.usefixtures("random_seed")
def test_as_many_components_as_samples_are_fitted(rng):
    X = rng.normal(size=(6, 2))
    X *= 0.9 / np.sqrt(X.var(0).mean())
    mixture = fitted(X, 6)
    # each is a component of the least variance, reg_covar = 1e-6
    assert finite(mixture) and mixture.sliced_wasserstein_ < 1e-3
    assert np.abs(mixture.means_[:, None] - X).max(2).min(1).max() < 1e-3
    assert len(set(mixture.predict(X))) == 6
    assert np.abs(mixture.covariances_).max() < 2e-6


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("precision", [1e-300, 1e-307, 1e-308])
def test_a_start_far_wider_than_the_samples_is_left_or_refused(covariance_type, precision):
    X = np.random.default_rng(0).normal(size=(30, 1)) + 1e6
    shape = {"spherical": (2,), "diag": (2, 1), "full": (2, 1, 1), "tied": (1, 1)}
    given = np.full(shape[covariance_type], precision)
    options = {"precisions_init": given, "covariance_type": covariance_type, "random_state": 0}
    if precision == 1e-308 and covariance_type in ("full", "tied"):  # they add up two of these
        with pytest.raises(ValueError, match="the start must be of the size of the samples"):
            SlicedWassersteinGMM(2, **options).fit(X)
    else:
        found = SlicedWassersteinGMM(2, max_iter=2, **options).fit(X)
        assert found.sliced_wasserstein_ < 0.2 * X.std()
    if precision < 1e-300:
        message = r"the start must be of the size of the samples, got (inf|nan)"
        with pytest.raises(ValueError, match=message):
            SlicedWassersteinGMM(2, max_iter=0, **options).fit(X)
