"""The derivative of the E-step's sums over all samples in groups, against autograd's tape."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.e_steps import E_STEPS, Gradient
from skgmmot.fitting.em.fit import fit_from_starts
from skgmmot.fitting.em.gradient.e_step import e_step_derivative
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.groups import WHOLE, Grouped, Possible
from skgmmot.gaussian.covariance.registry import DIAG
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.gradients import GRADIENTS

F64 = torch.float64


class FirstTwo:
    """The view of samples of which two features are observed, of diagonal covariances."""

    features = torch.tensor([0, 1])

    def of(self, theta):
        means, covariances = theta.means[:, :2], theta.covariances[:, :2]
        return GaussianMixtureParams(theta.weights, means, covariances, DIAG)

    def lift(self, theta, statistics):
        mass, shift, scatter, log_likelihood = statistics
        shift = torch.nn.functional.pad(shift, (0, 1))
        second = mass.unsqueeze(1) * theta.covariances[:, 2:]
        return Statistics(mass, shift, torch.cat([scatter, second], 1), log_likelihood)


LABELS = (Possible((1,)), WHOLE, Possible((3, 0)))
PATTERNS = (FirstTwo(), WHOLE, Possible((0, 2)))


def problem(views, n):
    """Weighted samples, a third of them a group, and their origin."""
    X, a = torch.randn(n, 3, dtype=F64) + 0.5, torch.rand(n, dtype=F64) + 0.5
    groups = [(torch.arange(i, n, 3), view) for i, view in enumerate(views)]
    return X, a, groups, torch.full((3,), 0.3, dtype=F64)


def leaf(tensor):
    return tensor.clone().requires_grad_()


@pytest.mark.parametrize("n", [30, 6000])  # centred samples, and features
@pytest.mark.parametrize(
    "views, kind", [(LABELS, "full"), (LABELS, "tied"), (LABELS, "spherical"), (PATTERNS, "diag")]
)
def test_cotangents_are_pulled_back_as_autograd_does(views, kind, n, make_mixture):
    theta, (X, a, groups, origin) = make_mixture(kind, 4, 3), problem(views, n)
    em = EM(Grouped(X, a, groups), origin, 0.0)
    derivative = e_step_derivative(em, theta)
    sums = derivative.statistics
    assert_close(tuple(sums), tuple(em.definition(theta, X - origin, a)))
    cotangents = Statistics(*(torch.randn_like(t) for t in sums))
    symmetric = theta.covariance_type.symmetric(cotangents.scatter)
    cotangents = cotangents._replace(scatter=symmetric, log_likelihood=torch.zeros((), dtype=F64))
    leaves = theta.map(leaf)
    x, weights = leaf(X), leaf(a)
    on_tape = em.definition(leaves, x - origin, weights)
    # the centres of the sums are constants: move them back to where they were
    on_tape = on_tape.recentred(leaves.means - theta.means, theta.covariance_type)
    loss = sum((s * c).sum() for s, c in zip(on_tape[:3], cotangents[:3], strict=True))
    expected = torch.autograd.grad(loss, [*leaves, x, weights])
    found = *derivative.pull(cotangents), *derivative.pull_to_samples(cotangents)
    assert_close(found, tuple(expected), rtol=1e-8, atol=1e-8)
    assert_close(derivative.pull_to_weights(cotangents), expected[0], rtol=1e-8, atol=1e-8)


def test_a_weight_of_zero_has_the_derivative_of_its_limit(make_mixture):
    theta, (X, a, groups, origin) = make_mixture("full", 4, 3), problem(LABELS, 30)
    em = EM(Grouped(X, a, groups), origin, 0.0)
    cotangents = Statistics(*(torch.randn_like(t) for t in em.statistics(theta)))
    found = [
        e_step_derivative(em, theta._replace(weights=weights)).pull_to_weights(cotangents)
        for weights in (torch.tensor([0.3, 0.4, w, 0.3], dtype=F64) for w in (0.0, 1e-9))
    ]
    assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("views", [LABELS, PATTERNS], ids=["labels", "patterns"])
@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
def test_a_fit_to_groups_is_differentiated_as_it_moves(views, gradient, make_mixture):
    theta0, (X, a, groups, origin) = make_mixture("diag", 4, 3), problem(views, 60)
    X = X + theta0.means[torch.arange(60) % 4]  # clusters, of which EM has a fixed point near
    # implicit fits are polished from where EM ends
    loop = {"tol": 1e-6, "max_iter": 500, "acceleration": "squarem"}
    if gradient == "automatic":
        loop = {"tol": 0.0, "max_iter": 3}
    how = Gradient(GRADIENTS[gradient], 1e-8)

    def end(X, a):
        samples = Grouped(X.detach(), a.detach(), groups)
        em = EM(samples, origin, 0.05)
        solution, _ = fit_from_starts(
            em, [(theta0, -torch.inf)], (X, a), E_STEPS["posterior"], how, **loop
        )
        return solution.value

    def loss(theta):
        return theta.means.sin().sum() + theta.weights.square().sum() + theta.covariances.sum()

    x, weights = leaf(X), leaf(a)
    loss(end(x, weights)).backward()
    way, other = torch.randn_like(X), torch.randn_like(a)
    h = 1e-5
    up, down = (loss(end(leaf(X + s * h * way), a + s * h * other)).detach() for s in (1, -1))
    found = (x.grad * way).sum() + (weights.grad * other).sum()
    assert_close(found, (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


def test_the_derivative_of_a_derivative_goes_through_all_groups(make_mixture):
    theta0, (X, a, groups, origin) = make_mixture("full", 4, 3), problem(LABELS, 30)

    def slope(X):
        em = EM(Grouped(X.detach(), a, groups), origin, 0.0)
        how = Gradient(GRADIENTS["automatic"])
        start = [(theta0, -torch.inf)]
        options = {"tol": 0.0, "max_iter": 2}
        solution, _ = fit_from_starts(em, start, (X, a), E_STEPS["posterior"], how, **options)
        value = solution.value.means.square().sum()
        return torch.autograd.grad(value, X, create_graph=True)[0]

    way, h = torch.randn_like(X), 1e-5
    x = leaf(X)
    (slope(x) * way).sum().backward()
    up, down = (slope(leaf(X + s * h * way)).detach() for s in (1, -1))
    assert_close(x.grad, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
