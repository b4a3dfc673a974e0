"""MixtureEmbedding and PairwiseMW2: clouds of points as samples."""

import copy
import os
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.neighbors import KernelDensity, KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC
from sklearn.utils import get_tags

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureEmbedding,
    MixtureWasserstein,
    PairwiseMW2,
    load,
)
from skgmmot.estimators.transport.embedding import _fitted

#: Points of two patients, who are named in a column.
FRAME = pd.DataFrame(
    {"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 2.0, 2.0], "patient": list("ppqq")}
)


@pytest.fixture
def clouds(rng):
    """Eighteen clouds of different lengths: of one blob, of two far ones, of two near ones."""
    y = np.arange(18) % 3
    apart = np.array([0.0, 6.0, 3.0])
    made = []
    for i, label in enumerate(y):
        n = 40 + 2 * i
        side = rng.integers(2, size=n)
        made.append(
            rng.normal(size=(n, 2)) + np.outer(side, [apart[label], 0]) + 0.3 * rng.normal(size=2)
        )
    return made, y


def model(n_neighbors=3):
    neighbours = KNeighborsClassifier(n_neighbors=n_neighbors, metric="precomputed")
    return make_pipeline(MixtureEmbedding(2, random_state=0), PairwiseMW2(), neighbours)


# --- in scikit-learn -----------------------------------------------------------------------------


def test_neighbours_of_clouds_are_found_under_cross_validation(clouds):
    X, y = clouds
    assert cross_val_score(model(), X, y, cv=3, error_score="raise").mean() > 0.8


def as_objects(X):
    array = np.empty(len(X), dtype=object)
    array[:] = X
    return array


def test_every_kind_of_cloud_gives_the_same_predictions(clouds):
    X, y = (part[:9] for part in clouds)
    expected = cross_val_predict(model(), X, y, cv=3)
    assert len(set(expected)) == 3
    for convert in (
        as_objects,
        lambda X: [torch.tensor(cloud) for cloud in X],
        lambda X: [pd.DataFrame(cloud, columns=["a", "b"]) for cloud in X],
        lambda X: [cloud.tolist() for cloud in X],
    ):
        assert (cross_val_predict(model(), convert(X), y, cv=3) == expected).all()


def test_clouds_of_equal_length_may_be_one_array(clouds):
    X, y = clouds
    short = [cloud[:40] for cloud in X]
    expected = model().fit(short, y).predict(short[:5])
    assert (model().fit(np.stack(short), y).predict(np.stack(short)[:5]) == expected).all()


def test_a_search_chooses_the_components(clouds):
    X, y = clouds
    grid = {"mixtureembedding__n_components": [1, 2], "kneighborsclassifier__n_neighbors": [1, 3]}
    search = GridSearchCV(model(), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.8
    own = make_pipeline(
        MixtureEmbedding(mixture=DifferentiableGaussianMixture(random_state=0)), PairwiseMW2()
    )
    own.set_params(mixtureembedding__mixture__n_components=2)
    expected = model()[:-1].fit_transform(X)
    assert np.allclose(own.fit_transform(X), expected)


def test_a_kernel_machine_takes_distances_through_a_function(clouds):
    X, y = clouds
    kernel = FunctionTransformer(lambda D: np.exp(-0.3 * D**2))
    machine = make_pipeline(
        MixtureEmbedding(2, random_state=0), PairwiseMW2(), kernel, SVC(kernel="precomputed")
    )
    assert cross_val_score(machine, X, y, cv=3, error_score="raise").mean() > 0.8


def test_the_pipeline_is_not_taken_for_pairwise():
    assert not get_tags(model()).input_tags.pairwise
    assert not get_tags(make_pipeline(PairwiseMW2(), KNeighborsClassifier())).input_tags.pairwise


def test_mixtures_themselves_may_be_the_samples(clouds):
    X, y = clouds
    mixtures = MixtureEmbedding(2, random_state=0).fit_transform(X)
    neighbours = make_pipeline(PairwiseMW2(), KNeighborsClassifier(3, metric="precomputed"))
    expected = cross_val_score(model(), X, y, cv=3)
    assert np.allclose(cross_val_score(neighbours, mixtures, y, cv=3), expected)


# --- the embedding -------------------------------------------------------------------------------


def test_each_cloud_has_the_mixture_that_fits_it_alone(clouds):
    X, _ = clouds
    embedding = MixtureEmbedding(2, random_state=0).fit(X)
    mixtures = embedding.transform(X[:4])
    assert embedding.n_features_in_ == 2
    for cloud, mixture in zip(X, mixtures, strict=False):
        alone = DifferentiableGaussianMixture(2, random_state=0).fit(cloud)
        assert np.array_equal(mixture.means_, alone.means_)


@pytest.mark.parametrize(
    "embedding",
    [
        MixtureEmbedding(4),
        MixtureEmbedding(4, random_state=np.random.RandomState(0)),
        MixtureEmbedding(mixture=DifferentiableGaussianMixture(4)),
        MixtureEmbedding(mixture=GaussianMixture(4)),
    ],
)
def test_transform_is_the_same_at_every_call_after_a_fit(embedding, clouds, tmp_path):
    X = clouds[0][:3]
    embedding = clone(embedding).fit(X)
    embedding.save(tmp_path / "embedding.npz")
    for same in (embedding, load(tmp_path / "embedding.npz"), copy.deepcopy(embedding)):
        found = [mixture.means_ for mixture in same.transform(X)]
        assert np.array_equal(found, [mixture.means_ for mixture in embedding.transform(X[:3])])
    ends = [embedding.fit(X)._seed for _ in range(3)]
    assert len(set(ends)) == 3


def test_a_mixture_with_a_seed_keeps_it(clouds):
    X = clouds[0][:2]
    given = DifferentiableGaussianMixture(4, random_state=7)
    found = MixtureEmbedding(mixture=given, random_state=3).fit_transform(X)
    assert [mixture.random_state for mixture in found] == [7, 7]


def test_a_mixture_of_ones_own_is_cloned_for_each_cloud(clouds):
    X, _ = clouds
    own = GaussianMixture(2, covariance_type="diag", random_state=0)
    mixtures = MixtureEmbedding(mixture=own).fit_transform(X[:3])
    assert all(isinstance(m, GaussianMixture) and m is not own for m in mixtures)
    assert not hasattr(own, "means_")
    assert len({id(m) for m in mixtures}) == 3


def test_workers_change_nothing(clouds):
    X, _ = clouds
    embedding = MixtureEmbedding(2, random_state=0)
    expected = clone(embedding).fit_transform(X[:4])
    with parallel_config(backend="threading"):  # starts faster than processes
        found = embedding.set_params(n_jobs=2).fit_transform(X[:4])
    for one, two in zip(expected, found, strict=True):
        assert np.array_equal(one.means_, two.means_)


def test_fits_that_stop_early_are_said_once(clouds):
    X, _ = clouds
    hasty = DifferentiableGaussianMixture(2, max_iter=1, tol=0, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"mixtures of 3 of 3 clouds .* \(first: X\[0\]\)"):
        MixtureEmbedding(mixture=hasty).fit_transform(X[:3])


@pytest.mark.parametrize("own", [True, False])
def test_only_other_processes_than_the_callers_are_told_not_to_warn(clouds, own):
    hasty = DifferentiableGaussianMixture(2, max_iter=1, tol=0, random_state=0)
    with warnings.catch_warnings(record=True, action="always") as caught:
        _fitted(hasty, os.getpid() if own else -1, clouds[0][0], 0)
    assert [w.category for w in caught] == own * [ConvergenceWarning]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda X: X[:1], r"X\[2\] must be a cloud that a mixture can be fitted to\. .*2"),
        (lambda X: X * np.nan, r"X\[2\] must be a cloud that a mixture can be fitted to\. .*NaN"),
        (lambda X: X[:, :1], r"X\[2\] must have 2 feature\(s\) as the other clouds, got 1"),
        (lambda X: X[0], r"X\[2\] must have shape \(n_points, n_features\), got \(2,\)"),
        (lambda X: [[1.0], [1.0, 2.0]], r"X\[2\] must have shape .*got no matrix"),
        (lambda X: X[None], r"X\[2\] must have shape .*got \(1, \d+, 2\)"),
    ],
)
def test_a_bad_cloud_is_refused_by_its_number(spoil, message, clouds):
    X, _ = clouds
    bad = [*X[:2], spoil(X[2]), *X[3:6]]
    with pytest.raises(ValueError, match=message):
        MixtureEmbedding(2).fit_transform(bad)


@pytest.mark.parametrize(
    "X, error, message",
    [
        ([], ValueError, "X must hold at least one cloud, got none"),
        (None, TypeError, "X must be a sequence of clouds, got NoneType"),
        (
            FRAME,
            TypeError,
            r"got DataFrame. That is one cloud: put clouds in a list. Of the groups",
        ),
        (FRAME.groupby("patient"), TypeError, r"got DataFrameGroupBy. Pass \[rows\[features\] for"),
        (FRAME.groupby("patient")[["a", "b"]], TypeError, r"got DataFrameGroupBy. Pass \[rows"),
        ({"p": FRAME, "q": FRAME}, TypeError, r"got dict. Pass list\(X.values\(\)\)"),
        (list(FRAME.groupby("patient")), ValueError, "got a pair of a name and a data frame"),
        ([FRAME, FRAME], ValueError, "got the text 'p' in column 'patient'. Drop the column, or"),
        ("clouds", TypeError, "X must be a sequence of clouds, got str"),
        (
            np.ones((4, 2)),
            ValueError,
            r"X\[0\] must have .* got \(2,\).* X\[0\]\[:, None\] if",
        ),
    ],
)
def test_what_are_no_clouds_is_refused(X, error, message):
    with pytest.raises(error, match=message):
        MixtureEmbedding(1).fit_transform(X)


def test_new_clouds_have_the_features_of_the_fit(clouds):
    X, _ = clouds
    embedding = MixtureEmbedding(2).fit(X)
    with pytest.raises(ValueError, match=r"X\[0\] must have 2 feature\(s\)"):
        embedding.transform([np.ones((9, 3))])
    with pytest.raises(NotFittedError):
        MixtureEmbedding().transform(X)


def test_options_that_cannot_be_are_refused(clouds):
    X, _ = clouds
    with pytest.raises(ValueError, match="The 'n_components' parameter"):
        MixtureEmbedding(0).fit(X)
    with pytest.raises(TypeError, match="mixture must be a Gaussian mixture estimator, got Kernel"):
        MixtureEmbedding(mixture=KernelDensity()).fit(X)
    with pytest.raises(ValueError, match="The 'reg' parameter"):
        PairwiseMW2(reg=-1.0).fit([([1.0], [[0.0]], [[[1.0]]])])


# --- the distances -------------------------------------------------------------------------------


@pytest.fixture
def mixtures(clouds):
    return MixtureEmbedding(2, random_state=0).fit_transform(clouds[0][:6])


@pytest.mark.parametrize("squared", [False, True])
def test_they_are_those_of_the_distance(squared, mixtures):
    distance = MixtureWasserstein(squared=squared)
    expected = [[distance(a, b) for b in mixtures[:4]] for a in mixtures]
    pairwise = PairwiseMW2(squared=squared).fit(mixtures[:4])
    assert np.allclose(pairwise.transform(mixtures), expected, atol=1e-7)
    square = PairwiseMW2(squared=squared).fit_transform(mixtures[:4])
    assert np.allclose(square, expected[:4], atol=1e-7)
    assert (square == square.T).all() and np.abs(square.diagonal()).max() < 1e-6


def test_plans_may_have_an_entropy_or_penalties(mixtures):
    exact = PairwiseMW2().fit_transform(mixtures)
    spread = PairwiseMW2(reg=1.0).fit_transform(mixtures)
    loose = PairwiseMW2(reg_m=1.0).fit_transform(mixtures)
    off = ~np.eye(len(mixtures), dtype=bool)
    assert (spread[off] > exact[off]).all() and (loose[off] < exact[off]).all()


def test_distances_of_mixtures_on_a_graph_are_on_it(clouds):
    X, _ = clouds
    cloud = torch.tensor(X[0], requires_grad=True)
    mixtures = MixtureEmbedding(2, random_state=0).fit_transform([cloud, *X[1:3]])
    assert isinstance(mixtures[1].means_, np.ndarray)
    constant = pickle.loads(pickle.dumps(mixtures[0]))
    expected = PairwiseMW2().fit_transform([constant, *mixtures[1:]])
    assert isinstance(expected, np.ndarray)
    among = PairwiseMW2().fit_transform(mixtures)
    kept = PairwiseMW2().fit(mixtures[:1]).transform(mixtures[1:])
    assert np.allclose(among.detach(), expected)
    assert torch.allclose(among[1:, :1], kept)
    (gradient,) = torch.autograd.grad(kept.sum(), cloud)
    assert gradient.abs().max() > 0 and gradient.isfinite().all()


def test_columns_are_named_by_number(mixtures):
    pairwise = PairwiseMW2().set_output(transform="pandas").fit(mixtures[:2])
    assert list(pairwise.transform(mixtures).columns) == ["pairwisemw20", "pairwisemw21"]


def test_what_are_no_mixtures_has_no_distances(mixtures):
    pairwise = PairwiseMW2().fit(mixtures)
    with pytest.raises(ValueError, match="equal numbers of features, got 1 and 2"):
        pairwise.transform([([1.0], [[0.0]], [[[1.0]]])])
    with pytest.raises(TypeError, match=r"X\[0\] must be a fitted mixture estimator or a tuple"):
        pairwise.transform([np.ones((3, 2))])
    with pytest.raises(ValueError, match="X must hold at least one mixture"):
        PairwiseMW2().fit([])
    with pytest.raises(NotFittedError):
        PairwiseMW2().transform(mixtures)


def test_groups_of_a_data_frame_are_clouds_once_they_are_rows_of_points():
    clouds = [rows[["a", "b"]] for _, rows in FRAME.groupby("patient")]
    fitted = MixtureEmbedding(1).fit_transform(clouds)
    assert [list(m.feature_names_in_) for m in fitted] == [["a", "b"]] * 2


def test_a_fit_that_fails_leaves_the_earlier_one(clouds):
    X, _ = clouds
    embedding = MixtureEmbedding(2).fit(X[:2])
    expected = [mixture.means_ for mixture in embedding.transform(X[:2])]
    with pytest.raises(TypeError, match="Gaussian mixture estimator"):
        embedding.set_params(mixture=KernelDensity()).fit([np.ones((5, 7))])
    embedding.set_params(mixture=None)
    found = [mixture.means_ for mixture in embedding.transform(X[:2])]
    np.testing.assert_array_equal(found, expected)
