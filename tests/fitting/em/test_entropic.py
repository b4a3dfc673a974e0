"""Entropic readings of maximum likelihood, and balance."""

import functools

import ot
import pytest
import torch
from torch.autograd import gradcheck

from skgmmot.fitting.em.entropic import (
    MOST_LINEAR,
    MOST_SAMPLES,
    balance,
    balance_gap_bound,
    dense_dual,
    entropic_ot_objective,
    linear_start,
    sinkhorn_update,
    without_entropy,
)
from skgmmot.functional import fit_em
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams


@pytest.fixture
def problem(make_mixture, make_samples):
    """Three components in two dimensions and 60 samples that they overlap on."""
    return make_mixture("full", 3, 2), 1.5 * make_samples(60, 2)


def primal(theta, X, a, P):
    """``<P, C> + KL(P | a w^T)`` of a plan ``(K, n)``."""
    C = -log_joint(theta.prepare()._replace(log_weights=torch.zeros_like(theta.weights)), X)
    reference = theta.weights.unsqueeze(1) * a
    return (P * C).sum() + (torch.xlogy(P, P / reference) - P + reference).sum()


@pytest.fixture
def weighted(problem):
    theta, X = problem
    generator = torch.Generator().manual_seed(5)
    a = torch.rand(len(X), generator=generator, dtype=X.dtype) + 0.1
    return theta, X, a / a.sum()


def test_free_transport_is_the_negative_log_likelihood(weighted):
    theta, X, a = weighted
    log_p = torch.logsumexp(log_joint(theta.prepare(), X), 0)
    cost = entropic_ot_objective(theta, X, a)
    assert float(cost + a @ log_p) == pytest.approx(0, abs=1e-12)
    resp = torch.softmax(log_joint(theta.prepare(), X), 0)
    assert float(primal(theta, X, a, resp * a) - cost) == pytest.approx(0, abs=1e-10)


def test_no_other_plan_costs_less(weighted):
    theta, X, a = weighted
    cost = entropic_ot_objective(theta, X, a)
    resp = torch.softmax(log_joint(theta.prepare(), X), 0)
    for share in (0.01, 0.3):
        other = (1 - share) * resp + share / len(theta.weights)
        assert primal(theta, X, a, other * a) > cost


def test_the_gap_bound_is_below_the_gap_and_zero_only_where_that_is(weighted):
    theta, X, a = weighted
    resp = torch.softmax(log_joint(theta.prepare(), X), 0)
    least = balance_gap_bound(theta.weights, resp @ a)
    gap = entropic_ot_objective(theta, X, a, balanced=True) - entropic_ot_objective(theta, X, a)
    assert 1e-3 < least < float(gap)
    assert balance_gap_bound(theta.weights, theta.weights) == 0
    nearly = theta.weights + 1e-9 * torch.tensor([1.0, -1.0, 0.0], dtype=X.dtype)
    assert 0 < balance_gap_bound(theta.weights, nearly) < 1e-16


def test_the_gap_bound_is_the_gap_where_all_samples_coincide(weighted):
    theta, X, _ = weighted
    X = X[:1].expand(5, -1)
    share = torch.softmax(log_joint(theta.prepare(), X), 0).mean(1)
    gap = entropic_ot_objective(theta, X, balanced=True) - entropic_ot_objective(theta, X)
    assert balance_gap_bound(theta.weights, share) == pytest.approx(float(gap), rel=1e-10)


def test_the_gap_bound_takes_components_without_weight_or_samples():
    weights = torch.tensor([0.5, 0.5, 0.0])
    assert balance_gap_bound(weights, torch.tensor([0.25, 0.75, 0.0])) == pytest.approx(
        0.1438, abs=1e-4
    )
    assert 10 < balance_gap_bound(weights, torch.tensor([0.0, 1.0, 0.0])) < 1000


def test_balanced_transport_is_that_of_sinkhorn(weighted):
    theta, X, a = weighted
    C = -log_joint(theta.prepare()._replace(log_weights=torch.zeros_like(theta.weights)), X).mT
    P = ot.sinkhorn(
        a, theta.weights, C, 1.0, method="sinkhorn_log", stopThr=1e-15, numItermax=10**4
    )
    cost = entropic_ot_objective(theta, X, a, balanced=True)
    assert float(cost - primal(theta, X, a, P.mT)) == pytest.approx(0, abs=1e-10)


def test_balancing_costs_nothing_for_one_component(problem):
    theta, X = problem
    single = GaussianMixtureParams(*(t[:1] for t in theta))._replace(weights=torch.ones(1).double())
    free, balanced = (entropic_ot_objective(single, X, balanced=b) for b in (False, True))
    assert float(free - balanced) == pytest.approx(0, abs=1e-14)


def test_both_readings_meet_where_em_ends(problem):
    theta, X = problem
    free, balanced = (entropic_ot_objective(theta, X, balanced=b) for b in (False, True))
    assert balanced > free + 1e-6
    fitted = fit_em(theta, X, tol=1e-14, acceleration="newton", reg_covar=1e-3).value
    free, balanced = (entropic_ot_objective(fitted, X, balanced=b) for b in (False, True))
    assert float(balanced - free) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_derivatives_are_those_of_finite_differences(problem, balanced):
    theta, X = problem
    X = X[:10]

    def cost(logits, means, factors, X, a):
        covariances = factors @ factors.mT + 0.1 * torch.eye(X.shape[1])
        mixture = GaussianMixtureParams(torch.softmax(logits, 0), means, covariances)
        return entropic_ot_objective(mixture, X, a, balanced=balanced)

    inputs = (
        theta.weights.log(),
        theta.means,
        torch.linalg.cholesky(theta.full_covariances()),
        X,
        torch.linspace(0.5, 1.5, len(X), dtype=X.dtype),
    )
    assert gradcheck(cost, [t.detach().clone().requires_grad_() for t in inputs])


@pytest.mark.parametrize("balanced", [False, True])
def test_a_component_of_weight_zero_is_absent_and_its_weight_has_a_derivative(problem, balanced):
    theta, X = problem
    weights = torch.tensor([0.4, 0.6, 0.0], dtype=X.dtype, requires_grad=True)
    cost = entropic_ot_objective(theta._replace(weights=weights), X, balanced=balanced)
    two = GaussianMixtureParams(weights[:2].detach(), theta.means[:2], theta.covariances[:2])
    alone = entropic_ot_objective(two, X, balanced=balanced)
    assert cost.item() == pytest.approx(alone.item())
    cost.backward()
    h = 1e-6
    moved = torch.tensor([0.4 - h, 0.6, h], dtype=X.dtype)
    there = entropic_ot_objective(theta._replace(weights=moved), X, balanced=balanced)
    slope = weights.grad[2] - weights.grad[0]
    assert slope.item() == pytest.approx((there - alone).item() / h, rel=1e-4)


def test_a_sample_of_weight_zero_is_absent(problem):
    theta, X = problem
    a = torch.ones(len(X), dtype=X.dtype)
    a[:10] = 0
    X = X.clone()
    X[0] = 1e200  # even where its density is not a number
    for balanced in (False, True):
        with_zeros = entropic_ot_objective(theta, X, a, balanced=balanced)
        without = entropic_ot_objective(theta, X[10:], balanced=balanced)
        assert float(with_zeros - without) == pytest.approx(0, abs=1e-12)


def dual_of(log_g):
    """The problem of balance for samples of equal weight."""
    a = torch.full_like(log_g[0], 1 / log_g.shape[1])
    return functools.partial(dense_dual, log_g=log_g, a=a)


def counted(log_g):
    """The same, and a list of the arguments that it is called with."""
    calls = []

    def dual(*args):
        calls.append(args)
        return dual_of(log_g)(*args)

    return dual, calls


def test_balance_needs_no_luck_where_components_are_far_from_their_share():
    log_g = -0.5 * (torch.linspace(0, 50, 40).double() - torch.tensor([[0.0], [1.0], [90.0]])) ** 2
    weights = torch.tensor([0.2, 0.3, 0.5]).double()
    log_tilt = balance(weights, dual_of(log_g))
    share = torch.softmax(log_tilt.unsqueeze(1) + log_g, 0).mean(1)
    assert torch.allclose(share, weights, atol=1e-12)
    assert float(log_tilt.exp().sum()) == pytest.approx(1)


def test_balance_splits_samples_that_are_much_like_each_other_and_far_from_all_components():
    X = torch.tensor([0.0, 1.0, 5.0]).double()
    log_g = -0.5e6 * (X - torch.tensor([[0.0], [2.0], [5.0], [5.5]])) ** 2
    weights = torch.full((4,), 0.25).double()
    log_tilt = balance(weights, dual_of(log_g), tol=1e-8)
    share = torch.softmax(log_tilt.unsqueeze(1) + log_g, 0).mean(1)
    assert torch.allclose(share, weights, atol=1e-8)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e7, 1e11, 1e13])
def test_large_tilts_are_found_in_few_evaluations(size):
    X = torch.tensor([0.0, 1.2, 5.0, 7.0]).double()
    log_g = -size * (X - torch.tensor([[0.0], [2.0], [40.0]])) ** 2
    weights, (dual, calls) = torch.tensor([0.25, 0.25, 0.5]).double(), counted(log_g)
    log_tilt = balance(weights, dual)
    plan = ot.emd(weights.numpy(), [0.25] * 4, -log_g.numpy() / size)
    assert (torch.softmax(log_tilt.unsqueeze(1) + log_g, 0) / 4).numpy() == pytest.approx(plan)
    assert len(calls) < 100


@pytest.mark.parametrize("size", [1e15, 1e17, 1e40])
def test_shares_that_rounding_of_log_densities_hides_are_refused(size):
    X = torch.tensor([0.0, 1.2, 5.0, 7.0]).double()
    log_g = -size * (X - torch.tensor([[0.0], [2.0], [40.0]])) ** 2
    weights = torch.tensor([0.15, 0.35, 0.5]).double()  # two of the samples are shared
    with pytest.raises(RuntimeError, match=r"got shares that differ from the weights by [\d.]+e"):
        balance(weights, dual_of(log_g))


def test_steps_end_where_rounding_stops_them():
    X = torch.tensor([0.0, 1.2, 5.0, 7.0]).double()
    log_g = -1e3 * (X - torch.tensor([[0.0], [2.0], [40.0]])) ** 2
    weights, (dual, calls) = torch.tensor([0.15, 0.35, 0.5]).double(), counted(log_g)
    log_tilt = balance(weights, dual)
    share = torch.softmax(log_tilt.unsqueeze(1) + log_g, 0).mean(1)
    assert torch.allclose(share, weights, atol=1e-8)
    assert len(calls) < 80  # 68, and 89 if the last temperature took all its steps


def groups_apart(n_samples, K=6):
    """Log-densities of components near groups of unequal sizes, forty deviations apart."""
    generator = torch.Generator().manual_seed(0)
    centres = 40 * torch.rand(K, 3, generator=generator).double()
    labels = torch.arange(n_samples) ** 2 % (K + 3) % K
    X = centres[labels] + torch.randn(n_samples, 3, generator=generator).double()
    weights = torch.full((K,), 1 / K, dtype=torch.float64)
    return -10 * (X - 0.8 * centres.unsqueeze(1)).square().sum(2), weights


def test_without_entropy_the_linear_programme_is_solved():
    log_g, weights = groups_apart(200)
    a = torch.linspace(1, 2, 200).double()
    a /= a.sum()
    log_tilt = without_entropy(weights, log_g, a)
    value = weights @ log_tilt - a @ (log_tilt.unsqueeze(1) + log_g).amax(0)
    assert float(value) == pytest.approx(ot.emd2(weights.numpy(), a.numpy(), -log_g.numpy()))
    assert float(log_tilt.exp().sum()) == pytest.approx(1)


def test_groups_far_apart_are_balanced_from_the_linear_programme():
    log_g, weights = groups_apart(500)
    a = torch.full((500,), 1 / 500, dtype=torch.float64)
    found, counts = [], []
    for linear in (linear_start(weights, log_g, a), None):
        dual, calls = counted(log_g)
        log_tilt = balance(weights, dual, linear=linear)
        found.append(torch.softmax(log_tilt.unsqueeze(1) + log_g, 0))
        counts.append(len(calls))
    assert torch.allclose(found[0].mean(1), weights, atol=1e-12)
    assert torch.allclose(found[0], found[1], atol=1e-8)
    assert counts[0] < counts[1] / 4


def test_large_linear_programmes_are_left_out():
    log_g = torch.zeros(1, 1, dtype=torch.float64)
    assert linear_start(log_g[0], log_g, log_g[0]) is not None
    assert linear_start(log_g[0], log_g.expand(MOST_LINEAR + 1, 1), log_g[0]) is None
    assert linear_start(log_g[0], log_g.expand(1, MOST_SAMPLES + 1), log_g[0]) is None
    assert linear_start(log_g[0], log_g.expand(2, MOST_SAMPLES + 1), log_g[0]) is not None


def test_balance_is_found_without_a_linear_programme_where_that_fails():
    def fails(start):
        raise RuntimeError("no solution")

    log_g, weights = groups_apart(200)
    log_tilt = balance(weights, dual_of(log_g), linear=fails)
    share = torch.softmax(log_tilt.unsqueeze(1) + log_g, 0).mean(1)
    assert torch.allclose(share, weights, atol=1e-12)


def test_a_linear_programme_takes_finite_log_densities_only():
    log_g, weights = groups_apart(20)
    log_g[1, 3] = -torch.inf
    with pytest.raises(RuntimeError, match="log-densities must be finite"):
        without_entropy(weights, log_g, torch.full_like(log_g[0], 1 / 20))


def test_balance_that_does_not_end_says_so():
    log_g = -0.5 * (torch.linspace(0, 50, 40).double() - torch.tensor([[0.0], [1.0]])) ** 2
    with pytest.raises(RuntimeError, match="balancing must converge in 0 steps, got shares that"):
        balance(torch.tensor([0.1, 0.9]).double(), dual_of(log_g), max_iter=0)


def test_a_sinkhorn_update_rests_at_balance_and_survives_an_empty_share():
    weights = torch.tensor([0.25, 0.75]).double()
    log_tilt = torch.log(torch.tensor([0.6, 0.4]).double())
    assert torch.allclose(sinkhorn_update(log_tilt, weights, weights), log_tilt)
    emptied = sinkhorn_update(log_tilt, weights, torch.tensor([0.0, 1.0]).double())
    assert torch.isfinite(emptied).all()
    assert emptied[0] > log_tilt[0]
