"""What fits and gradients state of their errors is not below the true ones."""

import math
import warnings

import numpy as np
import pytest
import torch
from promises.honesty import assert_honest

from skgmmot import DifferentiableGaussianMixture, StudentMixture
from skgmmot.fitting.em import fit
from skgmmot.numerics.newton.certify import FLAT
from skgmmot.numerics.newton.polish import polish

#: Ways to fit: each problem has one, beside its covariance type, tolerance and acceleration.
OPTIONS = [
    *({} for _ in range(6)),
    {"acceleration": "newton"},
    {"prior": "auto"},
    {"noise": "uniform"},
    {"missing_values": "nan"},
    {"labels": "y"},
    {"fixed_weights": True},
    {"fixed_means": [True], "means_init": [0.0]},
    {"e_step": "sinkhorn"},
    {"covariance_type": "lowrank"},
    {"student": True},
    {"n_init": 3, "init_params": "random_from_data"},
    {"weighted": True},
    {"stream": True},
]


@pytest.fixture
def n_problems(request):
    """100 problems are the promise; few of them, and smaller, are tried by default."""
    return request.config.getoption("--examples")


def draw_samples(rng, largest):
    """Samples of easy and hard mixtures, in any units, and how many components to fit."""
    n, d = int(10 ** rng.uniform(math.log10(50), math.log10(largest))), int(rng.integers(1, 5))
    K = int(rng.integers(1, 5))
    centres = rng.choice([0.3, 1.0, 2.0, 5.0]) * rng.normal(size=(K, d))
    shapes = rng.normal(size=(K, d, d)) / math.sqrt(d) + np.eye(d)
    if rng.random() < 0.2:
        shapes[0] *= 1e-2  # a narrow component
    labels = rng.integers(K, size=n)
    X = centres[labels] + np.einsum("nij,nj->ni", shapes[labels], rng.normal(size=(n, d)))
    scale, offset = 10.0 ** rng.uniform(-3, 3), 1e3 if rng.random() < 0.2 else 0.0
    K += int(rng.integers(1, 4)) if rng.random() < 0.3 else 0  # more than there are
    return scale * (X + offset), labels, max(1, min(K, n // (5 * d + 5))), scale


def fit_one(seed, largest, **options):
    """A fit of a random problem."""
    rng = np.random.default_rng(seed)
    X, labels, K, scale = draw_samples(rng, largest)
    d = X.shape[1]
    options = {
        "covariance_type": str(rng.choice(["full", "tied", "diag", "spherical"])),
        "tol": float(rng.choice([1e-3, 1e-3, 1e-5, 1e-8])),
        "acceleration": None if rng.random() < 0.6 else "squarem",
        "max_iter": 1000,
        "random_state": seed,
        "reg_covar": 1e-6 * scale**2,
        **OPTIONS[seed % len(OPTIONS)],
        **options,
    }
    y, weights = None, None
    if options.pop("weighted", False):
        weights = rng.random(len(X))
    if options.get("labels") == "y":
        K = max(K, labels.max() + 1)
        y = np.where(rng.random(len(X)) < 0.1, labels, -1)
        options["components_of_class"] = {k: [k] for k in range(labels.max() + 1)}
        y[: labels.max() + 1] = range(labels.max() + 1)
    if options.get("missing_values") == "nan":
        X[rng.random(X.shape) < 0.1] = np.nan
    if "means_init" in options:
        options["means_init"] = X[rng.choice(len(X), K, replace=False)]
        options["fixed_means"] = np.arange(K) == 0
    kind, samples = DifferentiableGaussianMixture, X
    if options.get("covariance_type") == "lowrank":
        options["rank"] = 1
        if d < 3:
            options["covariance_type"] = "full"
        options["acceleration"] = None
    if options.get("e_step") == "sinkhorn":
        options["acceleration"] = None
    if options.pop("student", False):
        kind = StudentMixture
    if options.pop("stream", False):
        half = len(X) // 2
        samples = lambda: iter([X[:half], X[half:]])  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = (samples,) if kind is StudentMixture else (samples, y)
        return kind(K, **options).fit(*args, sample_weight=weights)


def true_errors(step, solution):
    """How far a fit is from its fixed point and what it has to gain, and how well they are known.

    Newton's method goes on to rounding. Directions in which nothing is determined do not count.
    """
    start, advance = step.linearise(solution.value.detach()), step.advance
    found = polish(step.linearise, start.theta, advance=advance, tol=1e-13, max_passes=5000)
    there = step.linearise(found.theta)
    J = there.matrix()
    shares, directions = torch.linalg.eigh(torch.eye(len(J)) - (J + J.mT) / 2)
    known = directions[:, shares > FLAT]
    distance = float((start.change_to(found.theta) @ known).norm())
    gain = abs(there.objective - solution.objective)
    rounding = 1e-10 + min(found.distance, float(there.residual.norm()) / FLAT)
    return distance, gain, rounding, 1e-12 * (1 + abs(there.objective))


def test_stated_errors_of_fits_are_honest(n_problems, monkeypatch):
    seen, certified = [], fit.certified

    def noted(step, solution, max_passes):
        seen.append((step, solution))
        return certified(step, solution, max_passes)

    monkeypatch.setattr(fit, "certified", noted)
    stated, true = [], []
    for seed in range(n_problems):
        mixture = fit_one(seed, 10**4 if n_problems >= 100 else 300, certify=True)
        stated.append((mixture.error_, mixture.solution_.gain))
        true.append(true_errors(*seen.pop()))
        assert mixture.error_ == mixture.solution_.distance
    distance, gain, of_distance, of_gain = map(np.array, zip(*true, strict=True))
    stated_distance, stated_gain = map(np.array, zip(*stated, strict=True))
    assert_honest(stated_distance, distance, of_distance)
    assert_honest(stated_gain, gain, of_gain)
