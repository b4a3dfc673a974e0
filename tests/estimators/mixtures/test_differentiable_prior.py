"""Priors and fixed parameters of the estimator."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skgmmot import DifferentiableGaussianMixture, OTMap, Prior
from skgmmot.metrics import mixture_wasserstein_distance

STARTS = ["kmeans", "k-means++", "random", "random_from_data", "sinkhorn"]
MASK = [True, False, False, False]


# --- priors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("init_params", STARTS)
def test_thirty_components_on_forty_samples_are_no_spikes(init_params, covariance_type, rng):
    X = rng.normal(size=(40, 3))
    options = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 0}
    model = DifferentiableGaussianMixture(
        30, prior="auto", reg_covar=0.0, max_iter=500, **options
    ).fit(X)
    variances = np.linalg.eigvalsh(model._params().full_covariances())
    assert variances.min() > 1e-3
    assert np.isfinite(model.score(rng.normal(size=(100, 3))))


@pytest.mark.parametrize("data", ["duplicates", "two points", "line", "outlier", "few rows"])
def test_degenerate_samples_give_finite_fits(data, rng):
    X = {
        "duplicates": np.repeat(rng.normal(size=(5, 2)), 20, axis=0),
        "two points": np.repeat([[0.0, 0.0], [1.0, 2.0]], 10, axis=0),
        "line": np.outer(np.linspace(0, 1, 30), [1.0, 1.0]),
        "outlier": np.vstack([rng.normal(size=(30, 2)), [[1e4, 1e4]]]),
        "few rows": rng.normal(size=(4, 10)),
    }[data]
    options = {"init_params": "random_from_data", "max_iter": 1000, "random_state": 0}
    model = DifferentiableGaussianMixture(4, prior="auto", **options).fit(X)
    for name in ("weights_", "means_", "covariances_", "precisions_"):
        assert np.isfinite(getattr(model, name)).all()
    assert np.isfinite(model.score(X))
    assert model.converged_


def test_it_is_the_function_and_its_lower_bound_the_posterior(blobs):
    model = DifferentiableGaussianMixture(4, prior="auto", random_state=0).fit(blobs)
    assert model.lower_bound_ != pytest.approx(model.score(blobs), abs=1e-3)
    # score and bic stay those of the likelihood
    plain = DifferentiableGaussianMixture(4, random_state=0).fit(blobs)
    assert model.score(blobs) == pytest.approx(plain.score(blobs), abs=0.05)
    assert np.diff(model.lower_bounds_).min() > -1e-10


def test_weights_are_counts_however_they_are_scaled_inside(blobs):
    X = blobs[::10]
    counts = np.ones(len(X))
    counts[:20] = 3
    options = {"prior": Prior(2.0, mean_precision=5.0), "tol": 1e-10, "max_iter": 500}
    options |= {"means_init": X[:4], "weights_init": [0.25] * 4}
    options["precisions_init"] = np.repeat(np.eye(3)[None], 4, axis=0)
    weighted = DifferentiableGaussianMixture(4, **options).fit(X, sample_weight=counts)
    repeated = DifferentiableGaussianMixture(4, **options).fit(np.vstack([X, X[:20], X[:20]]))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-6, atol=1e-8)
    blocks = DifferentiableGaussianMixture(4, **options).fit(
        lambda: iter([X[:30], X[30:]]), sample_weight=lambda: iter([counts[:30], counts[30:]])
    )
    np.testing.assert_allclose(blocks.means_, repeated.means_, rtol=1e-6, atol=1e-8)


def test_samples_in_blocks_give_the_same_fit(blobs):
    whole = DifferentiableGaussianMixture(4, prior="auto", random_state=0).fit(blobs)
    blocks = DifferentiableGaussianMixture(4, prior="auto", random_state=0)
    blocks.fit(lambda: iter(np.array_split(blobs, 7)))
    np.testing.assert_allclose(blocks.means_, whole.means_, rtol=1e-8)


def test_a_prior_survives_clone_and_warm_start(blobs):
    prior = Prior(scale=2.0)
    model = DifferentiableGaussianMixture(3, prior=prior, warm_start=True, random_state=0)
    model.fit(blobs)
    bound = model.lower_bound_
    again = model.fit(blobs)
    assert again.n_iter_ <= 2
    assert again.lower_bound_ >= bound
    assert clone(model).prior.scale == 2.0


def test_several_starts_keep_the_largest_posterior(blobs):
    options = {"prior": "auto", "init_params": "random_from_data"}
    several = DifferentiableGaussianMixture(4, n_init=4, random_state=0, **options).fit(blobs)
    one = DifferentiableGaussianMixture(4, random_state=0, **options).fit(blobs)
    assert several.lower_bound_ >= one.lower_bound_


def test_a_fit_under_a_prior_is_differentiable_and_transported(rng):
    X = torch.tensor(rng.normal(size=(30, 2)), requires_grad=True)
    options = {"tol": 1e-12, "max_iter": 2000, "random_state": 0}
    model = DifferentiableGaussianMixture(2, prior=Prior(mean_precision=1.0), **options)
    target = DifferentiableGaussianMixture(2, random_state=1).fit(rng.normal(size=(50, 2)))
    distance = mixture_wasserstein_distance(model.fit(X), target)
    (gradient,) = torch.autograd.grad(distance, X)
    change = torch.tensor(rng.normal(size=(30, 2)))
    with torch.no_grad():
        ahead, behind = (
            float(mixture_wasserstein_distance(clone(model).fit((X + s * change).numpy()), target))
            for s in (1e-5, -1e-5)
        )
    assert (gradient * change).sum().item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-3)
    assert OTMap(target).fit(model).distance_ == pytest.approx(distance.item(), rel=1e-6)


@pytest.mark.parametrize("prior", [None, "flat", 1.0, {"scale": 1}, Prior])
def test_what_is_no_prior_is_refused(prior, blobs):
    with pytest.raises(ValueError, match="'prior' parameter"):
        DifferentiableGaussianMixture(2, prior=prior).fit(blobs)


def test_standard_errors_are_those_of_maximum_likelihood(blobs):
    model = DifferentiableGaussianMixture(2, prior="auto", random_state=0).fit(blobs)
    with pytest.raises(ValueError, match="must be unset"):
        model.standard_errors(blobs)


@pytest.mark.parametrize(
    "options", [{"prior": "auto"}, {"fixed_means": MASK}, {"fixed_weights": MASK}]
)
def test_blocks_one_by_one_are_those_of_maximum_likelihood(options, blobs):
    with pytest.raises(ValueError, match=r"must be unset.*for partial_fit"):
        DifferentiableGaussianMixture(4, **options).partial_fit(blobs)


# --- fixed parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed_means": True}, "means_init must be given where fixed_means"),
        ({"fixed_means": MASK}, "means_init must be given"),
        ({"fixed_covariances": True}, "precisions_init must be given where fixed_covariances"),
        ({"fixed_covariances": MASK}, "precisions_init must be given"),
        ({"fixed_weights": MASK}, "weights_init must be given where fixed_weights"),
        ({"fixed_weights": [True, False]}, r"fixed_weights must be .*shape \(4,\), got shape"),
        (
            {"fixed_weights": MASK, "weights_init": [1.0, 0, 0, 0]},
            "must have a sum below one where others are free, got 1",
        ),
    ],
)
def test_what_cannot_stay_is_refused(options, message, blobs):
    with pytest.raises(ValueError, match=message):
        DifferentiableGaussianMixture(4, **options).fit(blobs)


@pytest.mark.parametrize("mask", [[1, 0, 0, 0], [0.0, 1.0, 0, 0], ["a", "b", "c", "d"]])
def test_masks_are_of_truth_values(mask, blobs, start):
    with pytest.raises(TypeError, match="mask of truth values"):
        DifferentiableGaussianMixture(4, fixed_means=mask, **start).fit(blobs)


def test_everything_fixed_is_refused(blobs, start):
    options = dict.fromkeys(("fixed_weights", "fixed_means", "fixed_covariances"), True)
    with pytest.raises(ValueError, match="must leave something to fit"):
        DifferentiableGaussianMixture(4, **options, **start).fit(blobs)


def test_a_fit_stopped_early_has_the_bits_too(blobs, start):
    model = DifferentiableGaussianMixture(4, fixed_means=MASK, max_iter=1, **start)
    with pytest.warns(ConvergenceWarning):
        model.fit(blobs)
    np.testing.assert_array_equal(model.means_[0], start["means_init"][0])
