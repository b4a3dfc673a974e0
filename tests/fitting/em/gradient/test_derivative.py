"""The derivative of one EM iteration by hand, against autograd's tape."""

import torch
from cotangents import symmetric
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.derivative import m_step_pullback
from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.statistics import Statistics, e_step

F64 = torch.float64


def inner(left, right):
    return sum((p * q).sum() for p, q in zip(left, right, strict=True))


def test_the_m_step_is_pulled_back_as_autograd_does(theta, X, a):
    statistics = Statistics(*(t.detach() for t in e_step(theta, X, a)))
    u = symmetric(theta, 3)
    leaves = Statistics(*(t.clone().requires_grad_() for t in statistics))
    expected = torch.autograd.grad(inner(m_step(theta, leaves, 1e-3), u), leaves[:3])
    assert_close(tuple(m_step_pullback(theta, statistics, u)[:3]), expected)
