"""Fixtures: seeds, small data sets, random mixtures, and the kinds of array that users hand in."""

import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker is one of as many as there are cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import ot  # noqa: F401 - compiled here, if need be: that warns, which some tests make an error
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, settings

from skgmmot.gaussian.mixture import GaussianMixtureParams

#: Generated inputs of a property by default: few, and the same each time.
EXAMPLES = 10

#: Other random numbers by seed, and for seed 0 those that a fixture has without one.
PER_SEED = 100_000


def pytest_addoption(parser):
    """How much is drawn at random."""
    of = parser.getgroup("skgmmot")
    of.addoption("--examples", type=int, default=EXAMPLES, help="generated inputs of a property")
    of.addoption("--seeds", type=int, default=1, help="seeds of a statistical test")


def pytest_configure(config):
    """Tell hypothesis how many inputs to generate; more than a few are other ones each time."""
    n = config.getoption("--examples")
    settings.register_profile(
        "skgmmot",
        max_examples=n,
        derandomize=n == EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("skgmmot")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Leave the million objects of modules and tests out of all later collections of garbage."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


def pytest_generate_tests(metafunc):
    """Run tests with a fixture ``random_seed``, those of what is random, once for each seed."""
    if "random_seed" in metafunc.fixturenames:
        metafunc.parametrize("random_seed", range(metafunc.config.getoption("--seeds")))


@pytest.fixture
def seed_of_test(request):
    """The ``random_seed`` of a test that has one; else 0."""
    parameters = getattr(request.node, "callspec", None)
    return parameters.params.get("random_seed", 0) if parameters else 0


@pytest.fixture
def rng(seed_of_test):
    """A generator, the same for every test, or for every test of a ``random_seed``."""
    return np.random.default_rng(seed_of_test)


@pytest.fixture(autouse=True)
def torch_seed(seed_of_test):
    """Seed torch before each test."""
    # torch.manual_seed keeps a trace of the stack, for accelerators that begin later, at each call
    torch.default_generator.manual_seed(seed_of_test)


@pytest.fixture
def blobs(rng):
    """Four overlapping clouds of 150 samples in three dimensions."""
    centres = 3 * rng.normal(size=(4, 3))
    return np.vstack([c + rng.normal(size=(150, 3)) @ rng.normal(size=(3, 3)) for c in centres])


ARRAY_KINDS = {
    "list": np.ndarray.tolist,
    "numpy": np.asarray,
    "fortran": np.asfortranarray,
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "pandas": lambda X: pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]),
    "torch": torch.tensor,
}


@pytest.fixture(params=ARRAY_KINDS)
def array_kind(request):
    """A function from a float64 numpy array to one kind of array."""
    return ARRAY_KINDS[request.param]


COVARIANCE_TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(params=COVARIANCE_TYPES)
def covariance_type(request):
    """Each of the four names."""
    return request.param


def _normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def make_samples(seed_of_test):
    """Standard normal samples ``(n, d)``."""
    return lambda n, d, seed=0: _normal(n, d, seed=seed + PER_SEED * seed_of_test)


@pytest.fixture
def make_covariances(seed_of_test):
    """Well-conditioned covariances ``(K, d, d)``."""

    def make(K, d, seed=0):
        B = _normal(K, d, d, seed=seed + PER_SEED * seed_of_test)
        return B @ B.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)

    return make


@pytest.fixture
def make_mixture(make_covariances, make_samples):
    """A mixture of a covariance type, given by its name."""

    def make(name, K, d, seed=0, spread=2.0):
        weights = make_samples(1, K, seed=seed + 1000)[0].mul(0.5).softmax(0)
        means = spread * make_samples(K, d, seed=seed + 2000)
        full = make_covariances(K, d, seed=seed + 3000)
        variances = full.diagonal(dim1=-2, dim2=-1)
        storage = {
            "full": full,
            "tied": full[:1],
            "diag": variances,
            "spherical": variances.mean(-1, keepdim=True),
            "lowrank": torch.stack([0.5 * make_samples(K, d, seed=seed + 4000), variances / 2], -1),
        }
        given = name if name == "lowrank" else None  # the others are found by their shapes
        return GaussianMixtureParams(weights, means, storage[name].clone(), given)

    return make


@pytest.fixture
def rank_deficient():
    """A covariance of rank lower than its size, by name."""

    def make(kind):
        generator = torch.Generator().manual_seed(5)
        if kind == "diagonal":
            return torch.diag(torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64))
        if kind == "zero":
            return torch.zeros(3, 3, dtype=torch.float64)
        B = torch.randn(3, 1 if kind == "line" else 2, dtype=torch.float64, generator=generator)
        return B @ B.mT

    return make


@pytest.fixture
def pseudo_map():
    """The optimal map by eigenvalues, with pseudo-inverses."""

    def make(source, target):
        values, vectors = np.linalg.eigh(source.numpy())
        kept = values > 1e-8
        roots = np.sqrt(values[kept])
        V = vectors[:, kept]
        root, inverse = (V * roots) @ V.T, (V / roots) @ V.T
        values, vectors = np.linalg.eigh(root @ target.numpy() @ root)
        middle = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        return torch.from_numpy(inverse @ middle @ inverse)

    return make


@pytest.fixture
def labelled(rng):
    """Two classes, of two clouds each, and the same moved and stretched."""
    centres = 6 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    X = np.repeat(centres, 100, axis=0) + rng.normal(size=(400, 2))
    y = np.array(["even", "odd", "odd", "even"]).repeat(100)
    order = rng.permutation(400)
    X, y = X[order], y[order]
    return X, y, X @ np.diag([1.5, 0.7]) + [3.0, -2.0]
