"""Fits to samples that come in blocks, against the same samples in memory."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting import stream

SHOWN = ["weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_", "n_iter_"]


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return 4 * rng.normal(size=(4, 3))[rng.integers(4, size=1500)] + rng.normal(size=(1500, 3))


@pytest.fixture(scope="module")
def a(X):
    a = np.random.default_rng(1).uniform(size=len(X))
    a[::5] = 0
    return a


def in_blocks(X, size, a=None):
    """A function that returns blocks of rows, with their weights if there are any."""

    def blocks():
        for i in range(0, len(X), size):
            rows = slice(i, i + size)
            yield X[rows] if a is None else (X[rows], a[rows])

    return blocks


def fitted(X, sample_weight=None, **parameters):
    mixture = DifferentiableGaussianMixture(4, **{"random_state": 0, "max_iter": 30, **parameters})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(X, sample_weight=sample_weight)


def assert_equal(first, second, tol=0.0):
    for name in SHOWN:
        one, other = np.asarray(getattr(first, name)), np.asarray(getattr(second, name))
        np.testing.assert_allclose(other, one, rtol=tol, atol=tol, err_msg=name)
    assert second.entropic_ot_gap_ == pytest.approx(first.entropic_ot_gap_, rel=0, abs=tol)


PARAMETERS = [
    {},
    {"covariance_type": "tied"},
    {"covariance_type": "diag"},
    {"covariance_type": "spherical"},
    {"init_params": "k-means++", "n_init": 3},
    {"init_params": "random"},
    {"init_params": "random_from_data"},
    {"init_params": "sinkhorn", "n_init": 2},
    {"e_step": "sinkhorn"},
    {"acceleration": "squarem"},
    {"fixed_weights": True, "weights_init": [0.1, 0.2, 0.3, 0.4]},
    {"means_init": np.arange(12.0).reshape(4, 3)},
    {"max_iter": 0},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: "-".join(map(str, p)) or "default")
def test_one_block_gives_the_bits_of_memory_and_many_its_numbers(X, a, parameters, weighted):
    a = a if weighted else None
    memory = fitted(X, a, **parameters)
    assert_equal(memory, fitted(in_blocks(X, len(X), a), **parameters))
    many = fitted(in_blocks(X, 190, a), **parameters)
    assert_equal(memory, many, 1e-10)
    assert_equal(many, fitted(in_blocks(X, 190, a), **parameters))


def test_float32_blocks_stay_float32(X):
    memory, blocks = fitted(X.astype("f4")), fitted(in_blocks(X.astype("f4"), 1500))
    assert blocks.means_.dtype == np.float32
    assert_equal(memory, blocks)
    assert_equal(memory, fitted(in_blocks(X.astype("f4"), 100)), 1e-4)


def test_a_warm_start_goes_on_from_the_last_fit(X):
    fits = []
    for samples in (X, in_blocks(X, 1500)):
        mixture = DifferentiableGaussianMixture(4, random_state=0, max_iter=2, warm_start=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits.append(mixture.fit(samples).fit(samples))
    assert_equal(*fits)


def test_verbose_prints_what_a_fit_in_memory_prints(X, capsys):
    fitted(X, verbose=1, verbose_interval=1)
    memory = capsys.readouterr().out
    fitted(in_blocks(X, 1500), verbose=1, verbose_interval=1)
    assert capsys.readouterr().out == memory
    assert "Iteration 2" in memory


@pytest.mark.parametrize("weighted", [False, True])
def test_beyond_the_limit_the_start_is_found_from_rows_whatever_the_blocks(
    X, a, weighted, monkeypatch
):
    monkeypatch.setattr(stream, "START_ROWS", 200)
    a = a if weighted else None
    first = fitted(in_blocks(X, 1500, a), max_iter=100)
    assert_equal(first, fitted(in_blocks(X, 33, a), max_iter=100), 1e-10)
    memory = fitted(X, a, max_iter=100)
    assert first.lower_bound_ == pytest.approx(memory.lower_bound_, abs=0.05)


def test_a_start_never_has_rows_of_weight_zero_only(X, monkeypatch):
    monkeypatch.setattr(stream, "START_ROWS", 50)
    a = np.zeros(len(X))
    a[[3, 700, 1400, 1401, 1402, 1403]] = 1.0
    found = fitted(in_blocks(X, 100, a), max_iter=1)
    assert np.isfinite(found.means_).all()
