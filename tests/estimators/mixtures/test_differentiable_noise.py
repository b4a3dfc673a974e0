"""`DifferentiableGaussianMixture` with uniform noise."""

import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skgmmot import DifferentiableGaussianMixture, GaussianMixtureSearch, Prior, UniformNoise
from skgmmot.metrics import mixture_wasserstein_distance

TYPES = ("full", "tied", "diag", "spherical")


def drawn(rng):
    """Two clusters around 0 and 8, of 80 samples each, and 40 outliers."""
    clusters = rng.normal(size=(2, 80, 2)) + np.array([0.0, 8.0])[:, None, None]
    return np.concatenate([clusters.reshape(-1, 2), rng.uniform(-25, 25, size=(40, 2))])


@pytest.fixture(scope="module")
def X():
    return drawn(np.random.default_rng(0))


def mixture(**parameters):
    given = {"n_components": 2, "noise": "uniform", "random_state": 0}
    return DifferentiableGaussianMixture(**given | parameters)


@pytest.fixture(scope="module")
def fitted(X):
    return mixture().fit(X)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_outliers_do_not_spoil_means_and_are_labelled(rng, covariance_type):
    X = drawn(rng)
    found = mixture(covariance_type=covariance_type).fit(X)
    means = found.means_[found.means_[:, 0].argsort()]
    np.testing.assert_allclose(means, [[0, 0], [8, 8]], atol=0.4)  # three standard errors
    assert abs(found.noise_weight_ - 0.2) < 0.05
    assert found.weights_.sum() == pytest.approx(1)
    labels = found.predict(X)
    assert (labels[160:] == -1).mean() > 0.8 and (labels[:160] == -1).mean() < 0.05


def test_densities_and_probabilities_are_those_of_the_whole_model(X, fitted):
    w0, log_density = fitted.noise_weight_, fitted.noise_log_density_
    assert log_density == pytest.approx(-np.log(np.ptp(X, axis=0)).sum())
    np.testing.assert_array_equal(fitted.noise_bounds_, [X.min(0), X.max(0)])
    alone = DifferentiableGaussianMixture.from_parameters(
        fitted.weights_, fitted.means_, fitted.covariances_, "full"
    )
    expected = np.logaddexp(np.log1p(-w0) + alone.score_samples(X), np.log(w0) + log_density)
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-10)
    proba = fitted.predict_proba(X)
    assert proba.shape == (200, 3)
    np.testing.assert_allclose(proba[:, 2], np.exp(np.log(w0) + log_density - expected), atol=1e-12)
    labels = proba.argmax(1)
    np.testing.assert_array_equal(np.where(labels == 2, -1, labels), fitted.predict(X))
    assert fitted.bic(X) == pytest.approx(-2 * expected.sum() + 12 * np.log(200))
    assert fitted.predict([[1e9, 0.0]]) == -1 and fitted.score_samples([[1e9, 0.0]]) > -12


def test_samples_parts_and_distances_are_of_the_components(fitted):
    assert (fitted.sample(50)[1] >= 0).all()
    assert not hasattr(fitted.marginal(0), "noise_weight_")
    alone = (fitted.weights_, fitted.means_, fitted.covariances_)
    assert mixture_wasserstein_distance(fitted, alone) == 0


def test_parameters_follow_the_rules_of_scikit_learn(X, fitted):
    noise = UniformNoise(bounds=(-25.0, [25.0, 25.0]), weight=0.1)
    given = clone(mixture(noise=noise)).fit(X)
    assert given.noise_log_density_ == pytest.approx(-2 * np.log(50))
    assert given.get_params()["noise"] is not None and "UniformNoise" in repr(given)
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert not hasattr(clone(fitted).set_params(noise="none").fit(X), "noise_weight_")
    with pytest.raises(InvalidParameterError, match="'noise' parameter"):
        mixture(noise="gaussian").fit(X)


def test_a_fixed_weight_stays_and_so_do_weights_beside_it(X):
    noise = UniformNoise(weight=0.25, fixed_weight=True)
    found = mixture(noise=noise).fit(X)
    assert found.noise_weight_ == pytest.approx(0.25, rel=1e-14)
    given = {"fixed_weights": True, "weights_init": [0.3, 0.7]}
    both = mixture(noise=noise, **given).fit(X)
    np.testing.assert_allclose(both.weights_, [0.3, 0.7], rtol=1e-14)
    with pytest.raises(ValueError, match="fixed_weights must be False beside noise"):
        mixture(**given).fit(X)
    masked = mixture(noise=noise, fixed_weights=[True, False], weights_init=[0.3, 0.7]).fit(X)
    assert masked.weights_[0] == pytest.approx(0.3, rel=1e-14)


def test_fixed_means_and_priors_go_with_noise(X):
    means = [[0.5, 0.5], [8.0, 8.0]]
    found = mixture(fixed_means=[True, False], means_init=means, prior="auto").fit(X)
    assert found.means_[0].tolist() == means[0]
    assert (np.diff(found.lower_bounds_) > -1e-12).all()


@pytest.mark.parametrize("alpha", [1.0, 100.0, 1000.0])
def test_the_weight_of_noise_does_not_depend_on_the_prior(X, alpha):
    prior = Prior(alpha, [0.0, 0.0], 1e-9, 1.0 + 1e-6, 1e-9)
    options = {"n_components": 1, "tol": 1e-12, "max_iter": 1000}
    found = mixture(prior=prior, **options).fit(X[:80])
    noisy = found.predict_proba(X[:80])[:, -1].mean()
    assert found.noise_weight_ == pytest.approx(noisy, abs=1e-6)
    flat = mixture(prior=Prior(1.0, [0.0, 0.0], 1e-9, 1.0 + 1e-6, 1e-9), **options).fit(X[:80])
    assert found.noise_weight_ == pytest.approx(flat.noise_weight_, abs=1e-9)


@pytest.mark.parametrize("weights", [False, True])
def test_the_weight_of_noise_beside_a_gaussian_that_is_known(X, weights):
    given = {"means_init": [[0.0, 0.0]], "precisions_init": [np.eye(2)], "tol": 1e-12}
    given |= {"fixed_means": True, "fixed_covariances": True, "max_iter": 1000}
    fitted = mixture(n_components=1, **given).fit(X)
    assert fitted.means_.tolist() == [[0.0, 0.0]]
    density = multivariate_normal.pdf(X, [0, 0], np.eye(2))
    noise = np.exp(fitted.noise_log_density_)
    loss = lambda w: -np.log((1 - w) * density + w * noise).sum()  # noqa: E731
    best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded").x
    assert fitted.noise_weight_ == pytest.approx(best, abs=1e-4)
    known = UniformNoise(weight=0.3, fixed_weight=True)
    with pytest.raises(ValueError, match="must leave something to fit"):
        mixture(n_components=1, noise=known, fixed_weights=weights, **given).fit(X)


def test_weights_count_as_repeated_rows(X):
    a = np.r_[np.full(100, 2.0), np.ones(100)]
    a[190:] = 0
    noise = UniformNoise(bounds=(-25.0, 25.0))
    given = {"means_init": [[0, 0], [8, 8]], "precisions_init": np.stack([np.eye(2)] * 2)}
    given |= {"weights_init": [0.5, 0.5], "noise": noise, "tol": 1e-8, "max_iter": 500}
    weighted = mixture(**given).fit(X, sample_weight=a)
    repeated = mixture(**given).fit(np.repeat(X, a.astype(int), axis=0))
    assert weighted.noise_weight_ == pytest.approx(repeated.noise_weight_, rel=1e-4)
    np.testing.assert_allclose(weighted.means_, repeated.means_, atol=1e-4)
    boxed = mixture(noise="uniform").fit(X, sample_weight=a)
    np.testing.assert_array_equal(boxed.noise_bounds_[1], X[:190].max(0))


def test_single_precision_has_the_same_fit(X, fitted):
    single = mixture().fit(X.astype(np.float32))
    assert single.means_.dtype == np.float32
    np.testing.assert_allclose(single.means_, fitted.means_, rtol=1e-3, atol=1e-3)
    assert (single.predict(X.astype(np.float32)) == fitted.predict(X)).mean() > 0.98


def test_blocks_and_dask_give_the_bits_of_memory(X, fitted):
    parts = mixture().fit(lambda: iter(np.array_split(X, 3)))
    np.testing.assert_array_equal(parts.noise_bounds_, fitted.noise_bounds_)
    np.testing.assert_allclose(parts.means_, fitted.means_, rtol=1e-12)
    da = pytest.importorskip("dask.array")
    chunked = da.from_array(X, chunks=(len(X), 2))
    lazy = mixture().fit(chunked)
    np.testing.assert_array_equal(lazy.means_, fitted.means_)
    assert lazy.noise_weight_ == fitted.noise_weight_
    assert lazy.predict_proba(chunked).shape == (200, 3)


def test_a_warm_start_goes_on_and_a_checkpoint_returns_the_same_bits(X, fitted, tmp_path):
    warm = clone(fitted).set_params(warm_start=True).fit(X)
    first = warm.lower_bound_
    assert warm.fit(X).lower_bound_ >= first and warm.n_iter_ <= 2
    options = {"noise": UniformNoise(bounds=(-25.0, 25.0)), "checkpoint": tmp_path / "fit.npz"}
    once = mixture(**options).fit(X)
    again = mixture(**options).fit(X)
    assert again.noise_weight_ == once.noise_weight_
    other = UniformNoise(bounds=(-26.0, 25.0))
    with pytest.raises(ValueError, match="checkpoint"):
        mixture(**options | {"noise": other}).fit(X)


def test_the_weight_of_noise_is_on_the_graph(X):
    noise = UniformNoise(bounds=(-25.0, 25.0))
    options = {"noise": noise, "tol": 1e-10, "max_iter": 500}
    data = torch.from_numpy(X).requires_grad_()
    found = mixture(**options).fit(data)
    found.noise_weight_.backward()

    def share(dx):
        moved = X.copy()
        moved[3, 0] += dx
        return float(mixture(**options | {"tol": 0.0, "max_iter": 150}).fit(moved).noise_weight_)

    with pytest.warns(UserWarning):  # tol=0 never converges
        difference = (share(1e-4) - share(-1e-4)) / 2e-4
    assert float(data.grad[3, 0]) == pytest.approx(difference, rel=1e-3)
    scores = found.score_samples(data.detach())
    assert scores.requires_grad


def test_one_component_and_many_features(X):
    single = mixture(n_components=1, covariance_type="tied").fit(X[:80].repeat(2, 0))
    assert 0 <= single.noise_weight_ < 0.5  # in the box of its samples, some of them are uniform
    wide = np.random.default_rng(0).normal(size=(12, 30))
    assert np.isfinite(mixture(reg_covar=1e-2).fit(wide).score(wide))


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"noise": UniformNoise(log_density=1e4)}, "noise must leave samples to the components"),
        ({"noise": UniformNoise(bounds=([0] * 3, [1] * 3))}, "the features of X, got 3 each"),
        ({"e_step": "sinkhorn"}, "noise must be 'none' with e_step='sinkhorn'"),
    ],
)
def test_what_cannot_be_is_refused(X, parameters, match):
    with pytest.raises(ValueError, match=match):
        mixture(**parameters).fit(X)


def test_what_has_no_meaning_with_noise_says_so(X, fitted):
    with pytest.raises(ValueError, match="noise must be 'none' for standard errors"):
        fitted.standard_errors(X)
    with pytest.raises(ValueError, match="no noise for entropic_ot_gap"):
        fitted.entropic_ot_gap(X)
    with pytest.raises(AttributeError) as refusal:
        mixture().partial_fit(X)
    assert "partial_fit needs noise='none'" in str(refusal.value.__cause__)
    with pytest.raises(ValueError, match="mixture must have noise='none'"):
        GaussianMixtureSearch(mixture=DifferentiableGaussianMixture(noise="uniform")).fit(X)


def test_samples_of_known_class_are_no_noise(X):
    y = np.full(200, -1)
    y[:10], y[80:90], y[199] = 0, 1, 1
    found = mixture(labels="y").fit(X, y)
    assert (np.diff(found.lower_bounds_) > -1e-12).all()
    assert found.predict_class(X[[0, 100, 198]]).tolist() == [0, 1, -1]
    assert found.predict_class_proba(X[198:199]).sum() < 1e-3
    without = y.copy()
    without[199] = -1
    assert found.noise_weight_ < mixture(labels="y").fit(X, without).noise_weight_


def test_noise_of_weight_zero_is_still_a_column(X, fitted):
    found = clone(fitted).fit(X)
    found.noise_weight_ = 0.0  # as after underflow, of samples of many features
    alone = DifferentiableGaussianMixture.from_parameters(
        found.weights_, found.means_, found.covariances_, "full"
    )
    far = np.vstack([X, [[1e3, -1e3]]])
    expected = np.column_stack([alone.predict_proba(far), np.zeros(len(far))])
    np.testing.assert_allclose(found.predict_proba(far), expected, atol=1e-12)
    np.testing.assert_array_equal(found.predict(far), alone.predict(far))
    np.testing.assert_allclose(found.score_samples(far), alone.score_samples(far), rtol=1e-12)
