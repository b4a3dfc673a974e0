"""Stated errors of semi-discrete transport, averages and quantisers are honest."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from promises.honesty import assert_honest
from promises.lines import (
    cost_error,
    image_problem,
    mass_error,
    mixture_problem,
    partial_normal,
)
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from skgmmot import (
    GridDensity,
    MixtureBarycenter,
    SemidiscreteGMM,
    WassersteinQuantizer,
    reduce,
    semidiscrete_distance,
)
from skgmmot.functional import (
    GaussianMixtureParams,
    bures_wasserstein_squared,
    fit_em,
    gaussian_barycenter,
    sample,
)
from skgmmot.metrics import mixture_wasserstein_distance, mixture_wasserstein_interval
from skgmmot.transport.semidiscrete.nodes import nodes_plan
from skgmmot.transport.semidiscrete.plan import exact_plan

DOUBLE = torch.float64
#: Rounding of references of 50 digits.
NONE = 1e-300


@pytest.fixture
def n_problems(pytestconfig):
    """The number of problems: four by default; those of the promise are 100."""
    examples = pytestconfig.getoption("--examples")
    return examples if examples > 10 else 4


PROBLEMS = [(mixture_problem, 2), (mixture_problem, 3), (image_problem, 2), (image_problem, 3)]


@pytest.mark.parametrize("tols", [(1e-8,), (1e-5, 1e-2)], ids=["default tol", "large tol"])
def test_errors_of_exact_plans(n_problems, tols):
    rng, found = np.random.default_rng(0), []
    for k in range(n_problems):
        make, d = PROBLEMS[k % 4]
        problem = make(rng, d, offset=rng.choice([0, 0, 1e3, 1e6]), unit=rng.choice([1e-5, 1, 1e4]))
        plan = exact_plan(*problem[:3], tol=rng.choice(tols))
        missed = mass_error(problem, plan.potentials)
        found.append((plan.error, cost_error(problem, plan.cost), plan.mass_error, missed))
    stated, true, stated_mass, true_mass = np.transpose(found)
    assert_honest(stated, true, NONE)
    assert_honest(stated_mass, true_mass, NONE)


def test_errors_of_plans_by_nodes(n_problems):
    """In one to ten dimensions; few nodes and many."""
    rng, found = np.random.default_rng(1), []
    for k in range(n_problems):
        problem = mixture_problem(rng, (2, 3, 5, 10)[k % 4], n_components=rng.integers(1, 5))
        plan = nodes_plan(*problem[:3], n_nodes=4 ** (2 + k % 5), random_state=k)
        found.append((plan.error, cost_error(problem, plan.cost)))
        assert plan.mass_error < 1e-12
    assert_honest(*np.transpose(found), NONE)


def cloud(rng, n):
    """An image and points with masses."""
    values = torch.tensor(rng.random((rng.integers(2, 9), rng.integers(2, 9))) ** 4)
    points, b = rng.normal(0.5, rng.choice([0.1, 1.0]), size=(n, 2)), rng.dirichlet(np.full(n, 2.0))
    return GridDensity(values, (0, 1, 0, 1), "lower"), torch.tensor(points), torch.tensor(b)


@pytest.mark.parametrize("options", [{}, {"mass": 0.3}], ids=["whole", "part"])
@pytest.mark.parametrize("periodic", [False, True])
def test_errors_of_images_solved_to_a_large_tolerance(n_problems, periodic, options):
    """Against the same problem solved to a small one."""
    rng, found = np.random.default_rng(2), []
    for _ in range(n_problems // 2):
        grid, points, b = cloud(rng, rng.integers(2, 20))
        grid = grid._replace(periodic=periodic)
        plan = exact_plan(grid, points, b, tol=10 ** rng.uniform(-5, -2), **options)
        better = exact_plan(grid, points, b, tol=1e-12, **options)
        found.append((plan.error, float(plan.cost - better.cost), better.error))
        masses = options.get("mass", 1) * b
        assert plan.mass_error >= float((plan.masses - masses).abs().sum()) > 0
        assert better.mass_error < 2e-12
    stated, true, rounding = np.transpose(found)
    assert_honest(stated, true, rounding)


def test_errors_of_parts_of_a_density(n_problems):
    """Discs that do not meet have closed forms, a normal density too."""
    rng, exact, nodes = np.random.default_rng(3), [], []
    for k in range(n_problems):
        n, share = int(rng.integers(1, 5)), rng.uniform(0.01, 0.2)
        points = torch.tensor([[i + 0.5, 0.5] for i in range(n)], dtype=DOUBLE)
        b = torch.tensor(rng.dirichlet(np.full(n, 20.0)))
        grid = GridDensity(torch.ones(1, n, dtype=DOUBLE), (0, n, 0, 1))
        plan = exact_plan(grid, points, b, mass=share)
        cost = math.fsum((share * b.numpy()) ** 2 * n / (2 * math.pi))  # discs of density 1 / n
        exact.append((plan.error, float(plan.cost) - cost))
        d = 1 + k % 4
        normal = GaussianMixtureParams(
            torch.ones(1, dtype=DOUBLE),
            torch.zeros(1, d, dtype=DOUBLE),
            torch.eye(d, dtype=DOUBLE)[None],
        )
        plan = nodes_plan(
            normal,
            torch.zeros(1, d, dtype=DOUBLE),
            torch.ones(1, dtype=DOUBLE),
            mass=share,
            random_state=k,
        )
        nodes.append((plan.error, float(plan.cost) - partial_normal(d, share)))
    assert_honest(*np.transpose(exact), 1e-17)
    assert_honest(*np.transpose(nodes), 1e-15)


def test_errors_of_distances(n_problems):
    """Roots and squares; distances without errors are the same."""
    rng, found = np.random.default_rng(4), []
    for k in range(n_problems):
        mixture, points, b, _ = problem = mixture_problem(rng, 2)
        options = {"integration": ("exact", "nodes")[k % 2], "n_nodes": 256}
        square, error_of_square = semidiscrete_distance(
            mixture, points, b, squared=True, return_error=True, **options
        )
        value, error = semidiscrete_distance(mixture, points, b, return_error=True, **options)
        assert value == square.sqrt() == semidiscrete_distance(mixture, points, b, **options)
        assert error_of_square >= error * float(value)
        true = float(square) - cost_error(problem, square)
        found.append((error, math.sqrt(max(true, 0.0)) - float(value)))
    assert_honest(*np.transpose(found), 1e-15)


def samples_of_two(rng):
    """Two mixtures of apart components, samples of both, and fits to these."""
    K, d = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    centres = 4 * rng.permutation(6)[:K, None] * np.ones((1, d)) / np.sqrt(d)
    mixtures, samples, fits = [], [], []
    for _ in range(2):
        A, weights = rng.normal(size=(K, d, d)), rng.dirichlet(np.full(K, 8.0))
        covariances = 0.4 * A @ A.transpose(0, 2, 1) / d + 0.3 * np.eye(d)
        means = centres + rng.normal(size=(K, d))
        mixture = GaussianMixtureParams(*map(torch.tensor, (weights, means, covariances)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        X, _ = sample(mixture, int(rng.choice([200, 400])), generator=generator)
        mixtures.append(mixture)
        samples.append(X)
        fits.append(fit_em(mixture, X, tol=1e-6, max_iter=500).value)
    return mixtures, samples, fits


def test_intervals_of_distances_between_fits_contain_the_true_ones(n_problems):
    """With the probability that is asked for, by both methods; the bound always holds.

    How often they do is only told by many.
    """
    rng, found, inside = np.random.default_rng(5), [], []
    for k in range(n_problems):
        mixtures, samples, fits = samples_of_two(rng)
        true = float(mixture_wasserstein_distance(*mixtures))
        options = {"method": ("resample", "parametric")[k % 2], "random_state": k}
        options["n_resamples"] = 60
        result = mixture_wasserstein_interval(*fits, *samples, level=0.99, **options)
        found.append((result.error, result.value - true, result.bound))
        if n_problems >= 50:
            narrow = mixture_wasserstein_interval(*fits, *samples, **options)
            inside.append(narrow.low <= true <= narrow.high)
    stated, error, bound = np.transpose(found)
    assert_honest(stated, error, NONE)
    assert (np.abs(error) < bound).all()
    assert not inside or 0.9 <= np.mean(inside) <= 0.99


def test_errors_of_barycentres(n_problems):
    """Three mixtures, whose exact barycentre is known; of two, the bound is attained."""
    rng, found = np.random.default_rng(6), []
    for k in range(n_problems):
        K, d, scale = int(rng.integers(1, 4)), int(rng.integers(1, 4)), (1e-5, 1.0, 1e4)[k % 3]
        mixtures = []
        for _ in range(3):
            A = rng.normal(size=(K, d, d))
            covariances = scale**2 * (A @ A.transpose(0, 2, 1) + 0.1 * np.eye(d))
            means = scale * 3 * rng.normal(size=(K, d)) + rng.choice([0, 1e3]) * scale
            mixtures.append((rng.dirichlet(np.full(K, 3.0)), means, covariances))
        exact = MixtureBarycenter(solver="exact").fit(mixtures)
        few = MixtureBarycenter(1 + k % 3, solver="fixed_point", n_init=1, random_state=k)
        few.fit(mixtures)
        # no mixture is better than the exact one, so that a fit of few is off by no less
        found.append((few.error_, few.objective_ - exact.objective_))
        assert 0 < exact.error_ <= 1e-10 * exact.objective_
        two = MixtureBarycenter(solver="exact").fit(mixtures[:2])
        assert 0 < two.error_ <= 1e-9 * two.objective_
    assert_honest(*np.transpose(found), NONE)


def least_on_a_line(x, a, K, equal):
    """The least cost of K points for samples on a line, by going through all their clusters."""
    order = np.argsort(x)
    x, a = x[order] - x.mean(), a[order]
    sums = (np.concatenate([[0.0], np.cumsum(t)]) for t in (a, a * x, a * x * x))
    n, (mass, moment, square) = np.arange(len(x) + 1), sums
    first, last = n[:, None], n
    if equal:
        first, last = n[:: len(x) // K][:-1], n[:: len(x) // K][1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = (
            square[last]
            - square[first]
            - (moment[last] - moment[first]) ** 2 / (mass[last] - mass[first])
        )
    if equal:
        return cost.sum()
    cost = np.where(last > first, cost, np.where(last == first, 0.0, np.inf))
    found = cost[0]
    for _ in range(K - 1):
        found = (found[:, None] + cost).min(0)
    return max(found[-1], 0.0)


def test_errors_of_quantisers(n_problems):
    """Samples on a line, whose best points are known; equal masses and free ones."""
    rng, found, distances = np.random.default_rng(7), [], []
    for k in range(n_problems):
        K = int(rng.integers(2, 7))
        n, scale = K * int(rng.integers(4, 20)), rng.choice([1e-5, 1.0, 1e4])
        apart = 10 * rng.integers(0, 3, n) + rng.normal(size=n)
        x = (rng.normal(size=n), rng.random(n), apart, rng.standard_t(3, size=n))[k % 4]
        x = scale * (x + rng.choice([0, 0, 1e3]))
        a = np.full(n, 1 / n) if k % 3 == 0 else rng.dirichlet(np.ones(n))
        masses = "uniform" if k % 3 == 0 else "free"
        options = {"max_iter": int(rng.choice([1, 3, 100])), "random_state": k, "certify": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            quantizer = WassersteinQuantizer(K, masses=masses, **options)
            quantizer.fit(x[:, None], sample_weight=a)
        least = math.sqrt(least_on_a_line(x, a, K, k % 3 == 0))
        y = np.sort(quantizer.cluster_centers_[:, 0])
        squares = (x[:, None] - y) ** 2
        plan = np.sort(x) - y.repeat(n // K)
        cost = (plan**2).mean() if k % 3 == 0 else a @ squares.min(1)
        found.append((quantizer.error_, quantizer.distance_ - least, 1e-11 * scale))
        distances.append((quantizer.distance_error_, quantizer.distance_ - math.sqrt(cost)))
    assert_honest(*np.transpose(found))
    assert_honest(*np.transpose(distances), [rounding for *_, rounding in found])


def cost_of_normal(y):
    """The cost of points for the standard normal distribution on a line."""
    ends = np.concatenate([[-np.inf], (y[1:] + y[:-1]) / 2, [np.inf]])
    mass, p = np.diff(norm.cdf(ends)), norm.pdf(ends)
    rest = np.diff(np.where(np.isfinite(ends), ends, 0.0) * p)
    return float((mass * (1 + y**2) - rest + 2 * y * np.diff(p)).sum())


def test_errors_of_quantisers_by_nodes(n_problems):
    """Of a normal distribution on a line, by few nodes and many."""
    rng, found = np.random.default_rng(8), []
    for k in range(n_problems):
        options = {"n_nodes": 4 ** (2 + k % 4), "masses": "free", "max_iter": 1000, "tol": 1e-6}
        quantizer = WassersteinQuantizer(
            int(rng.integers(1, 9)), random_state=k, certify=True, **options
        )
        quantizer.fit(([1.0], [[5.0]], [4.0], "spherical"))
        y = (np.sort(quantizer.cluster_centers_[:, 0]) - 5) / 2
        off = quantizer.distance_ - 2 * math.sqrt(cost_of_normal(y))
        found.append((quantizer.distance_error_, off))
    assert_honest(*np.transpose(found), 1e-14)


def groupings(M, K):
    """All ways to put M components into at most K groups."""
    return [(0, *rest) for rest in itertools.product(range(K), repeat=M - 1)]


def least_of_reductions(w, m, S, K):
    """The least squared distance of K components, by going through all groups."""
    w, m, S = map(torch.tensor, (w, m, S))
    costs = {0: 0.0}  # of each group, a number whose bits are its components
    for group in range(1, 2 ** len(w)):
        chosen = [i for i in range(len(w)) if group >> i & 1]
        share = w[chosen] / w[chosen].sum()
        mean, covariance = gaussian_barycenter(m[chosen], S[chosen], share)
        squares = bures_wasserstein_squared(mean[None], covariance[None], m[chosen], S[chosen])
        costs[group] = float(w[chosen] @ squares[0])
    bits = 2 ** np.arange(len(w))
    return min(
        sum(costs[int(bits @ (np.array(label) == k))] for k in range(K))
        for label in groupings(len(w), K)
    )


def test_errors_of_reductions(n_problems):
    """Few components of every covariance, from one start, against all ways to group them."""
    rng, found = np.random.default_rng(9), []
    for k in range(n_problems):
        M, d, K = 5 + k % 2, int(rng.integers(1, 4)), int(rng.integers(1, 4))
        scale, A = rng.choice([1e-5, 1.0, 1e4]), rng.normal(size=(M, d, rng.integers(1, 4)))
        w, m = rng.dirichlet(np.full(M, 3.0)), rng.choice([0.0, 1.0, 5.0]) * rng.normal(size=(M, d))
        S = A @ A.transpose(0, 2, 1) + rng.choice([1e-3, 0.3]) * np.eye(d)
        mixture = (w, scale * (m + 100 * (k % 5 == 0)), scale**2 * S)
        reduced, error = reduce(mixture, K, n_init=1, random_state=k, return_error=True)
        distance = float(mixture_wasserstein_distance(mixture, reduced))
        least = math.sqrt(least_of_reductions(*mixture, K))
        found.append((error, distance - least, 1e-7 * scale))
    assert_honest(*np.transpose(found))


def test_errors_of_fits_by_transport(n_problems):
    """Exact in the plane, against a plan to a small tolerance; a normal one on a line by nodes."""
    rng, found = np.random.default_rng(10), []
    for k in range(n_problems):
        scale, n, d = (1e-5, 1.0, 1e4)[k % 3], int(rng.integers(10, 60)), 1 + k % 2
        X = scale * (rng.normal(size=(n, d)) + 8 * rng.integers(0, 2, (n, 1)) * (k % 4 < 2))
        options = {"max_iter": int(rng.choice([0, 3, 50])), "n_nodes": 4 ** int(rng.integers(2, 5))}
        options |= {"reg_covar": 1e-3 * scale**2, "random_state": k, "certify": True}
        fit = SemidiscreteGMM(1 if d == 1 else 1 + k % 3, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit.fit(X)
        if d == 1:
            true = scale * math.sqrt(square_to_samples(fit, X / scale, scale))
        else:
            true = float(semidiscrete_distance(fit, X, integration="exact"))
        found.append((fit.error_, fit.distance_ - true, 1e-11 * scale))
    assert_honest(*np.transpose(found))


def square_to_samples(normal, x, scale):
    """The squared distance of a normal distribution to samples on a line: by quantiles."""
    x, n = np.sort(x[:, 0]) - normal.means_[0, 0] / scale, len(x)
    s = math.sqrt(normal.covariances_[0, 0, 0]) / scale
    density = norm.pdf(norm.ppf(np.linspace(0, 1, n + 1)))
    products = s * x @ (density[:-1] - density[1:])  # the mean of z between two quantiles
    return (x**2).mean() + s**2 - 2 * products


def test_errors_of_barycentres_of_gaussians(n_problems):
    """By few iterations and many, of any condition, against ten thousand iterations."""
    rng, found = np.random.default_rng(11), []
    for k in range(n_problems):
        J, d, scale = int(rng.integers(1, 6)), int(rng.integers(1, 5)), (1e-5, 1.0, 1e4)[k % 3]
        A = rng.normal(size=(J, d, d + 2 * (k % 2))) * scale
        S, weights = torch.tensor(A @ A.transpose(0, 2, 1)), torch.tensor(rng.dirichlet(np.ones(J)))
        means = torch.tensor(scale * rng.normal(size=(J, d)))
        max_iter = int(rng.choice([1, 2, 5, 500]))
        *near, error = gaussian_barycenter(means, S, weights, max_iter=max_iter, return_error=True)
        best = gaussian_barycenter(means, S, weights, tol=1e-14, max_iter=10_000)
        near, best = ([t.unsqueeze(0) for t in each] for each in (near, best))
        square, rounding = bures_wasserstein_squared(*near, *best), 1e-7 * scale
        found.append((float(error.distance), math.sqrt(max(float(square), 0.0)), rounding))
    assert_honest(*np.transpose(found))
