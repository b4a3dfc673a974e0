"""The border: every kind of array becomes a tensor, and results go back in kind."""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot._inputs import arrays


@pytest.mark.parametrize(
    "array, dtype",
    [
        ([[1, 2], [3, 4]], torch.float64),
        (np.ones((2, 2), dtype=np.float32), torch.float32),
        (np.ones((2, 2), dtype=np.uint8), torch.float64),
        (np.ones((2, 2), dtype=bool), torch.float64),
        (np.ones((2, 2), dtype=">f8"), torch.float64),
        (np.ones((2, 2))[::-1], torch.float64),
        (np.ones((1, 2))[::-1], torch.float64),
        (np.ones((2, 1), np.float32)[:, ::-1], torch.float32),
        (torch.ones(2, 2, dtype=torch.float16), torch.float64),
        (torch.ones(2, 2, dtype=torch.int32), torch.float64),
        (torch.ones(2, 2), torch.float32),
    ],
)
def test_floats_are_kept_and_the_rest_becomes_float64(array, dtype):
    assert arrays.as_tensor(array).dtype == dtype


@pytest.mark.parametrize(
    "array", [[1.0, 1.0j], np.array([1.0, 1.0j]), torch.ones(2, dtype=torch.complex64)]
)
def test_complex_numbers_are_refused(array):
    with pytest.raises(TypeError, match=r"must be real, got .*complex"):
        arrays.as_tensor(array)


def test_complex_weights_are_refused():
    with pytest.raises(TypeError, match=r"must be real, got .*complex"):
        arrays.sample_weights(torch.ones(2, dtype=torch.complex64), torch.ones(2, 1))


def test_sparse_tensors_are_refused():
    X = torch.eye(4, 2).to_sparse()
    with pytest.raises(TypeError, match=r"X must be dense, got .* Use X.to_dense"):
        arrays.samples(DifferentiableGaussianMixture(), X, reset=True)


def test_results_go_back_in_kind():
    tensor = torch.arange(3.0, requires_grad=True)
    assert arrays.kind_of(tensor).restore(tensor).requires_grad
    back = arrays.kind_of([1.0]).restore(tensor)
    assert isinstance(back, np.ndarray)
    back += 1  # the user's own memory
    assert tensor.tolist() == [0, 1, 2]


# torch's 'meta' device stands for an accelerator
ARRAY, PLAIN, ON_GRAPH, ELSEWHERE = (
    arrays.kind_of(t)
    for t in (
        np.ones(2),
        torch.ones(2),
        torch.ones(2, requires_grad=True),
        torch.ones(2, device="meta"),
    )
)


@pytest.mark.parametrize(
    "given, fitted, device",
    [
        ([ARRAY], ARRAY, None),
        ([PLAIN, ARRAY], ARRAY, None),
        ([ON_GRAPH], ARRAY, "cpu"),
        ([ARRAY, ON_GRAPH], ARRAY, "cpu"),
        ([ELSEWHERE], ARRAY, "meta"),
        ([ARRAY], PLAIN, "cpu"),
        ([PLAIN], ON_GRAPH, "cpu"),
        ([ARRAY], ELSEWHERE, "meta"),
        ([ON_GRAPH], ELSEWHERE, "meta"),
    ],
)
def test_estimators_answer_tensors_where_torch_is_in_play(given, fitted, device):
    kind = arrays.answer_kind(*given, fitted=fitted)
    assert kind.is_tensor == (device is not None)
    assert kind.device.type == (device or "cpu")


def test_tensors_on_two_accelerators_are_refused():
    other = ELSEWHERE._replace(device=torch.device("cuda", 1))
    with pytest.raises(ValueError, match=r"must be on one device, .* got cuda:1 and meta\. Move"):
        arrays.answer_kind(PLAIN, ELSEWHERE, fitted=other)


@pytest.mark.parametrize(
    ("X", "hint"),
    [
        ((row for row in np.ones((4, 2))), "np.vstack"),
        (torch.utils.data.DataLoader(torch.ones(4, 2)), "torch.cat"),
        (np.ones((4, 2)).astype("datetime64[s]"), "days"),
        (np.ones((4, 2)).astype("timedelta64[s]"), "days"),
        (pd.DataFrame({"when": pd.to_datetime(["2020", "2021"]), "x": [1.0, 2.0]}), "days"),
        ([[np.datetime64("2020")], [np.datetime64("2021")]], "days"),
        ([[np.timedelta64(1, "D")], [np.timedelta64(2, "D")]], "days"),
        ([[date(2020, 1, 1)], [date(2021, 1, 1)]], "seconds"),
        (np.array([[timedelta(1)], [timedelta(2)]]), "not 'datetime.timedelta'"),
        (pd.DataFrame({"when": pd.period_range("2020", periods=2)}).astype(object), "seconds"),
    ],
    ids=[
        *("generator", "loader", "datetime", "timedelta", "frame", "list of datetimes"),
        *("list of timedeltas", "list of dates", "objects", "frame of objects"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(X, hint):
    with pytest.raises(TypeError, match=f"X must .*{hint}"):
        DifferentiableGaussianMixture().fit(X)


def test_read_only_arrays_are_shared_and_not_copied():
    X = np.ones((4, 2))
    X.flags.writeable = False
    assert arrays.as_tensor(X).data_ptr() == X.ctypes.data


@pytest.mark.parametrize("given", [[0.0, 2.0, 4.0], torch.tensor([0.0, 2.0, 4.0])])
def test_weights_are_measured_against_the_largest_and_may_be_zero(given):
    X = torch.ones(3, 2)
    found = arrays.sample_weights(given, X)
    assert found.dtype == X.dtype
    assert found.tolist() == [0.0, 0.5, 1.0]
    assert arrays.sample_weights(None, X) is None


@pytest.mark.parametrize("bad", [[-1e-9, 1.0], [np.inf, 1.0], [np.nan, 1.0]])
def test_weights_that_are_none_are_refused(bad):
    for given in (bad, torch.tensor(bad, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"sample_weight must be finite|Input sample_weight"):
            arrays.sample_weights(given, torch.ones(2, 2))


def test_samples_go_from_the_cpu_to_the_device_named_and_from_no_other():
    X, elsewhere = torch.ones(2, 2), torch.ones(2, 2, device="meta")
    assert arrays.on_device(X, None) is X
    assert arrays.on_device(X, "cpu").device.type == "cpu"
    assert arrays.on_device(X, "meta").device.type == "meta"
    assert arrays.on_device(elsewhere, "meta").device.type == "meta"
    with pytest.raises(ValueError, match="X must be on the device named, or on the CPU, got meta"):
        arrays.on_device(elsewhere, "cpu")
    with pytest.raises(ValueError, match="device must be one that torch has here, got 'nowhere'"):
        arrays.on_device(X, "nowhere")


def test_rows_that_are_not_finite_are_counted_and_the_first_is_named():
    X = np.ones((5, 2))
    X[2, 1], X[4, 0] = np.nan, np.inf
    for array in (X, torch.tensor(X)):
        with pytest.raises(ValueError, match=r"got NaN in 2 of 5 rows \(first: row 2\)"):
            arrays.samples(DifferentiableGaussianMixture(), array, reset=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_of_floats_are_validated_as_they_are_and_others_as_float64(dtype):
    options = {"reset": True}
    found, _ = arrays.samples(
        DifferentiableGaussianMixture(), torch.ones(3, 2).to(dtype), **options
    )
    assert found.dtype == dtype
    whole = torch.ones(3, 2, dtype=torch.int32)
    assert (
        arrays.samples(DifferentiableGaussianMixture(), whole, **options)[0].dtype == torch.float64
    )


@pytest.mark.parametrize("entries", [[1e155, 2e155], [-2e155, -1e155], [-2e155, 0.0]])
def test_numbers_whose_squares_leave_the_range_are_refused_whatever_their_sign(entries):
    with pytest.raises(ValueError, match=r"got an entry of size 2\.0e\+155"):
        arrays.check_range(torch.tensor([entries], dtype=torch.float64))
    arrays.check_range(torch.tensor([entries], dtype=torch.float64) * 1e-20)


@pytest.mark.parametrize("name", ["X.parquet", Path("X.npy")])
def test_names_of_files_are_no_samples(name):
    with pytest.raises(TypeError, match=r"got the \w+ 'X\.\w+'. Read the file first, or fit"):
        DifferentiableGaussianMixture().fit(name)


def test_functions_of_blocks_are_no_arrays():
    with pytest.raises(TypeError, match=r"Put its blocks together first, as by np.vstack"):
        SlicedWassersteinGMM().fit(lambda: iter([np.ones((3, 2))]))


@pytest.mark.parametrize(
    "given",
    [(v for v in [1.0]), map(float, [1]), {1.0}, {0: 1.0}, object(), np.ndarray, int, None],
    ids=["generator", "map", "set", "dict", "object", "array class", "class", "None"],
)
def test_what_is_no_array_is_named(given):
    with pytest.raises(TypeError, match=r"an array must hold numbers, got .+ Pass an array"):
        arrays.as_tensor(given)


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), Fraction(2), Decimal(2)])
def test_numbers_of_any_type_are_tensors(number):
    assert arrays.as_tensor(number).item() == 2


@pytest.mark.parametrize(
    "given, error, message",
    [
        ([[1.0], [1.0, 2.0]], ValueError, "rows of one length, got a list"),
        ([1.0, [2.0]], ValueError, "rows of one length, got a list"),
        (
            [torch.ones(1, requires_grad=True)] * 2,
            TypeError,
            "one tensor, got a list of tensors that require",
        ),
        ([object()], TypeError, "must hold numbers, got object: float"),
        ([{}, {}], TypeError, "must hold numbers, got dict: float"),
        ([10**400], TypeError, "must hold numbers of float64, got int too large"),
        (torch.ones(2).to_sparse(), TypeError, "must be dense, got a tensor of torch.sparse_coo"),
        (b"ab", ValueError, "must hold numbers, got the text 'ab'"),
        ([b"ab"], ValueError, "must hold numbers, got the text 'ab'"),
    ],
)
def test_what_cannot_be_an_array_of_numbers_is_said(given, error, message):
    with pytest.raises(error, match=message):
        arrays.as_tensor(given)
