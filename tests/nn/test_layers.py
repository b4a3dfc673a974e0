"""The layer: fits that go on from batch to batch."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from three_spheres import TARGET
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture
from skgmmot.functional import GaussianMixtureParams, InexactGradientWarning, fit_em
from skgmmot.nn import EMLayer, MixtureWassersteinLoss


def kept(module):
    """The buffers of a module, copied."""
    return {name: t.clone() for name, t in module.state_dict().items()}


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
