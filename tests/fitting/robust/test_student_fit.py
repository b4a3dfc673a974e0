"""EM of Student-t mixtures over all samples, accelerated and differentiated."""

import numpy as np
import pytest
import torch
from scipy import stats

from skgmmot import StudentMixture
from skgmmot.fitting.em.e_steps import Gradient
from skgmmot.fitting.em.fit import fit_from_starts
from skgmmot.fitting.robust.student import StudentMixtureParams
from skgmmot.fitting.robust.student_fit import STUDENT, StudentEM, StudentStep, climb
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics import blocks
from skgmmot.numerics.gradients import GRADIENTS
from skgmmot.numerics.newton.linearisation import AutogradLinearisation

F64 = torch.float64


def samples(n, degrees=5, seed=0):
    """Samples of two t distributions, and weights."""
    gen = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=gen, dtype=F64)
    chi = torch.randn(n, degrees, generator=gen, dtype=F64).square().mean(1, keepdim=True)
    far = torch.arange(n).remainder(2).unsqueeze(1) * torch.tensor([4.0, 1.0], dtype=F64)
    return z / chi.sqrt() + far, torch.rand(n, generator=gen, dtype=F64) + 0.5


def start(kind, nu=10.0):
    storage = {
        "full": torch.eye(2, dtype=F64).repeat(2, 1, 1),
        "tied": torch.eye(2, dtype=F64)[None],
        "diag": torch.ones(2, 2, dtype=F64),
        "spherical": torch.ones(2, 1, dtype=F64),
    }[kind]
    weights, means = torch.tensor([0.5, 0.5]).double(), torch.tensor([[0.0, 0], [4, 1]]).double()
    nu = torch.full((2,), nu, dtype=F64)
    return StudentMixtureParams(weights, means, storage, nu, COVARIANCE_TYPES[kind])


def fitted(X, a, kind="full", gradient=None, learns=True, reg_covar=1e-3, **options):
    """The end of EM, on the graph if a gradient is named."""
    constants = [X.detach(), a.detach()]
    origin = blocks.origin(*constants)
    em = StudentEM(InMemory(*constants), origin, reg_covar, learns)
    how = None if gradient is None else Gradient(GRADIENTS[gradient], 1e-8)
    begin = [(start(kind).translated(-origin), -np.inf)]
    options = {"tol": 1e-10, "max_iter": 600} | options
    solution, _ = fit_from_starts(em, begin, (X, a), STUDENT, how, **options)
    return solution._replace(value=solution.value.translated(origin))


def loss(theta):
    of_means = (theta.means * torch.tensor([[1.0, 2.0], [-1.0, 3.0]], dtype=F64)).sum()
    of_weights = theta.weights @ torch.tensor([1.0, -2.0], dtype=F64)
    return of_means + of_weights + theta.covariances.sum() + theta.degrees_of_freedom.log().sum()


@pytest.mark.parametrize("acceleration", [None, "squarem"])
@pytest.mark.parametrize("learns", [True, False])
def test_the_likelihood_never_falls(acceleration, learns):
    options = {"learns": learns, "acceleration": acceleration, "reg_covar": 0.0}
    solution = fitted(*samples(400), **options)
    assert solution.converged
    assert (np.diff(solution.objectives) > -1e-12).all()
    if not learns:
        assert (solution.value.degrees_of_freedom == 10).all()


def test_degrees_of_freedom_are_found(random_seed):
    solution = fitted(*samples(6000, seed=random_seed), acceleration="squarem")
    # five standard errors of about 0.5
    np.testing.assert_allclose(solution.value.degrees_of_freedom, 5, atol=2.5)


@pytest.mark.parametrize(("kind", "learns"), [("full", True), ("tied", True), ("diag", False)])
def test_gradients_are_those_of_finite_differences(kind, learns):
    X, a = samples(60, degrees=2)
    derivative = {}
    # degrees of freedom settle slowly: all iterations from there are too many
    for gradient in ["implicit"] if learns else ["implicit", "automatic"]:
        X_, a_ = X.clone().requires_grad_(), a.clone().requires_grad_()
        loss(fitted(X_, a_, kind, gradient, learns).value).backward()
        derivative[gradient] = X_.grad[5, 0], a_.grad[7]

    def at(dx, da):
        X_, a_ = X.clone(), a.clone()
        X_[5, 0] += dx
        a_[7] += da
        # on a graph, for which it is polished
        return float(loss(fitted(X_.requires_grad_(), a_, kind, "implicit", learns).value).detach())

    eps = 1e-4
    of_x, of_a = (at(eps, 0) - at(-eps, 0)) / (2 * eps), (at(0, eps) - at(0, -eps)) / (2 * eps)
    for name, found in derivative.items():  # unrolled EM ends by its tolerance
        rtol = 1e-4 if name == "implicit" else 1e-2
        np.testing.assert_allclose(found, (of_x, of_a), rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("kind", ["tied", "diag"])
def test_in_its_coordinates_the_derivative_is_symmetric_at_a_fixed_point(kind):
    X, a = samples(200, degrees=3)
    origin = blocks.origin(X, a)
    em = StudentEM(InMemory(X, a), origin, 0.0)
    with em.at_work():
        end = climb(
            em, start(kind).translated(-origin), tol=1e-14, max_iter=1000, acceleration="squarem"
        ).value
    step = StudentStep(em, X, a)
    linear = step.linearise(end)
    J = linear.product(torch.eye(linear.residual.numel(), dtype=F64))
    torch.testing.assert_close(J, J.mT, atol=1e-4, rtol=0)  # as far as it is a fixed point
    plain = AutogradLinearisation(step, end)
    u = torch.randn(plain.residual.numel(), generator=torch.Generator().manual_seed(0), dtype=F64)
    expected = plain.decode(plain.product(u))
    found = linear.decode(linear.product(linear.encode(plain.decode(u))))
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("acceleration", [None, "squarem"])
@pytest.mark.parametrize("nu", [1.5, 4.0, 30.0])
def test_one_component_has_the_degrees_of_freedom_of_scipy(nu, acceleration):
    X = stats.t.rvs(nu, size=5000, random_state=1)
    expected, _, width = stats.t.fit(X)
    options = {"acceleration": acceleration, "max_iter": 300}
    for tol, rel in ((1e-3, 0.05), (1e-11, 1e-3)):
        found = StudentMixture(1, tol=tol, **options).fit(X[:, None])
        assert found.converged_
        assert found.degrees_of_freedom_ == pytest.approx(expected, rel=rel)
        assert np.sqrt(found.covariances_.item()) == pytest.approx(width, rel=rel)
        if acceleration is None:
            assert found.n_iter_ < 15  # EM alone takes hundreds


def test_a_large_reg_covar_lets_em_go_on_alone():
    wide = np.random.default_rng(0).standard_t(3, size=(12, 30))
    X, a = torch.from_numpy(wide), torch.ones(12, dtype=F64)
    em = StudentEM(InMemory(X, a), torch.zeros(30, dtype=F64), 0.05)
    parts = (np.ones(1), wide.mean(0)[None], wide.var(0)[None], [10.0])
    parts = (torch.tensor(np.asarray(part), dtype=F64) for part in parts)
    begin = StudentMixtureParams(*parts, COVARIANCE_TYPES["diag"])
    with em.at_work():
        found = climb(em, begin, tol=1e-8, max_iter=500)
        again = em(found.value)[0]
    assert found.converged
    torch.testing.assert_close(again.means, found.value.means, rtol=1e-3, atol=1e-4)
