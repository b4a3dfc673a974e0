"""States of estimators in arrays and plain values."""

import pickle

import numpy as np
import torch

from skgmmot._inputs.states import packed, unpacked
from skgmmot.gaussian.covariance.registry import FULL, TIED
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.adjoint import Adjoint
from skgmmot.transport.discrete.plan import Plan


def holds_tensors(value):
    """Whether a tensor is left in a value."""
    if isinstance(value, dict):
        return any(map(holds_tensors, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_tensors, value))
    return isinstance(value, torch.Tensor)


def test_tensors_come_back_with_dtype_device_and_bits():
    tensors = (torch.arange(6.0).reshape(2, 3).mT, torch.tensor(True), torch.zeros(0, 2))
    value = {"a": [tensors, 1.5], "b": np.ones(2), "c": torch.device("cpu"), "d": "text"}
    state = packed(value)
    assert not holds_tensors(state)
    found = unpacked(pickle.loads(pickle.dumps(state)))
    for tensor, other in zip(found["a"][0], tensors, strict=True):
        assert tensor.dtype == other.dtype and tensor.equal(other)
    assert found["a"][1:] == [1.5] and found["c"] == torch.device("cpu") and found["d"] == "text"


def test_graphs_are_left_out():
    leaf = torch.ones(2, requires_grad=True)
    found = unpacked(packed([leaf, 2 * leaf]))
    assert not any(tensor.requires_grad for tensor in found)


def test_what_numpy_has_no_numbers_for_stays_a_tensor():
    for tensor in (torch.ones(2, dtype=torch.bfloat16), torch.eye(2).to_sparse()):
        (found,) = unpacked(packed([tensor]))
        assert found.dtype == tensor.dtype and found.layout == tensor.layout


def test_mixtures_plans_and_records_come_back(make_mixture):
    theta, plan = make_mixture("diag", 2, 2), Plan(*torch.ones(4, 1, 1))
    one = make_mixture("full", 1, 2)
    typed = [GaussianMixtureParams(*one, covariance_type) for covariance_type in (FULL, TIED)]
    state = packed([theta, plan, *typed, Adjoint(0.5)])
    assert not holds_tensors(state)
    found = unpacked(state)
    assert found[0].covariance_type is theta.covariance_type and type(found[1]) is Plan
    assert [each.covariance_type for each in found[2:4]] == [FULL, TIED]
    assert all(map(torch.equal, found[0], theta)) and found[4].tol == 0.5
