"""SemidiscreteGMM: the whole interface of a mixture estimator, and what it is for."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV

from skgmmot import DifferentiableGaussianMixture, SemidiscreteGMM, semidiscrete_distance


@pytest.fixture
def clouds(rng):
    """Two clouds in the plane, and which is which."""
    X = np.vstack([rng.normal(size=(30, 2)), [6.0, 0.0] + rng.normal(size=(20, 2)) * [0.5, 1.5]])
    return X, np.repeat([0, 1], [30, 20])


@pytest.mark.usefixtures("random_seed")
def test_it_finds_two_clouds(clouds, covariance_type):
    X, y = clouds
    mixture = SemidiscreteGMM(2, covariance_type=covariance_type, random_state=0).fit(X)
    assert mixture.converged_ and mixture.n_iter_ == len(mixture.distances_)
    assert adjusted_rand_score(y, mixture.predict(X)) > 0.9  # one of fifty may lie between them
    assert np.allclose(np.sort(mixture.weights_), [0.4, 0.6], atol=0.02)
    assert np.isclose(mixture.distance_, semidiscrete_distance(mixture, X), rtol=1e-2)
    # nearer than the mixture of largest likelihood
    em = DifferentiableGaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    assert mixture.distance_ < semidiscrete_distance(em, X)


@pytest.mark.usefixtures("random_seed")
def test_it_has_the_interface_of_a_mixture(clouds, rng):
    X, _ = clouds
    mixture = SemidiscreteGMM(2, random_state=0).fit(X)
    assert np.allclose(mixture.predict_proba(X).sum(1), 1)
    assert mixture.score_samples(X).shape == (50,)
    assert mixture.bic(X) > mixture.aic(X)
    drawn, labels = mixture.sample(500)
    assert np.allclose(drawn.mean(0), X.mean(0), atol=0.6) and set(labels) == {0, 1}
    assert np.array_equal(clone(mixture).fit_predict(X), mixture.predict(X))
    assert np.array_equal(pickle.loads(pickle.dumps(mixture)).means_, mixture.means_)
    search = GridSearchCV(SemidiscreteGMM(random_state=0), {"n_components": [1, 2]}, cv=2)
    more = np.vstack([rng.normal(size=(80, 2)), rng.normal([12.0, 0.0], size=(80, 2))])
    assert search.fit(rng.permutation(more)).best_params_ == {"n_components": 2}


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("d", [1, 3])
def test_nodes_serve_other_dimensions(rng, d):
    X = np.vstack([rng.normal(size=(60, d)), 8 + rng.normal(size=(60, d))])
    mixture = SemidiscreteGMM(2, n_nodes=128, random_state=0).fit(X)
    assert np.allclose(np.sort(mixture.means_[:, 0]), [0, 8], atol=0.5)


@pytest.mark.usefixtures("random_seed")
def test_exact_and_nodes_agree(clouds):
    X, _ = clouds
    exact, nodes = (
        SemidiscreteGMM(2, integration=m, n_nodes=4096, random_state=0).fit(X)
        for m in ("exact", "nodes")
    )
    order = [np.argsort(m.means_[:, 0]) for m in (exact, nodes)]
    assert np.allclose(exact.means_[order[0]], nodes.means_[order[1]], atol=0.15)
    assert np.allclose(exact.weights_[order[0]], nodes.weights_[order[1]], atol=0.02)
    assert np.allclose(exact.covariances_[order[0]], nodes.covariances_[order[1]], atol=0.05)
    assert np.isclose(exact.distance_, nodes.distance_, rtol=0.02)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("integration", ["exact", "nodes"])
def test_the_error_of_the_distance_is_known_where_it_is_asked_for(clouds, integration):
    X = clouds[0].astype(np.float32)
    mixture = SemidiscreteGMM(2, integration=integration, n_nodes=256, random_state=0)
    without = clone(mixture).fit(X)
    mixture.set_params(certify=True).fit(X)
    assert np.array_equal(mixture.means_, without.means_) and not hasattr(without, "error_")
    off = abs(mixture.distance_ - semidiscrete_distance(mixture, X, integration="exact"))
    rounding = np.finfo(np.float32).eps * mixture.distance_  # of what is shown
    assert rounding < off < mixture.error_ + rounding
    assert mixture.error_ < (min(0.1, 100 * off) if integration == "exact" else 0.1)
    mixture.set_params(certify=False, max_iter=0)
    assert not hasattr(mixture.fit(X), "error_")


@pytest.mark.usefixtures("random_seed")
def test_outliers_move_it_less_than_maximum_likelihood(clouds, rng):
    X, _ = clouds
    fits = [SemidiscreteGMM(2, random_state=0), DifferentiableGaussianMixture(2, random_state=0)]
    apart = np.zeros(2)
    for _ in range(3):  # a share of 10 % outliers: W2 to the clean data
        noisy = np.vstack([X, rng.uniform([-4, -6], [11, 6], size=(5, 2))])
        apart += [semidiscrete_distance(mixture.fit(noisy), X) for mixture in fits]
    assert apart[0] < apart[1]


@pytest.mark.usefixtures("random_seed")
def test_sample_weights_are_rows_given_often(clouds):
    X, _ = clouds
    weights = np.arange(50) % 3
    start = {"init_params": "kmeans", "random_state": 0}
    weighted = SemidiscreteGMM(2, **start).fit(X, sample_weight=weights)
    repeated = SemidiscreteGMM(2, **start).fit(np.repeat(X, weights, axis=0))
    assert np.isclose(weighted.distance_, repeated.distance_, rtol=1e-2)


@pytest.mark.usefixtures("random_seed")
def test_the_best_of_several_starts_is_kept(clouds):
    X, _ = clouds
    # (with the first seed the first start is the better one)
    options = {"init_params": "random_from_data", "tol": 1e-2, "random_state": 5}
    first, several = (SemidiscreteGMM(2, n_init=n, **options).fit(X[::3]) for n in (1, 2))
    assert several.distance_ <= first.distance_ * (1 + 1e-9)


@pytest.mark.usefixtures("random_seed")
def test_a_warm_start_goes_on(clouds):
    X, _ = clouds
    mixture = SemidiscreteGMM(2, warm_start=True, random_state=0).fit(X)
    before, n_iter = mixture.distance_, mixture.n_iter_
    mixture.fit(X)
    assert mixture.n_iter_ < n_iter and mixture.distance_ <= before * (1 + 1e-4)
    with pytest.raises(ValueError, match=r"warm_start needs a fit of shape .* = \(3, 2\), got one"):
        mixture.set_params(n_components=3).fit(X)
    assert mixture.means_.shape == (2, 2)


def test_kind_and_dtype_are_those_of_the_samples(clouds):
    X = torch.tensor(clouds[0], dtype=torch.float32)
    assert SemidiscreteGMM(2, random_state=0).fit(X).means_.dtype == np.float32
    mixture = SemidiscreteGMM(2, random_state=0).fit(X.requires_grad_())
    assert isinstance(mixture.means_, torch.Tensor) and mixture.means_.dtype == torch.float32


@pytest.mark.usefixtures("random_seed")
def test_far_samples_are_fitted_as_near_ones(clouds):
    X, _ = clouds
    near, far = (SemidiscreteGMM(2, random_state=0).fit(X + shift) for shift in (0.0, 1e6))
    assert np.isclose(far.distance_, near.distance_, rtol=1e-4)
    assert np.allclose(far.means_ - 1e6, near.means_, atol=1e-2)


@pytest.mark.parametrize("integration", ["exact", "nodes"])
@pytest.mark.parametrize("scale", [2.0**-300, 2.0**-30, 2.0**300])
def test_small_and_large_samples_are_fitted_alike(clouds, integration, scale):
    X, _ = clouds
    options = {
        "integration": integration,
        "n_nodes": 64,
        "max_iter": 15,
        "tol": 1e-2,
        "random_state": 0,
    }
    expected = SemidiscreteGMM(2, **options).fit(X)
    mixture = SemidiscreteGMM(2, reg_covar=1e-6 * scale**2, **options).fit(scale * X)
    assert mixture.distance_ == scale * expected.distance_
    assert np.array_equal(mixture.means_, scale * expected.means_)
    assert np.array_equal(mixture.covariances_, scale**2 * expected.covariances_)
    assert np.allclose(mixture.precisions_ * scale**2, expected.precisions_, rtol=1e-12)


def test_float32_samples_whose_covariances_have_no_float32_are_refused_in_words(clouds):
    X = clouds[0].astype(np.float32)
    with pytest.raises(ValueError, match=r"X must be smaller than 1\.8e\+16 for covariances"):
        SemidiscreteGMM(2).fit(X * np.float32(1e26))
    with pytest.raises(ValueError, match=r"X must have a scale at which precisions\w* is finite"):
        SemidiscreteGMM(2, reg_covar=1e-60, max_iter=0).fit(X * np.float32(1e-26))


@pytest.mark.filterwarnings("ignore:reg_covar must be small")
def test_samples_much_nearer_to_one_another_than_reg_covar_are_fitted():
    X = 1e-20 * np.random.default_rng(0).normal(size=(30, 2))
    mixture = SemidiscreteGMM(2, reg_covar=1e-6, random_state=0, max_iter=15, tol=1e-2).fit(X)
    assert np.isclose(mixture.distance_, np.sqrt(2e-6), rtol=0.1)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_random_samples_are_a_start_for_nodes(seed):
    rng = np.random.default_rng(seed)
    X = np.vstack([rng.normal(size=(40, 3)), 6 + rng.normal(size=(40, 3))])
    options = {"n_nodes": 128, "init_params": "random_from_data", "random_state": seed}
    mixture = SemidiscreteGMM(3, tol=1e-2, **options).fit(X)
    kmeans = SemidiscreteGMM(3, tol=1e-2, n_nodes=128, random_state=seed).fit(X)
    assert mixture.distance_ < 1.2 * kmeans.distance_


@pytest.mark.usefixtures("random_seed")
def test_a_sample_far_from_the_rest_gets_a_component_and_leaves_the_fit_of_the_rest(clouds):
    X, _ = clouds
    alone = SemidiscreteGMM(2, random_state=0).fit(X)
    # the far component's weight is right from the start: a kink, from where the others must go on
    mixture = SemidiscreteGMM(3, random_state=0).fit(np.vstack([X, [[1e4, 0.0]]]))
    order = mixture.means_[:, 0].argsort()
    assert np.allclose(mixture.means_[order[2]], [1e4, 0], atol=1e-2)
    expected = alone.means_[alone.means_[:, 0].argsort()]
    assert np.allclose(mixture.means_[order[:2]], expected, atol=0.1)


def test_a_sample_beyond_what_can_be_computed_is_refused_at_once_and_left_to_nodes(clouds):
    X = np.vstack([clouds[0], [[1e6, 0.0]]])
    with pytest.raises(ValueError, match=r"X must hold no sample more than 1e\+04 times as far"):
        SemidiscreteGMM(3, random_state=0).fit(X)
    mixture = SemidiscreteGMM(3, random_state=0, integration="nodes").fit(X)
    assert np.isclose(mixture.means_.max(), 1e6) and mixture.distance_ < 1


def test_stopping_early_is_said_and_shown(clouds, capsys):
    X, _ = clouds
    with pytest.warns(ConvergenceWarning, match=r"best fit stopped at max_iter=2; its last step"):
        mixture = SemidiscreteGMM(3, max_iter=2, tol=0, verbose=1, random_state=0).fit(1e3 * X)
    shown = capsys.readouterr()
    last = shown.err.split("distance=")[-1].split("]")[0]
    assert "2/2 [" in shown.err and not shown.out
    assert np.isclose(float(last), mixture.distance_, rtol=0.1)  # in the samples' own unit
    start = SemidiscreteGMM(2, max_iter=0, random_state=0).fit(X)
    assert start.n_iter_ == 0 and np.isclose(start.weights_.sum(), 1)


def test_bad_input_is_refused_and_leaves_the_earlier_fit(clouds, rng):
    X, _ = clouds
    mixture = SemidiscreteGMM(2, random_state=0).fit(X)
    before = mixture.means_
    with pytest.raises(ValueError, match="Expected n_samples >= n_components but got n_components"):
        mixture.set_params(n_components=5).fit(X[:3])
    with pytest.raises(ValueError, match="integration must be 'nodes' for 3 features, got 'exact'"):
        mixture.set_params(n_components=2, integration="exact").fit(rng.normal(size=(10, 3)))
    assert mixture.means_ is before
    with pytest.raises(NotFittedError):
        SemidiscreteGMM().predict(X)


def test_equal_samples_and_as_many_components_as_samples_are_no_obstacle():
    X = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    mixture = SemidiscreteGMM(3, reg_covar=1e-3, random_state=0).fit(X)
    # the two equal samples are one point; each component is as narrow as reg_covar allows
    order = np.lexsort(mixture.means_.round(2).T)
    assert np.allclose(mixture.means_[order], X[1:], atol=1e-4)
    assert np.allclose(mixture.weights_[order], [0.5, 0.25, 0.25], atol=1e-4)
    assert np.allclose(mixture.covariances_, 1e-3 * np.eye(2), atol=1e-6)
    assert np.isclose(mixture.distance_, np.sqrt(2e-3), rtol=1e-4)
