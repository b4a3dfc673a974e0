"""The mixtures at both ends of a map: classes, weights, shrunk covariances."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.covariance import oas
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import DifferentiableGaussianMixture, OTMap


@pytest.fixture
def mixture():
    return DifferentiableGaussianMixture(2, random_state=0)


def test_the_mixture_of_classes_is_that_of_their_shares(labelled):
    X, y, Y = labelled
    kept = np.r_[np.flatnonzero(y == "even")[:100], np.flatnonzero(y == "odd")[:50]]
    transport = OTMap(Y, class_wise=True).fit(X[kept], y[kept])
    assert np.allclose(transport.source_mixture_.weights_, [2 / 3, 1 / 3])
    assert np.allclose(transport.source_mixture_.means_[1], X[kept[100:]].mean(0))


def test_every_covariance_type_has_a_mixture_of_classes(covariance_type, labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(2, covariance_type=covariance_type, random_state=0)
    transport = OTMap(Y, mixture=mixture, class_wise=True).fit(X, y)
    assert np.mean(transport.predict(Y) == y) > 0.9
    expected = "full" if covariance_type == "tied" else covariance_type
    assert transport.source_mixture_.covariance_type == expected


@pytest.mark.parametrize("given_as", [list, torch.tensor])
@pytest.mark.parametrize("class_wise", [False, True])
def test_a_weight_of_two_is_a_row_twice_and_zero_one_left_out(labelled, class_wise, given_as):
    X, y, Y = labelled
    copies = np.random.default_rng(0).integers(0, 3, size=400)
    transport = OTMap(
        Y, class_wise=class_wise, mixture=DifferentiableGaussianMixture(random_state=0)
    )
    weighted = clone(transport).fit(X, y, sample_weight=given_as(copies))
    repeated = clone(transport).fit(X.repeat(copies, axis=0), y.repeat(copies))
    assert np.allclose(weighted.transform(X), repeated.transform(X))
    assert np.allclose(weighted.plan_, repeated.plan_)  # the shares of classes too
    pipeline = make_pipeline(clone(transport), KNeighborsClassifier())
    pipeline.fit(X, y, otmap__sample_weight=copies)
    assert np.allclose(pipeline[0].plan_, weighted.plan_)


@pytest.mark.parametrize(
    "X, options, weights, message",
    [
        (SOURCE, {}, [1, 1], "sample_weight must be None where X is a mixture"),
        (draw(SOURCE, 40), {}, [-1.0] * 40, "sample_weight must be finite and non-negative"),
        (
            draw(SOURCE, 40),
            {"mixture": GaussianMixture()},
            np.ones(40),
            "mixture must be one whose fit takes sample_weight, got GaussianMixture",
        ),
        (
            draw(SOURCE, 40),
            {"class_wise": True},
            np.arange(40) < 20,
            "the mixture of class 1 must be one that can be fitted. [Ss]ample.weights? must",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused(X, options, weights, message):
    y = np.arange(40) // 20
    with pytest.raises(ValueError, match=message):
        OTMap(TARGET, **options).fit(X, y, sample_weight=weights)


@pytest.fixture
def few():
    """Two classes in 30 features, 80 samples; 60 in other units; 60 to hold out, in both."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 30)) + 3 * y[:, None] * (np.arange(30) % 5 == 0)
    X *= np.geomspace(3, 0.03, 30)
    X[:, -3:] = np.where(rng.random((200, 3)) < 0.02, 5.0, 0.0)  # constant but for a few
    Y = 0.5 * X + 4
    return X[:80], y[:80], Y[80:140], X[140:], Y[140:], y[140:]


def test_with_few_samples_a_feature_covariances_are_shrunk(few):
    X, y, Y, held_out, Y_held_out, truth = few
    transport = OTMap(Y, class_wise=True, random_state=0).fit(X, y)
    covariance, share = oas(X[y == 0])
    found = transport.source_mixture_.covariances_[0]
    assert np.allclose(found, covariance, rtol=1e-3, atol=1e-5) and share > 0.05
    assert np.mean(transport.predict(Y_held_out) == truth) > 0.85
    images = transport.transform(held_out)
    assert np.abs(images - Y_held_out).max() < 10
    raw = clone(transport).set_params(shrinkage=None).fit(X, y)
    assert np.linalg.eigvalsh(raw.source_mixture_.covariances_[0])[0] < 1e-5
    assert np.mean(raw.predict(Y_held_out) == truth) < 0.6
    message = r"images should lie .* got one at 1.38e\+03 in feature 29, where the target reaches"
    with pytest.warns(UserWarning, match=message):
        raw.transform(held_out)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_only_covariance_matrices_of_few_samples_are_shrunk_unless_told(covariance_type):
    X = draw(SOURCE, 16) * [1, 3]
    mixture = DifferentiableGaussianMixture(2, covariance_type=covariance_type, random_state=0)
    own = clone(mixture).fit(X).covariances_

    def fitted(**options):
        return OTMap(X, mixture=mixture, **options).fit(X).target_mixture_.covariances_

    few = covariance_type == "full"  # a tied one stands on all 16 samples, which are enough
    assert np.array_equal(fitted(), own) == (not few)
    for options in ({"shrinkage": None}, {"shrinkage": 0.0}):
        assert np.array_equal(fitted(**options), own)
    spheres = fitted(shrinkage=1.0)
    if covariance_type == "diag":
        assert np.allclose(spheres, own.mean(1, keepdims=True))
    elif covariance_type == "spherical":
        assert np.allclose(spheres, own)
    else:
        traces = np.trace(own, axis1=-2, axis2=-1)
        assert np.allclose(spheres, np.multiply.outer(traces / 2, np.eye(2)))


def test_a_target_that_is_a_mixture_is_never_shrunk(mixture):
    X = draw(SOURCE, 12)
    target = clone(mixture).fit(X)
    assert OTMap(target, shrinkage=1.0).fit(X).target_mixture_ is target
