"""Results do not depend on how the work is shared: threads, blocks, devices and places of samples.

Blocks are made small here, so that few samples make many of them.
"""

import functools
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import torch
from models import numbers
from simulated_device import NAME, simulated_device

import skgmmot
from skgmmot import metrics
from skgmmot.numerics import blocks

#: Largest difference from blocks of another size, and from another device, in units of the results.
BLOCKS, DEVICES = 1e-10, 1e-8
#: Numbers in a block.
SIZES = 2**11, 2**14, 2**18


def clouds(n=1000, d=3):
    """Samples of three clouds that overlap."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) + 2 * rng.normal(size=(3, d))[rng.integers(0, 3, n)]


def mixture(X, **parameters):
    """A fitted mixture of three components."""
    options = {"random_state": 0, "max_iter": 5, "tol": 0.0} | parameters
    return skgmmot.DifferentiableGaussianMixture(3, **options).fit(X)


def with_holes(X):
    """The samples with a tenth of their entries missing."""
    holes = torch.from_numpy(np.random.default_rng(1).random(X.shape) < 0.1)
    return torch.where(holes.to(X.device), torch.nan, X)


def predictions(X):
    """What a mixture says of samples."""
    fitted = mixture(X)
    return [fitted.predict_proba(X), fitted.score_samples(X), fitted.predict(X)]


def gradient(X, **parameters):
    """The gradient of a fit in its samples."""
    X = X.clone().requires_grad_()
    fitted = mixture(X, max_iter=300, tol=1e-4, **parameters)
    (fitted.means_.square().sum() + fitted.weights_.square().sum()).backward()
    return [X.grad]


def start(name, X):
    """A start alone."""
    return mixture(X, max_iter=0, init_params=name)


def other_fit(make, X):
    """The fit of another estimator."""
    return make.fit(X)


def distances(X):
    """Distances between mixtures, and between samples."""
    ends = mixture(X[::2], max_iter=3), mixture(X[1::2] + 1, max_iter=3, covariance_type="diag")
    return [
        metrics.mixture_wasserstein_distance(*ends),
        metrics.pairwise_mixture_wasserstein(ends),
        metrics.sliced_mixture_wasserstein(*ends),
        metrics.sliced_wasserstein_distance(ends[0], X),
        metrics.sliced_wasserstein_distance(*ends),
        metrics.frechet_distance(X[::2], X[1::2]),
    ]


def mapped(X):
    """Samples moved to those of another mixture."""
    ends = mixture(X[::2], max_iter=3), mixture(X[1::2] + 1, max_iter=3)
    return [skgmmot.ot_map(*ends).transform(X)]


#: A short fit by the sliced distance: few lines, few steps, and a start that takes no time.
FEW = {"max_iter": 1, "n_projections": 4, "init_params": "random_from_data"}
WORK = {
    **{
        f"fit {name}": functools.partial(mixture, covariance_type=name)
        for name in ("full", "tied", "diag", "spherical", "lowrank")
    },
    **{f"start {name}": functools.partial(start, name) for name in ("kmeans", "sinkhorn")},
    "fit sinkhorn": functools.partial(mixture, e_step="sinkhorn"),
    "fit newton": functools.partial(mixture, acceleration="newton"),
    "fit squarem": functools.partial(mixture, acceleration="squarem"),
    "fit noise": functools.partial(mixture, noise="uniform"),
    "fit missing": lambda X: mixture(with_holes(X), missing_values="nan"),
    "fit student": functools.partial(
        other_fit, skgmmot.StudentMixture(2, random_state=0, max_iter=3, tol=0.0)
    ),
    "fit sliced": lambda X: skgmmot.SlicedWassersteinGMM(2, random_state=0, **FEW).fit(X[:99]),
    "predictions": predictions,
    "gradient": gradient,
    "gradient one step": functools.partial(gradient, gradient="one_step"),
    "distances": distances,
    "map": mapped,
}


def results(work, X):
    """The numbers of some work, without its warnings that a few iterations do not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return numbers(WORK[work](X))


@pytest.fixture
def block_size(monkeypatch):
    """Sets the numbers in a block."""
    return lambda size: monkeypatch.setitem(blocks.BLOCK_SIZE, "cpu", size)


@pytest.fixture
def n_threads():
    """Sets the threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def assert_same_bits(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_near(found, expected, tol):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, np.nanmax(np.abs(other), initial=0.0))
        np.testing.assert_allclose(one, other, rtol=tol, atol=tol * scale)


@pytest.mark.parametrize("work", WORK)
def test_threads_give_the_same_bits_and_blocks_the_same_numbers(work, block_size, n_threads):
    X = torch.from_numpy(clouds())
    block_size(SIZES[0])
    n_threads(1)
    expected = results(work, X)
    for n in (2, 4):
        n_threads(n)
        assert_same_bits(results(work, X), expected)
    for size in SIZES[1:]:
        block_size(size)
        assert_near(results(work, X), expected, BLOCKS)


#: The others are in tests/test_devices.py.
ON_DEVICES = ["fit full", "start kmeans", "predictions", "gradient", "distances", "map"]


@pytest.mark.parametrize("work", ON_DEVICES)
def test_devices_give_the_same_numbers(work):
    X = torch.from_numpy(clouds(200))
    expected = results(work, X)
    with simulated_device():
        found = results(work, X.to(NAME))
    assert_near(found, expected, DEVICES)


PLACES = {
    "memory": lambda X: X,
    "stream": lambda X: lambda: iter(np.array_split(X, 7)),
    "dask": lambda X: da.from_array(X, chunks=(500, -1)),
}


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("place", PLACES)
def test_places_of_samples_give_the_same_bits_for_any_threads(place, block_size, n_threads):
    X = clouds()
    means_init, found = X[:3], []
    block_size(SIZES[0])
    for n in (1, 2, 4):
        n_threads(n)
        with dask.config.set(scheduler="threads", num_workers=n):
            found.append(numbers(mixture(PLACES[place](X), means_init=means_init)))
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("place", ["stream", "dask"])
def test_places_of_samples_give_the_same_numbers(place):
    X = clouds()
    start = {
        "weights_init": np.full(3, 1 / 3),
        "means_init": X[:3],
        "precisions_init": np.ones((3, 3)),
    }
    expected = mixture(X, covariance_type="diag", **start)
    found = mixture(PLACES[place](X), covariance_type="diag", **start)
    for name in ("weights_", "means_", "covariances_"):
        assert_near(numbers(getattr(found, name)), numbers(getattr(expected, name)), BLOCKS)
