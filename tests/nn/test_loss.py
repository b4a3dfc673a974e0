"""MW2 of batches to a target, as a loss."""

import math

import pytest
import torch
from sklearn.cluster import KMeans
from three_spheres import EVEN, TARGET
from torch.autograd import gradcheck
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.functional import em_step
from skgmmot.nn import EMLayer, MixtureWassersteinLoss
from skgmmot.transport.mixtures.distance import transport_plan


def trained(dtype=torch.float64, **options):
    """The loss module of points that were trained to a target in minibatches, and the losses."""
    generator = torch.Generator().manual_seed(0)
    X = 2 * torch.randn(300, 2, generator=generator).to(dtype)
    loss = MixtureWassersteinLoss(
        EVEN, fixed_weights=True, reg_covar=1e-2, random_state=0, **options
    ).to(dtype)
    optimiser = torch.optim.Adam([X.requires_grad_()], lr=0.3)
    values = []
    for _ in range(60):
        optimiser.zero_grad()
        value = loss(X[torch.randperm(300, generator=generator)[:100]])
        value.backward()
        optimiser.step()
        values.append(value.detach())
    return loss, torch.stack(values)


def test_a_batch_of_other_features_than_the_target_leaves_the_kept_mixture(batch):
    loss = MixtureWassersteinLoss(TARGET, random_state=0)
    with pytest.raises(ValueError, match=r"the 2 feature\(s\) of the target, got 3"):
        loss(torch.randn(60, 3))
    assert loss.em.mixture is None
    loss(batch)


@pytest.mark.parametrize(
    "options",
    [{}, {"reg": 0.5}, {"reg_m": (10.0, 0.1)}, {"reg_m": (math.inf, 2.0), "reg": 0.1}],
    ids=str,
)
def test_the_loss_is_the_cost_of_the_plan_between_the_fit_and_the_target(batch, options):
    loss = MixtureWassersteinLoss(TARGET, random_state=0, **options)
    value = loss(batch)
    assert_close(value, transport_plan(loss.em.mixture, loss.target, **options).cost)
    assert loss.em.means.shape == (3, 2)
    loss = MixtureWassersteinLoss(TARGET, random_state=0, root=True, **options)
    assert_close(loss(batch) ** 2, value)


def test_by_default_a_batch_is_one_iteration_from_the_last_mixture(batch, make_batch):
    loss = MixtureWassersteinLoss(TARGET, random_state=0)
    loss(batch)
    X, before = make_batch(60, seed=1).requires_grad_(), loss.em.mixture
    loss(X).backward()
    assert loss.em.solution.n_iter == 1
    assert_close(loss.em.mixture.means, em_step(before, X.detach(), reg_covar=1e-6).means)
    step = em_step(before, Z := X.detach().requires_grad_(), reg_covar=1e-6)
    transport_plan(step, loss.target).cost.backward()
    assert_close(X.grad, Z.grad)
    exact = MixtureWassersteinLoss(TARGET, gradient="implicit", random_state=0)
    exact(batch)
    assert exact.em.solution.n_iter > 1 and exact.em.solution.converged


def test_balanced_it_is_the_metric(batch):
    loss = MixtureWassersteinLoss(TARGET, 2, root=True, gradient="implicit", random_state=0)
    fitted = DifferentiableGaussianMixture(2, tol=1e-6, random_state=0).fit(batch)
    assert_close(float(loss(batch)), MixtureWasserstein()(fitted, TARGET))


def test_samples_may_be_the_target(batch, make_batch):
    options = {"covariance_type": "diag", "gradient": "implicit", "random_state": 0}
    for samples in (batch, batch.numpy(), batch.tolist()):
        loss = MixtureWassersteinLoss(samples, 2, **options)
        assert loss.target_covariances.shape == (2, 2)
        assert loss(batch) < 1e-12
        assert loss(make_batch(60, seed=1)) > 1e-3


def test_a_target_of_samples_is_fitted_to_the_end(batch):
    loss = MixtureWassersteinLoss(batch, 2, max_iter=1, tol=0.0, random_state=0)
    expected = DifferentiableGaussianMixture(2, tol=1e-6, max_iter=1000, random_state=0).fit(batch)
    assert_close(loss.target_means, torch.as_tensor(expected.means_))


def test_at_the_target_the_gradient_of_the_distance_is_finite(batch):
    loss = MixtureWassersteinLoss(batch, 1, root=True)
    X = batch.requires_grad_()
    value = loss(X)
    (gradient,) = torch.autograd.grad(value, X)
    assert value < 1e-9 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("reg_m", [None, (10.0, 2.0)], ids=["balanced", "unbalanced"])
@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
def test_the_gradient_of_the_whole_loss_is_right(make_batch, covariance_type, gradient, reg_m):
    X = make_batch(14).requires_grad_()
    a = torch.linspace(0.5, 1.0, 14, dtype=torch.float64, requires_grad=True)
    loss = MixtureWassersteinLoss(
        TARGET,
        2,
        covariance_type=covariance_type,
        gradient=gradient,
        reg_m=reg_m,
        reg_covar=1e-2,
        tol=1e-14 if gradient == "implicit" else 0,
        max_iter=2000 if gradient == "implicit" else 5,
        init_params=EMLayer(2, covariance_type=covariance_type, random_state=0)(make_batch(14)),
    ).eval()
    assert gradcheck(loss, (X, a), atol=1e-6, nondet_tol=1e-9, fast_mode=True)


def test_a_natural_step_lowers_the_loss_as_the_mixture_itself_would(batch):
    target = ([0.5, 0.5], [[4.0, -3.0], [-4.0, 1.0]], [1.0, 0.5], "spherical")
    options = {"gradient": "natural", "fixed_weights": True, "random_state": 0}
    loss = MixtureWassersteinLoss(target, 2, **options)
    X = batch.requires_grad_()
    first = loss(X)
    first.backward()
    second = loss((X.detach() - 1e-4 * len(X) / 2 * X.grad).requires_grad_())  # polished too
    assert 1 - (second / first).item() == pytest.approx(2e-4, rel=1e-2)  # as (1 - rate)^2 falls


def test_one_step_is_the_gradient_of_the_last_iteration(batch):
    start = EMLayer(3, max_iter=5, random_state=0)(batch)
    loss = MixtureWassersteinLoss(TARGET, init_params=start, gradient="one_step", max_iter=1)
    assert gradcheck(loss.eval(), batch[:10].requires_grad_(), nondet_tol=1e-9)


@pytest.mark.parametrize("options", [{}, {"reg_m": 20.0}, {"gradient": "implicit"}])
def test_training_on_minibatches_reaches_the_target(options):
    _, values = trained(**options)
    assert values[-10:].mean() < 0.02 * values[0]
    assert torch.isfinite(values).all()


def test_training_in_float32_follows_float64():
    single, values = trained(torch.float32)
    assert values.dtype == single.em.means.dtype == single.target_means.dtype == torch.float32
    assert values[-10:].mean() < 0.02 * values[0]


def test_targets_that_cannot_be_reached_are_refused(batch):
    with pytest.raises(ValueError, match=r"must be a positive .*, got .* target comes first: Mix"):
        MixtureWassersteinLoss(3, torch.zeros(150, 4))
    with pytest.raises(ValueError, match="n_components must be given where the target holds"):
        MixtureWassersteinLoss(batch)
    with pytest.raises(TypeError, match="target must be a fitted Gaussian mixture"):
        MixtureWassersteinLoss(KMeans(2), 2)
    with pytest.raises(ValueError, match=r"the 2 feature\(s\) of the target, got 1"):
        MixtureWassersteinLoss(TARGET, random_state=0)(batch[:, :1])
    with pytest.raises(ValueError, match="reg_m must be positive"):
        MixtureWassersteinLoss(TARGET, reg_m=-1.0)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("regcovar", "Did you mean 'reg_covar'[?] "),
        ("n_init", "Those of its EM layer are"),
        ("squared", "Those of its EM layer are covariance_type, gradient"),
    ],
)
def test_options_that_the_loss_does_not_have_are_named(option, hint):
    with pytest.raises(
        TypeError, match=f"MixtureWassersteinLoss has no parameter '{option}'. {hint}"
    ):
        MixtureWassersteinLoss(TARGET, **{option: 1})
