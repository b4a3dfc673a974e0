"""Modules for torch: fits that go on from batch to batch, and MW2 as a loss."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.autograd import gradcheck
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.functional import GaussianMixtureParams, InexactGradientWarning, em_step, fit_em
from skgmmot.nn import EMLayer, MixtureWassersteinLoss
from skgmmot.transport.mixtures.distance import transport_plan

TARGET = ([0.5, 0.3, 0.2], [[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]], [1.0, 0.5, 2.0], "spherical")
#: Weights that a fit with fixed, uniform weights can reach.
EVEN = ([1 / 3] * 3, *TARGET[1:])


@pytest.fixture
def batch(make_batch):
    """Two clouds in the plane."""
    return make_batch(60)


@pytest.fixture
def make_batch():
    """Batches of samples of the same two clouds."""

    def make(n, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        X[::2] = X[::2] * torch.tensor([1.0, 0.4]) + torch.tensor([4.0, 1.0])
        return X.to(dtype)

    return make


def kept(module):
    """The buffers of a module, copied."""
    return {name: t.clone() for name, t in module.state_dict().items()}


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


# --- the layer -----------------------------------------------------------------------------------


def test_the_first_batch_is_fitted_as_the_estimator_fits_it(batch, covariance_type):
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 1e-6}
    mixture = EMLayer(2, **options)(batch)
    expected = DifferentiableGaussianMixture(2, **options).fit(batch)
    assert_close(mixture.weights, torch.as_tensor(expected.weights_))
    assert_close(mixture.means, torch.as_tensor(expected.means_))
    assert_close(mixture.full_covariances().squeeze(), expected._params().full_covariances())


def test_a_batch_starts_where_the_last_one_ended(batch, make_batch):
    layer = EMLayer(2, max_iter=3, tol=0, random_state=0)
    first, second = layer(batch), layer(make_batch(60, seed=1))
    expected = fit_em(first, make_batch(60, seed=1), max_iter=3, tol=0)
    assert_close(tuple(second), tuple(expected.value))
    assert_close(tuple(layer.mixture), tuple(second))
    assert layer.solution.n_iter == 3 and not layer.solution.converged


def test_in_evaluation_fits_are_forgotten(batch, make_batch):
    layer = EMLayer(2, max_iter=3, tol=0, random_state=0)
    layer.eval()
    assert_close(tuple(layer(batch)), tuple(layer(batch)))
    assert layer.mixture is None
    layer.train()
    layer(batch)
    before = kept(layer)
    layer.eval()
    layer(make_batch(60, seed=1))
    assert_close(kept(layer), before)


def test_reset_starts_anew(batch, make_batch):
    layer = EMLayer(2, max_iter=3, tol=0, random_state=0)
    first = layer(batch)
    layer(make_batch(60, seed=1))
    layer.reset()
    assert layer.mixture is None and layer.solution is None
    assert_close(tuple(layer(batch)), tuple(first))


@pytest.mark.parametrize("options", [{}, {"max_iter": 1, "gradient": "one_step"}])
def test_a_batch_that_would_lose_a_component_finds_its_own_start(batch, options):
    layer = EMLayer(2, random_state=0, **options)
    layer(batch)
    mixture = layer(batch + 1000)
    assert mixture.weights.min() > 0.2
    expected = EMLayer(2, random_state=0, **options)(batch + 1000)
    assert_close(tuple(mixture), tuple(expected))


def test_one_component_has_the_moments_of_each_batch(batch):
    layer = EMLayer(1, reg_covar=0.0)
    for X in (batch[:, :1], batch[:20, :1]):
        mixture = layer(X)
        assert_close(mixture.means[0], X.mean(0))
        assert_close(mixture.covariances[0], X.T.cov(correction=0).reshape(1, 1))
    EMLayer(1).load_state_dict(layer.state_dict())
    EMLayer(1, init_params=mixture)(batch[:, :1])


def test_components_that_were_equal_part_again(make_batch):
    equal = (torch.full((2,), 0.5), torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))
    layer = EMLayer(2, init_params=equal, fixed_weights=True, random_state=0)
    means = layer(make_batch(60)).means
    assert (means[0] - means[1]).norm() > 3


@pytest.mark.parametrize("kind", ["tuple", "estimator", "params"])
def test_a_mixture_may_be_the_start(batch, kind):
    estimator = DifferentiableGaussianMixture(2, random_state=0).fit(batch)
    start = {
        "tuple": (estimator.weights_, estimator.means_, estimator.covariances_),
        "estimator": estimator,
        "params": estimator._params(),
    }[kind]
    layer = EMLayer(2, init_params=start, max_iter=1)
    assert_close(tuple(layer(batch)), tuple(fit_em(estimator._params(), batch, max_iter=1).value))
    fitted = layer(batch)
    before = fitted.means.clone()
    layer.load_state_dict({name: torch.zeros_like(t) for name, t in layer.state_dict().items()})
    assert_close(fitted.means, before)
    layer.reset()
    assert_close(layer.means, torch.as_tensor(estimator.means_))


def test_fixed_weights_stay_uniform_or_as_given(batch):
    layer = EMLayer(2, fixed_weights=True, random_state=0)
    assert_close(layer(batch).weights, torch.full((2,), 0.5, dtype=torch.float64))
    given = GaussianMixtureParams(
        torch.tensor([0.9, 0.1]), torch.tensor([[0.0, 0.0], [4.0, 1.0]]), torch.ones(2, 1)
    )
    layer = EMLayer(2, covariance_type="spherical", fixed_weights=True, init_params=given)
    assert_close(layer(batch).weights, torch.tensor([0.9, 0.1], dtype=torch.float64))


def test_sample_weights_are_repeated_samples(batch):
    a = torch.tensor([1.0, 2.0]).repeat(30)
    options = {"max_iter": 5, "init_params": EMLayer(2, random_state=0)(batch)}
    weighted = EMLayer(2, **options)(batch, a)
    repeated = EMLayer(2, **options)(batch.repeat_interleave(a.int(), dim=0))
    assert_close(tuple(weighted), tuple(repeated))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fit_has_the_dtype_of_the_batch_and_the_module_moves(make_batch, dtype):
    layer = EMLayer(2, random_state=0)
    assert layer(make_batch(60, dtype=dtype)).means.dtype == dtype
    for other in (torch.float32, torch.float64):
        layer.to(other)
        assert layer.means.dtype == other
        assert layer(make_batch(60, dtype=dtype)).covariances.dtype == dtype
    layer.to("meta")
    assert layer.means.is_meta


def test_half_precision_and_integers_are_fitted_in_double(make_batch):
    for dtype in (torch.bfloat16, torch.int64):
        X = make_batch(60).to(dtype)
        mixture = EMLayer(2, random_state=0)(X)
        assert_close(tuple(mixture), tuple(EMLayer(2, random_state=0)(X.double())))


# --- states --------------------------------------------------------------------------------------


def test_a_state_dict_carries_the_kept_mixture_to_a_new_module(batch, make_batch):
    loss = MixtureWassersteinLoss(TARGET, random_state=0)
    fresh = MixtureWassersteinLoss(TARGET, random_state=1)
    assert set(loss.state_dict()) == {f"target_{n}" for n in GaussianMixtureParams._fields}
    loss(batch)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    assert_close(kept(fresh), kept(loss))
    other = make_batch(50, seed=2)
    assert_close(fresh(other), loss(other), rtol=0, atol=0)
    fresh.load_state_dict(kept(loss))  # also into a module that has one


def test_a_state_of_another_size_is_refused_and_changes_nothing(batch, make_batch):
    state = EMLayer(3, random_state=0)
    state(batch)
    layer = EMLayer(2, random_state=0)
    with pytest.raises(
        RuntimeError, match=r"saved state must be a mixture of 2 components .* got means \(3"
    ):
        layer.load_state_dict(state.state_dict())
    assert layer.mixture is None
    layer(batch)
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict(state.state_dict())


def test_the_state_of_a_fresh_layer_makes_a_layer_fresh(batch):
    model = torch.nn.Sequential(EMLayer(2, random_state=0))
    start = copy.deepcopy(model.state_dict())
    model(batch)
    model.load_state_dict({}, strict=False)  # says nothing of the layer
    assert model[0].mixture is not None
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
    file = io.BytesIO()
    torch.save(start, file)
    file.seek(0)
    model.load_state_dict(torch.load(file))
    assert model[0].mixture is None and model[0].solution is None


def test_copies_and_pickles_go_on_alike_and_apart(batch, make_batch):
    loss = MixtureWassersteinLoss(TARGET, random_state=0)
    X = batch.requires_grad_()
    loss(X).backward()
    before = kept(loss)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        other = make_batch(50, seed=2)
        first = copy.deepcopy(loss)(other)
        assert_close(twin(other), first, rtol=0, atol=0)
        assert_close(kept(loss), before)


def test_a_batch_that_fails_leaves_the_kept_mixture(batch):
    layer = EMLayer(2, random_state=0)
    layer(batch)
    before = kept(layer)
    with pytest.raises(ValueError, match="X must be finite, got NaN in 1 of 60 rows"):
        layer(torch.cat([batch[1:], torch.full((1, 2), math.nan)]))
    assert_close(kept(layer), before)


def test_a_batch_of_other_features_than_the_target_leaves_the_kept_mixture(batch):
    loss = MixtureWassersteinLoss(TARGET, random_state=0)
    with pytest.raises(ValueError, match=r"the 2 feature\(s\) of the target, got 3"):
        loss(torch.randn(60, 3))
    assert loss.em.mixture is None
    loss(batch)


# --- the loss ------------------------------------------------------------------------------------


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


def test_inexact_gradients_are_warned_of_once_until_the_reset():
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X = noise.requires_grad_()  # one cloud: EM for three components is slow
    layer = EMLayer(3, gradient_tol=1e-300, random_state=0)
    message = (
        "gradient may be off by .* set gradient='one_step' and max_iter=1 instead. Later batches"
    )
    for _ in range(2):
        with pytest.warns(InexactGradientWarning, match=message) as caught:
            layer(X)
        assert len(caught) == 1
        layer(X)  # warnings are errors here
        layer.reset()


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


def test_it_shows_its_options():
    text = repr(MixtureWassersteinLoss(TARGET, reg_m=2.0, covariance_type="diag"))
    assert "reg_m=2.0" in text and "EMLayer(3, covariance_type='diag', gradient='one_step')" in text


# --- misuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"covariance_type": "round"}, "covariance_type"),
        ({"gradient": "magic"}, "gradient"),
        ({"max_iter": -1}, "max_iter"),
        ({"max_iter": 0}, "max_iter must be at least 1, got 0"),
        ({"init_params": "nowhere"}, "init_params"),
        ({"n_components": 2, "init_params": TARGET}, "init_params must be a mixture of 2"),
    ],
)
def test_wrong_options_are_refused_when_the_layer_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        EMLayer(**options)


def test_a_start_that_is_no_mixture_is_refused():
    with pytest.raises(TypeError, match="init_params must be a fitted mixture estimator or"):
        EMLayer(2, init_params=np.zeros((2, 2)))


def test_batches_that_cannot_be_fitted_are_refused(batch):
    layer = EMLayer(3, random_state=0)
    with pytest.raises(TypeError, match=r"X must be a tensor, got ndarray. Use torch.as_tensor"):
        layer(batch.numpy())
    with pytest.raises(ValueError, match="X must have at least 3 sample"):
        layer(batch[:2])
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, n_features\)"):
        layer(batch[0])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(60,\)"):
        layer(batch, torch.ones(3))
    layer(batch)
    with pytest.raises(ValueError, match=r"the 2 features of the kept mixture, got 1. Call reset"):
        layer(batch[:, :1])
    layer.reset()
    layer(batch[:, :1])


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


def test_a_diverging_run_is_told_its_batch_and_its_size():
    X = torch.randn(50, 2, dtype=torch.float64)
    layer = EMLayer(2, random_state=0)
    for scale in (1.0, 2.0):
        layer(scale * X)
    advice = "lower the learning rate"
    with pytest.raises(ValueError, match=rf"NaN .*batch 3 .*reached to about \d.*{advice}"):
        layer(X / 0 * 0)
    for bad in (1e160, 0.0):
        diverging = EMLayer(2, random_state=0, reg_covar=0.0)
        diverging(X)
        message = f"batch 2 since the layer was made or reset; its largest number .* {advice}"
        with pytest.raises(ValueError, match=message):
            diverging(bad * X)
    layer.reset()
    assert layer.n_batches == 0


@pytest.mark.parametrize(
    ("X", "sample_weight"),
    [
        (torch.zeros(5), None),
        (torch.zeros(5, 2, 2), None),
        (torch.ones(1, 2), None),
        (torch.randn(50, 2), torch.ones(3)),
        (torch.randn(50, 2), -torch.ones(50)),
    ],
)
def test_batches_of_another_shape_get_no_advice_about_training(X, sample_weight):
    with pytest.raises(ValueError, match="This was batch 1 since") as refused:
        EMLayer(2, random_state=0)(X, sample_weight)
    assert "learning rate" not in str(refused.value)


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


def test_a_layer_fits_factors(make_batch):
    options = {"gradient": "one_step", "max_iter": 1}
    layer = EMLayer(2, covariance_type="lowrank", random_state=0, **options)
    X = make_batch(14).requires_grad_()
    mixture = layer(X)
    assert mixture.covariances.shape == (2, X.shape[1], 2)
    mixture.full_covariances().sum().backward()
    assert torch.isfinite(X.grad).all()
    assert layer(X).covariance_type.rank == 1
    with pytest.raises(ValueError, match="rank must be below the number of features"):
        EMLayer(2, covariance_type="lowrank", rank=X.shape[1])(X)
