"""Sliced distances between mixtures by their components: MSW, a plan between these, and DSMW."""

from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.discrete.solvers import exact as exact_transport
from skgmmot.transport.sliced.slices import Slices, slices_of_both


def mixture_sliced_plan(
    source: GaussianMixtureParams, target: GaussianMixtureParams, theta: Tensor
) -> Plan:
    r"""Return the plan of MSW^2: optimal transport of components at costs of sliced distances.

    .. math::

        MSW^2 = \min_P \sum_{kl} P_{kl} SW_2^2(g_k, g_l), \qquad
        SW_2^2(g_k, g_l) = \operatorname{mean}_\theta \bigl(\langle\theta, m_k - m_l\rangle^2
            + (s_k(\theta) - s_l(\theta))^2\bigr)

    over couplings ``P`` of the weights.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components in d dimensions.
    theta : Tensor of shape (m, d)
        Directions, of unit length.

    Returns
    -------
    Plan
        ``coupling (K, L)``, potentials, and ``cost``, differentiable in both mixtures.

    Notes
    -----
    Costs ``O(m (K + L) d^2 + m K L)``, without matrix square roots. ``MSW <= MW2``.

    References
    ----------
    .. [1] Piening and Beinert 2025, mixture sliced Wasserstein (MSW).
    """
    lines = slices_of_both(source, target, theta, 0.0)
    return exact_transport(*(side.weights for side in lines), _costs_on_lines(*lines).mean(0))


def _costs_on_lines(source: Slices, target: Slices) -> Tensor:
    """Squared distances ``(m, K, L)`` between components on each line."""
    pairs = zip(source[1:], target[1:], strict=True)
    return sum((one.unsqueeze(2) - other.unsqueeze(1)).square() for one, other in pairs)


def mixture_sliced_lines(
    source: GaussianMixtureParams, target: GaussianMixtureParams, theta: Tensor, coupling: Tensor
) -> Tensor:
    """Return the cost of a plan between components on each line; the mean of the best is MSW^2.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components.
    theta : Tensor of shape (m, d)
        Directions, of unit length.
    coupling : Tensor of shape (K, L)
        The plan.

    Returns
    -------
    Tensor of shape (m,)
        The costs.
    """
    lines = slices_of_both(source, target, theta, 0.0)
    return (_costs_on_lines(*lines) * coupling).sum((1, 2))


def double_sliced_lines(
    source: GaussianMixtureParams, target: GaussianMixtureParams, theta: Tensor, phi: Tensor
) -> Tensor:
    """Return the terms of DSMW^2, a distance between mixtures that slices their components twice.

    The projection of component k on ``theta`` is the point ``(<theta, m_k>, s_k(theta))`` of the
    half plane, where the Euclidean distance is the Wasserstein distance between Gaussians. Slicing
    along ``phi`` turns these points into weighted numbers, for which transport is solved by
    sorting: ``DSMW^2 = mean W2^2(theta, phi)``.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components in d dimensions.
    theta : Tensor of shape (m, d)
        Directions, of unit length.
    phi : Tensor of shape (m, 2)
        Directions in the half plane, one for each, of unit length.

    Returns
    -------
    Tensor of shape (m,)
        The terms, whose mean is the squared distance; differentiable in the means and covariances
        of both.

    Notes
    -----
    Costs ``O(m (K + L) d^2 + m (K + L) log(K + L))``, without a discrete transport problem.

    References
    ----------
    .. [1] Piening and Beinert 2025, double sliced mixture Wasserstein (DSMW).
    """
    import ot  # only here, since it takes longer to import than this package

    sides = slices_of_both(source, target, theta, 0.0)
    phi = phi.to(sides[0].means)
    points = [(side.means * phi[:, :1] + side.deviations * phi[:, 1:]).mT for side in sides]
    return ot.wasserstein_1d(*points, sides[0].weights, sides[1].weights, p=2)
