"""OTMap: moves samples to the target, in pipelines and searches."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.covariance import oas
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, KNeighborsClassifier
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
    assert list(transport.get_feature_names_out()) == ["x0", "x1"]


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
    transport = OTMap(TARGET, mixture=mixture, method="random", random_state=0).fit(X)
    assert transport.transform(X.astype(np.float32)).dtype == np.float32
    whole = transport.transform(X)
    assert np.array_equal(whole, transport.transform(X))
    smooth = OTMap(TARGET, mixture=mixture).fit(X)
    assert np.allclose(smooth.transform(X)[:7], smooth.transform(X[:7]), rtol=1e-12)


def test_what_is_drawn_for_a_sample_depends_on_its_row_alone():
    X = draw(SOURCE, 40_000)
    transport = ot_map(SOURCE, TARGET, method="random", random_state=0)
    whole = transport.transform(X)
    for n in (1, 2, 7, 30_001):
        assert np.allclose(transport.transform(X[:n]), whole[:n])
    other = ot_map(SOURCE, TARGET, method="random", random_state=1).transform(X)
    assert np.mean(np.abs(other - whole).max(axis=1) > 1e-9) > 0.2
    assert len(np.unique(whole[:, 0])) == len(X)


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


def test_the_way_back_is_the_map_of_the_transposed_plan():
    there, back = ot_map(SOURCE, TARGET), ot_map(TARGET, SOURCE)
    Y = draw(TARGET, 500)
    assert np.allclose(there.inverse_transform(Y), back.transform(Y))
    drawn = there.set_params(method="random", random_state=0)
    mapped = drawn.inverse_transform(draw(TARGET, 60_000))
    assert np.allclose(np.cov(mapped.T), np.cov(draw(SOURCE, 60_000).T), atol=0.15)


def test_there_is_no_way_back_from_a_singular_target():
    line = ([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]])
    transport = ot_map(SOURCE, line)
    mapped = transport.transform(draw(SOURCE, 50))
    assert np.allclose(mapped[:, 0], mapped[:, 1])
    with pytest.raises(ValueError, match=r"target_mixture_ must be one to start from.*singular"):
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
    for method in ("mean", "random"):
        transport = ot_map(source, target, reg_m=[0.1, 0.1], method=method, random_state=0)
        assert transport.plan_[1, 0] < 1e-12
        assert np.allclose(transport.transform([[1001.0, 2.0]]), [[6.0, 2.0]])


# --- labels --------------------------------------------------------------------------------------


@pytest.fixture
def labelled():
    """Two classes, of two clouds each, and the same moved and stretched."""
    rng = np.random.default_rng(0)
    centres = 6 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    X = np.repeat(centres, 100, axis=0) + rng.normal(size=(400, 2))
    y = np.array(["even", "odd", "odd", "even"]).repeat(100)
    order = rng.permutation(400)
    X, y = X[order], y[order]
    return X, y, X @ np.diag([1.5, 0.7]) + [3.0, -2.0]


def test_labels_are_carried_to_the_target(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(2, random_state=0)
    transport = OTMap(Y, mixture=mixture, class_wise=True).fit(X, y)
    assert list(transport.classes_) == ["even", "odd"]
    assert list(transport.component_labels_) == ["even", "even", "odd", "odd"]
    assert transport.plan_.shape == (4, 4)
    assert np.mean(transport.predict(Y) == y) > 0.98
    proba = transport.predict_proba(Y)
    assert np.allclose(proba.sum(1), 1) and proba.shape == (400, 2)
    assert (transport.classes_[proba.argmax(1)] == transport.predict(Y)).all()
    near = np.abs(transport.transform(X) - Y).max(axis=1)
    assert np.median(near) < 1
    tensor = transport.predict_proba(torch.tensor(Y, requires_grad=True))
    assert isinstance(tensor, torch.Tensor) and np.allclose(tensor, proba)


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


def test_without_class_wise_labels_are_ignored(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(4, random_state=0)
    transport = OTMap(Y, mixture=mixture)
    assert np.array_equal(transport.fit(X, y).transform(X), transport.fit(X).transform(X))
    assert not hasattr(transport, "predict") and not hasattr(transport, "predict_proba")
    with pytest.raises(AttributeError):
        transport.predict(Y)


def test_a_classifier_after_the_map_lives_in_the_target_domain(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(2, random_state=0)
    classifier = KNeighborsClassifier()
    before = classifier.fit(X, y).score(Y, y)
    pipeline = make_pipeline(OTMap(Y, mixture=mixture, class_wise=True), classifier).fit(X, y)
    assert pipeline[-1].score(Y, y) > max(0.95, before + 0.2)
    assert pipeline.score(X, y) > 0.95


def test_a_search_chooses_the_components_of_a_pipeline(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(random_state=0)
    pipeline = make_pipeline(OTMap(Y, mixture=mixture, class_wise=True), KNeighborsClassifier())
    grid = {"otmap__mixture__n_components": [1, 2], "otmap__method": ["mean"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.9


def test_some_features_are_moved_by_a_column_transformer(labelled, mixture):
    X, _, Y = labelled
    frame = pd.DataFrame(np.c_[X, np.arange(400)], columns=["a", "b", "age"])
    target = pd.DataFrame(Y, columns=["a", "b"])
    parts = ColumnTransformer(
        [("moved", OTMap(target, mixture=mixture), ["a", "b"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    moved = parts.fit_transform(frame)
    assert list(moved.columns) == ["a", "b", "age"]
    assert (moved["age"] == frame["age"]).all()
    expected = OTMap(target, mixture=mixture).fit(frame[["a", "b"]]).transform(frame[["a", "b"]])
    assert np.allclose(moved[["a", "b"]], expected)


def test_a_mixture_may_take_the_place_of_the_source_samples(mixture):
    model = clone(mixture).fit(pd.DataFrame(draw(SOURCE, 500), columns=["a", "b"]))
    transport = OTMap(TARGET).fit(model)
    assert transport.source_mixture_ is model
    assert list(transport.feature_names_in_) == ["a", "b"]
    X = pd.DataFrame(draw(SOURCE, 10), columns=["a", "b"])
    assert np.allclose(transport.transform(X), ot_map(model, TARGET).transform(X))


@pytest.mark.parametrize(
    "names", [np.array([0, 1]), np.array([2.0, -3.0]), np.array(["odd", "even"], dtype=object)]
)
def test_samples_of_unknown_class_are_left_out(labelled, names):
    X, y, Y = labelled
    y = names[(y == "odd").astype(int)]
    hidden = np.arange(400) % 3 == 0
    transport = OTMap(Y, class_wise=True, random_state=0)
    partly = clone(transport).fit(X, np.where(hidden, -1, y))
    without = clone(transport).fit(X[~hidden], y[~hidden])
    assert list(partly.classes_) == sorted(names)
    assert np.array_equal(partly.transform(X), without.transform(X))
    assert np.array_equal(partly.predict(Y), without.predict(Y))


@pytest.mark.parametrize("y", [np.full(400, -1), np.where(np.arange(400) % 2, 1, -1)])
def test_minus_one_and_one_other_label_are_no_classes(labelled, y):
    X, good, Y = labelled
    with pytest.raises(ValueError, match="y must have two classes or more beside -1, which marks"):
        OTMap(Y, class_wise=True).fit(X, y)
    with pytest.raises(ValueError, match="by the number -1, got it as a string"):
        OTMap(Y, class_wise=True).fit(X, np.where(np.arange(400) % 3, good, "-1"))


# --- weights -------------------------------------------------------------------------------------


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


# --- few samples for their features --------------------------------------------------------------


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


@pytest.mark.parametrize("method", ["mean", "random"])
def test_images_far_from_the_target_are_warned_of_both_ways(method):
    thin = ([1.0], [[0.0, 0.0]], [np.diag([1.0, 1e-6])])
    wide = ([0.0, 1.0], [[9e9, 0.0], [3.0, 5.0]], [np.eye(2), np.eye(2)])  # no mass at the first
    there, back = (ot_map(*m, method=method) for m in ((thin, wide), (wide, thin)))
    for move in (there.transform, back.inverse_transform):
        move([[14.0, 0.0], [0.0, 0.049]])  # as far again as nine times the target's reach
        with pytest.warns(UserWarning, match="got one at 65 in feature 1, .* from 0 to 10"):
            move([[0.0, 0.0], [0.0, 0.06]])
    there.inverse_transform([[50.0, 0.0]])


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


@pytest.mark.parametrize(
    "y, message",
    [
        (None, "requires y to be passed, but the target y is None"),
        (np.zeros(3), "inconsistent numbers of samples"),
        (np.linspace(0, 1, 400), "Unknown label type: continuous"),
        (np.r_[np.zeros(399), 1], r"the mixture of class 1.0 must be one that can be fitted. .*"),
    ],
)
def test_labels_that_make_no_classes_are_refused(y, message, labelled):
    X, good, Y = labelled
    transport = OTMap(Y, class_wise=True, random_state=0).fit(X, good)
    plan = transport.plan_
    with pytest.raises(ValueError, match=message):
        transport.fit(X, y)
    assert transport.plan_ is plan and len(transport.classes_) == 2


@pytest.mark.parametrize("options", [{}, {"class_wise": True}, {"target": TARGET}])
@pytest.mark.parametrize(
    "given, what",
    [
        (draw(TARGET, 40), r"an array of shape \(40, 2\)"),
        (torch.tensor(draw(TARGET, 40)), r"an array of shape \(40, 2\)"),
        (pd.DataFrame(draw(TARGET, 40)), r"an array of shape \(40, 2\)"),
        (draw(TARGET, 40).tolist(), r"an array of shape \(40, 2\)"),
        (TARGET, "a tuple of weights, means and covariances"),
        (GaussianMixture().fit(draw(TARGET, 40)), "GaussianMixture"),
    ],
    ids=["array", "tensor", "frame", "lists", "tuple", "mixture"],
)
def test_a_target_in_the_place_of_labels_is_refused(options, given, what):
    message = rf"y must be labels of the source samples, got {what}, .*OTMap\(target=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        OTMap(**options).fit(draw(SOURCE, 50), given)
    with pytest.raises(ValueError, match=message):
        OTMap(**options).fit_transform(draw(SOURCE, 50), given)
    if "target" not in options:  # then also with as many rows as the source, or a source mixture
        for X in (draw(SOURCE, 40), SOURCE):
            with pytest.raises(ValueError, match=message):
                OTMap(**options).fit(X, given)


@pytest.mark.parametrize(
    "y", [tuple([0, 1] * 25), np.arange(100.0).reshape(50, 2), np.ones((50, 3)), ["a"] * 50]
)
def test_what_a_later_step_of_a_pipeline_predicts_is_let_by(y, mixture):
    X = draw(SOURCE, 50)
    transport = OTMap(TARGET, mixture=mixture)
    assert np.array_equal(transport.fit_transform(X, y), transport.fit_transform(X))


def test_classes_need_samples():
    with pytest.raises(ValueError, match="X must be samples with class_wise=True, got a mixture"):
        OTMap(TARGET, class_wise=True).fit(SOURCE, [0])
    with pytest.raises(NotFittedError):
        OTMap(TARGET, class_wise=True).predict(np.ones((2, 2)))


def test_a_source_that_is_another_estimator_is_refused():
    with pytest.raises(TypeError, match=r"X must be a fitted Gaussian mixture.*got KernelDensity"):
        OTMap(TARGET).fit(KernelDensity())


@pytest.mark.parametrize(
    "params, message",
    [
        ({"reg": -1.0}, "The 'reg' parameter"),
        ({"reg": np.nan}, "The 'reg' parameter"),
        ({"reg_m": -1.0}, "The 'reg_m' parameter"),
        ({"reg_m": np.nan}, "The 'reg_m' parameter"),
        ({"reg_m": (1.0, -1.0)}, "reg_m must be positive, got -1"),
        ({"reg_m": (1.0, 2.0, 3.0)}, "reg_m must be one penalty or two, got 3"),
    ],
)
def test_penalties_that_cannot_be_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        ot_map(SOURCE, TARGET, **params)
