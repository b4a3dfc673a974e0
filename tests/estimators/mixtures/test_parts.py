"""Mixtures from parameters, marginals and conditionals, as estimators."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureBarycenter,
    MixtureWasserstein,
    OTMap,
    SemidiscreteGMM,
    SlicedWassersteinGMM,
    interpolate,
)
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES

Mixture = DifferentiableGaussianMixture
K, d = 3, 4
NAMES = ["length", "width", "height", "depth"]


@pytest.fixture
def params(covariance_type, make_mixture):
    """A mixture as a value."""
    return make_mixture(covariance_type, K, d)


@pytest.fixture
def arrays_of(params, covariance_type):
    """Its arrays, as scikit-learn shows them, and the name of their type."""
    public = params.covariance_type.to_public(params.covariances)
    return params.weights.numpy(), params.means.numpy(), public.numpy(), covariance_type


@pytest.fixture
def mixture(arrays_of):
    """A fitted estimator of it."""
    return Mixture.from_parameters(*arrays_of, feature_names=NAMES, random_state=0)


# --- given parameters ----------------------------------------------------------------------------


def test_parameters_are_shown_as_given(arrays_of, mixture):
    weights, means, covariances, name = arrays_of
    np.testing.assert_array_equal(mixture.weights_, weights)
    np.testing.assert_array_equal(mixture.means_, means)
    np.testing.assert_array_equal(mixture.covariances_, covariances)
    assert mixture.covariance_type == name and mixture.n_components == K
    assert mixture.n_features_in_ == d and mixture.feature_names_in_.tolist() == NAMES
    assert mixture.precisions_.shape == covariances.shape


def test_it_is_as_useful_as_a_fit(arrays_of, mixture):
    X, labels = mixture.sample(500)
    frame = pd.DataFrame(X, columns=NAMES)
    fitted = Mixture(K, covariance_type=arrays_of[3], max_iter=1, random_state=0)
    with pytest.warns(match="converge"):
        fitted.fit(frame)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(fitted, name, getattr(mixture, name))
    assert mixture.score(frame) == fitted.score(frame)
    np.testing.assert_array_equal(mixture.predict(frame), fitted.predict(frame))
    assert np.mean(mixture.predict(frame) == labels) > 0.8
    assert mixture.bic(frame) == fitted.bic(frame)
    loaded = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(loaded.score_samples(frame), mixture.score_samples(frame))
    assert MixtureWasserstein()(mixture, fitted) == 0
    with pytest.raises(NotFittedError):
        clone(mixture).predict(frame)
    assert clone(mixture).get_params() == mixture.get_params()


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, torch.tensor])
def test_arrays_lists_and_tensors_are_taken(kind, arrays_of):
    *given, name = arrays_of
    found = Mixture.from_parameters(*map(kind, given), name)
    assert isinstance(found.means_, np.ndarray)
    np.testing.assert_array_equal(found.covariances_, given[2])


def test_the_type_is_found_by_the_shape(arrays_of):
    *given, name = arrays_of
    assert Mixture.from_parameters(*given).covariance_type == name


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_where_types_are_the_same_model_the_name_counts(name):
    shape = COVARIANCE_TYPES[name].public_shape(1, 1)
    found = Mixture.from_parameters([1.0], [[2.0]], np.full(shape, 4.0), name)
    assert found.covariances_.shape == shape and found.covariance_type == name
    assert found.score_samples([[2.0]]) == pytest.approx(-np.log(2 * np.sqrt(2 * np.pi)))


def test_tensors_that_require_a_gradient_stay_on_the_graph(params):
    tensors = [t.clone().requires_grad_() for t in params]
    tensors[2] = tensors[2] + 0  # on a graph
    public = params.covariance_type.to_public(tensors[2])
    mixture = Mixture.from_parameters(*tensors[:2], public, params.covariance_type.name)
    X = torch.zeros(5, d, dtype=torch.float64)
    grads = torch.autograd.grad(mixture.score_samples(X).sum(), tensors[:2])
    assert all(g.abs().sum() > 0 for g in grads)


def test_float32_is_kept_and_mixed_dtypes_become_float64(arrays_of):
    *given, name = arrays_of
    single = Mixture.from_parameters(*(a.astype(np.float32) for a in given), name)
    assert single.means_.dtype == single.covariances_.dtype == np.float32
    mixed = Mixture.from_parameters(given[0].astype(np.float32), *given[1:], name)
    assert mixed.weights_.dtype == mixed.means_.dtype == np.float64
    assert mixed.weights_.sum() == pytest.approx(1, abs=1e-15)


def test_a_warm_start_begins_with_given_parameters():
    X = np.concatenate([np.random.default_rng(0).normal(c, 0.5, size=(200, 1)) for c in (-4, 4)])
    given = [0.5, 0.5], [[4.0], [-4.0]], [[[0.25]], [[0.25]]]
    mixture = Mixture.from_parameters(*given, "full", warm_start=True).fit(X)
    assert mixture.means_[0] == pytest.approx(4, abs=0.2) and mixture.n_iter_ <= 3
    cold = Mixture.from_parameters(*given, "full", means_init=[[-4.0], [4.0]]).fit(X)
    assert cold.means_[0] == pytest.approx(-4, abs=0.2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # 30 steps are few
@pytest.mark.parametrize("cls", [SemidiscreteGMM, SlicedWassersteinGMM])
def test_a_warm_start_of_the_others_does_too(cls, rng):
    X = np.concatenate([rng.normal(c, 0.5, size=(40, 2)) for c in (-4, 4)])
    given = [0.5, 0.5], [[4.0, 4.0], [-4.0, -4.0]], [0.25, 0.25], "spherical"
    options = {SemidiscreteGMM: {"n_nodes": 64}, SlicedWassersteinGMM: {"max_iter": 30}}[cls]
    mixture = cls.from_parameters(*given, warm_start=True, random_state=0, tol=0.1, **options)
    assert mixture.fit(X).means_[0, 0] == pytest.approx(4, abs=0.3)


def test_a_warm_start_needs_a_density():
    line = [1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]], "full"
    with pytest.raises(ValueError, match="warm_start needs positive definite covariances_"):
        Mixture.from_parameters(*line, warm_start=True).fit(np.eye(2))


def test_singular_covariances_are_taken_as_elsewhere():
    line = Mixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]], random_state=0)
    X, _ = line.sample(5)
    np.testing.assert_allclose(X[:, 0], X[:, 1])
    assert not hasattr(line, "precisions_")
    with pytest.raises(ValueError, match=r"must have precisions_cholesky_ .* singular"):
        line.score(X)
    assert line.marginal(0).covariances_.item() == 1
    rest = line.condition(3.0, 0)
    assert rest.means_.item() == pytest.approx(3) and rest.covariances_.item() == 0


@pytest.mark.parametrize("cls", [SemidiscreteGMM, SlicedWassersteinGMM, MixtureBarycenter])
def test_every_mixture_estimator_has_them(cls):
    given = [0.5, 0.5], [[0.0, 0.0], [4.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]
    mixture = cls.from_parameters(*given, "diag", random_state=0)
    for part in (mixture, mixture.marginal([1]), mixture.condition(1.0, 1)):
        assert type(part) is cls and part.covariance_type == "diag"
        assert np.isfinite(part.score(part.sample(10)[0]))


W, M, V = [0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (([0.5, 0.4], M, V), ValueError, "weights must be non-negative and sum to 1, got sum 0.9"),
        (([1.5, -0.5], M, V), ValueError, "weights must be non-negative .* minimum -0.5"),
        (([0.5, np.nan], M, V), ValueError, "must be finite, got NaN or infinity"),
        (([1.0], M, V), ValueError, r"weights \(K,\) and means \(K, d\), got shapes \(1,\)"),
        ((W, [0.0, 1.0], V), ValueError, r"Use means\[:, None\] for one feature"),
        ((W, [[0.0, np.inf], [1.0, 1.0]], V), ValueError, "must be finite"),
        ((W, M, [1.0, -1.0]), ValueError, "must be positive semi-definite.* -1 in component 1"),
        ((W, M, [[[1.0, 0.5], [0.0, 1.0]]] * 2), ValueError, "must be symmetric"),
        ((W, M, [[[1.0, 5.0], [5.0, 1.0]]] * 2), ValueError, "smallest eigenvalue -4"),
        ((W, M, [1.0, 1.0, 1.0]), ValueError, r"must fit a covariance type, got shape \(3,\)"),
        ((W, M, np.eye(2)), ValueError, r"one covariance type.*or name the covariance_type"),
        ((W, M, V, "full"), ValueError, r"must fit a covariance type, got shape \(2,\)"),
        ((W, M, V, "sphere"), ValueError, "covariance_type must be one of .* got 'sphere'"),
        ((W, M, V, ["full"]), ValueError, r"covariance_type must be one of .* got \['full'\]"),
        ((W, [["a", "b"]] * 2, V), ValueError, "parameters must be a Gaussian mixture"),
        (([1j, 0], M, V), TypeError, "must be real"),
        ((W, np.ma.masked_equal(M, 1.0), V), ValueError, "must have no masked entries, got 2"),
        ((W, np.array(M).astype("timedelta64[s]"), V), TypeError, "must hold numbers"),
        (([], np.zeros((0, 2)), []), ValueError, "at least one component"),
    ],
)
def test_what_is_no_mixture_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        Mixture.from_parameters(*given)


def test_other_parameters_of_the_estimator_are_checked_by_it():
    with pytest.raises(TypeError, match="n_clusters"):
        Mixture.from_parameters(W, M, V, n_clusters=2)
    with pytest.raises(TypeError, match="n_components must not be given, got 3"):
        Mixture.from_parameters(W, M, V, n_components=3)
    with pytest.raises(ValueError, match=r"feature_names must be 2 distinct string\(s\)"):
        Mixture.from_parameters(W, M, V, feature_names=["a"])


# --- parts ---------------------------------------------------------------------------------------


def test_a_marginal_has_the_chosen_features_in_order(mixture):
    part = mixture.marginal(["depth", "length"])
    assert type(part) is Mixture and part.covariance_type == mixture.covariance_type
    assert part.feature_names_in_.tolist() == ["depth", "length"] and part.n_features_in_ == 2
    np.testing.assert_array_equal(part.means_, mixture.means_[:, [3, 0]])
    assert part.random_state == 0 and part.n_components == K
    for same in ([3, 0], [-1, 0], (3, -4), torch.tensor([3, 0])):
        np.testing.assert_array_equal(mixture.marginal(same).covariances_, part.covariances_)
    assert mixture.marginal(slice(1, 3)).feature_names_in_.tolist() == ["width", "height"]
    assert mixture.marginal([True, False, False, True]).n_features_in_ == 2
    assert mixture.marginal("width").means_.shape == (K, 1)


def test_a_condition_leaves_the_other_features_in_their_order(mixture):
    part = mixture.condition([0.5, -1.0], ["height", "length"])
    assert part.feature_names_in_.tolist() == ["width", "depth"]
    assert part.covariance_type == mixture.covariance_type
    row = pd.Series({"length": -1.0, "height": 0.5})
    for values, features in [
        ([-1.0, 0.5], [0, 2]),
        ([-1.0, 0.5], [True, False, True, False]),
        ([-1.0, 0.5], slice(0, 4, 2)),
        (row, ["height", "length"]),
    ]:
        same = mixture.condition(values, features)
        # to rounding: the order of the features is that of the factorisation
        np.testing.assert_allclose(same.means_, part.means_, rtol=1e-12)
        np.testing.assert_allclose(same.weights_, part.weights_, rtol=1e-12)
    X = np.array([[-1.0, 0.3, 0.5, 0.2]])
    frame = pd.DataFrame(X, columns=NAMES)
    joint = mixture.score_samples(frame)
    given = mixture.marginal(["length", "height"]).score_samples(frame[["length", "height"]])
    assert part.score_samples(frame[["width", "depth"]]) == pytest.approx(joint - given)


def test_a_data_frame_gives_the_names():
    X = load_iris(as_frame=True).data
    mixture = Mixture(2, random_state=0).fit(X)
    part = mixture.condition(X.iloc[0][X.columns[:2]], X.columns[:2])
    assert part.feature_names_in_.tolist() == X.columns[2:].tolist()
    assert np.isfinite(part.score(X[X.columns[2:]]))


def test_parts_are_mixtures_for_everything_else(mixture):
    first, second = mixture.marginal([0, 1]), mixture.condition([1.0, 0.0], [2, 3])
    assert MixtureWasserstein()(first, second) > 0
    transport = OTMap(second).fit(first)
    assert transport.transform(pd.DataFrame([[0.0, 0.0]], columns=NAMES[:2])).shape == (1, 2)
    assert OTMap(first).fit(second).distance_ == pytest.approx(transport.distance_)
    assert interpolate(first, second, 0.5).n_features_in_ == 2
    again = pickle.loads(pickle.dumps(second))
    np.testing.assert_array_equal(again.means_, second.means_)
    with pytest.raises(NotFittedError):
        clone(second).sample()
    np.testing.assert_array_equal(second.sample(5)[0], second.sample(5)[0])


def test_gradients_go_through_fits_values_and_parts(blobs):
    points = torch.tensor(blobs, requires_grad=True)
    mixture = Mixture(2, random_state=0).fit(points)
    (mixture.condition([0.5], [0]).means_.sum() + mixture.marginal(1).covariances_.sum()).backward()
    assert points.grad.abs().sum() > 0
    x = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    part = Mixture(2, random_state=0).fit(blobs).condition(x, [0])
    (slope,) = torch.autograd.grad(part.weights_ @ part.means_[:, 0], x)
    ahead, behind = (
        p.weights_ @ p.means_[:, 0]
        for p in (
            Mixture(2, random_state=0).fit(blobs).condition([0.5 + e], [0]) for e in (1e-5, -1e-5)
        )
    )
    assert slope.item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


def test_float32_fits_have_float32_parts(blobs):
    mixture = Mixture(2, random_state=0).fit(blobs.astype(np.float32))
    assert mixture.marginal([0]).means_.dtype == np.float32
    part = mixture.condition([0.5], [0])
    assert part.means_.dtype == part.weights_.dtype == part.covariances_.dtype == np.float32


def test_far_values_give_no_nan(mixture):
    for size in (1e3, 1e20, 1e200):
        part = mixture.condition([size, -size], [0, 1])
        assert np.isfinite(part.means_).all() and part.weights_.sum() == pytest.approx(1)


def test_parts_of_unfitted_mixtures_are_refused():
    with pytest.raises(NotFittedError):
        Mixture().marginal([0])
    with pytest.raises(NotFittedError):
        Mixture().condition([0.0], [0])


@pytest.mark.parametrize(
    ("values", "features", "error", "message"),
    [
        ([0.0] * d, slice(None), ValueError, "leave at least one feature to describe, got all 4"),
        ([0.0], NAMES, ValueError, "leave at least one feature to describe, got all 4"),
        ([], [], ValueError, "at least one feature, got none"),
        ([0.0], ["size"], ValueError, "among .* got .'size'."),
        ([0.0, 1.0], ["width", "width"], ValueError, "more than once"),
        ([0.0, 1.0], [0], ValueError, r"values must have shape \(1,\)"),
        ([np.nan], [0], ValueError, "values must be finite"),
        ([[0.0], [1.0]], [0], ValueError, "For many conditions at once use MixtureRegressor"),
        (pd.Series([1.0], index=["depth"]), ["width"], ValueError, "must have the labels"),
        ({"width": 1.0}, ["width"], TypeError, "got dict"),
    ],
)
def test_bad_conditions_are_refused(mixture, values, features, error, message):
    with pytest.raises(error, match=message):
        mixture.condition(values, features)


def test_names_need_a_mixture_with_names(arrays_of):
    with pytest.raises(ValueError, match="must be numbers where they have no names"):
        Mixture.from_parameters(*arrays_of).marginal(["width"])
