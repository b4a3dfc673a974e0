"""MW2 between mixtures of few components, the short way: what it finds, and what it leaves."""

import functools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.few import squared_distance


def arrays(K, d, seed, spread=2.0):
    """Weights, means and covariances."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(K, d, d))
    return (
        rng.dirichlet(np.full(K, 5.0)),
        spread * rng.normal(size=(K, d)),
        (factors @ factors.mT / d + 0.1 * np.eye(d)),
    )


def tensors(mixture):
    """The arrays as tensors that require gradients."""
    return [torch.tensor(t, requires_grad=True) for t in mixture]


@pytest.mark.parametrize(
    ("d", "K", "L"),
    [*((d, *sizes) for d in (1, 2, 5) for sizes in ((1, 1), (1, 4), (2, 2), (6, 5))), (70, 1, 1)],
)
def test_value_and_gradients_are_those_of_the_plan_between_values(d, K, L):
    pair = arrays(K, d, 1), arrays(L, d, 2)
    source, target = map(tensors, pair)
    squared = squared_distance(source, target)
    plain = squared_distance(*pair)
    assert type(plain) is float and plain == pytest.approx(squared.item(), rel=1e-14)
    leaves = [*map(tensors, pair)]
    mixtures = (GaussianMixtureParams(*m, "full") for m in leaves)
    expected = transport_plan(*mixtures).cost
    assert_close(squared, expected, rtol=1e-13, atol=0)
    found = torch.autograd.grad(3 * squared, [*source, *target])
    wanted = torch.autograd.grad(3 * expected, [t for m in leaves for t in m])
    assert_close(found, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("d", [2, 3])
def test_exchanging_the_mixtures_changes_no_bit(d):
    one, other = map(tensors, (arrays(3, d, 1), arrays(4, d, 2)))
    there, back = squared_distance(one, other), squared_distance(other, one)
    assert torch.equal(there, back)
    gradients = [torch.autograd.grad(value, [*one, *other]) for value in (there, back)]
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("needed", range(6))
def test_each_gradient_may_be_the_only_one(needed):
    pair = arrays(3, 3, 1), arrays(2, 3, 2)
    whole = [t for m in pair for t in tensors(m)]
    mixed = [t if i == needed else t.detach().numpy() for i, t in enumerate(whole)]
    (found,) = torch.autograd.grad(squared_distance(mixed[:3], mixed[3:]), whole[needed])
    assert_close(found, torch.autograd.grad(squared_distance(whole[:3], whole[3:]), whole)[needed])


def test_the_gradient_between_far_means_has_all_digits():
    source, target = arrays(2, 2, 1), arrays(2, 2, 2)
    far = [[w, m + 1e6, S] for w, m, S in (source, target)]
    gradients = []
    for pair in ((source, target), far):
        source, target = map(tensors, pair)
        gradients.append(torch.autograd.grad(squared_distance(source, target), source[1])[0])
    assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_a_change_before_the_backward_pass_is_an_error():
    source, target = map(tensors, (arrays(2, 2, 1), arrays(2, 2, 2)))
    squared = squared_distance(source, target)
    with torch.no_grad():
        source[2].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()


def test_without_gradients_a_tensor_is_a_constant():
    source, target = map(tensors, (arrays(2, 2, 1), arrays(2, 2, 2)))
    with torch.no_grad():
        assert not squared_distance(source, target).requires_grad
    constants = [[t.detach() for t in m] for m in (source, target)]
    assert not squared_distance(*constants).requires_grad


def changed(entry, value, at=0):
    """A mixture with another value in one of its arrays."""
    mixture = [t.copy() for t in arrays(2, 2, 2)]
    mixture[entry].flat[at] = value
    return mixture


@pytest.mark.parametrize(
    "other",
    [
        functools.partial(arrays, 2, 2, 1),  # an equal one
        functools.partial(arrays, 2, 3, 1),
        functools.partial(changed, 0, -0.5),
        functools.partial(changed, 0, 0.9),
        functools.partial(changed, 0, np.nan),
        functools.partial(changed, 1, np.nan),
        functools.partial(changed, 1, 1e200),
        functools.partial(changed, 2, np.inf),
        functools.partial(changed, 2, 0.1, 1),  # not symmetric
        functools.partial(changed, 2, -1.0),
        functools.partial(arrays, 9000, 2, 1),
    ],
)
def test_the_rest_is_left_to_others(other):
    assert squared_distance(arrays(2, 2, 1), other()) is None
