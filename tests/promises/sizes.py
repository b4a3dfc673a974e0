"""Sizes from which other algorithms and several blocks are used, made small for few samples."""

import importlib
from contextlib import contextmanager

import pytest

from skgmmot.gaussian.covariance import matrices

#: Module, constant and small value.
SMALL = {
    "estimators.mixtures._em_fit": {"SMALL": 0},
    "estimators.starts.assignments": {"BLOCK": 16, "HELD_AT_ONCE": 0},
    "fitting.em.gradient.gram": {"MAX_GRAM_SIZE": 8},
    "fitting.kmeans": {"MIN_ROWS": 8},
    "fitting.quantization": {"BLOCK_SIZE": 64},
    "gaussian.bures.decomposition": {"BLOCK_SIZE": 32},
    "gaussian.bures.low_rank": {"NODES_AT_ONCE": 64},
    "gaussian.choice": {"MIN_PRODUCT_DENSITIES": 0},
    "gaussian.covariance.matrices": {"MIN_STRIPPED_FEATURES": 2},
    "gaussian.evaluators": {"MIN_PRODUCT_ROWS": 1},
    "gaussian.incomplete.e_steps": {"HELD": 64},
    "gaussian.incomplete.precisions": {"HELD": 64},
    "gaussian.local": {"CELL_SIZE": 4},
    "numerics.newton.linearisation": {"SMALL": 0},
    "transport.discrete.column_generation": {
        "MIN_COSTS": 4,
        "MIN_COSTS_ALONE": 4,
        "BLOCK_SIZE": 16,
    },
    "transport.mixtures.distance": {"MIN_BOUNDED_SIZE": 1},
    "transport.mixtures.pairwise": {"MIN_BOUNDED_SIZE": 1},
    "transport.sliced.distance": {"BLOCK_SIZE": 2**12},
    "transport.sliced.quadrature": {"CACHE_SIZE": 256},
}


@contextmanager
def small():
    """Set all of them for the time of a block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for path, constants in SMALL.items():
            module = importlib.import_module(f"skgmmot.{path}")
            for name, value in constants.items():
                monkeypatch.setattr(module, name, value)
        matrices._strips.cache_clear()
        yield
    matrices._strips.cache_clear()
