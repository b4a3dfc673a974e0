"""The distance MW2 between mixtures, and its plan."""

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.gaussians import wasserstein_squared
from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import symmetrize
from skgmmot.transport.mixtures.distance import cost_matrix, debiased_cost, transport_plan

F64 = torch.float64


def distance(source, target):
    return transport_plan(source, target).cost.sqrt()


def for_pot(source, target):
    """Means, covariances and weights in the order of `ot.gmm`."""
    fields = zip(
        (source.means, source.full_covariances(), source.weights),
        (target.means, target.full_covariances(), target.weights),
        strict=True,
    )
    return [t.numpy() for both in fields for t in both]


# --- closed forms ------------------------------------------------------------------------------


def test_distance_between_single_gaussians_is_that_of_wasserstein(name, make_mixture):
    source, target = (make_mixture(name, 1, 3, seed=s) for s in (1, 2))
    gaussians = [(m.means[0], m.full_covariances()[0]) for m in (source, target)]
    assert_close(transport_plan(source, target).cost, wasserstein_squared(*gaussians))


# --- peers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [t.name for t in ELEMENTARY_TYPES])
def test_distance_and_plan_are_those_of_pot(name, other, make_mixture):
    source, target = make_mixture(name, 3, 4, seed=1), make_mixture(other, 5, 4, seed=2)
    arguments = for_pot(source, target)
    plan = transport_plan(source, target)
    assert plan.cost.item() == pytest.approx(float(np.real(ot.gmm.gmm_ot_loss(*arguments))))
    assert_close(plan.coupling, torch.from_numpy(ot.gmm.gmm_ot_plan(*arguments)))


# --- derivatives -------------------------------------------------------------------------------


def test_distance_passes_gradcheck_in_means_and_covariances(name, make_mixture):
    source, target = make_mixture(name, 2, 2, seed=1), make_mixture(name, 3, 2, seed=2)

    def cost(m0, S0, m1, S1):
        if S0.ndim == 3:
            S0, S1 = symmetrize(S0), symmetrize(S1)
        mixtures = ((source.weights, m0, S0), (target.weights, m1, S1))
        return transport_plan(*(GaussianMixtureParams(*m) for m in mixtures)).cost

    assert torch.autograd.gradcheck(cost, [t.requires_grad_() for t in (*source[1:], *target[1:])])


@pytest.mark.parametrize("side", [0, 1])
def test_gradient_in_the_weights_is_right_along_the_tangent_of_the_simplex(side, pair):
    def cost(weights):
        mixtures = list(pair)
        mixtures[side] = mixtures[side]._replace(weights=weights)
        return transport_plan(*mixtures).cost

    weights = pair[side].weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cost(weights), weights)
    assert gradient.sum().abs() < 1e-12
    for i in range(1, len(weights)):
        step = torch.zeros_like(weights)
        step[i], step[0] = 1e-6, -1e-6
        difference = (cost(weights + step) - cost(weights - step)) / 2e-6
        assert_close(gradient[i] - gradient[0], difference.detach(), rtol=1e-6, atol=1e-7)


def test_gradient_is_zero_between_equal_isotropic_mixtures():
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=F64)
    S = torch.eye(2, dtype=F64).expand(2, -1, -1)
    mixture = GaussianMixtureParams(torch.full((2,), 0.5, dtype=F64), means, S)
    moving = mixture._replace(
        means=means.clone().requires_grad_(), covariances=S.clone().requires_grad_()
    )
    transport_plan(moving, mixture).cost.backward()
    assert_close(moving.means.grad, torch.zeros_like(means))
    assert_close(moving.covariances.grad, torch.zeros(2, 2, 2, dtype=F64))


# --- invariances -------------------------------------------------------------------------------


def test_distance_is_symmetric_and_satisfies_the_triangle_inequality(name, make_mixture):
    mixtures = [make_mixture(name, K, 2, seed=K) for K in (1, 2, 3, 4)]
    D = torch.stack([torch.stack([distance(s, t) for t in mixtures]) for s in mixtures])
    assert_close(D, D.mT)
    assert (D.unsqueeze(1) <= D.unsqueeze(2) + D + 1e-12).all()
    assert (D + torch.eye(4) > 0.1).all()


@pytest.mark.parametrize("change", ["nothing", "permuted", "split"])
def test_distance_is_zero_on_the_same_mixture_in_other_words(change, pair):
    mixture = pair[0]
    order = {"nothing": [0, 1, 2], "permuted": [2, 0, 1], "split": [0, 1, 1, 2, 0]}[change]
    share = {"split": [0.3, 0.9, 0.1, 1.0, 0.7]}.get(change, [1.0] * 3)
    same = GaussianMixtureParams(*(t[order] for t in mixture))
    same = same._replace(weights=same.weights * torch.tensor(share, dtype=F64))
    assert distance(mixture, same) <= 1e-9
    assert distance(same, mixture) <= 1e-9


# --- edges -------------------------------------------------------------------------------------


def test_mixtures_of_other_dimensions_are_refused(make_mixture):
    source, target = make_mixture("diag", 2, 2), make_mixture("diag", 2, 3)
    for function in (cost_matrix, transport_plan):
        with pytest.raises(ValueError, match="equal numbers of features, got 2 and 3"):
            function(source, target)


def test_what_is_no_mixture_is_named(make_mixture):
    mixture = make_mixture("full", 2, 2)
    with pytest.raises(TypeError, match="target must be a GaussianMixtureParams, got tuple"):
        transport_plan(mixture, tuple(mixture))


# --- equal and exchanged mixtures ----------------------------------------------------------------

PENALTIES = [{}, {"reg_m": 0.5}, {"reg_m": (0.5, float("inf"))}, {"reg": 0.5}]


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("other", [t.name for t in ELEMENTARY_TYPES])
@pytest.mark.parametrize("d", [2, 3])
def test_exchanging_mixtures_changes_no_bit(name, other, d, penalties, make_mixture):
    source, target = make_mixture(name, 3, d, seed=1), make_mixture(other, 3, d, seed=2)
    found = transport_plan(source, target, **penalties)
    if isinstance(penalties.get("reg_m"), tuple):
        penalties = {"reg_m": penalties["reg_m"][::-1]}
    back = transport_plan(target, source, **penalties)
    assert torch.equal(found.cost, back.cost)
    assert torch.equal(found.coupling, back.coupling.mT)
    assert torch.equal(found.source_potential, back.target_potential)


@pytest.mark.parametrize("penalties", PENALTIES[:3])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_equal_mixtures_are_at_no_distance_and_there_it_is_least(name, d, penalties, make_mixture):
    source, target = (
        type(m)(*(t.requires_grad_() for t in m)) for m in (make_mixture(name, 4, d),) * 2
    )
    plan = transport_plan(source, target, **penalties)
    assert plan.cost == 0
    assert torch.equal(plan.coupling, source.weights.detach().diag())
    for gradient in torch.autograd.grad(plan.cost, (*source, *target)):
        assert not gradient.any()


def test_equal_mixtures_keep_their_entropy_and_wrong_penalties_are_refused(make_mixture):
    mixture = make_mixture("full", 3, 2)
    assert transport_plan(mixture, mixture, reg=0.5).cost > 0
    for penalties in ({"reg": -1.0}, {"reg_m": 0.0}):
        with pytest.raises(ValueError, match="must"):
            transport_plan(mixture, mixture, **penalties)


def test_between_equal_mixtures_all_stays_at_no_cost_to_the_last_bit(name, make_mixture):
    mixture = make_mixture(name, 4, 3)
    plan = transport_plan(mixture, mixture._replace(means=mixture.means.clone()))
    assert plan.cost == 0
    assert torch.equal(plan.coupling, mixture.weights.diag())
    assert not plan.source_potential.any() and not plan.target_potential.any()


def test_the_divergence_takes_weights_in_float32_with_a_large_entropy(make_mixture):
    source = make_mixture("diag", 2, 2)
    source = source._replace(weights=source.weights.float())
    assert float(debiased_cost(source, source, reg=1e100, reg_m=1e-300)) == 0


@pytest.mark.parametrize("reg_m", [None, 0.5])
def test_the_divergence_is_zero_between_equal_mixtures_and_positive_between_others(
    reg_m, make_mixture
):
    source, target = make_mixture("diag", 3, 2), make_mixture("diag", 2, 2, seed=1)
    options = {"reg": 0.3, "reg_m": reg_m}
    same = source._replace(means=source.means.clone())
    assert abs(float(debiased_cost(source, same, **options))) < 1e-9
    assert float(debiased_cost(source, target, **options)) > 1e-3


@pytest.mark.parametrize("size", [1e160, 1e200, 1e300])
def test_distances_whose_squares_overflow_are_refused(size, make_mixture):
    far = make_mixture("diag", 2, 2)
    far = far._replace(means=far.means * size)
    for function in (cost_matrix, transport_plan):
        with pytest.raises(ValueError, match=r"got an infinite squared distance\. Divide"):
            function(make_mixture("diag", 3, 2), far)
