"""Predicting classes: of which kind they are, and what a component of no class means."""

import dask.array as da
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skgmmot import DifferentiableGaussianMixture

CENTRES = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])


@pytest.fixture
def X(rng):
    """Four clouds, in turn."""
    return np.tile(CENTRES, (15, 1)) + rng.normal(size=(60, 2))


@pytest.fixture
def cloud():
    return np.arange(60) % 4


def fitted(X, y, **options):
    options = {"n_components": 4, "labels": "y", "random_state": 0} | options
    return DifferentiableGaussianMixture(**options).fit(X, y)


def test_classes_are_predicted_and_components_of_none_are_unknown(X, cloud):
    y = np.where(np.arange(60) < 20, cloud, -1)
    y[cloud == 3] = -1
    mixture = fitted(X, y)
    expected = np.where(cloud == 3, -1, cloud)
    np.testing.assert_array_equal(mixture.predict_class(X), expected)
    assert mixture.predict_class(X).dtype == np.int64
    shares = mixture.predict_class_proba(X)
    np.testing.assert_allclose(shares, mixture.predict_proba(X)[:, :3])
    assert shares[3].max() < 1e-6
    assert mixture.classes_.tolist() == [0, 1, 2]
    assert mixture.components_of_class_ == {0: [0], 1: [1], 2: [2]}


@pytest.mark.parametrize(
    "names, mark",
    [(["a", "b"], ""), (np.array(["a", "b"], dtype=object), None), ([True, False], -1)],
)
def test_what_is_unknown_has_the_mark_of_the_labels(X, cloud, names, mark):
    names = np.asarray(names)
    if mark == -1:  # every sample has a class
        y, n_components = names[cloud // 2], 2
    else:
        y, n_components = names[cloud % 2], 4
        y[20:] = mark
    mixture = fitted(X, y, n_components=n_components, components_of_class=None)
    found = mixture.predict_class(X)
    assert found.dtype == (names.dtype if names.dtype.kind != "U" else found.dtype)
    assert set(found.tolist()) <= {*names.tolist(), mark}


def test_a_class_of_several_components_has_the_sum_of_their_shares(X, cloud):
    y = np.where(np.arange(60) < 24, np.array(["low", "high"])[cloud // 2], "")
    mixture = fitted(X, y, components_of_class={"low": [3, 1], "high": [0, 2]})
    np.testing.assert_array_equal(mixture.predict_class(X), np.where(cloud < 2, "low", "high"))
    shares = mixture.predict_class_proba(X)
    assert mixture.classes_.tolist() == ["high", "low"]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares[:, 0], mixture.predict_proba(X)[:, [0, 2]].sum(axis=1))
    assert mixture.components_of_class_ == {"high": [0, 2], "low": [1, 3]}


def test_tensors_with_a_gradient_get_tensors_of_numbers_and_arrays_of_text(X, cloud):
    for labels, kind in ((cloud, torch.Tensor), (np.array(list("abcd"))[cloud], np.ndarray)):
        mixture = fitted(X, labels)
        found = mixture.predict_class(torch.tensor(X, requires_grad=True))
        assert isinstance(found, kind)
        np.testing.assert_array_equal(np.asarray(found), mixture.predict_class(X))


def test_collections_of_dask_get_lazy_answers(X, cloud):
    mixture = fitted(X, np.array(list("abcd"))[cloud])
    lazy = da.from_array(X, chunks=(25, 2))
    found = mixture.predict_class(lazy)
    assert isinstance(found, da.Array) and found.dtype == mixture.classes_.dtype
    np.testing.assert_array_equal(found.compute(), mixture.predict_class(X))
    shares = mixture.predict_class_proba(lazy).compute()
    np.testing.assert_allclose(shares, mixture.predict_class_proba(X))


def test_classes_are_predicted_with_labels_alone(X, cloud):
    mixture = DifferentiableGaussianMixture(4, random_state=0).fit(X, cloud)
    assert not hasattr(mixture, "classes_")
    with pytest.raises(AttributeError, match="predict_class"):
        mixture.predict_class(X)
    with pytest.raises(NotFittedError):
        DifferentiableGaussianMixture(4, labels="y").predict_class(X)
    labelled = fitted(X, cloud)
    labelled.set_params(labels="ignore").fit(X)
    assert not hasattr(labelled, "classes_") and not hasattr(labelled, "components_of_class_")
    assert clone(fitted(X, cloud)).labels == "y"
