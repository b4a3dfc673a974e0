"""Mixtures of factor analysers as estimators."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from sklearn.model_selection import GridSearchCV

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    OTMap,
    SlicedWassersteinGMM,
)
from skgmmot.metrics import mixture_wasserstein_distance, sliced_mixture_wasserstein


@pytest.fixture
def X(rng):
    """Two clusters of 60 samples with two factors in eight dimensions."""
    centres = np.repeat(4 * rng.normal(size=(2, 8)), 60, axis=0)
    factors = rng.normal(size=(2, 2, 8))
    scores = rng.normal(size=(2, 60, 2))
    return centres + np.concatenate(scores @ factors) + 0.5 * rng.normal(size=(120, 8))


def fitted(X, **options):
    """A fit of rank two."""
    defaults = {"n_components": 2, "rank": 2, "random_state": 0, "tol": 1e-6, "max_iter": 500}
    return DifferentiableGaussianMixture(covariance_type="lowrank", **defaults | options).fit(X)


def test_one_component_is_factor_analysis(X):
    options = {"acceleration": "squarem", "tol": 1e-10, "reg_covar": 0.0, "max_iter": 5000}
    ours = fitted(X, n_components=1, **options)
    theirs = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(X)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-6)
    covariance = ours.factor_loadings_[0] @ ours.factor_loadings_[0].T
    covariance += np.diag(ours.noise_variance_[0])
    np.testing.assert_allclose(covariance, theirs.get_covariance(), atol=1e-2)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("options", [{}, {"acceleration": "squarem"}, {"e_step": "sinkhorn"}])
def test_fits_climb_and_predict(options, X):
    mixture = fitted(X, reg_covar=0.0, **options)
    assert mixture.converged_
    if "acceleration" not in options:
        assert (np.diff(mixture.lower_bounds_) > -1e-9).all()
    assert mixture.covariances_.shape == (2, 8, 3)
    assert not hasattr(mixture, "precisions_")
    assert not hasattr(mixture, "precisions_cholesky_")
    labels = mixture.predict(X)
    assert (labels[:60] == labels[0]).mean() > 0.95
    full = DifferentiableGaussianMixture.from_parameters(
        mixture.weights_, mixture.means_, matrices(mixture), "full"
    )
    np.testing.assert_allclose(mixture.score_samples(X), full.score_samples(X), rtol=1e-9)
    n_parameters = 2 * (8 * 3 - 1) + 2 * 8 + ("e_step" not in options)  # prescribed weights
    expected = -2 * mixture.score(X) * len(X) + n_parameters * np.log(len(X))
    assert mixture.bic(X) == pytest.approx(expected)


def matrices(mixture):
    """The covariance matrices of a fit."""
    F, psi = mixture.factor_loadings_, mixture.noise_variance_
    return F @ F.transpose(0, 2, 1) + np.eye(psi.shape[1]) * psi[:, None]


def test_blocks_weights_and_float32_are_the_same_fit(X):
    mixture = fitted(X)
    blocks = fitted(lambda: iter((X[:50], X[50:])))
    np.testing.assert_allclose(blocks.covariances_, mixture.covariances_, rtol=1e-6, atol=1e-8)
    single = fitted(X.astype(np.float32))
    assert single.covariances_.dtype == np.float32
    np.testing.assert_allclose(matrices(single), matrices(mixture), rtol=1e-2, atol=1e-2)
    twice = fitted(X, means_init=mixture.means_, weights_init=mixture.weights_)
    weighted = DifferentiableGaussianMixture(
        2,
        covariance_type="lowrank",
        rank=2,
        random_state=0,
        tol=1e-6,
        max_iter=500,
        means_init=mixture.means_,
        weights_init=mixture.weights_,
    ).fit(X, sample_weight=np.full(len(X), 2.0))
    np.testing.assert_allclose(weighted.covariances_, twice.covariances_, rtol=1e-6, atol=1e-8)


def test_a_warm_start_goes_on_and_holds_what_is_fixed(X):
    mixture = fitted(X)
    again = pickle.loads(pickle.dumps(mixture)).set_params(warm_start=True).fit(X)
    assert again.n_iter_ <= 3
    given = DifferentiableGaussianMixture.from_parameters(
        mixture.weights_, mixture.means_, mixture.covariances_, "lowrank", warm_start=True
    )
    assert given.rank == 2
    given.set_params(fixed_covariances=True).fit(X + 1)
    np.testing.assert_array_equal(given.covariances_, mixture.covariances_)
    np.testing.assert_allclose(given.means_, mixture.means_ + 1, atol=0.3)


def test_parts_become_full_where_there_are_few_features(X):
    mixture = fitted(X)
    part = mixture.marginal([0, 3, 5])
    assert (part.covariance_type, part.rank) == ("lowrank", 2)
    np.testing.assert_allclose(matrices(part), matrices(mixture)[:, [[0], [3], [5]], [0, 3, 5]])
    few = mixture.marginal([0, 3])
    assert few.covariance_type == "full"
    np.testing.assert_allclose(few.covariances_, matrices(mixture)[:, [[0], [3]], [0, 3]])
    rest = mixture.condition([0.0], [0])
    assert rest.covariances_.shape == (2, 7, 3)


def test_samples_come_from_the_mixture(X, random_seed):
    mixture = fitted(X, random_state=random_seed)
    Y, labels = mixture.sample(40_000)
    for k in range(2):
        np.testing.assert_allclose(np.cov(Y[labels == k].T), matrices(mixture)[k], atol=0.15)


def test_a_grid_search_finds_the_rank(X):
    search = GridSearchCV(
        DifferentiableGaussianMixture(2, covariance_type="lowrank", random_state=0),
        {"rank": [1, 2, 6]},
        cv=3,
    ).fit(X)
    assert search.best_params_ == {"rank": 2}


def test_a_gradient_goes_through_the_fit(X):
    Y = torch.tensor(X, requires_grad=True)
    mixture = fitted(Y, tol=1e-5)
    (mixture.factor_loadings_.square().sum() + mixture.means_.sum()).backward()
    assert torch.isfinite(Y.grad).all()
    assert Y.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 8}, "rank must be below the number of features, 8, got 8. Use a smaller rank"),
        ({"rank": 0}, "'rank' parameter"),
        ({"prior": "auto"}, "prior must be 'none' with covariance_type='lowrank'"),
        ({"precisions_init": np.ones((2, 8))}, "precisions_init must be None"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message, X):
    with pytest.raises(ValueError, match=message):
        fitted(X, **options)


def test_blocks_over_time_and_other_types_are_refused(X):
    with pytest.raises(ValueError, match="sums that do not depend on the mixture for partial_fit"):
        DifferentiableGaussianMixture(2, covariance_type="lowrank").partial_fit(X)
    with pytest.raises(AttributeError, match="are of covariance_type='lowrank', got 'full'"):
        DifferentiableGaussianMixture(1).fit(X).factor_loadings_  # noqa: B018
    mixture = fitted(X)
    with pytest.raises(ValueError, match="elementary for SlicedWassersteinGMM, got 'lowrank'"):
        SlicedWassersteinGMM.from_parameters(
            mixture.weights_, mixture.means_, mixture.covariances_, "lowrank"
        )
    with pytest.raises(ValueError, match="rank must be that of covariances, 2, got 3"):
        DifferentiableGaussianMixture.from_parameters(
            mixture.weights_, mixture.means_, mixture.covariances_, "lowrank", rank=3
        )


def test_a_search_counts_the_parameters_of_the_rank(X):
    template = DifferentiableGaussianMixture(rank=2, random_state=0)
    search = GaussianMixtureSearch(
        [1, 2, 3], ["lowrank", "diag"], mixture=template, random_state=0
    ).fit(X)
    assert search.best_params_ == {"n_components": 2, "covariance_type": "lowrank"}
    rows = search.results_["covariance_type"] == "lowrank"
    expected = [K * (8 * 3 - 1) + K * 8 + K - 1 for K in search.results_["n_components"][rows]]
    assert search.results_["n_parameters"][rows].tolist() == expected


def test_it_becomes_a_distribution_of_torch(X):
    mixture = fitted(X)
    found = mixture.to_torch().log_prob(torch.from_numpy(X))
    np.testing.assert_allclose(found.numpy(), mixture.score_samples(X))


def test_distances_and_maps_are_those_of_matrices(X):
    mixture = fitted(X)
    full = DifferentiableGaussianMixture.from_parameters(
        mixture.weights_, mixture.means_, matrices(mixture), random_state=0
    )
    other = DifferentiableGaussianMixture(2, covariance_type="diag", random_state=0).fit(X + 1)
    for distance in (mixture_wasserstein_distance, sliced_mixture_wasserstein):
        assert distance(mixture, other) == pytest.approx(distance(full, other), rel=1e-9)
    ours, theirs = (OTMap(other).fit(source) for source in (mixture, full))
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-8, atol=1e-8)
    shrunk = OTMap(mixture, shrinkage=0.2).fit(other)
    assert shrunk.distance_ == pytest.approx(OTMap(full, shrinkage=0.2).fit(other).distance_)


def test_features_without_variance_are_ill_defined(X):
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        fitted(np.c_[X, np.ones(len(X))], reg_covar=0.0)
    with pytest.raises(ValueError, match="Use the bootstrap"):
        fitted(X).standard_errors(X)
