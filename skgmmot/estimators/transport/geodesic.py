"""Interpolation between two mixtures along the MW2 geodesic."""

from numbers import Real

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_pair
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.mixtures import distance


@single_threaded_torch()
def interpolate(source, target, t):
    r"""Return the mixture at time ``t`` on the MW2 geodesic between two, as a fitted estimator.

    .. math::

        \mu_t = \sum_{kl} P_{kl} \, N\bigl((1 - t) m_k + t m_l, \; A_t S_k A_t\bigr),
        \qquad A_t = (1 - t) I + t A_{kl}

    with the optimal plan :math:`P` and the optimal linear maps :math:`A_{kl}` from component k to
    l, so that ``MW2(mu_s, mu_t) = |t - s| MW2(mu_0, mu_1)``.

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures, of K and L components. A fourth entry of a tuple names its covariance type.
    t : float
        Time, from 0 at the source to 1 at the target.

    Returns
    -------
    DifferentiableGaussianMixture
        The mixture as an estimator that was never fitted to samples, ready to `sample`,
        `score_samples`, `predict`, draw and compare. At most ``K + L - 1`` components, in the same
        order at every ``t``; covariances are diagonal, spherical or tied if both mixtures' are,
        else full. Constants; tensors if a mixture requires a gradient or is not on the CPU.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a mixture is neither an estimator nor a tuple, or ``t`` is not a number.
    ValueError
        If ``t`` is not in [0, 1], the mixtures differ in dimension, or one is not a mixture.

    See Also
    --------
    skgmmot.MixtureWasserstein : The distance whose geodesics these are.
    skgmmot.OTMap : Moves samples to the end of it.

    Notes
    -----
    Covariances may be singular: such a mixture can be drawn, sampled and compared, but has no
    density.

    References
    ----------
    .. [1] Delon and Desolneux 2020, geodesics between mixtures.

    Examples
    --------
    >>> from skgmmot import interpolate
    >>> source = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    >>> target = ([0.5, 0.5], [[4.0, -4.0], [4.0, 4.0]], [9.0, 4.0], "spherical")
    >>> middle = interpolate(source, target, 0.5)
    >>> middle.means_
    array([[ 2., -2.],
           [ 2.,  2.]])
    >>> middle.covariances_
    array([4.  , 2.25])
    """
    if not isinstance(t, Real) or isinstance(t, bool):
        raise TypeError(f"t must be a number, got {type(t).__name__}. Interpolate one time a call.")
    if not 0 <= t <= 1:
        raise ValueError(
            f"t must be from 0 to 1, got {t}. Beyond its ends a geodesic need not go on."
        )
    source, target, kind = as_pair(source, target)
    return known_mixture(distance.interpolate(source, target, float(t)), arrays.answer_kind(kind))


def known_mixture(params, kind):
    """An estimator whose parameters are set to those of a given mixture."""
    return DifferentiableGaussianMixture._known(params, kind)
