"""Distances between mixtures: mixtures or fitted estimators in, numbers out."""

from skgmmot.estimators._base import as_mixture
from skgmmot.functional import mixture_ot
from skgmmot.functional.linalg import root


class MixtureWasserstein:
    """The mixture Wasserstein distance MW2, as a callable.

    ``MW2(mu0, mu1)^2 = min_P sum_kl P_kl W2(N(m_k, S_k), N(m_l, S_l))^2`` over the couplings ``P``
    of the weights. It is a distance: symmetric, zero only between equal mixtures, with the
    triangle inequality.

    Parameters
    ----------
    squared : bool, default=False
        Whether to return ``MW2^2``.

    See Also
    --------
    skgmmot.OTMap : The maps that belong to the plan.

    Notes
    -----
    A mixture is a fitted estimator of this package or of scikit-learn, or a tuple ``(weights,
    means, covariances)`` of arrays or tensors in scikit-learn's shapes. Two mixtures may have
    different numbers of components and covariance types. Distances between tensors are tensors,
    differentiable once in all parameters of both mixtures. Costs ``O(K L d^3)``; ``O(K L d)`` if
    both covariances are diagonal.

    References
    ----------
    .. [1] Delon and Desolneux 2020, definition and discrete formulation of MW2.

    Examples
    --------
    >>> from skgmmot import MixtureWasserstein
    >>> source = ([0.5, 0.5], [[0.0, 0.0], [4.0, 0.0]], [1.0, 1.0], "spherical")
    >>> target = ([1.0], [[2.0, 0.0]], [[4.0, 1.0]], "diag")
    >>> MixtureWasserstein(squared=True)(source, target)
    5.0
    """

    def __init__(self, squared=False):
        self.squared = squared

    def __call__(self, source, target):
        """Compute the distance between two mixtures.

        Parameters
        ----------
        source, target : fitted mixture estimator or tuple (weights, means, covariances)
            The mixtures. A fourth entry of a tuple names its covariance type where the shape of
            ``covariances`` fits two.

        Returns
        -------
        float or Tensor of shape ()
            The distance in units of the data, or its square; a tensor if a mixture holds tensors.

        Raises
        ------
        NotFittedError
            If an estimator is not fitted.
        TypeError
            If a mixture is neither an estimator nor a tuple.
        ValueError
            If the mixtures differ in dimension, or one is not a mixture.
        """
        plan, kind = self._plan(source, target)
        value = plan.cost if self.squared else root(plan.cost)
        return value if kind.is_tensor else float(value)

    def plan(self, source, target):
        """Compute the optimal coupling of the components of two mixtures.

        Parameters
        ----------
        source, target : fitted mixture estimator or tuple (weights, means, covariances)
            The mixtures, of K and L components.

        Returns
        -------
        array or Tensor of shape (K, L)
            The mass moved between components: rows sum to the source's weights, columns to the
            target's.

        Raises
        ------
        ValueError
            As calling it.
        """
        plan, kind = self._plan(source, target)
        return kind.restore(plan.coupling)

    def cost(self, source, target):
        """Compute the squared Wasserstein distances between the components of two mixtures.

        Parameters
        ----------
        source, target : fitted mixture estimator or tuple (weights, means, covariances)
            The mixtures, of K and L components.

        Returns
        -------
        array or Tensor of shape (K, L)
            ``W2(N(m_k, S_k), N(m_l, S_l))^2``.

        Raises
        ------
        ValueError
            As calling it.
        """
        source, target, kind = _pair(source, target)
        return kind.restore(mixture_ot.cost_matrix(source, target))

    def _plan(self, source, target):
        source, target, kind = _pair(source, target)
        return mixture_ot.transport_plan(source, target), kind


def _pair(source, target):
    """Two mixtures on one device, and the kind of array to answer in."""
    source, source_kind = as_mixture(source, "source")
    target, target_kind = as_mixture(target, "target")
    kind = source_kind if source_kind.is_tensor else target_kind
    return source.to(device=kind.device), target.to(device=kind.device), kind
