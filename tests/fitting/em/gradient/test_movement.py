"""Natural movements: samples that take the mixture where its loss asks it to go."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.gradient import derivative
from skgmmot.fitting.em.gradient.gram import MAX_GRAM_SIZE
from skgmmot.functional import fit_em
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.sampling import rsample
from skgmmot.transport.mixtures.distance import transport_plan

F64 = torch.float64


TYPES = ["full", "tied", "diag", "spherical"]


TIGHT = {"tol": 1e-12, "max_iter": 5000, "gradient_tol": 1e-9, "acceleration": "newton"}
#: As many steps as bring Newton's method to rounding.
END = {"tol": 0.0, "max_iter": 40, "acceleration": "newton"}


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


def problem(kind, make_mixture, make_samples, K=3, d=2, n=120):
    """A mixture that overlaps, samples of it and their weights."""
    theta = make_mixture(kind, K, d, spread=1.5)
    w = torch.full((K,), 1 / K, dtype=F64)
    X, _ = rsample(theta._replace(weights=w), n, generator=torch.Generator().manual_seed(1))
    a = make_samples(len(X), 1, seed=2).mul(0.5).exp().squeeze(1)
    return theta._replace(weights=w), X, a


def cotangents(theta):
    """Numbers to multiply means and covariances by, symmetric ones."""
    generator = torch.Generator().manual_seed(4)
    V = [torch.randn(t.shape, dtype=F64, generator=generator) for t in theta[1:]]
    return V[0], V[1] + V[1].mT if V[1].ndim == 3 else V[1]


def gradient_of(strategy, theta, X, a, V, **options):
    X = X.clone().requires_grad_()
    value = fit_em(theta, X, a, gradient=strategy, fixed_weights=True, **(TIGHT | options)).value
    total = sum((v * t).sum() for v, t in zip(V, value[1:], strict=True))
    return torch.autograd.grad(total, X)[0], value.detach()


def steepest(theta, V, pooled):
    """How means and covariances move in the geometry of transport, for cotangents ``V``."""
    w, _, S = theta
    m, v = V[0] / w.unsqueeze(1), V[1]
    if S.ndim == 3:
        share = 1 if len(S) == 1 else w[:, None, None]
        return m, 2 * (v @ S + S @ v) / share
    return m, 4 * v * S / w.unsqueeze(1) / pooled


def test_a_natural_step_moves_the_fit_down_the_steepest_way(kind, make_mixture, make_samples):
    theta, X, a = problem(kind, make_mixture, make_samples)
    V = cotangents(theta)
    g, theta = gradient_of("natural", theta, X, a, V)
    step = 1e-4 * g / a.unsqueeze(1)
    ahead, behind = (
        fit_em(theta, X + s * step, a, fixed_weights=True, **END).value for s in (-1, 1)
    )
    expected = steepest(theta, V, pooled=2 if kind == "spherical" else 1)
    for new, old, change in zip(ahead[1:], behind[1:], expected, strict=True):
        found = (new - old) / 2e-4
        assert_close(found, -change / a.sum(), rtol=1e-4, atol=1e-5 * float(change.abs().max()))


def carried_along(theta, X, V, pooled):
    """How samples move that go along with the components, each as it belongs to them."""
    w, means, _ = theta
    resp = torch.softmax(log_joint(theta.prepare(), X), dim=0)
    y = X - means.unsqueeze(1)  # (K, n, d)
    U = V[1] if V[1].ndim == 3 else torch.diag_embed(V[1].expand(-1, X.shape[1])) / pooled
    share = w[:, None, None] if len(theta.covariances) == len(w) else 1.0
    velocities = V[0].unsqueeze(1) / w[:, None, None] + 2 * y @ U / share
    return (resp.unsqueeze(-1) * velocities).sum(0)


def test_no_smaller_correction_of_samples_carried_along_does_the_same(
    kind, make_mixture, make_samples
):
    theta, X, a = problem(kind, make_mixture, make_samples, n=40)
    V = cotangents(theta)
    g, theta = gradient_of("natural", theta, X, a, V)
    along = carried_along(theta, X, V, pooled=2 if kind == "spherical" else 1)
    g = g - along * (a / a.sum()).unsqueeze(1)
    # The smallest movement is a sum of gradients of the fitted parameters, weighed by 1 / a.
    rows = []
    for i, leaf in enumerate(theta[1:]):
        for unit in torch.eye(leaf.numel(), dtype=F64):
            one = [torch.zeros_like(t) for t in theta[1:]]
            one[i] = unit.view_as(leaf)
            rows.append(gradient_of("implicit", theta, X, a, one)[0].flatten())
    J = torch.stack(rows)
    root = a.sqrt().repeat_interleave(2)
    found, basis = g.flatten() / root, (J / root).mT
    coefficients = torch.linalg.lstsq(basis, found.unsqueeze(1), driver="gelsd").solution
    assert_close((basis @ coefficients).squeeze(1), found, rtol=1e-5, atol=1e-7)


def test_groups_that_stand_apart_move_with_their_components(kind, make_mixture, make_samples):
    theta, X, a = problem(kind, make_mixture, make_samples)
    label = torch.softmax(log_joint(theta.prepare(), X), dim=0).argmax(0)
    shift = 100 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=F64)
    theta, X = theta._replace(means=theta.means + shift), X + shift[label]
    V = cotangents(theta)
    g, theta = gradient_of("natural", theta, X, a, V, reg_covar=0.0)
    along = carried_along(theta, X, V, pooled=2 if kind == "spherical" else 1)
    assert_close(g * (a.sum() / a).unsqueeze(1), along, rtol=1e-6, atol=1e-6)


def test_one_component_has_the_gradient_itself(kind, make_mixture, make_samples):
    theta, X, a = problem(kind, make_mixture, make_samples, K=1, d=3)
    V = cotangents(theta)
    natural, implicit = (
        gradient_of(strategy, theta, X, a, V, reg_covar=0.0)[0]
        for strategy in ("natural", "implicit")
    )
    assert_close(natural, implicit, rtol=1e-7, atol=1e-9)


def test_the_step_goes_down(kind, make_mixture, make_samples):
    theta, X, a = problem(kind, make_mixture, make_samples)
    V = cotangents(theta)
    natural, implicit = (
        gradient_of(strategy, theta, X, a, V)[0] for strategy in ("natural", "implicit")
    )
    assert (natural * implicit).sum() > 0


def test_the_step_is_finite_with_equal_components_and_samples(kind, make_mixture):
    w = torch.full((2,), 0.5, dtype=F64)
    theta = make_mixture(kind, 2, 2)
    theta = theta._replace(weights=w, covariances=torch.ones_like(theta.covariances))
    if theta.covariances.ndim == 3:
        theta = theta._replace(covariances=torch.eye(2, dtype=F64).expand_as(theta.covariances))
    X = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=F64).repeat(5, 1)
    X = torch.cat([X, X + 4.0])
    a = torch.ones(len(X), dtype=F64)
    g, _ = gradient_of("natural", theta, X, a, cotangents(theta), reg_covar=1e-3)
    assert torch.isfinite(g).all() and g.norm() > 0
    assert_close(g[:4], g[4:8])  # equal samples move alike


def test_the_step_does_not_depend_on_the_units_of_the_features(make_mixture, make_samples):
    theta, X, a = problem("diag", make_mixture, make_samples)
    unit = torch.tensor([1.0, 1e6], dtype=F64)
    far = theta._replace(means=theta.means * unit, covariances=theta.covariances * unit**2)
    # A loss of the small feature alone: the unit of the other must not drown it.
    V = tuple(v * torch.tensor([1.0, 0.0], dtype=F64) for v in cotangents(theta))
    natural, _ = gradient_of("natural", far, X * unit, a, V, reg_covar=0.0)
    implicit, _ = gradient_of("implicit", far, X * unit, a, V, reg_covar=0.0)
    assert (natural * implicit).sum() > 0 and (natural[:, 0] != 0).all()


@pytest.mark.parametrize("kind", ["full", "diag"], indirect=True)
def test_large_mixtures_use_the_symmetry_of_the_derivative(
    kind, make_mixture, make_samples, monkeypatch
):
    theta, X, a = problem(kind, make_mixture, make_samples)
    V = cotangents(theta)
    expected, _ = gradient_of("natural", theta, X, a, V, reg_covar=0.0)
    monkeypatch.setattr(derivative, "has_matrix", lambda features: False)
    found, _ = gradient_of("natural", theta, X, a, V, reg_covar=0.0)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_step_keeps_float32_and_its_digits(make_mixture, make_samples):
    theta, X, a = problem("full", make_mixture, make_samples)
    V = cotangents(theta)
    X = X.float().double()
    expected, _ = gradient_of("natural", theta, X, a.float(), V, gradient_tol=1e-7)
    found, value = gradient_of("natural", theta, X.float(), a.float(), V, gradient_tol=1e-7)
    assert found.dtype == value.means.dtype == torch.float32
    assert_close(found.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_component_without_weight_has_no_say(make_mixture, make_samples):
    theta, X, a = problem("full", make_mixture, make_samples)
    theta = theta._replace(weights=torch.tensor([0.5, 0.5, 0.0], dtype=F64))
    g, _ = gradient_of("natural", theta, X, a, cotangents(theta), max_iter=0)
    assert torch.isfinite(g).all() and g.norm() > 0


@pytest.mark.parametrize("options", [{}, {"fixed_weights": True, "e_step": "sinkhorn"}])
def test_weights_that_move_have_no_natural_step(options, make_mixture, make_samples):
    theta, X, _ = problem("full", make_mixture, make_samples)
    with pytest.raises(ValueError, match="must have fixed_weights=True and e_step='posterior'"):
        fit_em(theta, X.requires_grad_(), gradient="natural", **options)


@pytest.mark.parametrize("which", ["start", "sample_weight"])
def test_only_samples_have_a_natural_step(which, make_mixture, make_samples):
    theta, X, a = problem("full", make_mixture, make_samples)
    if which == "start":
        theta = theta._replace(means=theta.means.clone().requires_grad_())
    else:
        a.requires_grad_()
    with pytest.raises(ValueError, match="must be used for samples alone, got a start or a"):
        fit_em(theta, X, a, gradient="natural", fixed_weights=True)


def test_a_natural_step_is_no_function_to_differentiate(make_mixture, make_samples):
    theta, X, _ = problem("full", make_mixture, make_samples)
    value = fit_em(theta, X.requires_grad_(), gradient="natural", fixed_weights=True).value
    target = theta._replace(means=theta.means + 3.0)
    with pytest.raises(RuntimeError, match="must be differentiated once"):
        torch.autograd.grad(transport_plan(value, target).cost, X, create_graph=True)


def test_a_mixture_that_is_too_large_is_refused_before_backward(make_mixture, make_samples):
    theta, X = make_mixture("full", 4, 12), make_samples(200, 12).requires_grad_()
    theta = theta._replace(weights=torch.full((4,), 0.25, dtype=F64))
    with pytest.raises(
        ValueError, match=rf"at most {MAX_GRAM_SIZE} numbers, got 628\. Use another"
    ):
        fit_em(theta, X, gradient="natural", fixed_weights=True)
