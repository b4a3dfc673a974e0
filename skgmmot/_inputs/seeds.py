"""Seeds of quasi-random numbers from what scikit-learn calls ``random_state``."""

from numbers import Integral

from sklearn.utils import check_random_state


def seed_of(random_state) -> int:
    """The integer itself, or one drawn from a generator; None draws from NumPy's global one."""
    rng = check_random_state(random_state)  # refuses what is none of the three
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(rng.randint(2**31 - 1))
