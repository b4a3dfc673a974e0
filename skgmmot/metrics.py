"""Distances between mixtures: mixtures or fitted estimators in, numbers out."""

import functools
from numbers import Integral, Real

import sklearn.metrics
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from skgmmot import _arrays
from skgmmot.estimators._base import as_density, as_mixture, as_mixtures, is_mixture
from skgmmot.functional import mixture_ot, sliced
from skgmmot.functional.directions import DIRECTIONS, ascend, directions
from skgmmot.functional.linalg import root
from skgmmot.functional.pairwise import pairwise_squared
from skgmmot.functional.semidiscrete import GridDensity, exact_plan, nodes_plan


class MixtureWasserstein:
    """The mixture Wasserstein distance MW2, as a callable.

    ``MW2(mu0, mu1)^2 = min_P sum_kl P_kl W2(N(m_k, S_k), N(m_l, S_l))^2`` over the couplings ``P``
    of the weights ``a`` and ``b``. It is a distance: symmetric, zero only between equal mixtures,
    with the triangle inequality. With penalties, ``P`` minimises

    ``sum_kl P_kl C_kl + reg KL(P | a b^T) + lam0 KL(P @ 1 | a) + lam1 KL(P.T @ 1 | b)``

    instead, with ``C`` the squared distances and ``KL(p | q) = sum p log(p / q) - p + q``, and the
    value is the root of this minimum: no distance any more.

    Parameters
    ----------
    reg : float, default=0.0
        Weight of the entropy, in squared units of the data: it spreads the plan, and makes it a
        smooth function of the mixtures. 0 is without.
    reg_m : float, tuple of two floats or None, default=None
        Penalties ``(lam0, lam1)`` in squared units of the data: mass that would have to move
        further than about their root is destroyed and made instead. One number is both;
        ``math.inf`` holds that marginal (semi-relaxed); None holds both.
    squared : bool, default=False
        Whether to return the square.

    See Also
    --------
    mixture_wasserstein_distance : The same as a function.
    skgmmot.OTMap : The maps that belong to the plan.

    Notes
    -----
    A mixture is a fitted estimator of this package or of scikit-learn, or a tuple ``(weights,
    means, covariances)`` of arrays or tensors in scikit-learn's shapes. Two mixtures may have
    different numbers of components and covariance types. Distances between tensors are tensors,
    differentiable once in all parameters of both mixtures. Costs ``O(K L d^3)`` at most, and less
    where components are apart (only pairs that a plan could join are computed); ``O(K L d)`` if
    the covariances are diagonal, or one of them is spherical. Plans are solved to a relative
    duality gap of 1e-8, and exact ones to rounding. Weights count as equal if they differ by the
    rounding of their dtype.

    References
    ----------
    .. [1] Delon and Desolneux 2020, definition and discrete formulation of MW2.
    .. [2] Chizat, Peyre, Schmitzer and Vialard 2018, unbalanced transport.

    Examples
    --------
    >>> from skgmmot import MixtureWasserstein
    >>> source = ([0.5, 0.5], [[0.0, 0.0], [4.0, 0.0]], [1.0, 1.0], "spherical")
    >>> target = ([1.0], [[2.0, 0.0]], [[4.0, 1.0]], "diag")
    >>> MixtureWasserstein(squared=True)(source, target)
    5.0

    Moving all mass costs 5; a penalty of 1 a unit rather destroys most of it:

    >>> round(MixtureWasserstein(reg_m=1.0, squared=True)(source, target), 3)
    1.836
    """

    def __init__(self, reg=0.0, reg_m=None, *, squared=False):
        self.reg = reg
        self.reg_m = reg_m
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
            If a mixture is neither an estimator nor a tuple, or a penalty is no number.
        ValueError
            If the mixtures differ in dimension, one is not a mixture, or a penalty is negative or
            NaN.
        """
        plan, kind = self._plan(source, target)
        value = self._value(plan.cost)
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
            target's, unless penalties stand in their place. ``(plan * cost).sum()`` is the part
            of the squared distance that is not penalties.

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

    def pairwise(self, mixtures, others=None, *, progress=False):
        """Compute the distances between many mixtures at once.

        Parameters
        ----------
        mixtures : sequence of M fitted mixture estimators or tuples (weights, means, covariances)
            The mixtures; they may differ in covariance type and number of components.
        others : sequence of N mixtures, default=None
            What to compare them with; None is each other.
        progress : bool, default=False
            Whether to show a progress bar over ``mixtures``.

        Returns
        -------
        array or Tensor of shape (M, N)
            Distances in units of the data, or their squares; symmetric if ``others`` is None and
            the penalties are. Takes less time than calling it for each pair, except for tensors
            that require a gradient.

        Raises
        ------
        TypeError
            If one is not a sequence of mixtures.
        ValueError
            If a sequence is empty, the mixtures differ in dimension, one is not a mixture, or a
            penalty is negative or NaN.
        """
        sources, kind = as_mixtures(mixtures, "mixtures", dtype=None)
        targets = None
        if others is not None:
            targets, other_kind = as_mixtures(others, "others", sources[0].means.device, dtype=None)
            kind = kind if kind.is_tensor else other_kind
            mixture_ot.check_dimensions(sources[0], targets[0])
            targets = [_in_double(m) for m in targets]
        squared = pairwise_squared(
            [_in_double(m) for m in sources],
            targets,
            reg=self.reg,
            reg_m=self.reg_m,
            track=functools.partial(tqdm, disable=not progress, desc="mixtures"),
        )
        return kind.restore(self._value(squared))

    def _value(self, squared):
        return squared if self.squared else root(squared)

    def _plan(self, source, target):
        source, target, kind = _pair(source, target)
        return mixture_ot.transport_plan(source, target, reg=self.reg, reg_m=self.reg_m), kind


def _pair(source, target):
    """Two mixtures on one device, and the kind of array to answer in."""
    source, source_kind = as_mixture(source, "source", dtype=None)
    target, target_kind = as_mixture(target, "target", dtype=None)
    kind = source_kind if source_kind.is_tensor else target_kind
    source, target = (_in_double(m.to(device=kind.device)) for m in (source, target))
    return source, target, kind


def _in_double(mixture):
    """A mixture computed in float64: distances between close ones are differences of large numbers.

    The weights stay as they are, so that their precision is known.
    """
    return mixture._replace(means=mixture.means.double(), covariances=mixture.covariances.double())


def mixture_wasserstein_distance(source, target, *, reg=0.0, reg_m=None, squared=False):
    """Compute the distance MW2 between two mixtures.

    ``MW2(mu0, mu1)^2 = min_P sum_kl P_kl W2(N(m_k, S_k), N(m_l, S_l))^2``

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures; see `MixtureWasserstein`.
    reg : float, default=0.0
        Weight of the entropy.
    reg_m : float, tuple of two floats or None, default=None
        Penalties in place of the marginals.
    squared : bool, default=False
        Whether to return the square.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if a mixture holds tensors.

    Raises
    ------
    ValueError
        As `MixtureWasserstein`.

    See Also
    --------
    MixtureWasserstein : The same as an object, with its plan and costs.

    Examples
    --------
    >>> from skgmmot.metrics import mixture_wasserstein_distance
    >>> source = ([1.0], [[0.0]], [[[1.0]]])
    >>> mixture_wasserstein_distance(source, ([0.5, 0.5], [[3.0], [3.0]], [1.0, 25.0]))
    4.123105625617661
    """
    return MixtureWasserstein(reg, reg_m, squared=squared)(source, target)


def pairwise_mixture_wasserstein(
    mixtures, others=None, *, reg=0.0, reg_m=None, squared=False, progress=False
):
    """Compute the distances MW2 between many mixtures.

    ``D_ij = MW2(mu_i, mu_j)``

    Parameters
    ----------
    mixtures : sequence of M fitted mixture estimators or tuples (weights, means, covariances)
        The mixtures.
    others : sequence of N mixtures, default=None
        What to compare them with; None is each other.
    reg : float, default=0.0
        Weight of the entropy; see `MixtureWasserstein`.
    reg_m : float, tuple of two floats or None, default=None
        Penalties in place of the marginals.
    squared : bool, default=False
        Whether to return squares.
    progress : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    array or Tensor of shape (M, N)
        The distances; see `MixtureWasserstein.pairwise`.

    Raises
    ------
    ValueError
        As `MixtureWasserstein.pairwise`.

    Examples
    --------
    >>> from skgmmot.metrics import pairwise_mixture_wasserstein
    >>> mixtures = [([1.0], [[float(m)]], [[[1.0]]]) for m in (0, 3, 7)]
    >>> pairwise_mixture_wasserstein(mixtures)
    array([[0., 3., 7.],
           [3., 0., 4.],
           [7., 4., 0.]])
    """
    metric = MixtureWasserstein(reg, reg_m, squared=squared)
    return metric.pairwise(mixtures, others, progress=progress)


def bures_wasserstein_distance(source, target, *, squared=False):
    """Compute the Wasserstein distance between two Gaussians.

    ``W2^2 = |m0 - m1|^2 + tr(S0 + S1 - 2 (S0^{1/2} S1 S0^{1/2})^{1/2})``

    Parameters
    ----------
    source, target : tuple (mean, covariance)
        Arrays or tensors: the mean ``(d,)`` and the covariance ``(d, d)``, the variances ``(d,)``
        or one variance.
    squared : bool, default=False
        Whether to return the square.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if a Gaussian holds tensors.

    Raises
    ------
    TypeError
        If one is not a pair.
    ValueError
        If the Gaussians differ in dimension, or a covariance is not one.

    Notes
    -----
    Differentiable once in means and covariances, in closed form, also at equal eigenvalues.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.

    Examples
    --------
    >>> from skgmmot.metrics import bures_wasserstein_distance
    >>> bures_wasserstein_distance(([0.0, 0.0], [1.0, 4.0]), ([0.0, 3.0], [[1.0, 0.0], [0.0, 4.0]]))
    3.0
    """
    mixtures = (_single(g, name) for g, name in ((source, "source"), (target, "target")))
    return MixtureWasserstein(squared=squared)(*mixtures)


def _single(gaussian, name):
    """A Gaussian as a mixture of one component."""
    if not isinstance(gaussian, tuple | list) or len(gaussian) != 2:
        raise TypeError(
            f"{name} must be a pair (mean, covariance), got {type(gaussian).__name__}. "
            "Put them into a tuple."
        )
    mean, covariance = (_arrays.as_tensor(t) for t in gaussian)
    if mean.ndim != 1 or covariance.ndim > 2:
        raise ValueError(
            f"{name} must have a mean (d,) and a covariance (d, d), (d,) or (), got shapes "
            f"{tuple(mean.shape)} and {tuple(covariance.shape)}. Pass one Gaussian."
        )
    covariance_type = ("spherical", "diag", "full")[covariance.ndim]
    parts = mean.new_ones(1), mean.unsqueeze(0), covariance.unsqueeze(0)
    if not any(_arrays.kind_of(t).is_tensor for t in gaussian):
        parts = (t.numpy() for t in parts)
    return (*parts, covariance_type)


def make_mixture_wasserstein_scorer(reference=None, *, reg=0.0, reg_m=None, squared=False):
    """Make a scorer that compares a fitted mixture with held-out samples by MW2.

    The score is minus the distance MW2 between the fitted mixture and a *reference*, a mixture
    that is fitted to the held-out samples. Larger is better, 0 is best.

    Parameters
    ----------
    reference : mixture estimator, default=None
        What is cloned and fitted to the held-out samples; None is the estimator that is scored.
    reg : float, default=0.0
        Weight of the entropy; see `MixtureWasserstein`.
    reg_m : float, tuple of two floats or None, default=None
        Penalties in place of the marginals: outliers then count little.
    squared : bool, default=False
        Whether to score by the square.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None) -> float``, for the parameter ``scoring`` of
        ``GridSearchCV`` or ``cross_val_score``.

    Notes
    -----
    With ``reference=None`` the score says how far a fit depends on its samples. It compares
    settings with equal ``n_components``, such as covariance types, regularisations and starts. It
    does not choose ``n_components``: fewer components always depend less on the samples. With
    one ``reference`` for all candidates, of more components than any of them, the score rises
    steeply up to the number of clusters and little after it: look for the bend.

    A pipeline's last step is scored, on samples transformed by its other steps. There must be as
    many held-out samples as the reference needs.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> from skgmmot.metrics import make_mixture_wasserstein_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(size=(200, 2)), 9 + rng.normal(size=(200, 2))])
    >>> X = rng.permutation(X)
    >>> reference = DifferentiableGaussianMixture(6, random_state=0)
    >>> scorer = make_mixture_wasserstein_scorer(reference)
    >>> for n in (1, 2, 4):
    ...     mixture = DifferentiableGaussianMixture(n, random_state=0)
    ...     print(n, round(cross_val_score(mixture, X, scoring=scorer, cv=3).mean()))
    1 -9
    2 -3
    4 -3
    """
    return _MixtureWassersteinScorer(reference, MixtureWasserstein(reg, reg_m, squared=squared))


class _MixtureWassersteinScorer:
    """What `make_mixture_wasserstein_scorer` makes."""

    def __init__(self, reference, metric):
        self.reference, self.metric = reference, metric

    def __call__(self, estimator, X, y=None):
        if isinstance(estimator, Pipeline):
            X, estimator = estimator[:-1].transform(X), estimator[-1]
        check_is_fitted(estimator)
        reference = clone(estimator if self.reference is None else self.reference)
        return -float(self.metric(estimator, reference.fit(X)))

    def __repr__(self):
        return f"make_mixture_wasserstein_scorer(reference={self.reference!r})"


#: Minus MW2 between a fitted mixture and a clone of it fitted to held-out samples.
mixture_wasserstein_scorer = make_mixture_wasserstein_scorer()


def sliced_wasserstein_scorer(estimator, X, y=None):
    """Score a fitted mixture by its sliced Wasserstein distance to held-out samples.

    Parameters
    ----------
    estimator : fitted mixture estimator or pipeline
        A mixture of this package or of scikit-learn; of a pipeline, the last step on the samples
        that its other steps transform.
    X : array-like of shape (n_samples, n_features)
        Samples.
    y : None
        Ignored.

    Returns
    -------
    float
        Minus the distance ``SW_2``, along 100 fixed directions. Larger is better, 0 is best.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If ``X`` is invalid.

    Notes
    -----
    Unlike the likelihood it is finite for any mixture, in units of the data, and hardly moved by a
    few samples where the density is small. Against held-out samples it chooses ``n_components``:
    more components than needed fit the training samples, and not these.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> from skgmmot.metrics import sliced_wasserstein_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.permutation(np.vstack([rng.normal(0, 1, (200, 2)), rng.normal(9, 1, (200, 2))]))
    >>> for n in (1, 2):
    ...     mixture = DifferentiableGaussianMixture(n, random_state=0)
    ...     scores = cross_val_score(mixture, X, scoring=sliced_wasserstein_scorer, cv=3)
    ...     print(n, scores.mean().round(1))
    1 -2.2
    2 -1.3
    """
    if isinstance(estimator, Pipeline):
        X, estimator = estimator[:-1].transform(X), estimator[-1]
    return -float(sliced_wasserstein_distance(estimator, X))


#: The scorers of this package by name.
SCORERS = {
    "mixture_wasserstein": mixture_wasserstein_scorer,
    "sliced_wasserstein": sliced_wasserstein_scorer,
}


def get_scorer(name):
    """Get a scorer by name: one of this package, or one of scikit-learn's.

    Scikit-learn has no place to register scorers, so ``scoring="mixture_wasserstein"`` does
    not work there; ``scoring=get_scorer("mixture_wasserstein")`` does.

    Parameters
    ----------
    name : str or callable
        A name in `SCORERS` or in ``sklearn.metrics.get_scorer_names()``; a callable is returned.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None) -> float``.

    Raises
    ------
    ValueError
        If there is no such scorer.

    Examples
    --------
    >>> from skgmmot.metrics import get_scorer, mixture_wasserstein_scorer
    >>> get_scorer("mixture_wasserstein") is mixture_wasserstein_scorer
    True
    """
    if isinstance(name, str) and name in SCORERS:
        return SCORERS[name]
    try:
        return sklearn.metrics.get_scorer(name)
    except (ValueError, TypeError) as error:  # an unknown name, or no name
        raise ValueError(
            f"name must be one of {sorted(SCORERS)} or of scikit-learn's scorers, got {name!r}. "
            "See sklearn.metrics.get_scorer_names()."
        ) from error


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


def sliced_wasserstein_distance(
    source,
    target,
    *,
    p=2.0,
    n_projections=100,
    projections="quasi",
    sample_weight=None,
    exact=False,
    random_state=0,
):
    """Compute the sliced Wasserstein distance of a mixture to samples or to another mixture.

    ``SW_p = (mean over directions of W_p^p)^(1 / p)``, where ``W_p`` compares the two projected on
    a line; with ``projections='max'`` the largest takes the place of the mean.

    Parameters
    ----------
    source : fitted mixture estimator or tuple (weights, means, covariances)
        A mixture.
    target : mixture, or array-like or Tensor of shape (n_samples, n_features)
        Another one, or samples.
    p : float, default=2.0
        Exponent, at least 1.
    n_projections : int, default=100
        Number of directions.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        Directions spread evenly; independent and uniform; orthogonal in groups of ``n_features``;
        or turned to where the distance is largest.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights of the samples, constants.
    exact : bool, default=False
        Whether to compute distances to samples to rounding, for p = 1 or 2, instead of to about
        1e-5 (p = 2).
    random_state : int, RandomState instance or None, default=0
        Controls the directions.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data; a tensor if one was handed in, differentiable once in
        both sides.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If the source is no mixture.
    ValueError
        If an option or a side is invalid, or they differ in dimension.

    See Also
    --------
    skgmmot.SlicedWassersteinGMM : Fits a mixture by this distance.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018.

    Examples
    --------
    >>> from skgmmot.metrics import sliced_wasserstein_distance
    >>> mixture = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    >>> round(sliced_wasserstein_distance(mixture, [[3.0, 4.0]]), 3)
    3.674
    """
    _check_slicing(p, n_projections, projections)
    if is_mixture(target):
        source, target, kind = _pair(source, target)
        _check_features(source.means.shape[1], target.means.shape[1])

        def costs(theta):
            return sliced.sliced_wasserstein_between(source, target, theta, p=p)

    else:
        source, kind = as_mixture(source, "source")
        X, a, kinds = _arrays.points_and_masses(target, sample_weight, source.means.shape[1])
        kind = next((k for k in (kind, *kinds) if k.is_tensor), kind)
        source, X, a = source.to(device=kind.device), X.to(kind.device), a.to(kind.device)
        a = None if sample_weight is None else a

        def costs(theta):
            return sliced.sliced_wasserstein(source, X, theta, p=p, sample_weight=a, exact=exact)

    seeks = projections == "max"
    d = source.means.shape[1]
    theta = _directions("quasi" if seeks else projections, n_projections, d, random_state)
    if seeks:
        theta, found = ascend(costs, theta)
        theta = theta[found.argmax()].unsqueeze(0)
    mean = costs(theta).mean().clamp(min=0)
    value = root(mean) if p == 2 else mean ** (1 / p)
    return value if kind.is_tensor else float(value)


def sliced_mixture_wasserstein(
    source, target, *, method="msw", n_projections=100, squared=False, random_state=0
):
    """Compute a sliced stand-in for the distance MW2 between two mixtures.

    ``'msw'`` compares components by sliced distances, and moves them like MW2:
    ``MSW^2 = min_P sum_kl P_kl SW_2^2(g_k, g_l)`` over couplings of the weights. ``'dsmw'`` slices
    twice: on a line each component is a point, its mean and its deviation, and these weighted
    points are sliced again, ``DSMW^2 = mean over both directions of W_2^2``.

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures, of K and L components.
    method : {'msw', 'dsmw'}, default='msw'
        Which of the two.
    n_projections : int, default=100
        Number of directions m (of pairs of directions for ``'dsmw'``).
    squared : bool, default=False
        Whether to return the square.
    random_state : int, RandomState instance or None, default=0
        Controls the directions.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if a mixture holds tensors,
        differentiable once (for ``'dsmw'`` not in the weights).

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If one is not a mixture.
    ValueError
        If an option is invalid or the mixtures differ in dimension.

    See Also
    --------
    skgmmot.MixtureWasserstein : MW2 itself, which is never smaller than MSW.

    Notes
    -----
    No root of a matrix is taken: ``O(m (K + L) d^2)``, and ``O(m K L)`` with one transport problem
    for ``'msw'`` or ``O(m (K + L) log(K + L))`` for ``'dsmw'``.

    References
    ----------
    .. [1] Piening and Beinert 2025.

    Examples
    --------
    >>> from skgmmot.metrics import sliced_mixture_wasserstein
    >>> source = ([0.5, 0.5], [[0.0, 0.0], [4.0, 0.0]], [1.0, 1.0], "spherical")
    >>> target = ([1.0], [[2.0, 0.0]], [[4.0, 1.0]], "diag")
    >>> round(sliced_mixture_wasserstein(source, target, squared=True), 2)
    2.42
    """
    _check_slicing(1, n_projections, "quasi")
    if method not in ("msw", "dsmw"):
        raise ValueError(f"method must be 'msw' or 'dsmw', got {method!r}. Choose one of them.")
    source, target, kind = _pair(source, target)
    _check_features(source.means.shape[1], target.means.shape[1])
    theta = _directions("quasi", n_projections, source.means.shape[1], random_state)
    if method == "msw":
        value = sliced.mixture_sliced_plan(source, target, theta).cost
    else:
        phi = _directions("random", len(theta), 2, random_state)
        value = sliced.double_sliced_squared(source, target, theta, phi)
    value = value if squared else root(value)
    return value if kind.is_tensor else float(value)


def _directions(name, n_directions, n_features, random_state):
    """Directions from a seed."""
    seed = int(check_random_state(random_state).randint(2**31))
    generator = torch.Generator().manual_seed(seed)
    return directions(name, n_directions, n_features, generator=generator)


def _check_slicing(p, n_projections, projections):
    """Refuse options of the sliced distances that mean nothing."""
    if not isinstance(p, Real) or not p >= 1:
        raise ValueError(f"p must be a number of at least 1, got {p!r}. 2 is the usual one.")
    if not isinstance(n_projections, Integral) or n_projections < 1:
        raise ValueError(
            f"n_projections must be a positive integer, got {n_projections!r}. More directions are "
            "more accurate."
        )
    if projections not in (*DIRECTIONS, "max"):
        raise ValueError(
            f"projections must be one of {[*DIRECTIONS, 'max']}, got {projections!r}. Choose one."
        )


def _check_features(source: int, target: int):
    """Refuse mixtures of different dimensions."""
    if source != target:
        raise ValueError(
            f"source and target must have equal numbers of features, got {source} and {target}. "
            "Describe both by the same features."
        )
