"""Classes of samples: marks of unknown ones, their components, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot._inputs.labels import classes_of


@pytest.mark.parametrize(
    "y, names, unknown",
    [
        (np.array([7, -1, 3]), [3, 7], -1),
        (np.array([7, 0, 3], dtype=np.uint8), [0, 3, 7], -1),
        (torch.tensor([7, -1, 3]), [3, 7], -1),
        ([7.0, float("nan"), 3.0], [3, 7], -1),
        (np.array([True, False, True]), [False, True], -1),
        (np.array(["b", "", "a"]), ["a", "b"], ""),
        (["b", None, "a"], ["a", "b"], None),
        (np.array([7, -1, float("nan")], dtype=object), [7], None),
        (np.array(["b", "", -1], dtype=object), ["b"], None),
        (pd.Series(["b", pd.NA, "a"], dtype="string"), ["a", "b"], None),
        (pd.Series(["b", None, "a"], dtype="category"), ["a", "b"], None),
        (pd.Series([7, None, 3]), [3, 7], -1),
        (pd.Series([7, None, 3], dtype="Int64").to_numpy(dtype=object), [3, 7], None),
    ],
)
def test_labels_of_each_kind_have_marks_of_unknown_classes(y, names, unknown):
    found = classes_of(y, 3, 3)
    assert found.names.tolist() == names and found.unknown == unknown
    assert found.components == tuple((k,) for k in range(len(names)))
    for code, label in zip(found.codes, list(y), strict=True):
        known = pd.notna(label) and label not in (-1, "")
        assert found.names[code] == label if known else code == -1
    assert found.codes.dtype == np.int64


@pytest.mark.parametrize(
    "given, components",
    [
        (None, ((0,), (1,))),
        ({"b": [3, 1], "a": 2}, ((2,), (1, 3))),
        ({"a": np.array([0]), "b": range(1, 3), "c": (3,)}, ((0,), (1, 2), (3,))),
    ],
)
def test_each_class_has_its_components(given, components):
    found = classes_of(["b", "a", None, "b"], 4, 4, given)
    assert found.components == components
    assert found.codes.tolist() == [1, 0, -1, 1]


@pytest.mark.parametrize(
    "y, error, message",
    [
        (None, ValueError, r"labels='y' requires y to be passed, but the target y is None\. Pass"),
        ([0, 1], ValueError, r"y must have shape \(3,\), .* got \(2,\)\. Label all samples"),
        ([[0], [1], [2]], ValueError, r"y must have shape \(3,\), .* got \(3, 1\)\. Use y.ravel"),
        ([0.5, 1, 2], ValueError, r"y must be classes, got 0\.5\. Unknown label type: continuous"),
        ([np.inf, 1, 2], ValueError, "y must be classes, got inf"),
        ([-1, -1, -1], ValueError, "y must have the class of some samples .*-1 marks an unknown"),
        (["a", None, 3], TypeError, "y must be classes of one kind, got int, str"),
        (np.array(["a", "nan", "b"]), ValueError, r"unknown classes by '' .* got 'nan', which may"),
        (np.array(["a", "-1", "b"]), ValueError, r"unknown classes by '' .* got '-1'"),
        (np.array([1j, 0, 0]), TypeError, "array of integers, text or objects, got .* complex128"),
        (pd.date_range("2020", periods=3), TypeError, "array of integers, text or objects"),
        ([0, 1, 2], ValueError, r"n_components must be .* n_components=2 for 3 classes: 0, 1, 2\."),
    ],
)
def test_labels_that_are_no_classes_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        classes_of(y, 3, 2)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ([[0], [1]], TypeError, "components_of_class must map classes to components, got list"),
        ({"a": [0]}, ValueError, r"name all classes in y, got none for 'b'; it names 'a'\. Give"),
        ({"a": [0], "b": [1], "": [2]}, ValueError, "must name classes, got '', which marks an un"),
        ({"a": [0], "b": [1], None: [2]}, ValueError, "must name classes, got None, which marks"),
        ({"a": [0, 1], "b": [1]}, ValueError, r"each component to one class, got 1 for 'a' and 'b"),
        ({"a": [0], "b": []}, ValueError, r"one or more numbers of components, got \[\] for 'b'"),
        ({"a": [0], "b": [True]}, ValueError, r"numbers of components, got \[True\] for 'b'"),
        ({"a": [0], "b": "1"}, ValueError, r"one or more numbers of components, got '1' for 'b'"),
        ({"a": [0], "b": [1.0]}, ValueError, r"numbers of components, got \[1\.0\] for 'b'"),
        ({"a": [0], "b": [3]}, ValueError, r"from 0 to n_components - 1 = 2, got 3 for 'b'\. Use"),
        ({"a": [0], "b": [-1]}, ValueError, r"from 0 to n_components - 1 = 2, got -1 for 'b'"),
    ],
)
def test_components_that_do_not_match_the_classes_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        classes_of(["a", "b", ""], 3, 3, given)
