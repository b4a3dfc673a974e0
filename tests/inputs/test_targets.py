"""Targets of regressions."""

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot._inputs.targets import regression_targets

Y = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("y", "single", "names"),
    [
        (Y, False, None),
        (Y.tolist(), False, None),
        (torch.tensor(Y), False, None),
        (pd.DataFrame(Y, columns=["a", "b"]), False, ["a", "b"]),
        (pd.DataFrame(Y), False, None),
        (Y[:, :1], False, None),
        (Y[:, 0], True, None),
        (Y[:, 0].astype(int), True, None),
        (torch.tensor(Y[:, 0]), True, None),
        (pd.Series(Y[:, 0], name="a"), True, ["a"]),
        (pd.Series(Y[:, 0]), True, None),
    ],
)
def test_targets_become_a_matrix(y, single, names):
    found = regression_targets(y, 3)
    assert found.single is single and found.names == names
    np.testing.assert_array_equal(found.values, Y[:, : found.values.shape[1]])


def test_float32_and_the_graph_are_kept():
    y = torch.ones(3, requires_grad=True)
    found = regression_targets(y, 3).values
    assert found.dtype == torch.float32 and found.requires_grad


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, ValueError, "requires y to be passed, but the target y is None"),
        (np.zeros((3, 2, 1)), ValueError, "2|shape"),
        (torch.zeros(3, 2, 1), ValueError, r"got \(3, 2, 1\)"),
        (torch.zeros(3, 0), ValueError, r"got \(3, 0\)"),
        (np.zeros(2), ValueError, "inconsistent numbers of samples"),
        (torch.zeros(4), ValueError, "inconsistent numbers of samples"),
        ([1.0, np.nan, 2.0], ValueError, r"got NaN in 1 of 3 rows \(first: row 1\)"),
        ([1.0, 2.0, np.inf], ValueError, r"infinity \(inf\) in 1 of 3 rows \(first: row 2\)"),
        (torch.tensor([[1.0, np.nan]] * 3), ValueError, "got NaN in 3 of 3 rows"),
        (["a", "b", "c"], ValueError, "y must hold numbers, got the text 'a'. Use a classifier"),
        (np.array(["a", "b", "c"]), ValueError, "got the text 'a'"),
        (np.array([1.0, "b", 2.0], dtype=object), ValueError, "got the text 'b'"),
        (pd.Series(["a", "b", "a"], dtype="category"), ValueError, "got the text 'a'"),
        (pd.DataFrame({"a": Y[:, 0], "b": ["x", "y", "z"]}), ValueError, "got the text 'x'"),
        (Y[:, 0] > 1, ValueError, "got booleans. Use a classifier .* y.astype"),
        ([True, False, True], ValueError, "got booleans"),
        ((Y > 1).astype(object), ValueError, "got booleans"),
        (torch.tensor(Y > 1), ValueError, "got booleans"),
        (pd.Series([True, False, True], dtype="boolean"), ValueError, "got booleans"),
        (pd.DataFrame({"a": Y[:, 0], "b": Y[:, 0] > 1}), ValueError, "got booleans"),
        (torch.zeros(3, dtype=torch.complex64), TypeError, "must be real"),
        (np.zeros(3, dtype=complex), ValueError, "Complex data not supported"),
        (np.ma.masked_greater(Y[:, 0], 3.0), ValueError, "y must have no masked entries, got 1"),
        (Y[:, 0].astype("datetime64[s]"), TypeError, "y must hold numbers, got datetime64"),
        (Y[:, 0].astype("timedelta64[s]"), TypeError, "y must hold numbers, got timedelta64"),
        (pd.Series(pd.date_range("2020", periods=3)), TypeError, "y must hold numbers"),
        (pd.DataFrame({"t": pd.date_range("2020", periods=3)}), TypeError, "y must hold numbers"),
        (torch.tensor(Y).to_sparse(), TypeError, "y must be dense, got a tensor of torch.sparse"),
        (iter(Y), TypeError, "y must be an array, got"),
        ((v for v in Y), TypeError, "y must be an array, got generator"),
        (lambda: iter([Y]), TypeError, "y must be an array, got function"),
        (1.0, ValueError, r"got \(\)"),
    ],
)
def test_what_is_no_target_is_refused(y, error, message):
    with pytest.raises(error, match=message):
        regression_targets(y, 3)
