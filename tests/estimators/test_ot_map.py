"""OTMap: moves samples to the target, in pipelines and searches."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, OTMap, ot_map

SOURCE = (
    [0.6, 0.4],
    [[0.0, 0.0], [5.0, 0.0]],
    [[[1.0, 0.3], [0.3, 1.0]], [[2.0, 0.0], [0.0, 0.5]]],
)
TARGET = (
    [0.3, 0.7],
    [[0.0, 9.0], [6.0, 9.0]],
    [[[0.5, 0.0], [0.0, 3.0]], [[1.0, 0.5], [0.5, 1.0]]],
)


def draw(mixture, n, seed=0):
    """Samples of a mixture."""
    rng = np.random.default_rng(seed)
    k = rng.choice(len(mixture[0]), size=n, p=mixture[0])
    L = np.linalg.cholesky(mixture[2])
    return np.asarray(mixture[1])[k] + np.einsum("nij,nj->ni", L[k], rng.normal(size=(n, 2)))


@pytest.fixture
def mixture():
    return DifferentiableGaussianMixture(2, random_state=0)


def test_between_gaussians_it_is_the_affine_map():
    transport = ot_map(([1.0], [[1.0]], [[[4.0]]]), ([1.0], [[-1.0]], [[[9.0]]]))
    assert np.allclose(transport.transform([[1.0], [3.0]]), [[-1.0], [2.0]])  # slope 3 / 2
    assert np.isclose(transport.distance_, np.sqrt(2**2 + (3 - 2) ** 2))


def test_the_random_map_reproduces_the_target():
    transport = ot_map(SOURCE, TARGET, method="random", random_state=0)
    mapped, target = transport.transform(draw(SOURCE, 60_000)), draw(TARGET, 60_000, seed=1)
    assert np.allclose(mapped.mean(0), target.mean(0), atol=0.08)
    assert np.allclose(np.cov(mapped.T), np.cov(target.T), atol=0.15)


def test_the_mean_map_keeps_the_mean_and_shrinks_a_split_component():
    source = ([1.0], [[0.0, 0.0]], [np.eye(2)])
    X = draw(source, 60_000)
    images = {m: ot_map(source, TARGET, method=m, random_state=0) for m in ("mean", "random")}
    images = {m: t.transform(X) for m, t in images.items()}
    target = draw(TARGET, 60_000, seed=1)
    assert np.allclose(images["mean"].mean(0), target.mean(0), atol=0.1)
    assert images["mean"].std(0)[0] < 0.5 * target.std(0)[0]
    assert np.allclose(images["random"].std(0), target.std(0), rtol=0.03)


@pytest.mark.parametrize("target_as", ["ours", "sklearn", "tuple", "samples"])
def test_the_target_may_be_a_mixture_or_samples(mixture, target_as):
    Y = draw(TARGET, 2000, seed=1)
    model = {
        "ours": lambda: clone(mixture).fit(Y),
        "sklearn": lambda: GaussianMixture(2, random_state=0).fit(Y),
        "tuple": lambda: TARGET,
        "samples": lambda: Y,
    }[target_as]()
    transport = OTMap(model, mixture=mixture).fit(draw(SOURCE, 2000))
    assert np.allclose(transport.plan_.sum(0).sum(), 1)
    assert transport.transform(draw(SOURCE, 50)).shape == (50, 2)
    assert np.allclose(transport.transform(draw(SOURCE, 2000)).mean(0), Y.mean(0), atol=0.3)
    expected = MixtureWasserstein()(transport.source_mixture_, transport.target_mixture_)
    assert np.isclose(transport.distance_, expected)
    assert list(transport.get_feature_names_out()) == ["otmap0", "otmap1"]


def test_without_a_target_samples_become_standard_normal():
    mapped = OTMap(method="random", random_state=0).fit_transform(draw(TARGET, 5000))
    assert np.allclose(mapped.mean(0), 0, atol=0.05)
    assert np.allclose(np.cov(mapped.T), np.eye(2), atol=0.1)


def test_cloning_keeps_a_fitted_target_fitted(mixture):
    target = clone(mixture).fit(draw(TARGET, 500))
    copy = clone(OTMap(target, mixture=mixture))
    assert copy.target is target and copy.mixture is not mixture
    assert not any(name.startswith("target__") for name in copy.get_params())
    with pytest.raises(ValueError, match="must not be those of a fitted target, got"):
        copy.set_params(target__n_components=7)
    assert target.n_components == 2
    copy.fit(draw(SOURCE, 500))
    assert not hasattr(copy.mixture, "means_")


def test_it_adapts_a_classifier_in_a_pipeline_under_a_search():
    X, y = load_digits(return_X_y=True)
    X = PCA(5, random_state=0).fit_transform(X)
    target, shifted = X[:900], 2 + 1.5 * X[900:]
    classifier = LogisticRegression(max_iter=2000).fit(target, y[:900])
    before = classifier.score(shifted, y[900:])
    transport = OTMap(target, mixture=DifferentiableGaussianMixture(random_state=0, reg_covar=1e-2))
    search = GridSearchCV(transport, {"mixture__n_components": [1, 2]}, cv=2).fit(shifted)
    adapted = search.best_estimator_.transform(shifted)
    assert search.best_score_ < 0
    assert classifier.score(adapted, y[900:]) > before + 0.05
    pipeline = make_pipeline(clone(transport), LogisticRegression(max_iter=2000))
    assert pipeline.fit(shifted, y[900:]).score(shifted, y[900:]) > 0.6


def test_a_closer_map_scores_higher(mixture):
    X, Y = draw(SOURCE, 3000), draw(TARGET, 3000, seed=1)
    scores = [
        OTMap(Y, mixture=clone(mixture).set_params(n_components=K), method="random", random_state=0)
        .fit(X)
        .score(X)
        for K in (1, 2)
    ]
    assert scores[0] < scores[1] < 0


def test_every_kind_of_array_is_moved_alike(array_kind, mixture):
    X, Y = draw(SOURCE, 300), draw(TARGET, 300)
    expected = OTMap(Y, mixture=mixture).fit(X).transform(X)
    mapped = OTMap(array_kind(Y), mixture=mixture).fit(array_kind(X)).transform(array_kind(X))
    assert isinstance(mapped, torch.Tensor) == isinstance(array_kind(X), torch.Tensor)
    assert np.allclose(mapped, expected)


def test_float32_stays_float32_and_blocks_change_nothing(mixture):
    X = draw(SOURCE, 20_000)
    transport = OTMap(TARGET, mixture=mixture, method="random", random_state=0).fit(X)
    assert transport.transform(X.astype(np.float32)).dtype == np.float32
    whole = transport.transform(X)
    assert np.array_equal(whole, transport.transform(X))
    smooth = OTMap(TARGET, mixture=mixture).fit(X)
    assert np.allclose(smooth.transform(X)[:7], smooth.transform(X[:7]), rtol=1e-12)


def test_it_pickles(mixture):
    transport = OTMap(TARGET, mixture=mixture).fit(torch.tensor(draw(SOURCE, 100)))
    restored = pickle.loads(pickle.dumps(transport))
    X = draw(SOURCE, 10)
    assert np.array_equal(restored.transform(X), transport.transform(X))


def test_set_output_gives_data_frames(mixture):
    transport = OTMap(TARGET, mixture=mixture).set_output(transform="pandas").fit(draw(SOURCE, 100))
    assert list(transport.transform(draw(SOURCE, 5)).columns) == ["otmap0", "otmap1"]


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, message",
    [
        (np.ones((10, 3)), "target must be samples like those of the fit. X has 3 features"),
        (np.ones(10), "target must be samples like those of the fit. X must have shape"),
        (
            np.full((10, 2), np.nan),
            "target must be samples like those of the fit. X must be finite, got NaN",
        ),
        (([1.0], [[0.0, 0.0, 0.0]], [np.eye(3)]), "equal numbers of features, got 2 and 3"),
        (([0.7], [[0.0, 0.0]], [np.eye(2)]), "weights must be non-negative and sum to 1"),
    ],
)
def test_a_bad_target_is_refused_and_the_earlier_fit_stays(mixture, target, message):
    transport = OTMap(TARGET, mixture=mixture).fit(draw(SOURCE, 100))
    plan = transport.plan_
    with pytest.raises(ValueError, match=message):
        transport.set_params(target=target).fit(draw(SOURCE, 100))
    assert transport.plan_ is plan


def test_a_target_with_other_columns_is_refused(mixture):
    X = pd.DataFrame(draw(SOURCE, 100), columns=["a", "b"])
    Y = pd.DataFrame(draw(TARGET, 100), columns=["b", "a"])
    with pytest.raises(ValueError, match="feature names"):
        OTMap(Y, mixture=mixture).fit(X)
    with pytest.raises(
        ValueError, match=r"target must be fitted to the features of X, \['a', 'b'\]"
    ):
        OTMap(clone(mixture).fit(Y), mixture=mixture).fit(X)


@pytest.mark.parametrize("params", [{"target": KernelDensity()}, {"mixture": KernelDensity()}])
def test_estimators_that_are_no_mixtures_are_refused(params):
    name = next(iter(params))
    with pytest.raises(TypeError, match=rf"{name} must be a .*Gaussian mixture.*got KernelDensity"):
        OTMap(**params).fit(draw(SOURCE, 50))


def test_a_singular_source_is_refused():
    singular = ([1.0], [[0.0, 0.0]], [np.diag([1.0, 0.0])])
    with pytest.raises(ValueError, match="source covariances must be positive definite to tell"):
        ot_map(singular, TARGET)


def test_a_map_keeps_what_it_was_fitted_to(mixture):
    target = clone(mixture).fit(draw(TARGET, 500))
    transport = OTMap(target, mixture=mixture).fit(draw(SOURCE, 500))
    before = transport.transform(draw(SOURCE, 10))
    target.fit(draw(SOURCE, 500))
    assert np.array_equal(transport.transform(draw(SOURCE, 10)), before)


@pytest.mark.parametrize("call", [ot_map, lambda s, t: OTMap(t).fit(draw(SOURCE, 50))])
def test_an_unfitted_target_is_refused(call, mixture):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        call(SOURCE, mixture)


def test_an_unfitted_map_is_refused():
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        OTMap(TARGET).transform(np.ones((3, 2)))


@pytest.mark.parametrize("params", [{"method": "best"}, {"mixture": 3}, {"device": 3}])
def test_unknown_options_are_refused(params):
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        OTMap(TARGET, **params).fit(draw(SOURCE, 50))
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        ot_map(SOURCE, TARGET, **params)
    with pytest.raises(ValueError, match="The 'method' parameter"):
        ot_map(SOURCE, TARGET).set_params(method="best").transform([[0.0, 0.0]])


def test_samples_of_another_dimension_are_refused(mixture):
    transport = ot_map(SOURCE, TARGET)
    with pytest.raises(ValueError, match="X has 3 features, but OTMap is expecting 2"):
        transport.transform(np.ones((5, 3)))
