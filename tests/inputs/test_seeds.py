"""Seeds of quasi-random numbers from what scikit-learn calls ``random_state``."""

import numpy as np
import pytest

from skgmmot._inputs.seeds import seed_of
from skgmmot.metrics import sliced_wasserstein_distance

CLOUD = ([0.5, 0.5], [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], [1.0, 4.0], "spherical")
OTHER = ([1.0], [[3.0, 0.0, 1.0]], [2.0], "spherical")


def test_an_integer_is_its_own_seed():
    assert seed_of(3) == seed_of(np.int64(3)) == 3


def test_a_generator_draws_a_new_seed_each_time():
    first, second = (np.random.RandomState(0) for _ in range(2))
    drawn = [seed_of(first) for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert drawn == [seed_of(second) for _ in range(2)]


def test_none_draws_from_numpys_global_generator():
    assert len({seed_of(None) for _ in range(4)}) > 1


@pytest.mark.parametrize("given", ["zero", 0.5, -1])
def test_what_seeds_no_generator_is_refused(given):
    with pytest.raises(ValueError, match=r"[sS]eed"):
        sliced_wasserstein_distance(CLOUD, OTHER, random_state=given)


def test_a_generator_gives_a_metric_other_directions_at_every_call():
    rng = np.random.RandomState(0)
    values = [
        sliced_wasserstein_distance(CLOUD, OTHER, n_projections=5, random_state=rng)
        for _ in range(2)
    ]
    assert values[0] != values[1]
