"""Exponentials without underflow equal torch's, and are zero where those are negligible."""

import math

import pytest
import torch

from skgmmot.numerics.exponentials import LEAST, MIN_SIZE, exponentials, log_sum_exp

DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponentials_are_those_of_torch_or_zero(dtype):
    least = LEAST[dtype]
    x = torch.linspace(-2000, 0, 4001, dtype=dtype)
    expected = x.exp()
    found = exponentials(x.clone())
    assert torch.equal(found, torch.where(expected > least, expected, 0.0))
    assert found.unique()[1] >= least  # no subnormal number


def test_exponentials_overwrite_constants_only():
    x = torch.tensor([-1.0, -1e4], dtype=torch.float64)
    assert exponentials(x) is not None
    assert x.tolist() == [math.exp(-1), 0.0]
    leaf = torch.tensor([-1.0, -1e4], dtype=torch.float64, requires_grad=True)
    found = exponentials(leaf)
    (slope,) = torch.autograd.grad(found.sum(), leaf)
    assert leaf.tolist() == [-1.0, -1e4]
    assert found.tolist() == [math.exp(-1), 0.0]
    assert slope.tolist() == [math.exp(-1), 0.0]


def numbers(dtype, size):
    """Columns: near each other, far apart, at infinity."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, size, dtype=dtype, generator=generator)
    x[:, 1::4] *= 1e4
    x[1, 2] = x[0, 3] = -torch.inf
    x[:, 4] = -torch.inf
    x[2, 5] = torch.inf
    return x


@pytest.mark.parametrize("size", [50, MIN_SIZE])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_exponentials_are_those_of_torch(dtype, size, dim):
    x = numbers(dtype, size) if dim == 0 else numbers(dtype, size).mT.contiguous()
    torch.testing.assert_close(log_sum_exp(x, dim), torch.logsumexp(x, dim), rtol=0, atol=1e-5)
    if dtype == torch.float64:
        finite = torch.logsumexp(x, dim).isfinite()
        difference = (log_sum_exp(x, dim) - torch.logsumexp(x, dim))[finite].abs()
        assert (difference <= 4e-16 * torch.logsumexp(x, dim)[finite].abs().clamp(min=1)).all()


def test_a_number_that_is_none_is_noticed():
    x = torch.zeros(3, MIN_SIZE, dtype=torch.float64)
    x[1, 7] = torch.nan
    found = log_sum_exp(x, 0)
    assert found.isnan().nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_derivative_is_the_softmax(dtype):
    x = torch.randn(4, MIN_SIZE, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 30
    x[0, :3] = -torch.inf
    leaf = x.requires_grad_()
    (slope,) = torch.autograd.grad(log_sum_exp(leaf, 0).sum(), leaf)
    torch.testing.assert_close(slope, torch.softmax(x.detach(), 0))


def test_second_derivatives_are_those_of_torch():
    generator = torch.Generator().manual_seed(1)
    x, direction = torch.randn(2, 3, MIN_SIZE // 2, dtype=torch.float64, generator=generator)

    def second(function):
        leaf = x.clone().requires_grad_()
        value = (function(leaf, 0) * direction[0]).sum()
        (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
        return torch.autograd.grad((slope * direction).sum(), leaf)[0]

    torch.testing.assert_close(second(log_sum_exp), second(torch.logsumexp))
