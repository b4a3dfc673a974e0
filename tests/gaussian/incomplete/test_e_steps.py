"""The E-step of samples with missing entries: closed forms, marginals, extremes, derivatives."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.conditional import condition, marginal
from skgmmot.gaussian.incomplete.e_steps import (
    IncompleteDefinition,
    IncompleteEStep,
    IncompleteFeatures,
)
from skgmmot.gaussian.incomplete.patterns import by_pattern
from skgmmot.gaussian.log_density import log_density, responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import e_step

F64, NAN = torch.float64, math.nan
K, d, n = 3, 4, 30


@pytest.fixture(autouse=True, params=["few", "many"])
def patterns(request, monkeypatch):
    """Whether samples are taken pattern by pattern or, where both can, all at once."""

    def many_patterns(self, X):
        return None if request.param == "few" else self._by_precisions

    monkeypatch.setattr(IncompleteEStep, "many_patterns", many_patterns)
    return request.param


@pytest.fixture
def mixture(covariance_type, make_mixture):
    """Three components in four dimensions."""
    return make_mixture(covariance_type, K, d)


@pytest.fixture
def incomplete(make_samples):
    """Samples with a third of their entries missing, sorted by pattern; something of each is."""
    X = 2 * make_samples(n, d)
    X[make_samples(n, d, seed=1) < -0.4] = NAN
    X = X[~X.isnan().all(1)]
    return X[by_pattern(X)]


def both_ways(mixture):
    """The E-step by its definition, and by products about an origin."""
    origin = torch.tensor([0.5, -0.25, 1.0, 0.0], dtype=F64)
    return IncompleteDefinition(mixture), IncompleteFeatures(mixture.translated(-origin), origin)


def buffers(_, shape, dtype):
    """New memory."""
    return torch.empty(shape, dtype=dtype)


def one_by_one(mixture, X):
    """Each sample by the marginal of what it has, and the conditional of the rest."""
    for x in X:
        seen = (~x.isnan()).nonzero().squeeze(1).tolist()
        part = marginal(mixture, seen)
        rest = None if len(seen) == d else condition(mixture, x[seen], seen)
        yield x, seen, [j for j in range(d) if j not in seen], part, rest


def test_densities_and_responsibilities_are_those_of_marginals(mixture, incomplete):
    found = list(one_by_one(mixture, incomplete))
    log_p = torch.cat([log_density(part, x[None, seen]) for x, seen, _, part, _ in found])
    resp = torch.cat([responsibilities(part, x[None, s]) for x, s, _, part, _ in found], dim=1)
    for step in both_ways(mixture):
        assert_close(step.log_density(incomplete), log_p)
        assert_close(step.responsibilities(incomplete)[0], resp)


def test_sums_are_those_of_expected_moments(mixture, incomplete, make_samples):
    a = make_samples(len(incomplete), 1, seed=2).squeeze(1).abs()
    mass, shift = torch.zeros(K, dtype=F64), torch.zeros(K, d, dtype=F64)
    scatter, log_likelihood = torch.zeros(K, d, d, dtype=F64), 0.0
    for (x, seen, others, part, rest), weight in zip(
        one_by_one(mixture, incomplete), a, strict=True
    ):
        resp = weight * responsibilities(part, x[None, seen]).squeeze(1)
        y, spread = x - mixture.means, torch.zeros(K, d, d, dtype=F64)
        if others:
            means = rest.means.expand(K, -1)
            y[:, others] = means - mixture.means[:, others]
            each = rest.covariance_type.to_full(rest.covariances, K, len(others))
            spread[:, np.array(others)[:, None], others] = each
        mass += resp
        shift += resp[:, None] * y
        scatter += resp[:, None, None] * (y[:, :, None] * y[:, None] + spread)
        log_likelihood += weight * log_density(part, x[None, seen]).squeeze()
    base = mixture.covariance_type
    total = scatter.sum(0, keepdim=True) if base.shared else base.nearest(scatter, mass)
    for step in both_ways(mixture):
        found = step.statistics(*step.block(incomplete, a, buffers))
        assert_close(found.mass, mass)
        assert_close(found.shift, shift)
        assert_close(found.scatter, total)
        assert_close(found.log_likelihood, log_likelihood)


def test_complete_samples_have_the_sums_of_the_plain_e_step(mixture, make_samples):
    X = make_samples(n, d)
    for step in both_ways(mixture):
        assert_close(step.block(X, None, buffers), tuple(e_step(mixture, X)))


def test_one_pair_of_features_has_the_formulas_of_the_plane():
    rho, s = 0.6, 2.0
    covariance = torch.tensor([[[1.0, rho * s], [rho * s, s**2]]], dtype=F64)
    mixture = GaussianMixtureParams(torch.ones(1), torch.tensor([[1.0, -1.0]]), covariance).to(
        dtype=F64
    )
    X = torch.tensor([[3.0, NAN]], dtype=F64)
    _, shift, scatter, log_p = IncompleteDefinition(mixture).block(X, None, None)
    y = rho * s * 2.0
    assert_close(shift, torch.tensor([[2.0, y]], dtype=F64))
    rest = s**2 * (1 - rho**2)
    assert_close(scatter, torch.tensor([[[4.0, 2 * y], [2 * y, y**2 + rest]]], dtype=F64))
    assert float(log_p) == pytest.approx(-(2.0**2) / 2 - math.log(2 * math.pi) / 2)


def test_marginal_densities_are_integrals_over_what_is_missing(covariance_type, make_mixture):
    mixture = make_mixture(covariance_type, 2, 2)
    grid = torch.linspace(-30, 30, 6001, dtype=F64)
    points = torch.stack([torch.full_like(grid, 0.3), grid], dim=1)
    density = log_density(mixture, points).exp()
    X = torch.tensor([[0.3, NAN]], dtype=F64)
    step = IncompleteDefinition(mixture)
    total = density.sum() * 0.01
    assert_close(step.log_density(X).exp(), total[None])
    expected = (density * grid).sum() * 0.01 / total
    assert_close(step.conditional_mean(X)[0, 1], expected)


def test_conditional_means_are_those_of_conditional_mixtures(mixture, incomplete):
    expected = incomplete.clone()
    for i, (_, _, others, _, rest) in enumerate(one_by_one(mixture, incomplete)):
        if others:
            expected[i, others] = rest.weights @ rest.means.expand(K, -1)
    assert_close(IncompleteDefinition(mixture).conditional_mean(incomplete), expected)


@pytest.mark.usefixtures("random_seed")
def test_draws_have_the_moments_of_the_conditional_mixture(mixture):
    m = 20_000
    x = torch.tensor([0.5, NAN, -1.0, NAN], dtype=F64)
    uniforms, normals = torch.rand(m, dtype=F64), torch.randn(m, d, dtype=F64)
    drawn = IncompleteDefinition(mixture).draw(x.expand(m, -1), uniforms, normals)
    assert_close(drawn[:, [0, 2]], x[[0, 2]].expand(m, -1))
    rest = condition(mixture, x[[0, 2]], [0, 2])
    means = rest.means.expand(K, -1)
    mean = rest.weights @ means
    centred = means - mean
    within = rest.covariance_type.to_full(rest.covariances, K, 2)
    expected = torch.einsum(
        "k,kij->ij", rest.weights, within + centred[:, :, None] * centred[:, None]
    )
    found = drawn[:, [1, 3]]
    error = 5 * expected.diagonal().max().sqrt() / m**0.5  # five standard errors
    assert (found.mean(0) - mean).abs().max() < error
    assert_close(found.mT.cov(), expected, atol=0.15 * float(expected.max()), rtol=0)


def test_samples_of_which_nothing_is_observed_say_nothing(mixture, incomplete):
    nothing = torch.full((2, d), NAN, dtype=F64)
    for step in both_ways(mixture):
        X = torch.cat([incomplete, nothing])
        assert_close(step.block(X, None, buffers), step.block(incomplete, None, buffers))
        assert_close(step.log_density(nothing), torch.zeros(2, dtype=F64))
        assert_close(step.responsibilities(nothing)[0], mixture.weights[:, None].expand(-1, 2))
    drawn = IncompleteDefinition(mixture).conditional_mean(nothing)
    assert_close(drawn, (mixture.weights @ mixture.means).expand(2, -1))


def test_sums_do_not_depend_on_the_order_nor_on_how_many_patterns_are_held(mixture, incomplete):
    shuffled = incomplete[torch.randperm(len(incomplete))]
    for step in both_ways(mixture):
        expected = step.block(incomplete, None, buffers)
        assert_close(step.block(shuffled, None, buffers), expected)
        joint = step.log_joint(shuffled)
        step.most_patterns = 2
        assert_close(step.block(incomplete, None, buffers), expected)
        assert_close(step.log_joint(shuffled), joint)


def test_a_prepared_mixture_serves_too(mixture, incomplete):
    origin = torch.zeros(d, dtype=F64)
    for kind, options in ((IncompleteDefinition, ()), (IncompleteFeatures, (origin,))):
        expected = kind(mixture, *options).block(incomplete, None, buffers)
        assert_close(kind(mixture.prepare(), *options).block(incomplete, None, buffers), expected)


def test_products_in_float32_are_near(mixture, incomplete):
    step = IncompleteFeatures(mixture, torch.zeros(d), torch.float32)
    found = step.block(incomplete.float(), None, buffers)
    expected = IncompleteDefinition(mixture).block(incomplete, None, None)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32 has seven digits
    assert all(t.dtype == F64 for t in found)


def test_samples_far_away_belong_to_the_nearest_component(mixture, incomplete):
    far = torch.where(incomplete.isnan(), incomplete, 1e170)
    for step in both_ways(mixture):
        resp = step.responsibilities(torch.cat([incomplete, far]))[0]
        assert_close(resp.sum(0), torch.ones(2 * len(far), dtype=F64))
        near = step.responsibilities(incomplete)[0]
        assert_close(resp[:, : len(far)], near)
        assert set(resp[:, len(far) :].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("far", "dtype"), [(1e170, F64), (1e308, F64), (1e30, torch.float32)])
def test_densities_of_samples_whose_squares_overflow_are_zero(mixture, incomplete, far, dtype):
    X = incomplete[~incomplete.isnan().all(1)]
    signs = torch.ones(d, dtype=F64)
    signs[::2] = -1
    far = torch.where(X.isnan(), X, far * signs)
    definition = IncompleteDefinition(mixture)
    features = IncompleteFeatures(mixture, torch.zeros(d, dtype=dtype), dtype)
    for step in (definition, features):
        together = step.log_density(torch.cat([X, far]).to(dtype)).double()
        assert_close(together[: len(X)], definition.log_density(X), rtol=1e-4, atol=1e-4)
        if step is features or dtype == F64:  # else float64 holds the squares
            assert torch.isneginf(together[len(X) :]).all()


def test_thin_components_leave_no_negative_variance(make_samples):
    line = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=F64)
    covariance = line[:, None] * line + 1e-10 * torch.eye(d, dtype=F64)
    mixture = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, d, dtype=F64), covariance[None]
    )
    X = torch.full((1, d), NAN, dtype=F64)
    X[0, 0] = 2.0
    _, shift, scatter, _ = IncompleteDefinition(mixture).block(X, None, None)
    assert_close(shift[0], 2 * line, rtol=1e-6, atol=0)
    rest = scatter - shift[..., None] * shift[..., None, :]
    assert torch.linalg.eigvalsh(rest).min() > -1e-13


def test_derivatives_are_those_of_finite_differences(mixture, incomplete):
    X = incomplete[::3]
    missing = X.isnan()

    def sums(weights, means, covariances, x, a):
        base = mixture.covariance_type
        theta = GaussianMixtureParams(weights, means, base.symmetric(covariances), base)
        X = torch.where(missing, NAN, x)
        return IncompleteDefinition(theta).block(X, a, None)

    a = torch.linspace(0.5, 1.5, len(X), dtype=F64)
    inputs = [t.clone().requires_grad_() for t in (*mixture, X.nan_to_num(), a)]
    assert torch.autograd.gradcheck(sums, inputs, fast_mode=True)
    found = torch.autograd.grad(sum(t.sum() for t in sums(*inputs)), inputs[3])[0]
    assert (found[missing] == 0).all() and found.isfinite().all()
