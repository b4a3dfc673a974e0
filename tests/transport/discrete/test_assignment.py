"""Cells of samples in a discrete plan: by hand, balanced, and told apart by the potentials."""

import numpy as np
import pytest

from skgmmot.transport.discrete.assignment import assign_cells
from skgmmot.transport.discrete.network_simplex import network_simplex


def problem(n, m, seed=0, d=2):
    """Masses, squared distances, and the plan and potentials of the network simplex."""
    g = np.random.default_rng(seed)
    X, Y = g.normal(size=(n, d)), g.normal(size=(m, d))
    a, b, C = np.full(n, 1 / n), np.full(m, 1 / m), ((X[:, None] - Y) ** 2).sum(2)
    P, _, psi = network_simplex(a, b, C)
    return a, b, C, P, psi


def test_the_middle_of_the_potentials_is_half_way_between_the_samples():
    x, y = np.array([0.0, 1.0, 4.0, 7.0]), np.array([0.0, 6.0])
    C = (x[:, None] - y) ** 2
    a, b, P = np.full(4, 0.25), np.full(2, 0.5), np.repeat(np.eye(2), 2, axis=0) / 4
    label, psi = assign_cells(P, a, b, C, np.array([0.0, 12.0]))
    assert label.tolist() == [0, 0, 1, 1]
    # at 2.5: (2.5 - 0)^2 - psi_0 = (2.5 - 6)^2 - psi_1
    assert np.allclose(psi, [-3.0, 3.0])


@pytest.mark.parametrize(("n", "m"), [(60, 6), (60, 60), (103, 50), (20, 19), (7, 1)])
def test_cells_are_as_equal_as_numbers_allow_and_are_those_of_the_potentials(n, m):
    for seed in range(5):
        a, b, C, P, psi = problem(n, m, seed)
        label, psi = assign_cells(P, a, b, C, psi)
        counts = np.bincount(label, minlength=m)
        assert counts.max() - counts.min() <= (n % m > 0)
        assert np.array_equal((C - psi).argmin(1), label)
        # the potentials are still those of an optimal plan
        dual = a @ (C - psi).min(1) + b @ psi
        assert np.isclose(dual, (P * C).sum(), rtol=1e-7)


def test_a_sample_of_two_cells_goes_to_the_one_that_gets_more_of_it():
    C = np.array([[0.0, 9.0], [4.0, 1.0], [9.0, 0.0]])
    a, b = np.array([0.4, 0.3, 0.3]), np.array([0.6, 0.4])
    P, _, psi = network_simplex(a, b, C)
    assert np.allclose(P[1], [0.2, 0.1])
    label, psi = assign_cells(P, a, b, C, psi)
    assert label.tolist() == [0, 0, 1] and (C - psi).argmin(1).tolist() == [0, 0, 1]


def test_samples_without_a_share_worth_the_name_go_to_the_best_cell():
    a, b, C, P, psi = problem(30, 4)
    none = np.zeros((1, 4))
    a, P = np.append(a, 1e-200), np.vstack([P, none])
    C = np.vstack([C, C[:1]])
    label, _ = assign_cells(P, a, b, C, psi)
    assert label[-1] == label[0]
