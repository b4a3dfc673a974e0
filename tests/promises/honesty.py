"""Whether stated errors are honest: hardly ever below the true ones, and seldom far above."""

import numpy as np

#: Share of the problems whose true error may exceed what is stated.
EXCEEDED = 0.01
#: Largest median of stated over true errors.
MOST_CAUTIOUS = 30


def assert_honest(stated, true, rounding):
    """Compare what answers say of their errors with the errors that a longer computation finds.

    Parameters
    ----------
    stated, true : array-like of shape (n_problems,)
        Stated and true errors, in one unit.
    rounding : float or array-like of shape (n_problems,)
        Errors of the reference: a true error below it is not known.
    """
    stated, true = np.asarray(stated, float), np.abs(np.asarray(true, float))
    assert np.isfinite(stated).all() and (stated >= 0).all()
    above = true > stated + rounding
    assert above.mean() <= EXCEEDED, (np.flatnonzero(above), stated[above], true[above])
    known = true > rounding
    if known.any():
        caution = float(np.median(stated[known] / true[known]))
        assert caution <= MOST_CAUTIOUS, caution
