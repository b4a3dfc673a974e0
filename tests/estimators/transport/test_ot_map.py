"""OTMap: moves samples to the target, in pipelines and searches."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from models import DATA
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, OTMap, load, ot_map
from skgmmot.transport.mixtures import maps


@pytest.fixture
def mixture():
    return DifferentiableGaussianMixture(2, random_state=0)


def test_between_gaussians_it_is_the_affine_map():
    transport = ot_map(([1.0], [[1.0]], [[[4.0]]]), ([1.0], [[-1.0]], [[[9.0]]]))
    assert np.allclose(transport.transform([[1.0], [3.0]]), [[-1.0], [2.0]])  # slope 3 / 2
    assert np.isclose(transport.distance_, np.sqrt(2**2 + (3 - 2) ** 2))
    # two of them, far apart: each has its own
    source = ([0.3, 0.7], [[1.0], [901.0]], [[[4.0]], [[1.0]]])
    target = ([0.3, 0.7], [[-1.0], [990.0]], [[[9.0]], [[16.0]]])
    transport = ot_map(source, target)
    assert np.allclose(transport.transform([[3.0], [902.0]]), [[2.0], [994.0]])
    assert np.allclose(transport.inverse_transform([[2.0], [994.0]]), [[3.0], [902.0]])


@pytest.mark.parametrize("target_as", ["ours", "sklearn", "tuple", "samples"])
def test_the_target_may_be_a_mixture_or_samples(mixture, target_as, random_seed):
    Y = draw(TARGET, 2000, seed=1 + 10 * random_seed)
    model = {
        "ours": lambda: clone(mixture).fit(Y),
        "sklearn": lambda: GaussianMixture(2, random_state=0).fit(Y),
        "tuple": lambda: TARGET,
        "samples": lambda: Y,
    }[target_as]()
    transport = OTMap(model, mixture=mixture).fit(draw(SOURCE, 2000, seed=10 * random_seed))
    assert np.allclose(transport.plan_.sum(0).sum(), 1)
    assert transport.transform(draw(SOURCE, 50)).shape == (50, 2)
    assert np.allclose(
        transport.transform(draw(SOURCE, 2000, seed=10 * random_seed)).mean(0), Y.mean(0), atol=0.3
    )
    expected = MixtureWasserstein()(transport.source_mixture_, transport.target_mixture_)
    assert np.isclose(transport.distance_, expected)
    assert list(transport.get_feature_names_out()) == ["x0", "x1"]


def test_without_a_target_samples_become_standard_normal(random_seed):
    mapped = OTMap(strategy="random", random_state=random_seed).fit_transform(
        draw(TARGET, 5000, seed=random_seed)
    )
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


@pytest.mark.parametrize("way", ["transform", "inverse_transform"])
def test_a_map_is_prepared_once(way, mixture, monkeypatch):
    transport = OTMap(draw(TARGET, 300, 1), mixture=mixture).fit(draw(SOURCE, 300))
    prepared = []
    for name in ("fastest_e_step", "bures_map"):
        of = getattr(maps, name)
        monkeypatch.setattr(
            maps, name, lambda *a, of=of, name=name: prepared.append(name) or of(*a)
        )
    X, move = draw(SOURCE, 5000), getattr(transport, way)
    first = move(X)
    found = prepared.copy()
    assert found.count("fastest_e_step") == 1
    np.testing.assert_array_equal(move(X), first)
    np.testing.assert_allclose(move(X[:10]), first[:10])
    np.testing.assert_allclose(move(X[:1]), first[:1])
    assert prepared == [*found, "fastest_e_step"]  # another one for few samples


def test_a_closer_map_scores_higher(mixture):
    X, Y = draw(SOURCE, 3000), draw(TARGET, 3000, seed=1)
    scores = [
        OTMap(
            Y, mixture=clone(mixture).set_params(n_components=K), strategy="random", random_state=0
        )
        .fit(X)
        .score(X)
        for K in (1, 2)
    ]
    assert scores[0] < scores[1] < 0


def test_every_kind_of_array_is_moved_alike(array_kind, mixture):
    X, Y = draw(SOURCE, 300), draw(TARGET, 300)
    expected = OTMap(Y, mixture=mixture).fit(X).transform(X)
    mapped = OTMap(array_kind(Y), mixture=mixture).fit(array_kind(X)).transform(array_kind(X))
    assert isinstance(mapped, np.ndarray)
    assert np.allclose(mapped, expected)


@pytest.mark.parametrize("on_graph", ["source", "target", "moved"])
def test_a_gradient_on_any_side_gives_tensors(on_graph, mixture):
    X, Y = (torch.tensor(draw(side, 300)) for side in (SOURCE, TARGET))
    if on_graph == "target":
        Y.requires_grad_()
    transport = OTMap(Y, mixture=mixture).fit(X.clone().requires_grad_(on_graph == "source"))
    assert isinstance(transport.plan_, torch.Tensor) == (on_graph != "moved")
    mapped = transport.transform(X.clone().requires_grad_(on_graph == "moved"))
    assert isinstance(mapped, torch.Tensor) and not mapped.requires_grad


def test_float32_stays_float32_and_blocks_change_nothing(mixture):
    X = draw(SOURCE, 20_000)
    transport = OTMap(TARGET, mixture=mixture, strategy="random", random_state=0).fit(X)
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
    X = pd.DataFrame(draw(SOURCE, 100), columns=["a", "b"], index=np.arange(100) + 7)
    transport = OTMap(TARGET, mixture=mixture).set_output(transform="pandas").fit(X)
    mapped = transport.transform(X)
    assert list(mapped.columns) == list(transport.get_feature_names_out()) == ["a", "b"]
    assert mapped.index.equals(X.index)
    assert np.allclose(mapped, OTMap(TARGET, mixture=mixture).fit(X).transform(X))


# --- the way back --------------------------------------------------------------------------------


def test_between_gaussians_the_way_back_undoes_the_map():
    one = ([1.0], [[1.0, 2.0]], [[[2.0, 0.5], [0.5, 1.0]]])
    other = ([1.0], [[-3.0, 0.0]], [[[1.0, -0.3], [-0.3, 4.0]]])
    X = draw(one, 20)
    transport = ot_map(one, other)
    assert np.allclose(transport.inverse_transform(transport.transform(X)), X)
    assert np.allclose(transport.inverse_transform(X), ot_map(other, one).transform(X))


def test_the_way_back_is_the_map_of_the_transposed_plan(random_seed):
    there, back = ot_map(SOURCE, TARGET), ot_map(TARGET, SOURCE)
    Y = draw(TARGET, 500)
    assert np.allclose(there.inverse_transform(Y), back.transform(Y))
    drawn = there.set_params(strategy="random", random_state=random_seed)
    mapped = drawn.inverse_transform(draw(TARGET, 60_000, seed=random_seed))
    assert np.allclose(
        np.cov(mapped.T), np.cov(draw(SOURCE, 60_000, seed=random_seed).T), atol=0.15
    )


def test_there_is_no_way_back_from_a_singular_target():
    line = ([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]])
    transport = ot_map(SOURCE, line)
    mapped = transport.transform(draw(SOURCE, 50))
    assert np.allclose(mapped[:, 0], mapped[:, 1])
    with pytest.raises(ValueError, match=r"target_mixture_ must be one from which.*singular"):
        transport.inverse_transform(mapped)


# --- plans with an entropy or with penalties -----------------------------------------------------


def test_an_entropy_spreads_the_plan_and_vanishes_with_its_weight():
    exact = ot_map(SOURCE, TARGET)
    spread = ot_map(SOURCE, TARGET, reg=1e3)
    assert np.allclose(spread.plan_, np.outer(SOURCE[0], TARGET[0]), atol=1e-2)
    assert np.allclose(spread.plan_.sum(1), SOURCE[0])
    close = ot_map(SOURCE, TARGET, reg=1e-3)
    X = draw(SOURCE, 100)
    assert np.allclose(close.transform(X), exact.transform(X), atol=1e-6)
    assert spread.distance_ > close.distance_ >= exact.distance_ - 1e-9


def test_a_far_target_component_gets_no_mass_where_penalties_allow_it():
    # Half of the target is where the source has nothing.
    source = ([1.0], [[0.0, 0.0]], [np.eye(2)])
    target = ([0.5, 0.5], [[1.0, 0.0], [100.0, 0.0]], [np.eye(2), np.eye(2)])
    X = draw(source, 1000)
    balanced = ot_map(source, target)
    assert balanced.transform(X).mean(0)[0] > 40
    loose = ot_map(source, target, reg_m=(np.inf, 1.0))
    assert np.allclose(loose.plan_.sum(1), 1) and loose.plan_[0, 1] < 1e-6
    assert np.allclose(loose.transform(X), X + np.array([1, 0]), atol=1e-3)
    held = ot_map(source, target, reg_m=np.inf)
    assert np.allclose(held.plan_, balanced.plan_)


def test_a_source_component_that_keeps_no_mass_is_still_mapped():
    source = ([0.5, 0.5], [[0.0, 0.0], [1e3, 0.0]], [np.eye(2), np.eye(2)])
    target = ([1.0], [[5.0, 0.0]], [np.eye(2)])
    for strategy in ("mean", "random"):
        transport = ot_map(source, target, reg_m=[0.1, 0.1], strategy=strategy, random_state=0)
        assert transport.plan_[1, 0] < 1e-12
        assert np.allclose(transport.transform([[1001.0, 2.0]]), [[6.0, 2.0]])


def test_the_distance_has_an_error_which_is_kept(mixture):
    ot = OTMap(TARGET, mixture=mixture).fit(draw(SOURCE, 100))
    ends = ot.source_mixture_, ot.target_mixture_
    _, error = MixtureWasserstein()(*ends, return_error=True)
    assert 0 < ot.error_ < 1e-12 and pickle.loads(pickle.dumps(ot)).error_ == ot.error_ == error


def test_a_map_of_an_earlier_release_has_no_error():
    ot = load(DATA / "OTMap.npz")["model"]
    assert pickle.loads(pickle.dumps(ot)).distance_ == ot.distance_
    with pytest.raises(AttributeError, match="error_ must be of a map whose plan"):
        _ = ot.error_


@pytest.mark.parametrize("size", [2.0**490, 2.0**-490])
def test_scores_have_the_unit_of_the_samples(size):
    source = np.random.default_rng(0).normal(size=(50, 2))
    model = DifferentiableGaussianMixture(reg_covar=0)
    score, scaled = (
        OTMap(by * (source**3 + 1), mixture=model).fit(by * source).score(by * source)
        for by in (1.0, size)
    )
    assert scaled == pytest.approx(size * score, rel=1e-9)
