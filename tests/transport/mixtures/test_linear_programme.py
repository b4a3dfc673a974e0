"""Linear programmes: a closed form, a peer, the unit of the costs, what is refused."""

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.mixtures.linear_programme import NO_MASS, linear_programme

F64 = torch.float64


def test_all_goes_where_it_is_cheapest():
    # x0 + x1 + x2 = 2, x2 = 1/2: the rest to the cheaper of the first two
    constraints = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    cost = torch.tensor([3.0, -1.0, 5.0], dtype=F64)
    x, _ = linear_programme(cost, constraints, torch.tensor([2.0, 0.5], dtype=F64))
    assert_close(x, torch.tensor([0.0, 1.5, 0.5], dtype=F64))
    assert x.dtype == F64


def test_the_linear_programme_of_a_transport_has_its_cost():
    rng = np.random.default_rng(0)
    a, b = torch.from_numpy(rng.dirichlet(np.ones(4))), torch.from_numpy(rng.dirichlet(np.ones(5)))
    C = torch.from_numpy(rng.uniform(size=(4, 5)))
    rows = np.kron(np.eye(4), np.ones((1, 5)))
    columns = np.kron(np.ones((1, 4)), np.eye(5))
    x, _ = linear_programme(C.flatten(), np.vstack([rows, columns]), torch.cat([a, b]))
    assert float(C.flatten() @ x) == pytest.approx(ot.emd2(a.numpy(), b.numpy(), C.numpy()))
    assert (x > 0).sum() <= 8
    assert ((x == 0) | (x > NO_MASS)).all()


@pytest.mark.parametrize("unit", [0.0, 1e-30, 1e30])
def test_the_unit_of_the_costs_does_not_count(unit):
    # to the solver, costs of 1e-30 are all zero
    cost = torch.tensor([2.0, 1.0, 3.0], dtype=F64)
    x, _ = linear_programme(unit * cost, np.ones((1, 3)), torch.ones(1, dtype=F64))
    expected = torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    assert_close(x if unit else x.sort().values, expected if unit else expected.sort().values)


def test_an_infeasible_programme_is_said_to_be_so():
    with pytest.raises(RuntimeError, match="linear programme of a barycentre must be solved"):
        linear_programme(torch.ones(2), np.ones((1, 2)), torch.tensor([-1.0]))


def test_potentials_are_feasible_and_have_the_cost():
    constraints, bounds = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), torch.tensor([2.0, 0.5])
    cost = 1e5 * torch.tensor([3.0, -1.0, 5.0], dtype=F64)
    x, y = linear_programme(cost, constraints, bounds.double())
    assert_close(bounds.double() @ y, cost @ x)
    assert (torch.from_numpy(constraints).mT @ y <= cost + 1e-4).all()
