"""Linear systems and spectra from products alone."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch.testing import assert_close

from skgmmot.numerics.krylov import SOLVERS, Products, dense, gmres, neumann

F64 = torch.float64


@pytest.fixture
def system(make_samples):
    """A matrix that is not symmetric, and a right-hand side."""
    A = make_samples(30, 30, seed=3) / 12 + torch.eye(30, dtype=F64)
    return A, make_samples(30, 1, seed=4).squeeze(1)


def test_gmres_solves_what_a_direct_solver_and_scipy_solve(system):
    A, b = system
    x = gmres(lambda u: A @ u, b)
    assert_close(x, torch.linalg.solve(A, b), rtol=1e-7, atol=1e-9)
    theirs, failed = scipy.sparse.linalg.gmres(A.numpy(), b.numpy(), rtol=1e-12, restart=30)
    assert not failed
    assert_close(x, torch.from_numpy(np.asarray(theirs)), rtol=1e-7, atol=1e-9)


def test_gmres_needs_one_product_a_distinct_eigenvalue():
    A = torch.diag(torch.tensor([1.0] * 20 + [3.0] * 20, dtype=F64))
    products = []

    def matvec(u):
        products.append(u)
        return A @ u

    b = torch.arange(1, 41, dtype=F64)
    assert_close(gmres(matvec, b), b / A.diagonal())
    assert len(products) == 2


def test_gmres_does_no_more_products_than_allowed_and_gets_nearer_with_each(system):
    A, b = system
    residuals = []
    for max_iter in (1, 2, 4, 8, 16):
        products = []
        x = gmres(lambda u, p=products: p.append(u) or A @ u, b, max_iter=max_iter)
        assert len(products) == max_iter
        residuals.append((A @ x - b).norm().item())
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 0.1 * residuals[0]


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e6, 1e10, 1e13, 1e16, 1e30])
def test_gmres_is_as_exact_for_right_hand_sides_of_any_size(scale, system):
    A, b = system
    x = gmres(lambda u: A @ u, scale * b)
    assert ((A @ x - scale * b).norm() / (scale * b).norm()).item() < 1e-9


def test_gmres_of_zero_is_zero():
    zero = torch.zeros(4, dtype=F64)
    assert_close(gmres(lambda u: u, zero), zero, rtol=0, atol=0)


def test_gmres_solves_a_singular_system_that_has_a_solution():
    A = torch.diag(torch.tensor([2.0, 0.0, 4.0], dtype=F64))
    b = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    assert_close(gmres(lambda u: A @ u, b), torch.tensor([0.5, 0.0, 0.25], dtype=F64))


def test_gmres_works_in_float32(system):
    A, b = (t.float() for t in system)
    x = gmres(lambda u: A @ u, b)
    assert x.dtype == torch.float32
    assert ((A @ x - b).norm() / b.norm()).item() < 1e-5


@pytest.fixture
def contraction(make_samples):
    """A symmetric contraction of spectral radius 0.9, ``I`` minus it, and a right-hand side."""
    Q, _ = torch.linalg.qr(make_samples(12, 12, seed=5))
    J = Q @ torch.diag(torch.linspace(-0.3, 0.9, 12, dtype=F64)) @ Q.mT
    return J, torch.eye(12, dtype=F64) - J, make_samples(12, 1, seed=6).squeeze(1)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_solves_what_a_direct_one_solves(name, contraction):
    _, A, b = contraction
    x = SOLVERS[name](lambda u: u @ A.mT, b, tol=1e-12)
    assert_close(x, torch.linalg.solve(A, b), rtol=1e-9, atol=1e-10)


def test_the_dense_solver_solves_what_is_not_symmetric(system):
    A, b = system
    assert_close(dense(lambda u: u @ A.mT, b), torch.linalg.solve(A, b))


@pytest.mark.parametrize("n_terms", [1, 2, 5])
def test_neumann_sums_as_many_terms_as_it_is_told(n_terms, contraction):
    J, A, b = contraction
    expected = sum(torch.linalg.matrix_power(J, j) @ b for j in range(n_terms))
    assert_close(neumann(lambda u: A @ u, b, n_terms=n_terms), expected)


@pytest.mark.parametrize("solve", [gmres, dense])
def test_ritz_values_of_a_whole_space_are_the_eigenvalues(solve, contraction):
    _, A, b = contraction
    products = Products(lambda u: u @ A.mT)
    solve(products, b, tol=0.0)
    ritz = products.ritz_values().real.sort().values
    assert_close(ritz, torch.linalg.eigvalsh(A), rtol=1e-8, atol=1e-8)
    assert len(products) == len(b)


def test_ritz_values_see_the_extremes_first(contraction):
    _, A, b = contraction
    products = Products(lambda u: A @ u)
    neumann(products, b, n_terms=7)  # its inputs are far from orthogonal
    assert float(products.ritz_values().real.min()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["gmres", "neumann", "dense"])
def test_residuals_are_read_off_the_products(name, contraction):
    _, A, b = contraction
    products = Products(lambda u: u @ A.mT)
    x = SOLVERS[name](products, b, tol=1e-3)
    n_products = len(products)
    expected = ((A @ x - b).norm() / b.norm()).item()
    assert products.residual(x, b) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert len(products) - n_products <= (name == "neumann")  # whose last term was no input


def test_the_residual_of_a_guess_takes_a_product(contraction):
    _, A, b = contraction
    products = Products(lambda u: A @ u)
    products(b)
    guess = torch.arange(12, dtype=F64)
    expected = ((A @ guess - b).norm() / b.norm()).item()
    assert products.residual(guess, b) == pytest.approx(expected)


def test_gmres_gives_the_same_bits_in_every_call(make_samples):
    A, b = make_samples(40, 40, seed=5) / 20 + torch.eye(40, dtype=F64), make_samples(40, 1)[:, 0]
    kept, found = [], []
    for i in range(30):
        kept.append(torch.empty(1 + 7 * i))  # so that memory is elsewhere
        found.append(gmres(lambda v: A @ v, b, tol=1e-3))
    assert all(torch.equal(x, found[0]) for x in found)


def test_gmres_of_a_singular_matrix_is_finite():
    A = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=F64))
    x = gmres(lambda v: A @ v, torch.tensor([1.0, 2.0, 0.0], dtype=F64))
    torch.testing.assert_close(A @ x, torch.tensor([1.0, 2.0, 0.0], dtype=F64))
    x = gmres(lambda v: torch.zeros_like(v), torch.ones(3, dtype=F64))
    assert x.tolist() == [0.0, 0.0, 0.0]


def test_the_dense_solver_solves_a_singular_system_that_has_a_solution():
    A = torch.diag(torch.tensor([2.0, 0.0, 4.0], dtype=F64))
    b = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    assert_close(dense(lambda u: u @ A, b), torch.tensor([0.5, 0.0, 0.25], dtype=F64))


@pytest.mark.parametrize("small", [0.0, 1e-14])
def test_the_dense_solution_is_the_shortest_where_a_matrix_is_singular_to_rounding(small):
    Q, _ = torch.linalg.qr(torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 0]], dtype=F64))
    A = Q @ torch.diag(torch.tensor([1.0, 0.5, small], dtype=F64)) @ Q.mT
    x = dense(lambda v: v @ A, Q[:, 0] + Q[:, 2])
    assert_close(x, Q[:, 0], rtol=1e-6, atol=1e-6)


def test_the_dense_solver_of_a_matrix_that_is_not_finite_says_so():
    assert dense(lambda v: v * torch.inf, torch.ones(2, dtype=F64)).isnan().all()


def test_ritz_values_of_products_that_overflowed_are_not_numbers():
    products = Products(lambda u: u * torch.inf)
    products(torch.ones(3, dtype=F64))
    assert torch.isnan(products.ritz_values().real).all()
