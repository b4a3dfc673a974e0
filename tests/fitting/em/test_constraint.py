"""Parameters that stay: bit by bit, the others at the constrained maximum, and their gradients."""

from types import SimpleNamespace

import map_em
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot import Prior
from skgmmot.fitting.em.constraint import FREE, Constraint, constraint_of, n_free_parameters
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import em_step
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import fit_em
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks

F64 = torch.float64
TYPES = ["full", "tied", "diag", "spherical"]
FIRST, LAST = [True, False, False], [False, False, True]
CASES = [
    {"fixed_weights": FIRST},
    {"fixed_weights": True},
    {"fixed_means": True},
    {"fixed_means": LAST},
    {"fixed_covariances": True},
    {"fixed_covariances": FIRST},
    {"fixed_weights": FIRST, "fixed_means": LAST, "fixed_covariances": FIRST},
    {"fixed_means": True, "fixed_weights": True},
    {"fixed_means": FIRST, "fixed_weights": LAST, "prior": Prior(1.5, [0.5, 1], 0.4, 4.0, 1.0)},
    {"fixed_covariances": LAST, "fixed_means": LAST, "prior": Prior(scale=0.5)},
]
NAMES = ["-".join(case) + f"-{i}" for i, case in enumerate(CASES)]


def applies(kind, case):
    """A tied covariance stays or does not."""
    return kind != "tied" or case.get("fixed_covariances") in (None, True)


PAIRS = [
    pytest.param(kind, case, id=f"{kind}-{name}")
    for kind in TYPES
    for case, name in zip(CASES, NAMES, strict=True)
    if applies(kind, case)
]


@pytest.fixture
def make_problem(make_mixture, make_samples):
    """Makes a start, samples far from zero and their weights."""

    def make(kind, n=12):
        theta = make_mixture(kind, 3, 2)
        weights = torch.tensor([0.3, 0.2, 0.5], dtype=F64)
        means = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]], dtype=F64) + 1 / 3
        theta = theta._replace(weights=weights, means=means)
        X = make_samples(n, 2) + theta.means.repeat(n // 3, 1)
        return theta, X, make_samples(n, 1, seed=9).mul(0.3).exp().squeeze(1)

    return make


def masks(case, K=3):
    """The masks of a case, as arrays or None."""
    found = {}
    for name in ("weights", "means", "covariances"):
        given = case.get(f"fixed_{name}", False)
        found[name] = None if given is False else np.array(np.broadcast_to(given, K))
    return SimpleNamespace(**found)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_what_is_fixed_keeps_its_bits(kind, case, make_problem):
    theta, X, a = make_problem(kind)
    by = torch.tensor([1e3 / 7, -1e4 / 3], dtype=F64)
    theta, X, fixed = theta.translated(by), X + by, masks(case)
    accelerations = [None, "squarem"]
    for dtype in (torch.float32, F64):
        for acceleration in accelerations:
            found = fit_em(theta, X.to(dtype), a, acceleration=acceleration, **case).value
            for name in theta._fields:
                mask, held = getattr(fixed, name), getattr(theta, name).to(dtype)
                if mask is not None:
                    rows = slice(None) if kind == "tied" and name == "covariances" else mask
                    assert torch.equal(getattr(found, name)[rows], held[rows]), name
            assert_close(found.weights.sum(), torch.ones((), dtype=dtype))
            assert all(torch.isfinite(t).all() for t in found)


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_an_implicit_fit_keeps_the_bits_too(kind, case, make_problem):
    theta, X, _ = make_problem(kind)
    found, fixed = fit_em(theta, X.requires_grad_(), **case).value, masks(case)
    for name in theta._fields:
        mask, held = getattr(fixed, name), getattr(theta, name)
        if mask is not None:
            rows = slice(None) if kind == "tied" and name == "covariances" else mask
            assert torch.equal(getattr(found, name)[rows], held[rows]), name


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_iterations_are_those_of_the_reference(kind, case, make_problem):
    theta, X, a = make_problem(kind)
    prior = case.get("prior")
    if prior is not None:
        d, cov = 2, prior.scale
        scale = {"diag": cov * np.ones(d), "spherical": cov}.get(kind, cov * np.eye(d))
        mean = (a @ X / a.sum()).numpy() if prior.mean is None else np.array(prior.mean)
        nu = d + 2 if prior.degrees_of_freedom is None else prior.degrees_of_freedom
        alpha, kappa = prior.weight_concentration, prior.mean_precision
        prior = SimpleNamespace(alpha=alpha, mean=mean, kappa=kappa, nu=nu, scale=scale)
    expected = theta.weights.numpy(), theta.means.numpy(), theta.full_covariances().numpy()
    for _ in range(3):
        expected = map_em.step(kind, *expected, X.numpy(), a.numpy(), prior, masks(case))
    found = fit_em(theta, X, a, reg_covar=0.0, max_iter=3, tol=0.0, **case).value
    mine = found.weights, found.means, found.full_covariances()
    for ours, theirs in zip(mine, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_no_iteration_lowers_the_objective(kind, case, make_problem):
    theta, X, a = make_problem(kind, n=60)
    options = {"reg_covar": 0.0, "tol": 1e-9, "max_iter": 40, **case}
    objectives = np.array(fit_em(theta, X, a, **options).objectives)
    assert (np.diff(objectives) >= -1e-12).all()


@pytest.mark.parametrize("kind", TYPES)
def test_a_mask_of_all_is_true_and_of_none_is_false(kind, make_problem):
    theta, X, a = make_problem(kind)
    for name in ("fixed_weights", "fixed_means", "fixed_covariances"):
        all_of = torch.ones(3, dtype=torch.bool)
        for mask, flag in ((all_of, True), (~all_of, False), ([True] * 3, True)):
            pair = [fit_em(theta, X, a, **{name: value}).value for value in (mask, flag)]
            assert all(map(torch.equal, *pair))


def test_a_component_without_samples_that_stays_is_there_still(make_problem):
    theta, X, _ = make_problem("full")
    far = theta._replace(means=theta.means + 1e6 * torch.eye(3, dtype=F64)[:, 2:])
    found = fit_em(far, X, fixed_weights=LAST, fixed_means=LAST).value
    assert torch.equal(found.weights[2], theta.weights[2])
    assert torch.equal(found.means[2], far.means[2])
    assert_close(found.covariances[2], far.covariances[2])


def test_free_weights_that_lose_all_samples_stay_finite(make_problem):
    theta, X, _ = make_problem("diag")
    far = theta.means.clone()
    far[1:] += 1e6
    found = fit_em(theta._replace(means=far), X, fixed_weights=FIRST).value
    assert torch.equal(found.weights[0], theta.weights[0])
    assert_close(found.weights.sum(), torch.ones((), dtype=F64))


# --- gradients -----------------------------------------------------------------------------------


def held_by(case):
    """Which of weights, means and covariances stay in some component."""
    return [name for name, mask in vars(masks(case)).items() if mask is not None]


@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_gradients_are_those_of_finite_differences(kind, case, gradient, make_problem):
    theta, X, a = make_problem(kind, n=21)
    if "prior" not in case:  # far from collapse, so that the fixed point is stable
        case = case | {"reg_covar": 0.05}
    # an implicit fit is polished from where EM ends
    iterations = {"tol": 1e-6} if gradient == "implicit" else {"max_iter": 3}
    options = {"gradient": gradient, "gradient_tol": 1e-9, "max_polish": 5000, **iterations, **case}
    generator = torch.Generator().manual_seed(3)
    fixed = masks(case)

    def directions(t):
        return torch.randn(t.shape, dtype=F64, generator=generator)

    dX, da, v = directions(X), directions(a), [directions(t) for t in theta]
    dtheta = []
    for name, t in zip(theta._fields, theta, strict=True):
        mask = getattr(fixed, name)
        change = torch.zeros_like(t)
        if mask is not None:
            rows = slice(None) if kind == "tied" and name == "covariances" else torch.tensor(mask)
            change[rows] = directions(t)[rows]
        if name == "weights" and mask is not None and mask.all():
            change -= change.mean()
        dtheta.append(change + change.mT if change.ndim == 3 else change)

    def loss(theta, X, a):
        value = fit_em(theta, X, a, **options).value
        return sum((p * q).sum() for p, q in zip(value, v, strict=True))

    leaves = theta.map(lambda t: t.clone().requires_grad_()), X.requires_grad_(), a.requires_grad_()
    flat = (*leaves[0], X, a)
    found = torch.autograd.grad(loss(*leaves), flat, materialize_grads=True, allow_unused=True)
    slope = sum((g * c).sum() for g, c in zip(found, (*dtheta, dX, da), strict=True))
    eps = 1e-5
    dtheta = GaussianMixtureParams(*dtheta, theta.covariance_type)

    def at(s):
        there = theta.map(lambda t, c: t + s * c, dtheta)
        return loss(there, X + s * dX, a + s * da).item()

    ahead, behind = (at(s) for s in (eps, -eps))
    expected = torch.tensor((ahead - behind) / (2 * eps), dtype=F64)
    assert_close(slope, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_one_step_is_the_derivative_of_the_last_iteration(kind, case, make_problem):
    theta, X, a = make_problem(kind)
    X.requires_grad_()
    end = fit_em(theta, X, a, gradient="one_step", **case)
    last = fit_em(end.previous, X, a, gradient="automatic", max_iter=1, **case)
    found, expected = (
        torch.autograd.grad(sum(t.square().sum() for t in s.value), X)[0] for s in (end, last)
    )
    assert_close(found, expected)


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_the_iteration_in_blocks_has_the_derivative_of_the_definition(kind, case, make_problem):
    theta, X, a = make_problem(kind)
    X = X - X.mean(0)
    case = {name: value for name, value in case.items() if name != "prior"}
    fixed = {name: case.get(f"fixed_{name}", False) for name in theta._fields}
    constraint = constraint_of(theta.covariance_type, 3, **fixed)
    step = EMStep(EM(InMemory(X, a), torch.zeros(2, dtype=F64), 1e-3, constraint), X, a)
    leaves = theta.map(lambda t: t.clone().requires_grad_())
    ours = sum(t.square().sum() for t in step(leaves))
    reference = em_step(leaves, X, a, reg_covar=1e-3, constraint=constraint)
    reference = sum(t.square().sum() for t in reference)
    found, expected = (torch.autograd.grad(value, list(leaves)) for value in (ours, reference))
    assert_close(found, expected)


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_the_derivative_is_symmetric_at_the_fixed_point(kind, case, make_problem):
    theta, X, a = make_problem(kind, n=30)
    options = {"tol": 1e-14, "acceleration": "newton", "reg_covar": 0.0, **case}
    end = fit_em(theta, X, a, **options).value
    origin, samples = blocks.origin(X, a), InMemory(X, a)
    fixed = {name: case.get(f"fixed_{name}", False) for name in theta._fields}
    constraint = constraint_of(theta.covariance_type, 3, **fixed)
    if "prior" in case:
        of = case["prior"], theta.covariance_type, 3, samples, origin, 0.0
        constraint = constraint.under(*of)
    linear = EMStep(EM(samples, origin, 0.0, constraint), X, a).linearise(end.translated(-origin))
    J = linear.product(torch.eye(linear.residual.numel(), dtype=F64))
    assert_close(J, J.mT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_balanced_fits_keep_means_and_covariances(kind, make_problem):
    theta, X, a = make_problem(kind)
    mask = True if kind == "tied" else FIRST
    options = {"e_step": "sinkhorn", "fixed_means": LAST, "fixed_covariances": mask}
    options |= {"tol": 1e-4, "gradient_tol": 1e-10}  # polished from where EM ends
    X.requires_grad_()
    found = fit_em(theta, X, a, **options).value
    assert torch.equal(found.means[2], theta.means[2])
    assert torch.equal(found.covariances[0], theta.covariances[0])
    (of_X,) = torch.autograd.grad(found.means.square().sum(), X)
    change = torch.linspace(-1, 1, X.numel(), dtype=F64).view_as(X)

    def loss(X):  # with a gradient, for which it is polished
        return fit_em(theta, X, a, **options).value.means.square().sum().item()

    slope = (loss(X + 1e-5 * change) - loss(X - 1e-5 * change)) / 2e-5
    assert (of_X * change).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False], ValueError, r"of shape \(3,\), got shape \(2,\)"),
        ([[True, False, True]], ValueError, r"got shape \(1, 3\)"),
        ([1, 0, 1], TypeError, "got numbers of torch.int64"),
        ([0.5, 0.0, 1.0], TypeError, "got numbers of torch.float64"),
        ("means", TypeError, "got 'means'"),
        (None, TypeError, "got None"),
        (torch.zeros(3), TypeError, "got numbers of torch.float32"),
    ],
)
@pytest.mark.parametrize("name", ["weights", "means", "covariances"])
def test_masks_that_are_none_are_refused(name, mask, error, message):
    with pytest.raises(error, match=f"fixed_{name} must be True, False or a mask .*{message}"):
        constraint_of(COVARIANCE_TYPES["full"], 3, **{name: mask})


def test_a_part_of_a_tied_covariance_cannot_stay():
    with pytest.raises(ValueError, match="fixed_covariances must be True or False with 'tied'"):
        constraint_of(COVARIANCE_TYPES["tied"], 3, covariances=FIRST)


@pytest.mark.parametrize(
    ("K", "weights"), [(3, True), (1, False), (1, True), (3, [True, False, True])]
)
def test_something_must_be_left_to_fit(K, weights):
    with pytest.raises(ValueError, match="must leave something to fit, got all of them fixed"):
        fixed = {"weights": weights, "means": True, "covariances": True}
        constraint_of(COVARIANCE_TYPES["full"], K, **fixed)


@pytest.mark.parametrize(("K", "weights"), [(1, False), (1, True), (3, True)])
def test_free_noise_is_something_to_fit(K, weights):
    fixed = {"weights": weights, "means": True, "covariances": True}
    if weights is False or K > 1:
        constraint_of(COVARIANCE_TYPES["full"], K, noise=True, **(fixed | {"weights": False}))
    with pytest.raises(ValueError, match="must leave something to fit"):
        constraint_of(COVARIANCE_TYPES["full"], K, noise=True, **(fixed | {"weights": True}))
    if (K, weights) == (1, False):
        assert constraint_of(COVARIANCE_TYPES["full"], K, noise_is_free=True, **fixed).fixes


#: Parameters of one covariance of three features.
OF_ONE = {"full": 6, "tied": 6, "diag": 3, "spherical": 1, "lowrank": 6}


@pytest.mark.parametrize("name", OF_ONE)
def test_what_is_fixed_is_no_free_parameter(name):
    kind, one = COVARIANCE_TYPES[name], OF_ONE[name]
    each = one if name == "tied" else 4 * one

    def count(**fixed):
        return n_free_parameters(kind, 4, 3, **fixed)

    assert count() == 3 + 12 + each
    assert count(weights=True) == 12 + each
    assert count(weights=[True, False, False, True]) == 1 + 12 + each
    assert count(weights=[True, True, True, False]) == 12 + each  # the last has what is left
    assert count(means=True) == 3 + each
    assert count(means=[True, False, False, False]) == 3 + 9 + each
    assert count(covariances=True) == 3 + 12
    if name != "tied":
        assert count(covariances=[False, True, True, False]) == 3 + 12 + 2 * one
    assert count(weights=True, means=True, covariances=True) == 0
    assert count(noise=True, noise_is_free=True) == 4 + 12 + each
    assert count(noise=True) == count()
    assert n_free_parameters(kind, 1, 3, means=True, covariances=True, noise=True) == 0
    known = {"means": True, "covariances": True, "noise": True, "noise_is_free": True}
    assert n_free_parameters(kind, 1, 3, **known) == 1
    with pytest.raises(ValueError, match="fixed_means must be True, False or a mask"):
        count(means=[True])
    with pytest.raises(TypeError, match="fixed_means must be True, False or a mask"):
        count(means=[1.0] * 4)


@pytest.mark.parametrize(
    ("weights", "mask", "message"),
    [
        ([0.7, 0.5, -0.2], [True, True, False], "got 1.2"),
        ([0.5, 0.5, 0.0], [True, True, False], "got 1. Decrease"),
        ([1.0, 0.0, 0.0], FIRST, "got 1. Decrease"),
        ([-0.1, 0.6, 0.5], FIRST, "must not be negative, got -0.1"),
        ([0.2, 1.0, 0.5], [False, True, True], "got 1.5"),
    ],
)
def test_fixed_weights_leave_something_for_the_others(weights, mask, message, make_problem):
    theta, X, _ = make_problem("full")
    theta = theta._replace(weights=torch.tensor(weights, dtype=F64))
    with pytest.raises(ValueError, match=message):
        fit_em(theta, X, fixed_weights=mask)


def test_nothing_fixed_is_the_plain_constraint():
    assert constraint_of(COVARIANCE_TYPES["full"], 3) is FREE
    assert not Constraint().fixes
