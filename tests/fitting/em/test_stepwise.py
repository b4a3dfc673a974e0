"""Stepwise EM: against a dense implementation, and where it is plain EM."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.testing import assert_close

from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.fit import fit_em
from skgmmot.fitting.em.step import em_step, m_step
from skgmmot.fitting.em.stepwise import implied_statistics, step_size, stepwise_step
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, e_step

F64 = torch.float64
K, d = 3, 2


@pytest.fixture
def theta(covariance_type, make_mixture):
    """A mixture of each covariance type."""
    return make_mixture(covariance_type, K, d)


@pytest.fixture
def make_block(make_samples):
    """Blocks of samples around the origin, with weights."""

    def make(t, n=80):
        X = make_samples(n, d, seed=t) * torch.tensor([2.0, 1.5], dtype=F64)
        return X, make_samples(n, 1, seed=100 + t).exp().squeeze(1)

    return make


def per_weight(theta, X, a=None):
    """The sums of a block over its weight."""
    total = len(X) if a is None else a.sum()
    return Statistics(*(t / total for t in e_step(theta, X, a)))


def same(found, expected, **tolerance):
    """Two mixtures agree."""
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, **tolerance)


# --- plain EM ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_of_one_is_an_iteration_of_em_on_the_block(theta, make_block, weighted):
    X, a = make_block(0)
    a = a if weighted else None
    block, other = per_weight(theta, X, a), per_weight(theta, *make_block(1))
    found, running = stepwise_step(theta, other, block, 1.0, 1e-3)
    same(found, em_step(theta, X, a, reg_covar=1e-3), rtol=1e-12, atol=1e-12)
    expected = block.recentred(theta.means - found.means, theta.covariance_type)
    for one, two in zip(running, expected, strict=True):
        assert torch.equal(one, two)


def test_a_step_of_zero_leaves_what_was_read_off_the_average(theta, make_block):
    block = per_weight(theta, *make_block(0))
    theta, running = stepwise_step(theta, block, block, 0.5, 1e-3)
    found, _ = stepwise_step(theta, running, per_weight(theta, *make_block(1)), 0.0, 1e-3)
    same(found, theta, rtol=1e-10, atol=1e-10)


def test_a_fixed_point_of_em_stays(theta, make_block):
    X, a = make_block(0)
    X.requires_grad_()  # for which it is polished
    theta = fit_em(theta, X, a, reg_covar=0.5, gradient_tol=1e-9).value.detach()
    X = X.detach()
    running = implied_statistics(theta, 0.5)
    found, _ = stepwise_step(theta, running, per_weight(theta, X, a), 0.3, 0.5)
    same(found, theta, rtol=1e-7, atol=1e-7)


# --- a dense implementation ----------------------------------------------------------------------


def dense_sums(w, m, S, X, a):
    """Raw sums of one block over its weight, by SciPy's densities."""
    joint = np.stack([w[k] * multivariate_normal(m[k], S[k]).pdf(X) for k in range(len(w))])
    resp = joint / joint.sum(0) * a / a.sum()
    raw = np.einsum("kn,ni,nj->kij", resp, X, X)
    return [resp.sum(1), resp @ X, raw, (a * np.log(joint.sum(0))).sum() / a.sum()]


def dense_m_step(s0, s1, s2, reg_covar, covariance_type):
    """The mixture that raw sums give, its covariances as matrices."""
    w, m = s0 / s0.sum(), s1 / s0[:, None]
    within = s2 - np.einsum("k,ki,kj->kij", s0, m, m)
    S = within / s0[:, None, None]
    if covariance_type == "tied":
        S = np.stack([within.sum(0) / s0.sum()] * len(w))
    if covariance_type in ("diag", "spherical"):
        S = np.stack([np.diag(np.diag(s)) for s in S])
    if covariance_type == "spherical":
        S = np.stack([np.eye(len(s)) * np.trace(s) / len(s) for s in S])
    return w, m, S + reg_covar * np.eye(m.shape[1])


@pytest.mark.parametrize("decay", [0.6, 1.0])
def test_it_is_the_recursion_on_raw_sums(theta, covariance_type, make_block, decay):
    w, m, S = (t.numpy() for t in (theta.weights, theta.means, theta.full_covariances()))
    running, average = None, None
    for t in range(12):
        X, a = make_block(t, n=40 + 10 * t)
        block = per_weight(theta, X, a)
        sums = dense_sums(w, m, S, X.numpy(), a.numpy())
        eta = (t + 2) ** -decay
        running = block if running is None else running
        average = sums if average is None else average
        average = [(1 - eta) * old + eta * new for old, new in zip(average, sums, strict=True)]
        theta, running = stepwise_step(theta, running, block, eta, 1e-2)
        w, m, S = dense_m_step(*average[:3], 1e-2, covariance_type)
        np.testing.assert_allclose(theta.weights, w, rtol=1e-10)
        np.testing.assert_allclose(theta.means, m, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(theta.full_covariances(), S, rtol=1e-10, atol=1e-10)
        assert float(running.log_likelihood) == pytest.approx(average[3], rel=1e-10)


def test_the_running_sums_are_centred_at_the_next_means(theta, make_block):
    X, a = make_block(0)
    running = per_weight(theta, X, a)
    for t in range(3):
        theta, running = stepwise_step(
            theta, running, per_weight(theta, *make_block(t)), 0.4, 1e-3, fixed_weights=True
        )
    assert float(running.shift.abs().max()) < 1e-13
    fixed = constraint_of(theta.covariance_type, len(theta.weights), weights=True)
    same(m_step(theta, running, 1e-3, fixed), theta, rtol=1e-12, atol=1e-12)


def test_samples_far_from_the_origin_lose_no_digits(theta, make_block):
    by = torch.full((d,), 2.0**30, dtype=F64)  # sums with powers of two are exact

    def steps(theta, by):
        X, _ = make_block(0)
        running = per_weight(theta, (X * 2**20).round() / 2**20 + by)
        for t in range(1, 5):
            X, _ = make_block(t)
            block = per_weight(theta, (X * 2**20).round() / 2**20 + by)
            theta, running = stepwise_step(theta, running, block, 0.5, 1e-3)
        return theta

    near, far = steps(theta, torch.zeros_like(by)), steps(theta.translated(by), by)
    same(far.translated(-by), near, rtol=1e-6, atol=1e-6)


def test_fixed_weights_stay(theta, make_block):
    block = per_weight(theta, *make_block(0))
    found, _ = stepwise_step(theta, block, block, 0.5, fixed_weights=True)
    assert found.weights is theta.weights


def test_a_component_without_samples_keeps_its_covariance(theta, make_block):
    far = theta._replace(means=theta.means + torch.tensor([[0.0], [0.0], [1e4]], dtype=F64))
    X, a = make_block(0)
    block = per_weight(far, X, a)
    assert block.mass[2] == 0
    found, running = stepwise_step(far, block, block, 0.5, 1e-3)
    assert found.weights[2] == 0 and torch.equal(found.means[2], far.means[2])
    if not theta.covariance_type.shared:
        assert torch.equal(found.covariances[2], far.covariances[2])
    assert all(torch.isfinite(t).all() for t in (*found, *running))


# --- steps and what a mixture implies -------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.51, 0.6, 1.0])
def test_blocks_of_equal_weight_have_the_plain_step(decay):
    for t in (1, 2, 100):
        assert step_size(t, decay) == pytest.approx((t + 2) ** -decay, rel=1e-15)


def test_a_block_counts_by_its_weight():
    assert step_size(5, 0.6, 0.0) == 0
    assert step_size(5, 0.6, 1e300) == 1
    odds = [step / (1 - step) for step in (step_size(5, 0.6, share) for share in (0.5, 1.0, 2.0))]
    assert odds[1] == pytest.approx(2 * odds[0])
    assert odds[2] == pytest.approx(2 * odds[1])


@pytest.mark.parametrize("reg_covar", [0.0, 0.1])
def test_the_m_step_reads_a_mixture_off_what_it_implies(theta, reg_covar):
    found = m_step(theta, implied_statistics(theta, reg_covar), reg_covar)
    same(found, theta, rtol=1e-12, atol=1e-12)


def test_a_component_of_weight_zero_implies_nothing(make_mixture):
    theta = make_mixture("full", K, d)
    theta = theta._replace(weights=torch.tensor([0.5, 0.0, 0.5], dtype=F64))
    statistics = implied_statistics(theta, 1e-3)
    assert not statistics.scatter[1].any()
    found = m_step(theta, statistics, 1e-3)
    assert isinstance(found, GaussianMixtureParams)
    same(found, theta, rtol=1e-12, atol=1e-12)
