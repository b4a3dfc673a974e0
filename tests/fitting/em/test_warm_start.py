"""Fits that follow samples which move."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.derivative import LinearisedEM
from skgmmot.fitting.em.step import em_step
from skgmmot.functional import GaussianMixtureParams, WarmStart, fit_em
from skgmmot.numerics.adjoint import InexactGradientWarning
from skgmmot.numerics.krylov import SOLVERS
from skgmmot.numerics.newton.follow import Carried
from skgmmot.transport.mixtures.distance import transport_plan

F64 = torch.float64
TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(params=TYPES)
def problem(request, make_mixture, make_samples):
    """A start, samples around it and their weights, for each covariance type."""
    means = torch.tensor([[-1.6, -0.8], [1.6, 0.8]], dtype=F64)  # apart, with some overlap
    start = make_mixture(request.param, 2, 2)._replace(means=means)
    X = make_samples(30, 2) + means.repeat(15, 1)
    return start, X, make_samples(30, 1, seed=9).mul(0.3).exp().squeeze(1)


def loss(theta):
    """A function of everything in a mixture."""
    w, m, S = theta
    return (w**2 * torch.arange(1, len(w) + 1)).sum() + (m**3).sum() + S.sin().sum()


def exact_gradient(start, X, a):
    X = X.clone().requires_grad_()
    value = fit_em(start, X, a, tol=1e-6, max_iter=500, gradient_tol=1e-9).value
    return torch.autograd.grad(loss(value), X)[0]


def test_a_warm_start_goes_on_where_it_ended(problem):
    start, X, a = problem
    em = WarmStart(start, reg_covar=0.0)
    em(X, a)
    second = em(X, a)
    expected = em_step(em_step(start, X, a), X, a)
    assert_close(tuple(second), tuple(expected))
    assert not second.means.requires_grad
    assert em.solution.n_iter == 1


def test_a_warm_start_is_differentiated_through_its_one_step(problem):
    start, X, _ = problem
    X.requires_grad_()
    em = WarmStart(start, reg_covar=0.0)
    gradient = torch.autograd.grad(em(X).means.sum(), X)
    assert_close(gradient, torch.autograd.grad(em_step(start, X).means.sum(), X))
    assert not em.theta.means.requires_grad


def test_an_implicit_warm_start_follows_the_samples_without_iterating(problem):
    start, X, a = problem
    em = WarmStart(fit_em(start, X, a).value, gradient="implicit", max_iter=0)
    for shift in (0.0, 0.01, 0.02):
        moved = (X + shift * X.sin()).requires_grad_()
        found = torch.autograd.grad(loss(em(moved, a)), moved)
        expected = (exact_gradient(start, moved.detach(), a),)
        assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert em.solution.distance < 1e-7


def test_a_rough_implicit_flow_needs_no_iteration_and_stays_near_the_exact_one(problem):
    start, X, a = problem
    em = WarmStart(fit_em(start, X, a).value, gradient="implicit", gradient_tol=0.3)
    for step in range(8):
        moved = (X + 0.01 * step * X.sin()).requires_grad_()
        (found,) = torch.autograd.grad(loss(em(moved, a)), moved)
        expected = exact_gradient(start, moved.detach(), a)
        assert (found - expected).norm() < 0.3 * expected.norm()
    assert em.solution.n_iter == 0 and em.solution.distance < 0.03
    assert em.solution.adjoint.residual < 0.1
    exact = fit_em(start, moved.detach(), a, tol=1e-12, max_iter=2000).value
    assert_close(em.theta.means, exact.means, rtol=0, atol=0.02)


def test_a_rough_implicit_flow_looks_where_samples_that_move_steadily_will_be(problem):
    start, X, a = problem
    em = WarmStart(fit_em(start, X, a).value, gradient="implicit", gradient_tol=0.1)
    expected = []
    for step in range(7):
        value = em((X + step).requires_grad_(), a)
        value.means.sum().backward()
        if step > 3:  # the first fits may miss by 0.01 each, later ones are Newton's
            assert_close(value.means, expected, rtol=0, atol=1e-3)
        expected = em.options["carried"].ahead.means
    assert em.solution.n_iter == 0


def test_gradients_of_iterations_have_no_use_for_what_was_kept(problem):
    start, X, a = problem
    kept = Carried(0.05)
    for gradient in ("implicit", "one_step"):
        value = fit_em(start, X.requires_grad_(), a, gradient=gradient, carried=kept).value
        (found,) = torch.autograd.grad(loss(value), X)
    plain = fit_em(start, X, a, gradient="one_step").value
    assert_close(found, torch.autograd.grad(loss(plain), X)[0])


def test_a_flow_keeps_the_solver_it_was_given(problem):
    start, X, _ = problem
    seen = []

    def solve(matvec, b):
        seen.append(b)
        return SOLVERS["gmres"](matvec, b)

    em = WarmStart(start, gradient="implicit", gradient_tol=1.0, solve=solve)
    for _ in range(2):
        em(X.requires_grad_()).means.sum().backward()
    assert len(seen) == 2


# --- samples that take their responsibilities along ----------------------------------------------


def test_samples_that_carry_their_responsibilities_may_jump(problem):
    start, X, a = problem
    A, b = torch.tensor([[1.5, 0.5], [0.0, 2.0]], dtype=F64), torch.tensor([70.0, -30.0])
    em = WarmStart(fit_em(start, X, a, tol=1e-12, max_iter=2000).value, carry=True, reg_covar=0.0)
    before = em(X, a)
    after = em(3 * X + b, a)  # all types are mapped to themselves by shifts and scales
    assert_close(after.means, 3 * before.means + b, rtol=0, atol=1e-4)
    assert_close(after.covariances, 9 * before.covariances, rtol=0, atol=1e-4)
    if start.covariances.ndim == 3:  # and by any affine map, with a matrix a component
        assert_close(em(X @ A.mT, a).means, before.means @ A.mT, rtol=0, atol=1e-4)


def test_carried_responsibilities_are_those_of_the_last_call(make_mixture, make_samples):
    start, X = make_mixture("full", 3, 2), make_samples(100, 2)
    em = WarmStart(start, carry=True, max_iter=0, fixed_weights=True)
    em(X)
    resp = torch.softmax(torch.stack([*log_joint_by_torch(start, X)]), dim=0)
    Y = X.flip(1) + 1.0
    value = em(Y)
    assert_close(value.means, resp @ Y / resp.sum(1, keepdim=True))
    assert_close(value.weights, start.weights)


def log_joint_by_torch(theta, X):
    for w, m, S in zip(*theta, strict=True):
        yield w.log() + torch.distributions.MultivariateNormal(m, S).log_prob(X)


def test_an_optimiser_may_change_carried_samples_in_place(problem):
    start, X, a = problem
    em, again = (WarmStart(start, carry=True) for _ in range(2))
    Y = X.clone()
    em(Y, a)
    Y.add_(5.0)
    again(X, a)
    assert_close(tuple(em(Y, a)), tuple(again(X + 5.0, a)))


def test_carried_samples_have_to_be_the_same(problem):
    start, X, a = problem
    em = WarmStart(start, carry=True)
    em(X, a)
    with pytest.raises(ValueError, match=r"must hold the samples of the last call, moved, .*29, 2"):
        em(X[1:], a[1:])


@pytest.mark.parametrize("gradient", ["one_step", "implicit"])
def test_carried_fits_keep_the_default_floor_of_variances(gradient):
    X = torch.ones(6, 2, dtype=F64)
    start = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None]
    )
    em = WarmStart(start, carry=True, gradient=gradient)
    for step in range(3):
        value = em(X + step)
    assert_close(value.covariances, 1e-6 * torch.eye(2, dtype=F64)[None])


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (torch.full((30, 2), torch.nan, dtype=F64), ValueError, "X must have a finite mean"),
        ([[0.0, 0.0]] * 30, TypeError, "X must be a tensor, got list"),
        (torch.zeros(30, 3, dtype=F64), ValueError, r"X must have shape \(n, 2\)"),
    ],
)
def test_what_came_in_is_named_and_the_flow_goes_on(X, error, message, make_mixture, make_samples):
    start, samples = make_mixture("full", 2, 2), make_samples(30, 2)
    em, again = (WarmStart(start, carry=True) for _ in range(2))
    em(samples), again(samples)
    with pytest.raises(error, match=message):
        em(X)
    assert_close(tuple(em(samples + 1.0)), tuple(again(samples + 1.0)))


def test_options_that_a_fit_does_not_have_are_refused_at_once(make_mixture):
    start = make_mixture("full", 2, 2)
    with pytest.raises(TypeError, match="must be those of fit_em, got covariance_type"):
        WarmStart(start, covariance_type="diag")
    with pytest.raises(TypeError, match="must hold tensors, got Tensor, ndarray, Tensor"):
        WarmStart(start._replace(means=start.means.numpy()))


def test_natural_steps_carry_unless_told_otherwise(make_mixture):
    start = make_mixture("full", 2, 2)
    assert WarmStart(start, gradient="natural").carry
    assert not WarmStart(start, gradient="natural", carry=False).carry
    assert not WarmStart(start).carry


def test_balanced_responsibilities_are_not_carried(make_mixture):
    with pytest.raises(
        ValueError, match=r"carry=True must have e_step='posterior', got 'sinkhorn'"
    ):
        WarmStart(make_mixture("full", 2, 2), carry=True, e_step="sinkhorn")


# --- natural steps -------------------------------------------------------------------------------


def groups(make_samples, make_covariances):
    """Three groups that stand apart, their fit, and a target of equal weights far away."""
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], dtype=F64)
    X = make_samples(90, 2) + centres.repeat(30, 1)
    w, S = torch.full((3,), 1 / 3, dtype=F64), torch.eye(2, dtype=F64).expand(3, 2, 2)
    start = GaussianMixtureParams(w, centres, S)
    return X, start, GaussianMixtureParams(w, 2 * centres - 40.0, make_covariances(3, 2))


@pytest.mark.parametrize(("rate", "n_steps"), [(1.0, 1), (0.5, 10)])
def test_a_natural_step_goes_its_share_of_the_way_to_the_target(
    rate, n_steps, make_samples, make_covariances
):
    X, start, target = groups(make_samples, make_covariances)
    em = WarmStart(start, gradient="natural", carry=True, fixed_weights=True, reg_covar=1e-8)
    losses = []
    for _ in range(n_steps + 1):
        cost = transport_plan(em(X.requires_grad_()), target).cost
        losses.append(cost.item())
        X = (X - rate * len(X) / 2 * torch.autograd.grad(cost, X)[0]).detach()
    expected = [(1 - rate) ** (2 * step) for step in range(n_steps + 1)]
    assert_close(losses, [losses[0] * e for e in expected], rtol=1e-4, atol=1e-9)


def test_samples_that_go_where_they_were_asked_to_take_the_mixture_along(
    make_samples, make_covariances
):
    X, start, target = groups(make_samples, make_covariances)
    a = make_samples(90, 1, seed=3).mul(0.3).exp().squeeze(1)
    a[::7] = 0.0
    options = {"fixed_weights": True, "max_iter": 0, "max_polish": 0}  # no fit: only its start
    for weights, share in ((None, 1.0), (a, torch.where(a > 0, a.mean() / a, 0.0)[:, None])):
        em = WarmStart(start, gradient="natural", **options)
        with pytest.warns(InexactGradientWarning):
            value = em(X.requires_grad_(), weights)
        (gradient,) = torch.autograd.grad(transport_plan(value, target).cost, X)
        with pytest.warns(InexactGradientWarning):
            em(X - len(X) / 2 * share * gradient, weights)
        assert_close(tuple(em.theta), tuple(target), rtol=1e-9, atol=1e-9)


def no_fit(X, start, target):
    """A natural warm start that makes no fit, so that its mixtures are its starts; its gradient."""
    em = WarmStart(start, gradient="natural", fixed_weights=True, max_iter=0, max_polish=0)
    with pytest.warns(InexactGradientWarning):
        value = em(X.requires_grad_())
    (gradient,) = torch.autograd.grad(transport_plan(value, target).cost, X)
    return em, gradient


def carried_to(X, start, Y):
    """The start of samples that carry their responsibilities."""
    em = WarmStart(start, carry=True, fixed_weights=True, max_iter=0)
    em(X.detach())
    return em(Y)


def test_samples_that_go_astray_are_carried_as_ever(make_samples, make_covariances):
    X, start, target = groups(make_samples, make_covariances)
    em, gradient = no_fit(X, start, target)
    step = -len(X) / 2 * gradient
    noise = make_samples(90, 2, seed=5)
    Y = X.detach() + step + 0.3 * step.norm() / noise.norm() * noise
    assert_close(tuple(em(Y)), tuple(carried_to(X, start, Y)))


def test_samples_that_go_back_are_carried_as_ever(make_samples, make_covariances):
    X, start, target = groups(make_samples, make_covariances)
    em, gradient = no_fit(X, start, target)
    step = -len(X) / 2 * gradient
    Y = X.detach() - step
    assert_close(tuple(em(Y)), tuple(carried_to(X, start, Y)))


def test_a_gradient_changed_in_place_is_another(make_samples, make_covariances):
    X, start, target = groups(make_samples, make_covariances)
    em, gradient = no_fit(X, start, target)
    gradient[60:] = 0.0  # the third group stays
    Y = X.detach() - len(X) / 2 * gradient
    assert_close(tuple(em(Y)), tuple(carried_to(X, start, Y)))


def test_what_was_asked_is_forgotten_by_a_call_without_gradient(make_samples, make_covariances):
    X, start, target = groups(make_samples, make_covariances)
    em, gradient = no_fit(X, start, target)
    step = -len(X) / 2 * gradient
    Y = X.detach() + step
    with torch.no_grad():
        em(Y)
    there = em.theta
    assert_close(tuple(em(Y + step)), tuple(carried_to(Y, there, Y + step)))


def test_a_component_asked_to_shrink_to_a_point_keeps_the_floor(make_samples):
    w, m, S = torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None]
    em = WarmStart(GaussianMixtureParams(w, m, S), gradient="natural", fixed_weights=True)
    X = make_samples(20, 2).requires_grad_()
    em(X).means.sum().backward()
    em.solution.adjoint.note(GaussianMixtureParams(w, m, S / 2), X.detach() / len(X))
    assert_close(em(0 * X.detach()).covariances, 1e-6 * S)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("which", ["means", "covariances"])
def test_losses_of_a_part_of_the_mixture_flow(which, dtype, make_samples, make_covariances):
    X, start, _ = groups(make_samples, make_covariances)
    X = X.to(dtype)
    em = WarmStart(start, gradient="natural", fixed_weights=True, gradient_tol=0.1)
    losses = []
    for _ in range(6):
        part = getattr(em(X.requires_grad_()), which)
        loss = (part - 2 * part.detach().mean().abs().round()).square().sum() / len(X)
        losses.append(loss.item())
        X = (X - 5 * torch.autograd.grad(loss, X)[0]).detach()
        assert em.solution.adjoint.movement is not None
    assert torch.isfinite(X).all() and losses[-1] < losses[0]


def test_a_rough_natural_flow_keeps_its_matrix_and_stays_near_the_exact_one(problem, monkeypatch):
    start, X, a = problem
    options = {"gradient": "natural", "fixed_weights": True}
    em = WarmStart(fit_em(start, X, a, fixed_weights=True).value, gradient_tol=0.3, **options)
    found_anew, natural = [], LinearisedEM.natural
    monkeypatch.setattr(
        LinearisedEM, "natural", lambda self, v: found_anew.append(v) or natural(self, v)
    )
    for step in range(8):
        moved = (X + 0.01 * step * X.sin()).requires_grad_()
        (found,) = torch.autograd.grad(loss(em(moved, a)), moved)
        n_found = len(found_anew)
        value = fit_em(start, moved, a, tol=1e-6, max_iter=500, gradient_tol=1e-9, **options).value
        (expected,) = torch.autograd.grad(loss(value), moved)
        del found_anew[n_found:]
        assert (found - expected).norm() < 0.3 * expected.norm()
    assert 0 < len(found_anew) < 8
    assert em.solution.n_iter == 0 and em.solution.distance < 0.03


@pytest.mark.parametrize("name", ["diag", "spherical"])
def test_a_matrix_that_changes_along_a_flow_is_found_more_often(
    name, make_mixture, make_samples, monkeypatch
):
    # the groups approach each other: what is found at the first, second, fourth, eighth use (and
    # before the first) would be up to 0.43 off
    means = torch.tensor([[-1.6, -0.8], [1.6, 0.8]], dtype=F64).repeat(15, 1)
    start = make_mixture(name, 2, 2)._replace(means=means[:2])
    X, a = make_samples(30, 2), make_samples(30, 1, seed=9).mul(0.3).exp().squeeze(1)
    options = {"gradient": "natural", "fixed_weights": True}
    first = fit_em(start, X + means, a, fixed_weights=True).value
    em, found_anew = WarmStart(first, gradient_tol=0.3, **options), []
    natural = LinearisedEM.natural
    for step in range(14):
        moved = (X + (1 - 0.05 * step) * means).requires_grad_()
        with monkeypatch.context() as patch:
            patch.setattr(
                LinearisedEM, "natural", lambda self, v: found_anew.append(v) or natural(self, v)
            )
            (found,) = torch.autograd.grad(loss(em(moved, a)), moved)
        value = fit_em(start, moved, a, tol=1e-6, max_iter=500, gradient_tol=1e-9, **options).value
        (expected,) = torch.autograd.grad(loss(value), moved)
        assert (found - expected).norm() < 0.3 * expected.norm()
    assert 5 < len(found_anew) < 14


@pytest.mark.parametrize(
    ("rate", "tol", "n_steps"), [(0.1, 0.3, 60), (0.5, 0.1, 12), (1.0, 1e-6, 5)]
)
def test_natural_steps_go_their_share_where_components_overlap(rate, tol, n_steps, make_samples):
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 3.5]], dtype=F64)
    X = make_samples(300, 2) + corners.repeat(100, 1)
    w, S = torch.full((3,), 1 / 3, dtype=F64), torch.eye(2, dtype=F64).expand(3, 2, 2)
    sizes = torch.tensor([0.6, 1.0, 1.3], dtype=F64)[:, None, None]
    target = GaussianMixtureParams(w, corners.flip(1) + 5.0, sizes * S)
    options = {"fixed_weights": True, "gradient_tol": tol}
    em = WarmStart(GaussianMixtureParams(w, corners, S), gradient="natural", **options)
    losses = []
    for _ in range(n_steps):
        cost = transport_plan(em(X.requires_grad_()), target).cost
        losses.append(cost.item())
        X = (X - rate * len(X) / 2 * torch.autograd.grad(cost, X)[0]).detach()
    expected = max((1 - rate) ** (2 * (n_steps - 1)), 1e-10) * losses[0]
    assert losses[-1] < 1.5 * expected
    fitted = fit_em(em.theta, X, tol=1e-12, max_iter=2000, fixed_weights=True).value
    assert transport_plan(fitted, target).cost < 1.5 * expected
