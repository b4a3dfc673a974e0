"""Sliced distances between samples: POT, symmetry, derivatives, repeated samples."""

import ot
import pytest
import torch
from torch.testing import assert_close
from transport.sliced.lines import chosen

from skgmmot.transport.sliced.samples import sliced_wasserstein_of_samples

F64 = torch.float64


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (7, 5), (12, 8), (1, 6), (30, 31)])
def test_the_distance_of_samples_is_that_of_pot_on_each_line(n, m, p, make_samples):
    X, Y, theta = make_samples(n, 3), 2 * make_samples(m, 3, seed=1) + 1, chosen(9, 3)
    found = sliced_wasserstein_of_samples(X, Y, theta, p=p)
    expected = ot.wasserstein_1d((X @ theta.mT).numpy(), (Y @ theta.mT).numpy(), p=p)
    assert_close(found, torch.from_numpy(expected))


def test_the_distance_of_samples_is_symmetric_and_that_of_a_translation(make_samples):
    X, Y, theta = make_samples(20, 3), make_samples(15, 3, seed=1), chosen(9, 3)
    found = sliced_wasserstein_of_samples(X, Y, theta)
    assert_close(found, sliced_wasserstein_of_samples(Y, X, theta))
    offset = torch.tensor([3.0, -1.0, 2.0], dtype=F64)
    moved = sliced_wasserstein_of_samples(X, X + offset, theta)
    assert_close(moved, (theta @ offset).square())
    assert (sliced_wasserstein_of_samples(X, X, theta) == 0).all()
    far = sliced_wasserstein_of_samples(X + 2**20, Y + 2**20, theta)  # to the rounding of X + 2**20
    assert_close(far, found, rtol=1e-8, atol=1e-8)


def test_the_distance_of_samples_has_the_derivatives_of_differences(make_samples):
    X, Y = make_samples(5, 2).requires_grad_(), make_samples(4, 2, seed=1).requires_grad_()
    theta = chosen(3, 2)
    assert torch.autograd.gradcheck(lambda *a: sliced_wasserstein_of_samples(*a, theta), (X, Y))


def test_the_distance_of_repeated_samples_is_that_of_the_samples(make_samples):
    X, Y, theta = make_samples(6, 2), make_samples(4, 2, seed=1), chosen(5, 2)
    found = sliced_wasserstein_of_samples(X.repeat(3, 1), Y.repeat(2, 1), theta)
    assert_close(found, sliced_wasserstein_of_samples(X, Y, theta))
