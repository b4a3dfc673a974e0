"""Features by number, mask, slice and name, and their values."""

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot._inputs.features import checked_names, chosen_features, values_of

NAMES = np.array(["age", "sex", "bmi", "bp"], dtype=object)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ([2, 0], [2, 0]),
        ((0,), [0]),
        (1, [1]),
        (-1, [3]),
        ([-1, 0], [3, 0]),
        (np.int32(2), [2]),
        (np.array([1, 3]), [1, 3]),
        (np.array([1, 3])[::-1], [3, 1]),
        (np.array([1])[::-1], [1]),
        (torch.tensor([3, 1]), [3, 1]),
        (range(2), [0, 1]),
        (slice(1, None), [1, 2, 3]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        ([True, False, False, True], [0, 3]),
        (np.array([False, True, False, False]), [1]),
        (torch.tensor([False, True, True, False]), [1, 2]),
        ("bmi", [2]),
        (["bp", "age"], [3, 0]),
        (np.array(["sex", "bp"]), [1, 3]),
        (pd.Index(["bmi", "age"]), [2, 0]),
        (pd.Series(["sex"]), [1]),
    ],
)
def test_features_are_chosen_in_the_order_given(features, expected):
    assert chosen_features(features, 4, NAMES) == expected


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([], ValueError, "at least one feature, got none"),
        (slice(4, 9), ValueError, "holds none of 4"),
        ([False] * 4, ValueError, "got 0 true of 4"),
        ([True, False], ValueError, "one truth value for each of 4"),
        ([[0, 1]], ValueError, r"got shape \(1, 2\)"),
        ([1, 1], ValueError, r"distinct, got \[1\] more than once"),
        ([1, -3], ValueError, r"distinct, got \[1\] more than once"),
        (["age", "age"], ValueError, r"distinct, got \['age'\] more than once"),
        (4, ValueError, "numbers from -4 to 3"),
        ([0, -5], ValueError, "numbers from -4 to 3"),
        ("size", ValueError, r"among \['age', 'sex', 'bmi', 'bp'\], got \['size'\]"),
        (["age", "Sex"], ValueError, r"got \['Sex'\]"),
        (slice("age", "bmi"), TypeError, "slice of features must go by numbers"),
        (True, TypeError, "got True. Pass a list"),
        (1.0, TypeError, "integers, truth values or names"),
        ([0.0, 1.0], TypeError, "integers, truth values or names"),
        (["age", 1], TypeError, "not several of these"),
        ([True, 2, 0, 1], TypeError, "not several of these"),
        (None, TypeError, "not several of these, got None"),
        ({"age"}, TypeError, "not several of these"),
        ({"age": 1}, TypeError, "not several of these"),
    ],
)
def test_other_choices_are_refused(features, error, message):
    with pytest.raises(error, match=message):
        chosen_features(features, 4, NAMES)


def test_names_need_names():
    with pytest.raises(ValueError, match="must be numbers where they have no names"):
        chosen_features(["age"], 4)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0],
        (1, 2),
        np.array([1, 2], dtype=np.int8),
        torch.tensor([1.0, 2.0]),
        pd.Series([2.0, 1.0], index=["bmi", "age"]),
        pd.Series([1.0, 2.0]),
    ],
)
def test_values_are_those_of_the_features(values):
    assert values_of(values, ["age", "bmi"], 2).tolist() == [1.0, 2.0]


def test_a_single_value_needs_no_list():
    assert values_of(3.0, "age", 1).tolist() == [3.0]
    assert values_of(np.float32(3.0), 0, 1).tolist() == [3.0]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], ValueError, r"must have shape \(2,\), one for each of 2 feature\(s\), got \(1,\)"),
        ([1.0, 2.0, 3.0], ValueError, r"got \(3,\)"),
        ([[1.0, 2.0]], ValueError, "For many conditions at once use MixtureRegressor"),
        ([1.0, np.nan], ValueError, "must be finite, got .* Leave out"),
        ([np.inf, 1.0], ValueError, "must be finite"),
        ([None, 1.0], ValueError, "must be finite"),
        (["a", "b"], TypeError, "must be numbers, got"),
        (None, TypeError, "in the order of features, got NoneType"),
        ("12", TypeError, "in the order of features, got str"),
        ({"age": 1.0, "bmi": 2.0}, TypeError, "in the order of features, got dict"),
        ([1j, 2.0], TypeError, "must be real"),
        (np.ma.masked_equal([1.0, 2.0], 2.0), ValueError, "must have no masked entries, got 1"),
        (np.array([1, 2], dtype="datetime64[s]"), TypeError, "must hold numbers"),
        (pd.Series([1.0, 2.0], index=["bmi", "bp"]), ValueError, "must have the labels"),
    ],
)
def test_other_values_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        values_of(values, ["age", "bmi"], 2)


@pytest.mark.parametrize("names", [["a", "b"], np.array(["a", "b"]), pd.Index(["a", "b"])])
def test_names_are_kept_as_scikit_learn_does(names):
    found = checked_names(names, 2)
    assert found.dtype == object and found.tolist() == ["a", "b"]


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", 1], "ab", ["a", "b", "c"]])
def test_other_names_are_refused(names):
    with pytest.raises(ValueError, match=r"feature_names must be 2 distinct string\(s\)"):
        checked_names(names, 2)
