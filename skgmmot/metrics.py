"""Distances between mixtures: mixtures or fitted estimators in, numbers out."""

from numbers import Integral

from skgmmot import _arrays
from skgmmot.estimators._base import as_density, as_mixture
from skgmmot.functional import mixture_ot
from skgmmot.functional.linalg import root
from skgmmot.functional.semidiscrete import GridDensity, exact_plan, nodes_plan


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
        squared = plan.cost
        value = squared if self.squared else root(squared)
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


def semidiscrete_distance(
    density, points, weights=None, *, squared=False, method="auto", n_nodes=2048, seed=0
):
    """Compute the Wasserstein distance W2 of a density to weighted points.

    ``W2(rho, sum_j b_j delta_{y_j})^2 = min_T int |x - T(x)|^2 rho(x) dx`` over the maps ``T`` to
    the points that send mass ``b_j`` to ``y_j``.

    Parameters
    ----------
    density : GridDensity, fitted mixture estimator or tuple (weights, means, covariances)
        An image, constant on each pixel, or a Gaussian mixture with positive definite covariances.
    points : array-like or Tensor of shape (n_points, n_features)
        Points, anywhere; some may coincide.
    weights : array-like or Tensor of shape (n_points,), default=None
        Their masses, non-negative; only ratios matter. None is equal masses.
    squared : bool, default=False
        Whether to return ``W2^2``.
    method : {'auto', 'exact', 'nodes'}, default='auto'
        ``'exact'``, for two features: cells are cut out of the plane, and integrals over them are
        closed forms, for images and mixtures. ``'nodes'``, for mixtures: quasi-random nodes stand
        for the mixture, with an error that `semidiscrete_plan` estimates. ``'auto'`` is the first
        for two features and the second otherwise.
    n_nodes : int, default=2048
        Number of nodes, where there are nodes.
    seed : int, default=0
        Of the nodes.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the points, or its square. A tensor if anything handed in is one;
        differentiable once in the image or the mixture, the points and their weights.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If the density is something else.
    ValueError
        If the density, the points or an option is invalid, or features differ in number.
    RuntimeError
        If Newton's method does not reach the masses.

    See Also
    --------
    skgmmot.semidiscrete_plan : The plan that attains it.
    skgmmot.WassersteinQuantizer : Moves the points to where the distance is least.
    skgmmot.SemidiscreteGMM : Moves the mixture there.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GridDensity, semidiscrete_distance
    >>> square = GridDensity(np.ones((8, 8)), extent=(0, 1, 0, 1))
    >>> semidiscrete_distance(square, [[0.25, 0.5], [0.75, 0.5]], squared=True)
    0.104166...
    """
    options = {"method": method, "n_nodes": n_nodes, "seed": seed}
    plan, kind = _semidiscrete(density, points, weights, **options)
    value = plan.cost if squared else root(plan.cost)
    return value if kind.is_tensor else float(value)


def semidiscrete_plan(density, points, weights=None, *, method="auto", n_nodes=2048, seed=0):
    """Compute the optimal plan from a density to weighted points.

    Parameters
    ----------
    density : GridDensity, fitted mixture estimator or tuple (weights, means, covariances)
        An image, constant on each pixel, or a Gaussian mixture with positive definite covariances.
    points : array-like or Tensor of shape (n_points, n_features)
        Points, anywhere; some may coincide.
    weights : array-like or Tensor of shape (n_points,), default=None
        Their masses, non-negative; only ratios matter. None is equal masses.
    method : {'auto', 'exact', 'nodes'}, default='auto'
        As for `semidiscrete_distance`.
    n_nodes : int, default=2048
        Number of nodes, where there are nodes.
    seed : int, default=0
        Of the nodes.

    Returns
    -------
    SemidiscretePlan
        ``potentials``, ``masses`` and ``barycentres`` of the cells, ``cost`` (``W2^2``), its
        estimated ``error``, ``n_iter`` Newton steps, and the ``cells`` themselves in the plane,
        whose ``polygons()`` can be drawn. Arrays are of the kind that was handed in.

    Raises
    ------
    ValueError
        As `semidiscrete_distance`.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GridDensity, semidiscrete_plan
    >>> square = GridDensity(np.ones((8, 8)), extent=(0, 1, 0, 1))
    >>> plan = semidiscrete_plan(square, [[0.0, 0.0], [9.0, 0.0]], weights=[1, 3])
    >>> plan.barycentres.round(3)
    array([[0.125, 0.5  ],
           [0.625, 0.5  ]])
    """
    options = {"method": method, "n_nodes": n_nodes, "seed": seed}
    plan, kind = _semidiscrete(density, points, weights, **options)
    if kind.is_tensor:
        return plan
    arrays = (kind.restore(t) for t in plan[:3])
    return type(plan)(*arrays, float(plan.cost), *plan[4:])


def _semidiscrete(density, points, weights, *, method, n_nodes, seed):
    """The plan, and the kind of array to answer in."""
    density, n_features, kind = as_density(density)
    points, weights, kinds = _arrays.points_and_masses(points, weights, n_features)
    kind = next((k for k in (kind, *kinds) if k.is_tensor), kind)
    points, weights = (t.to(kind.device) for t in (points, weights))
    exact = n_features == 2 if method == "auto" else method == "exact"
    if method not in ("auto", "exact", "nodes"):
        raise ValueError(
            f"method must be 'auto', 'exact' or 'nodes', got {method!r}. Choose one of them."
        )
    if not isinstance(n_nodes, Integral) or n_nodes < 1:
        raise ValueError(
            f"n_nodes must be a positive integer, got {n_nodes!r}. More nodes are more accurate."
        )
    if exact and n_features != 2:
        raise ValueError(
            f"method must be 'nodes' for {n_features} features, got 'exact', which is for the "
            "plane. Leave it out."
        )
    if exact:
        return exact_plan(density, points, weights), kind
    if isinstance(density, GridDensity):
        raise ValueError(
            "method must be 'exact' for a GridDensity, got 'nodes', which are those of a mixture. "
            "Leave it out."
        )
    plan = nodes_plan(density.to(device=kind.device), points, weights, n_nodes=n_nodes, seed=seed)
    return plan, kind
