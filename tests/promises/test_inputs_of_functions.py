"""Functions of tensors have finite, right values at any mixture and samples, or a named error."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from promises.gaussian_reference import gaussian_cost, log_density
from promises.inputs import REFUSED, answered, assert_finite, samples, seeds
from promises.mixture_inputs import ENTROPIES, FEATURES, plain_mixtures, reference_matrices
from promises.value_inputs import (
    DOUBLE,
    any_refused,
    assert_mixture,
    in_range,
    pairs_of_values,
    problems,
)

import skgmmot.functional as F

# --- densities, parts and draws ------------------------------------------------------------------


@given(problems())
def test_densities(problem):
    mixture, theta, X = problem
    if theta is REFUSED:
        return
    found, resp = answered(F.log_density, theta, X), answered(F.responsibilities, theta, X)
    log_resp = answered(F.log_responsibilities, theta, X)
    if any_refused(found, resp, log_resp):
        assert found is resp is log_resp is REFUSED
        return
    assert_finite(resp)
    assert not found.isnan().any() and not log_resp.isnan().any()
    assert (resp.sum(0) - 1).abs().max() < 1e-12 and torch.allclose(log_resp.exp(), resp)
    matrices, precision = reference_matrices(mixture)
    if precision < 1e-3:
        expected = [float(t) for t in log_density(*mixture[:2], matrices, X.numpy())]
        assert np.allclose(found, expected, rtol=precision, atol=precision)
        distribution = answered(F.to_torch, theta)
        assert distribution is not REFUSED
        back = answered(F.from_torch, distribution)
        assert torch.allclose(back.means, theta.means, rtol=1e-12, atol=0)


@given(problems(), st.data())
def test_marginals_and_conditionals(problem, data):
    mixture, theta, X = problem
    if theta is REFUSED:
        return
    d = theta.means.shape[1]
    features = data.draw(st.lists(st.integers(-1, d), max_size=3, unique=data.draw(st.booleans())))
    part = answered(F.marginal, theta, features)
    if part is not REFUSED:
        assert_mixture(part)
        assert torch.equal(part.means, theta.means[:, features])
    whole = answered(F.condition, theta, X[0, : len(features)], features)
    if whole is REFUSED or part is REFUSED:
        return
    assert_mixture(whole)
    if ((whole.weights == 0) & (theta.weights > 0)).any():  # weights below the range may matter
        return
    # p(x) = p(x of the features) p(the others | them)
    others = [k for k in range(d) if k not in features]
    matrices, precision = reference_matrices(mixture)
    if precision < 1e-6:  # conditional means are rounded at their offset
        narrowest = math.sqrt(np.linalg.eigvalsh(matrices)[mixture[0] > 0].min())
        size = max(float(t.abs().max()) for t in (X[0], theta.means))
        precision += np.finfo(float).eps * size / narrowest
    if precision < 1e-6 and min(features) >= 0:
        right = answered(F.log_density, whole, X[:1, others])
        x = X[:1].clone()
        x[:, features] = X[0, : len(features)]
        left = answered(F.log_density, part, X[:1, : len(features)])
        joint = answered(F.log_density, theta, x)
        if not any_refused(left, right, joint) and joint.isfinite().all():
            size = 1 + abs(float(joint)) + abs(float(left)) + abs(float(right))
            assert abs(float(left + right - joint)) < 100 * precision * size


@given(problems(), st.integers(1, 20))
def test_draws(problem, n):
    _, theta, _ = problem
    if theta is REFUSED:
        return
    for draw in (F.sample, F.rsample):
        found = answered(draw, theta, n, generator=torch.Generator().manual_seed(0))
        if found is not REFUSED:
            X, others = found
            assert_finite(X, others)
            assert X.shape == (n, theta.means.shape[1])
            if draw is F.sample:
                assert (theta.weights[others] > 0).all()
            else:
                assert abs(float(others.sum()) - 1) < 1e-9


# --- transport -----------------------------------------------------------------------------------


@given(pairs_of_values())
def test_costs_between_gaussians(pair):
    arrays, values = pair
    if REFUSED in values:
        return
    C = answered(F.cost_matrix, *values)
    if C is REFUSED:
        return
    assert_finite(C)
    assert (C >= 0).all()
    sides = [[], []]
    for side, (_, m, _, _), (S, _) in zip(
        sides, arrays, map(reference_matrices, arrays), strict=True
    ):
        side += zip(m, S, strict=True)
    expected = np.array([[float(gaussian_cost(g, h)) for h in sides[1]] for g in sides[0]])
    sizes = [[abs(m).max() ** 2 + abs(S).max() for m, S in side] for side in sides]
    size = np.maximum.outer(*map(np.array, sizes))
    offset = 1e-15 * size
    widths = [[abs(S).max() for _, S in side] for side in sides]
    # a root of a singular matrix is known to the root of the precision
    rounding = 1e-7 * np.maximum.outer(*map(np.array, widths))
    assert (abs(C.numpy() - expected) <= 1e-10 * expected + offset + rounding).all()


@given(pairs_of_values(), ENTROPIES, st.sampled_from([0.0, 0.5, 1.0, 1e-300]))
def test_maps_and_paths_of_values(pair, reg, t):
    _, values = pair
    if REFUSED in values:
        return
    D = answered(F.pairwise_squared, values, reg=reg)
    if D is not REFUSED:
        assert_finite(D)
        assert (D >= 0).all() and (reg or not D.diagonal().any())
    between = answered(F.interpolate, *values, t)
    if between is not REFUSED:
        assert_mixture(between)
    flow = answered(F.mixture_flow, *values, reg=reg)
    if flow is not REFUSED:
        assert_finite(flow[0].coupling)
    mapping = answered(F.mixture_map, *values)
    if mapping is REFUSED:
        return
    X, _ = F.sample(values[0], 5, generator=torch.Generator().manual_seed(0))
    for found in (
        answered(F.mean_map, mapping, X),
        answered(F.random_map, mapping, X, torch.full((5, 2), 0.5, dtype=DOUBLE)),
    ):
        assert_finite(found)
        assert found is REFUSED or found.shape == X.shape


@given(pairs_of_values(), st.sampled_from([1.0, 2.0, 3.0]), st.data())
def test_sliced_distances_of_values(pair, p, data):
    _, values = pair
    if REFUSED in values:
        return
    d = values[0].means.shape[1]
    theta = answered(F.directions, "quasi", 3, d)
    found = answered(F.sliced_wasserstein_between, *values, theta, p=p)
    assert_finite(found)
    assert found is REFUSED or (found >= 0).all()
    X, Y = (torch.tensor(data.draw(samples(d=st.just(d)))) for _ in range(2))
    if not (in_range(pair[0][0], X.numpy()) and in_range(pair[0][0], Y.numpy())):
        return
    found = answered(F.sliced_wasserstein, values[0], X, theta, p=p)
    assert_finite(found)
    found = answered(F.sliced_wasserstein_of_samples, X, Y, theta, p=p, return_error=True)
    if found is not REFUSED:
        value, error = (t.numpy() for t in found)
        assert_finite(value)
        assert (value >= 0).all() and (error >= 0).all()
        x, y = (S.numpy() @ theta.numpy().T for S in (X, Y))
        unit = max(abs(x).max(), abs(y).max()) or 1.0
        levels = np.unique(np.concatenate([np.arange(len(S) + 1) / len(S) for S in (x, y)]))
        middle = (levels[1:] + levels[:-1]) / 2
        sides = [np.sort(S / unit, 0)[(middle * len(S)).astype(int)] for S in (x, y)]
        powers = np.diff(levels) @ abs(sides[0] - sides[1]) ** p
        assert np.allclose(value / unit**p, powers, rtol=1e-9, atol=1e-13)


@given(st.data())
def test_barycentres_of_gaussians(data):
    d, K = data.draw(FEATURES), data.draw(st.integers(1, 3))
    mixtures = [data.draw(plain_mixtures(d, absurd=False)) for _ in range(K)]
    m = torch.tensor(np.array([mixture[1][0] for mixture in mixtures]))
    S = torch.tensor(np.array([reference_matrices(mixture)[0][0] for mixture in mixtures]))
    weights = torch.tensor(np.random.default_rng(data.draw(seeds)).dirichlet(np.ones(K)))
    if not all(map(in_range, mixtures)):
        return
    found = answered(F.gaussian_barycenter, m, S, weights, return_error=True)
    if found is not REFUSED:
        mean, covariance, errors = found
        assert_finite(mean, covariance, *errors)
        assert torch.allclose(mean, weights @ m, rtol=1e-12, atol=1e-12 * float(m.abs().max()))
        assert (covariance.diagonal() >= 0).all()


# --- fixed points --------------------------------------------------------------------------------


@given(seeds, st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.9, 0.999, 1.5]), st.booleans())
def test_fixed_points_of_affine_maps(seed, n, radius, differentiable):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    A = torch.tensor(A * radius / abs(np.linalg.eigvals(A)).max())
    b = torch.tensor(rng.normal(size=n), requires_grad=True)
    expected = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - A, b.detach())

    def step(theta):
        return (A @ theta[0] + b.detach(),), -float((theta[0] - expected).norm())

    found = answered(F.iterate, step, (torch.zeros(n, dtype=DOUBLE),), tol=0.0, max_iter=200)
    inverse = answered(F.neumann, lambda v: v - A @ v, b.detach(), n_terms=2000)
    if radius < 0.99:
        assert torch.allclose(found.value[0], expected, atol=1e-6)
        assert torch.allclose(inverse, expected, atol=1e-6)
    solution = found._replace(value=(expected,)) if differentiable else found
    theta = answered(F.implicit, lambda t: (A @ t[0] + b,), (expected,), solution)
    if theta is not REFUSED and radius != 1.0:
        slope = answered(torch.autograd.grad, theta[0].sum(), b)
        if slope is not REFUSED:
            exact = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - A.mT, torch.ones(n).to(A))
            assert torch.allclose(slope[0], exact, rtol=1e-6, atol=1e-8)
