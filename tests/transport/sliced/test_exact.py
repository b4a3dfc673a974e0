"""Exact cells on lines: quantiles, and distances and derivatives against integration."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from torch.testing import assert_close

from skgmmot.transport.sliced.exact import COSTS, absolute, quantiles, squared
from skgmmot.transport.sliced.slices import Gradient, Slices, SortedSamples

F64 = torch.float64


def slices(weights, means, deviations):
    """Mixtures on lines, a line a row."""
    return Slices(*(torch.tensor(t, dtype=F64) for t in (weights, means, deviations)))


def samples(values, masses=None):
    """Samples on lines, with weights or without."""
    values = torch.tensor(values, dtype=F64)
    n = values.shape[1]
    masses = (
        torch.full((1, 1), 1 / n, dtype=F64) if masses is None else torch.tensor(masses, dtype=F64)
    )
    levels = masses.expand(len(masses), n).cumsum(1)[:, :-1]
    return SortedSamples(values, masses, levels)


LINES = slices([0.3, 0.2, 0.5], [[-2.0, 0.0, 1.0], [5.0, 5.2, -3.0]], [[0.3, 1.0, 0.6], [1, 2, 3]])
SAMPLES = {
    "equal": samples([[-2.0, 0.1, 0.1, 3.0], [-1.0, 1.0, 2.0, 4.0]]),
    "weighted": samples([[-2.0, 0.5, 3.0], [-1.0, 1.0, 2.0]], [[0.2, 0.7, 0.1]] * 2),
}


@pytest.fixture(params=SAMPLES)
def X(request):
    """Samples on two lines."""
    return SAMPLES[request.param]


def normal(l):
    """Weights of the components, and their distributions on a line."""
    return LINES.weights.numpy(), scipy.stats.norm(LINES.means[l], LINES.deviations[l])


def by_quad(l, X, p):
    """W_p^p on a line by SciPy: the quantiles solved for, the cells integrated one by one."""
    w, parts = normal(l)
    levels = X.levels[min(l, len(X.levels) - 1)].numpy()
    q = [scipy.optimize.brentq(lambda t, c=c: w @ parts.cdf(t) - c, -60, 60) for c in levels]
    edges, total = [-60.0, *q, 60.0], 0.0
    for left, right, y in zip(edges[:-1], edges[1:], X.values[l].tolist(), strict=True):
        inside = [t for t in (y, *LINES.means[l].tolist()) if left < t < right]
        total += scipy.integrate.quad(
            lambda t, y=y: abs(t - y) ** p * (w @ parts.pdf(t)),
            left,
            right,
            points=inside or None,
            epsabs=1e-12,
            limit=400,
        )[0]
    return total


def test_quantiles_have_the_levels_of_the_samples(X):
    table = quantiles(LINES, X)
    assert_close(table.levels, X.levels.expand_as(table.levels), rtol=0, atol=1e-15)
    for l in range(2):
        w, parts = normal(l)
        found = np.array([w @ parts.cdf(t) for t in table.points[l].tolist()])
        assert_close(torch.from_numpy(found), table.levels[l])


def test_quantiles_across_a_gap_are_in_it():
    apart = slices([0.5, 0.5], [[-50.0, 50.0]], [[1.0, 1.0]])
    (q,) = quantiles(apart, samples([[-1.0, 1.0]])).points.flatten().tolist()
    assert -45 < q < 45
    apart = slices([0.5, 0.5], [[-50.0, 50.0]], [[1.0, 1.0]])
    q = quantiles(apart, samples([[0.0, 0.0, 0.0]], [[0.25, 0.5, 0.25]])).points
    assert_close(q, torch.tensor([[-50.0, 50.0]], dtype=F64))


@pytest.mark.parametrize("p", COSTS)
def test_distances_are_those_of_numerical_integration(p, X):
    expected = torch.tensor([by_quad(l, X, p) for l in range(2)], dtype=F64)
    found, _ = COSTS[p](LINES, X)
    assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", COSTS)
def test_derivatives_are_those_of_finite_differences(p, X):
    *gradient, in_values = COSTS[p](LINES, X)[1](True)
    gradient = Gradient(*gradient)
    h = 1e-6

    def difference(change):
        up, down = (COSTS[p](*change(sign * h))[0] for sign in (1, -1))
        return (up - down) / (2 * h)

    for name in ("means", "deviations"):
        for k in range(3):
            step = torch.eye(3, dtype=F64)[k]
            found = difference(
                lambda h, n=name, s=step: (LINES._replace(**{n: getattr(LINES, n) + h * s}), X)
            )
            assert_close(getattr(gradient, name)[:, k], found, rtol=1e-7, atol=1e-7)
    for k in (1, 2):  # along the simplex
        step = torch.eye(3, dtype=F64)[k] - torch.eye(3, dtype=F64)[0]
        found = difference(lambda h, s=step: (LINES._replace(weights=LINES.weights + h * s), X))
        of_weights = gradient.weights[:, k] - gradient.weights[:, 0]
        assert_close(of_weights, found, rtol=1e-7, atol=1e-7)
    assert_close(gradient.weights @ LINES.weights, torch.zeros(2, dtype=F64), rtol=0, atol=1e-13)
    for i in range(X.values.shape[1]):
        step = torch.eye(X.values.shape[1], dtype=F64)[i]
        found = difference(lambda h, s=step: (LINES, X._replace(values=X.values + h * s)))
        assert_close(in_values[:, i], found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cost", [absolute, squared])
def test_derivatives_in_the_samples_are_made_if_asked_for(cost, X):
    _, gradient = cost(LINES, X)
    assert len(gradient(False)) == 3
    assert gradient(True)[3].shape == X.values.shape
