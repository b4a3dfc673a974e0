"""What a penalised problem is made of."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete.interior_point.problem import conjugate, divergence, marginal

F64 = torch.float64


def test_the_divergence_keeps_its_digits_between_nearly_equal_masses():
    q = torch.tensor([0.3, 0.7], dtype=F64)
    for change in (1e-3, 1e-6):
        # (1 + c) log(1 + c) - c = c^2 / 2 - c^3 / 6 + c^4 / 12 ...
        expected = change**2 / 2 - change**3 / 6 + change**4 / 12
        assert divergence(q * (1 + change), q).item() == pytest.approx(expected, rel=1e-9, abs=0)
    assert divergence(torch.zeros(2, dtype=F64), q).item() == pytest.approx(1.0)
    assert divergence(2 * q, q).item() == pytest.approx(2 * math.log(2) - 1)


def test_the_conjugate_is_the_integral_of_the_marginal():
    f = torch.tensor([-1.0, 0.0, 2.0], dtype=F64, requires_grad=True)
    ones = torch.ones(3, dtype=F64)
    for lam in (0.3, 5.0, math.inf):
        (gradient,) = torch.autograd.grad(conjugate(f, lam).sum(), f)
        assert_close(gradient, marginal(f.detach(), lam, ones))
        assert conjugate(f, lam)[1] == 0
    assert_close(conjugate(f, 1e12), f, rtol=1e-10, atol=0)
    assert torch.isfinite(conjugate(torch.tensor([-1e9]), 1e-3)).all()
