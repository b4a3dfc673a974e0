"""What gradients of fits state of their errors is not below the true ones."""

import warnings

import numpy as np
import pytest
import torch
from promises.honesty import assert_honest
from promises.problems import generator, normal, random_mixture, random_samples

import skgmmot.functional as F
from skgmmot import DifferentiableGaussianMixture, StudentMixture
from skgmmot.gaussian.mixture import GaussianMixtureParams

TYPES = ["full", "tied", "diag", "spherical"]
#: Ways to differentiate; each problem has one.
WAYS = ["implicit", "one_step", "warm one_step", "warm implicit", "implicit"]
#: What the reference cannot tell, relative to the gradient: it is the change from the last step of
#: its Newton's method, and rounding.
ROUNDING = 1e-9


@pytest.fixture
def n_problems(request):
    """100 problems are the promise; few of them are tried by default."""
    return request.config.getoption("--examples")


def draw(seed):
    """Samples with or without weights, a start, and options: apart or overlapping, loose or not."""
    rng, of = np.random.default_rng(seed), generator(seed)
    K, d = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    name = TYPES[seed % 4]
    X = random_samples(int(rng.choice([60, 200])), K, d, of)
    X = X * float(rng.choice([1e-3, 1.0, 1e3])) if seed % 3 else X
    start = random_mixture(name, K, d, of)
    unit = float(X.std())
    spread = start.covariances / start.covariances.abs().max() * unit**2 * float(rng.choice([1, 4]))
    start = start._replace(means=X[:K].clone(), covariances=spread)
    a = normal(len(X), of=of).mul(0.5).exp() if rng.random() < 0.3 else None
    options = {
        "reg_covar": 1e-4 * unit**2,
        "fixed_weights": bool(rng.random() < 0.3),
        "tol": float(rng.choice([1e-2, 1e-3, 1e-5])),
        "gradient_tol": float(rng.choice([0.3, 1e-2, 1e-4, 1e-6])),
    }
    return X, a, start, options, of


def stated_and_true(seed):
    """The error that a gradient states, its true one, and the loss's cotangents."""
    X, a, start, options, of = draw(seed)
    way = WAYS[seed % len(WAYS)]
    warm, gradient = "warm" in way, way.split()[-1]
    if warm:  # a few steps of samples that move a little
        fit = F.WarmStart(start, gradient=gradient, max_iter=5, **options)
        step = 1e-2 * X.std() * normal(*X.shape, of=of)
        for _ in range(4):
            X = (X + step).detach().requires_grad_()
            theta = fit(X, a)
        solution = fit.solution
    else:
        X.requires_grad_()
        solution = F.fit_em(start, X, a, gradient=gradient, max_iter=100, **options)
        theta = solution.value
    unit = float(X.detach().std())
    v = [normal(*t.shape, of=of) / unit**p for t, p in zip(theta, (0, 1, 2), strict=True)]
    v[2] = v[2] + v[2].mT if theta.covariance_type.name in ("full", "tied") else v[2]
    loss = sum((t * u).sum() for t, u in zip(theta, v, strict=True))
    (found,) = torch.autograd.grad(loss, X)
    error = solution.adjoint.error
    right, conditioned = reference(solution.value.detach(), X, a, v, options)
    return error, float((found - right).norm() / right.norm()), conditioned


def reference(theta, X, a, v, options):
    """The gradient at the fixed point by dense algebra and autograd, and its condition."""
    X = X.detach()
    kept = {"reg_covar": options["reg_covar"], "fixed_weights": options["fixed_weights"]}
    to = {**kept, "tol": 1e-12, "max_iter": 0, "gradient_tol": 1e-12}
    for _ in range(2):
        theta = F.fit_em(theta, X.clone().requires_grad_(), a, **to).value.detach()
    sizes, name = [t.numel() for t in theta], theta.covariance_type
    unit = [torch.full((n,), float(X.std()) ** p) for n, p in zip(sizes, (0, 1, 2), strict=True)]
    unit = torch.cat(unit).to(X)

    def step(flat, X):
        parts = zip((unit * flat).split(sizes), theta, strict=True)
        mu = GaussianMixtureParams(*(part.reshape(t.shape) for part, t in parts), name)
        moved = F.em_step(mu, X, a, **kept)
        return torch.cat([t.flatten() for t in moved]) / unit

    flat = torch.cat([t.flatten() for t in theta]) / unit
    J = torch.autograd.functional.jacobian(lambda t: step(t, X), flat)
    if options["fixed_weights"]:  # constants
        J[: sizes[0], : sizes[0]] = 0
    A = torch.eye(len(J)).to(J) - J
    right = torch.cat([u.flatten() for u in v]) * unit
    u = torch.linalg.solve(A.mT, right)
    leaf = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(step(flat, leaf), leaf, u)
    return found, float(torch.linalg.cond(A))


def test_stated_errors_of_gradients_are_honest(n_problems):
    results = []
    for seed in range(n_problems):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(stated_and_true(seed))
    stated, true, condition = map(np.array, zip(*results, strict=True))
    sound = condition < 1e6  # where nothing determines a parameter, no gradient is the true one
    assert sound.mean() >= 0.9, condition
    assert_honest(stated[sound], true[sound], ROUNDING)


# --- other fits ----------------------------------------------------------------------------------

#: Other fits than plain EM: their options, beside those that all problems draw.
KINDS = {
    "sample weights": {},
    "classes": {"labels": "y"},
    "missing entries": {"missing_values": "nan"},
    "prior": {"prior": "auto"},
    "noise": {"noise": "uniform"},
    "low rank": {"covariance_type": "lowrank"},
    "Sinkhorn-EM": {"e_step": "sinkhorn"},
    "Student": {},
}
#: Where the reference is: the same fit, which goes on from its end until its gradient states this.
FURTHER = {"gradient": "implicit", "gradient_tol": 1e-9, "warm_start": True, "tol": 0.0}
#: What the reference may be off by.
KNOWN = 1e-8


def fitted(mixture, X, y, weights):
    """A fit of samples and weights that have gradients of their own, and which have."""
    leaves = [t.clone().requires_grad_() for t in (X, weights) if t is not None]
    labels = [] if y is None else [y]
    given = leaves[1] if weights is not None else None
    with warnings.catch_warnings(action="ignore"):
        mixture.fit(leaves[0], *labels, sample_weight=given)
    return mixture, leaves


def answers(mixture):
    """What of a fit is differentiable, and the power of the unit that it has."""
    of_student = isinstance(mixture, StudentMixture)
    names = ("locations_", "scales_") if of_student else ("means_", "covariances_")
    powers = {"weights_": 0, names[0]: 1, names[1]: 2, "noise_weight_": 0}
    return {name: p for name, p in powers.items() if hasattr(mixture, name)}


def random_loss(mixture, unit, of):
    """A linear function of what a fit finds."""
    directions = {}
    for name, power in answers(mixture).items():
        size = getattr(mixture, name).shape
        u = normal(1, *size, of=of)[0] / unit**power
        symmetric = len(size) > 1 and size[-1] == size[-2] and power == 2
        directions[name] = u + u.mT if symmetric else u
    return lambda fit: sum((getattr(fit, name) * u).sum() for name, u in directions.items())


def stated_and_true_of(kind, seed):
    """The error that the gradient of such a fit states, its true one, and that of the reference."""
    rng, of = np.random.default_rng(seed), generator(seed)
    K, d, n = int(rng.integers(2, 4)), int(rng.integers(2, 4)), int(rng.choice([60, 200]))
    d = 3 if kind == "low rank" else d  # in a plane, covariances have more numbers than they need
    X = random_samples(n, K, d, of) * float(rng.choice([1e-3, 1.0, 1e3]))
    y = weights = None
    unit = float(X.std())
    if kind == "sample weights":
        weights = normal(n, of=of).mul(0.5).exp()
    if kind == "missing entries":
        X = X.masked_fill(torch.rand(X.shape, generator=of) < 0.1, torch.nan)
    if kind == "classes":
        y = torch.randint(-1, K, (n,), generator=of).numpy()
        y[:K] = range(K)
    options = {
        "covariance_type": TYPES[seed % 4],
        "gradient": ["implicit", "implicit", "one_step"][seed % 3],
        "reg_covar": 1e-4 * unit**2,
        "tol": float(rng.choice([1e-2, 1e-3, 1e-5])),
        "gradient_tol": float(rng.choice([0.3, 1e-2, 1e-4, 1e-6])),
        "random_state": seed,
    }
    make = StudentMixture if kind == "Student" else DifferentiableGaussianMixture
    mixture, leaves = fitted(make(K, **options | KINDS[kind]), X, y, weights)
    loss = random_loss(mixture, unit, of)
    found = torch.autograd.grad(loss(mixture), leaves)
    stated = mixture.solution_.adjoint.error
    mixture, leaves = fitted(mixture.set_params(**FURTHER, max_iter=1), X, y, weights)
    right = torch.autograd.grad(loss(mixture), leaves)
    pairs = zip(found, right, strict=True)
    true = max(float((g - r).norm() / r.norm()) for g, r in pairs)
    return stated, true, mixture.solution_.adjoint.error


@pytest.mark.parametrize("kind", KINDS)
def test_stated_errors_of_gradients_of_other_fits_are_honest(kind, n_problems):
    n_problems = n_problems if n_problems > 10 else 4  # of each type, and both gradients
    results = [stated_and_true_of(kind, seed) for seed in range(n_problems)]
    stated, true, left = map(np.array, zip(*results, strict=True))
    sound = left < KNOWN / 2  # where nothing determines a parameter, no gradient is the true one
    assert sound.mean() >= 0.75, left
    assert_honest(stated[sound], true[sound], KNOWN)
