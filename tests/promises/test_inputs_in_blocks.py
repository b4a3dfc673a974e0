"""Inputs of estimators once more, where few samples take the ways of many and of wide ones."""

import pytest
from promises.sizes import small
from promises.test_inputs_of_estimators import (  # noqa: F401
    test_derivatives_of_fits,
    test_gaussian_mixtures,
    test_gaussian_mixtures_by_blocks,
    test_imputers,
    test_quantisers,
    test_regressors,
    test_searches,
    test_semidiscrete_fits,
    test_sliced_fits,
    test_student_mixtures,
)


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Sizes from which other algorithms are used are small."""
    with small():
        yield
