"""Semi-discrete transport from a density to weighted points: distance and plan."""

from numbers import Real

from skgmmot._inputs import arrays
from skgmmot._inputs.densities import as_density, points_and_masses
from skgmmot._inputs.seeds import seed_of
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.linalg import error_of_root, safe_sqrt
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.nodes import nodes_plan
from skgmmot.transport.semidiscrete.plan import exact_plan

#: Smallest share of a density that can be transported: squared radii of discs are rounded to 1e-16.
MIN_MASS_MOVED = 1e-12


@single_threaded_torch()
def semidiscrete_distance(
    density,
    points,
    weights=None,
    *,
    squared=False,
    integration="auto",
    n_nodes=2048,
    random_state=0,
    mass=1.0,
    return_error=False,
):
    r"""Compute the 2-Wasserstein distance between a density and weighted points.

    .. math::

        W_2^2\Bigl(\rho, \sum_j b_j \delta_{y_j}\Bigr) = \min_T \int |x - T(x)|^2 \rho(x) \, dx

    over the maps :math:`T` to the points that send mass :math:`b_j` to :math:`y_j`. With ``mass``
    below one only that share of the density is transported, the part for which the cost is least,
    and the masses of the points sum to it.

    Parameters
    ----------
    density : GridDensity, fitted mixture estimator or tuple (weights, means, covariances)
        An image, constant on each pixel, voxels in space, or a Gaussian mixture with positive
        definite covariances. If an image is periodic, distances are those to the nearest repetition
        of a point.
    points : array-like or Tensor of shape (n_points, n_features)
        Points, anywhere; some may coincide.
    weights : array-like or Tensor of shape (n_points,), default=None
        Their masses, non-negative; only ratios matter. None is equal masses.
    squared : bool, default=False
        Whether to return ``W2^2``.
    integration : {'auto', 'exact', 'nodes'}, default='auto'
        ``'exact'``, for two or three features: integrals over the cells are evaluated in closed
        form or, for mixtures in space, by quadrature with errors of masses below 1e-12.
        ``'nodes'``, for mixtures: the mixture is replaced by quasi-random nodes, with an error that
        `semidiscrete_plan` estimates. ``'auto'`` is the first for two features and for voxels, and
        the second otherwise.
    n_nodes : int, default=2048
        Number of nodes, for ``integration='nodes'``.
    random_state : int, RandomState instance or None, default=0
        Controls the nodes. The default gives the same value at each call; None does not.
    mass : float, default=1.0
        Share of the density that is transported, in (0, 1]. The rest stays at no cost: the density
        has a mass of one, and the points one of ``mass``. A share of an image is computed exactly,
        one of a mixture by nodes; voxels are transported whole.
    return_error : bool, default=False
        Whether to return ``(distance, error)``.

    Returns
    -------
    distance : float or Tensor of shape ()
        The distance in units of the points, or its square. A tensor if anything handed in is one;
        differentiable once in the image or the mixture, the points and their weights, though not
        in the values of voxels.
    error : float
        Estimate of how far it is off, in its unit; only if ``return_error`` is set. Exact: by the
        errors of the masses, of rounding and of quadrature. Nodes: from eight other sets of nodes.

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
    >>> square = GridDensity(np.ones((8, 8)))
    >>> semidiscrete_distance(square, [[0.25, 0.5], [0.75, 0.5]], squared=True)
    0.104166...
    """
    options = {"integration": integration, "n_nodes": n_nodes, "random_state": random_state}
    options |= {"mass": mass, "estimate_error": bool(return_error)}
    plan, kind = _semidiscrete(density, points, weights, **options)
    value = plan.cost if squared else safe_sqrt(plan.cost)
    value = value if kind.is_tensor else float(value)
    if not return_error:
        return value
    return value, plan.error if squared else error_of_root(float(plan.cost), plan.error)


@single_threaded_torch()
def semidiscrete_plan(
    density, points, weights=None, *, integration="auto", n_nodes=2048, random_state=0, mass=1.0
):
    """Compute the optimal plan from a density to weighted points.

    Parameters
    ----------
    density : GridDensity, fitted mixture estimator or tuple (weights, means, covariances)
        As for `semidiscrete_distance`.
    points : array-like or Tensor of shape (n_points, n_features)
        Points, anywhere; some may coincide.
    weights : array-like or Tensor of shape (n_points,), default=None
        Their masses, non-negative; only ratios matter. None is equal masses.
    integration : {'auto', 'exact', 'nodes'}, default='auto'
        As for `semidiscrete_distance`.
    n_nodes : int, default=2048
        Number of nodes, for ``integration='nodes'``.
    random_state : int, RandomState instance or None, default=0
        Controls the nodes. The default gives the same value at each call; None does not.
    mass : float, default=1.0
        As for `semidiscrete_distance`. Below one, potentials are those of the dual problem without
        a free constant, and the cell of a point is that of ``cells`` cut by the disc of radius
        ``sqrt(psi_j)`` around it.

    Returns
    -------
    SemidiscretePlan
        ``potentials``, ``masses`` and ``barycentres`` of the cells, ``cost`` (``W2^2``), its
        estimated ``error``, ``n_iter`` Newton steps, the ``cells`` themselves, whose ``polygons()``
        or, in space, ``polyhedra()`` can be drawn, and the ``mass_error`` of all cells. Arrays are
        of the kind that was handed in.

    Raises
    ------
    ValueError
        As `semidiscrete_distance`.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GridDensity, semidiscrete_plan
    >>> square = GridDensity(np.ones((8, 8)))
    >>> plan = semidiscrete_plan(square, [[0.0, 0.0], [9.0, 0.0]], weights=[1, 3])
    >>> plan.barycentres.round(3)
    array([[0.125, 0.5  ],
           [0.625, 0.5  ]])
    """
    options = {"integration": integration, "n_nodes": n_nodes, "random_state": random_state}
    options |= {"mass": mass, "estimate_error": True}
    plan, kind = _semidiscrete(density, points, weights, **options)
    if kind.is_tensor:
        return plan
    arrays = (kind.restore(t) for t in plan[:3])
    return type(plan)(*arrays, float(plan.cost), *plan[4:])


def _semidiscrete(
    density, points, weights, *, integration, n_nodes, random_state, mass, estimate_error
):
    """The plan, and the kind of array in which results are returned."""
    density, n_features, kind = as_density(density)
    points, weights, kinds = points_and_masses(points, weights, n_features)
    kind = arrays.joint_kind(kind, *kinds)
    points, weights = (t.to(kind.device) for t in (points, weights))
    if not isinstance(mass, Real) or not 0 < mass <= 1:
        raise ValueError(
            f"mass must be a number in (0, 1], got {mass!r}. It is the share of the density that "
            "is transported; 1 is all of it."
        )
    if mass < MIN_MASS_MOVED:
        raise ValueError(
            f"mass must be at least {MIN_MASS_MOVED:.0e}, got {mass!r}. The discs of smaller "
            "shares would be lost in rounding."
        )
    is_grid = isinstance(density, GridDensity)
    exact = integration == "exact"
    if integration == "auto":
        exact = is_grid or (n_features == 2 and mass == 1)
    if integration not in ("auto", "exact", "nodes"):
        raise ValueError(
            f"integration must be 'auto', 'exact' or 'nodes', got {integration!r}. "
            "Choose one of them."
        )
    positive_integer("n_nodes", n_nodes, "More nodes are more accurate.")
    if exact and n_features not in (2, 3):
        raise ValueError(
            f"integration must be 'nodes' for {n_features} features, got 'exact', which is for two "
            "or three. Leave it out."
        )
    if exact and mass < 1 and not is_grid:
        raise ValueError(
            f"integration must be 'nodes' for a part of a mixture, got 'exact' and mass={mass!r}. "
            "Leave it out."
        )
    if exact:
        options = {"mass": float(mass), "estimate_error": estimate_error}
        return exact_plan(density, points, weights, **options), kind
    if is_grid:
        raise ValueError(
            "integration must be 'exact' for a GridDensity, got 'nodes', which are those of a "
            "mixture. Leave it out."
        )
    plan = nodes_plan(
        density.to(device=kind.device),
        points,
        weights,
        n_nodes=n_nodes,
        random_state=seed_of(random_state),
        estimate_error=estimate_error,
        mass=float(mass),
    )
    return plan, kind
