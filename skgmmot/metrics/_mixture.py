"""The mixture Wasserstein distance MW2: between two mixtures, and between many."""

import functools
import math
from numbers import Integral

from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed
from tqdm import tqdm

from skgmmot._inputs.mixtures import as_pair, as_two_sequences, parts_of, with_plain_matrices
from skgmmot.numerics.linalg import error_of_root, errors_of_roots, safe_sqrt
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.discrete.solvers import penalties_of
from skgmmot.transport.mixtures import distance
from skgmmot.transport.mixtures.errors import cost_error, debiased_error
from skgmmot.transport.mixtures.few import squared_distance
from skgmmot.transport.mixtures.pairwise import pairwise_squared

#: Smallest size of mixtures: squares of smaller numbers lose digits.
MIN_SIZE = 1e-150


class MixtureWasserstein:
    r"""The mixture Wasserstein distance MW2, as a callable.

    .. math::

        \operatorname{MW}_2^2(\mu_0, \mu_1)
        = \min_{P \in \Pi(a, b)} \sum_{kl} P_{kl} C_{kl},
        \qquad C_{kl} = W_2^2\bigl(N(m_k, S_k), N(m_l, S_l)\bigr)

    over the couplings :math:`P` of the weights :math:`a` and :math:`b`. It is a distance:
    symmetric, zero only between equal mixtures, and it satisfies the triangle inequality. With an
    entropy or penalties it is the root of

    .. math::

        \min_{P \ge 0} \sum_{kl} P_{kl} C_{kl} + \text{reg} \operatorname{KL}(P | a b^T)
        + \lambda_0 \operatorname{KL}(P 1 | a) + \lambda_1 \operatorname{KL}(P^T 1 | b)

    with :math:`\operatorname{KL}(p | q) = \sum p \log(p / q) - p + q`, which is not a distance.

    Parameters
    ----------
    reg : float, default=0.0
        Weight of the entropy, in squared units of the data. It spreads the plan and makes it a
        smooth function of the mixtures. 0 means no entropy.
    reg_m : float, tuple of two floats or None, default=None
        Penalties :math:`(\lambda_0, \lambda_1)` of the marginals, in squared units of the data:
        mass that would have to move further than about their root is destroyed and created
        instead. One number applies to both; ``math.inf`` prescribes that marginal (semi-relaxed
        transport); None prescribes both.
    squared : bool, default=False
        Whether to return the square.
    debiased : bool, default=False
        Whether to return the Sinkhorn divergence ``T(mu0, mu1) - (T(mu0, mu0) + T(mu1, mu1)) / 2``,
        with ``T`` the minimum above, which is zero between equal mixtures. ``T`` itself is smallest
        for a mixture that is narrower than the other, so use the divergence as a loss. It needs
        equal penalties, and two more plans.

    See Also
    --------
    mixture_wasserstein_distance : The same as a function.
    skgmmot.OTMap : The maps that belong to the plan.

    Notes
    -----
    A mixture is a fitted estimator of this package or of scikit-learn, or a tuple ``(weights,
    means, covariances)`` of arrays or tensors in scikit-learn's shapes. Two mixtures may have
    different numbers of components and covariance types. Distances between tensors are tensors,
    differentiable once in all parameters of both mixtures. Without entropy, the distance between
    equal mixtures is exactly zero, with zero gradients, and distances are bitwise symmetric. Costs
    ``O(K L d^3)`` at most, and less if components are well separated (only pairs that a plan could
    use are computed); ``O(K L d)`` if the covariances are diagonal, or one of them is spherical.
    Plans are solved to a relative duality gap of 1e-8, and exact ones to 1e-9 of the cost that is
    left after subtracting the minima of rows and columns, so that distant components do not reduce
    the accuracy for the others. Weights count as equal if they differ by the rounding of their
    dtype. With a finite penalty, weights of tuples may have any positive sums, and those of the two
    mixtures different ones.

    References
    ----------
    .. [1] Delon and Desolneux 2020, definition and discrete formulation of MW2.
    .. [2] Chizat, Peyre, Schmitzer and Vialard 2018, unbalanced transport.
    .. [3] Feydy, Sejourne, Vialard, Amari, Trouve and Peyre 2019, Sinkhorn divergences.

    Examples
    --------
    >>> from skgmmot import MixtureWasserstein
    >>> source = ([0.5, 0.5], [[0.0, 0.0], [4.0, 0.0]], [1.0, 1.0], "spherical")
    >>> target = ([1.0], [[2.0, 0.0]], [[4.0, 1.0]], "diag")
    >>> MixtureWasserstein(squared=True)(source, target)
    5.0

    Moving all mass costs 5; with a penalty of 1, most of it is destroyed instead:

    >>> round(MixtureWasserstein(reg_m=1.0, squared=True)(source, target), 3)
    1.836
    """

    def __init__(self, reg=0.0, reg_m=None, *, squared=False, debiased=False):
        self.reg = reg
        self.reg_m = reg_m
        self.squared = squared
        self.debiased = debiased

    def __repr__(self):
        shown = f"reg={self.reg}, reg_m={self.reg_m}, squared={self.squared}"
        return f"MixtureWasserstein({shown}{', debiased=True' if self.debiased else ''})"

    @single_threaded_torch()
    def __call__(self, source, target, *, return_error=False):
        """Compute the distance between two mixtures.

        Parameters
        ----------
        source, target : fitted mixture estimator or tuple (weights, means, covariances)
            The mixtures. A fourth entry of a tuple names its covariance type where the shape of
            ``covariances`` fits two.
        return_error : bool, default=False
            Whether to return ``(distance, error)``. The error, a float in the unit of the distance,
            bounds to first order what rounding of the costs between components, ill-conditioned
            covariances and the plan may do. Takes about as long again.

        Returns
        -------
        float or Tensor of shape ()
            The distance in units of the data, or its square; a tensor if a mixture holds tensors.
            With ``return_error`` a pair of it and a float.

        Raises
        ------
        NotFittedError
            If an estimator is not fitted.
        TypeError
            If a mixture is neither an estimator nor a tuple, or a penalty is no number.
        ValueError
            If the mixtures differ in dimension, one is not a mixture, a penalty is negative or
            NaN, or ``debiased`` is set and the two penalties differ.
        """
        pair = parts_of(source, "source"), parts_of(target, "target")
        if not return_error and self._is_exact() and all(map(with_plain_matrices, pair)):
            squared = squared_distance(*(parts[:3] for parts in pair))
            if squared is not None:
                return squared if self.squared else squared**0.5
        *pair, kind = as_pair(*pair, any_mass=self._any_mass())
        options = {"reg": self.reg, "reg_m": self.reg_m}
        plan = None if self.debiased else distance.transport_plan(*pair, **options)
        cost = distance.debiased_cost(*pair, **options) if plan is None else plan.cost
        _check_size(cost, pair)
        value = self._value(cost)
        value = value if kind.is_tensor else float(value)
        if not return_error:
            return value
        error = debiased_error(*pair, **options) if plan is None else cost_error(*pair, plan)
        return value, error if self.squared else error_of_root(
            max(float(cost.detach()), 0.0), error
        )

    @single_threaded_torch()
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
            target's, unless the marginals are penalised. ``(plan * cost).sum()`` is the transport
            part of the squared distance, without entropy and penalties.

        Raises
        ------
        ValueError
            As calling it.
        """
        source, target, kind = as_pair(source, target, any_mass=self._any_mass())
        plan = distance.transport_plan(source, target, reg=self.reg, reg_m=self.reg_m)
        return kind.restore(plan.coupling)

    @single_threaded_torch()
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
        source, target, kind = as_pair(source, target)
        return kind.restore(distance.cost_matrix(source, target))

    @single_threaded_torch()
    def pairwise(self, mixtures, others=None, *, verbose=0, n_jobs=None, return_error=False):
        """Compute the distances between many mixtures at once.

        Parameters
        ----------
        mixtures : sequence of M fitted mixture estimators or tuples (weights, means, covariances)
            The mixtures; they may differ in covariance type and number of components.
        others : sequence of N mixtures, default=None
            Mixtures to compare them with; None compares the first ones with each other.
        verbose : int, default=0
            1 shows a progress bar over ``mixtures``, unless several jobs share them.
        n_jobs : int, default=None
            Number of processes that share the rows of the matrix, -1 for all cores; None is one,
            or as many as ``joblib.parallel_config`` says, with whose ``backend="dask"`` they are
            tasks of the current client. The result is the same to rounding. Pairs that require a
            gradient or are on an accelerator are computed here.
        return_error : bool, default=False
            Whether to return ``(distances, errors)``; see `__call__`.

        Returns
        -------
        array or Tensor of shape (M, N)
            Distances in units of the data, or their squares; symmetric if ``others`` is None and
            the penalties are. Takes less time than calling it for each pair, except for tensors
            that require a gradient. With ``return_error`` a pair of it and of the errors, in the
            same shape and kind of array.

        Raises
        ------
        TypeError
            If one is not a sequence of mixtures.
        ValueError
            If a sequence is empty, the mixtures differ in dimension, one is not a mixture, or a
            penalty is negative or NaN.
        """
        sources, targets, kind = as_two_sequences(
            mixtures, others, ("mixtures", "others"), any_mass=self._any_mass()
        )
        squared = pairwise_squared(
            sources,
            targets,
            reg=self.reg,
            reg_m=self.reg_m,
            debiased=self.debiased,
            track=functools.partial(tqdm, desc="mixtures") if verbose else iter,
            run=_jobs(n_jobs),
            return_error=return_error,
        )
        squared, error = squared if return_error else (squared, None)
        _check_size(squared, [*sources, *(targets or ())])
        value = kind.restore(self._value(squared))
        if not return_error:
            return value
        return value, kind.restore(error if self.squared else errors_of_roots(squared, error))

    def _is_exact(self) -> bool:
        """Whether there is neither entropy nor a penalty."""
        return type(self.reg) in (float, int) and not self.reg and self.reg_m is None

    def _value(self, squared):
        return squared if self.squared else safe_sqrt(squared)

    def _any_mass(self) -> bool:
        """Whether weights may have any sum: if a marginal is penalised instead of prescribed."""
        return any(lam < math.inf for lam in penalties_of(self.reg_m))


def _jobs(n_jobs):
    """What computes rows by joblib, for `pairwise_squared`; None for a single job."""
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise ValueError(
            f"n_jobs must be None or an integer other than 0, got {n_jobs!r}. Use -1 for all cores."
        )
    n_parts = effective_n_jobs(n_jobs)
    if n_parts == 1:
        return None

    def run(rows, n_rows: int) -> list:
        # every n-th row: those of a symmetric matrix get shorter
        parts = [range(i, n_rows, n_parts) for i in range(min(n_parts, n_rows))]
        jobs = [delayed(_single_threaded)(rows, part) for part in parts]
        found = [None] * n_rows
        for part, values in zip(parts, Parallel(n_jobs=n_jobs)(jobs), strict=True):
            found[part.start :: n_parts] = values
        return found

    return run


@single_threaded_torch()
def _single_threaded(rows, part) -> list:
    """Some rows of a matrix of distances."""
    return rows(part)


def _check_size(squared, mixtures):
    """Raise if mixtures are so small that their squared distances underflow to zero."""
    if squared.detach().min() > MIN_SIZE**2:
        return
    mixtures = [m.detach() for m in mixtures]
    origin = mixtures[0].means[0]
    variances = (m.full_covariances().diagonal(dim1=-2, dim2=-1) for m in mixtures)
    sizes = [(m.means - origin).abs().max() for m in mixtures] + [v.max().sqrt() for v in variances]
    if 0 < (size := float(max(sizes))) < MIN_SIZE:
        raise ValueError(
            f"mixtures must have spreads and distances of at least {MIN_SIZE:.0e}, got {size:.2g}. "
            "Multiply all means by a large number, and all covariances by its square."
        )


def mixture_wasserstein_distance(
    source, target, *, reg=0.0, reg_m=None, squared=False, debiased=False, return_error=False
):
    r"""Compute the mixture Wasserstein distance MW2 between two mixtures.

    .. math::

        \operatorname{MW}_2^2(\mu_0, \mu_1) = \min_{P \in \Pi(a, b)} \sum_{kl} P_{kl} \,
        W_2^2\bigl(N(m_k, S_k), N(m_l, S_l)\bigr)

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures; see `MixtureWasserstein`.
    reg : float, default=0.0
        Weight of the entropy.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals; None prescribes them.
    squared : bool, default=False
        Whether to return the square.
    debiased : bool, default=False
        Whether to return the Sinkhorn divergence; see `MixtureWasserstein`.
    return_error : bool, default=False
        Whether to return ``(distance, error)``, with a bound, to first order, of what rounding and
        the plan may do; see `MixtureWasserstein.__call__`.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if a mixture holds tensors. With
        ``return_error`` a pair of it and a float.

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
    >>> target = ([0.5, 0.5], [[3.0], [3.0]], [1.0, 25.0])
    >>> mixture_wasserstein_distance(source, target)
    4.123105625617661
    >>> value, error = mixture_wasserstein_distance(source, target, return_error=True)
    >>> abs(value - 17**0.5) <= error < 1e-14
    True
    """
    metric = MixtureWasserstein(reg, reg_m, squared=squared, debiased=debiased)
    return metric(source, target, return_error=return_error)


def pairwise_mixture_wasserstein(
    mixtures,
    others=None,
    *,
    reg=0.0,
    reg_m=None,
    squared=False,
    debiased=False,
    verbose=0,
    n_jobs=None,
    return_error=False,
):
    r"""Compute the mixture Wasserstein distances MW2 between all pairs of many mixtures.

    .. math:: D_{ij} = \operatorname{MW}_2(\mu_i, \mu_j)

    Parameters
    ----------
    mixtures : sequence of M fitted mixture estimators or tuples (weights, means, covariances)
        The mixtures.
    others : sequence of N mixtures, default=None
        Mixtures to compare them with; None compares the first ones with each other.
    reg : float, default=0.0
        Weight of the entropy; see `MixtureWasserstein`.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals; None prescribes them.
    squared : bool, default=False
        Whether to return squares.
    debiased : bool, default=False
        Whether to return the Sinkhorn divergence; see `MixtureWasserstein`.
    verbose : int, default=0
        1 shows a progress bar, unless several jobs share the rows.
    n_jobs : int, default=None
        Number of processes that share the rows of the matrix; see `MixtureWasserstein.pairwise`.
    return_error : bool, default=False
        Whether to return ``(distances, errors)``; see `MixtureWasserstein.pairwise`.

    Returns
    -------
    array or Tensor of shape (M, N)
        The distances; see `MixtureWasserstein.pairwise`. With ``return_error`` a pair of these.

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
    metric = MixtureWasserstein(reg, reg_m, squared=squared, debiased=debiased)
    options = {"verbose": verbose, "n_jobs": n_jobs, "return_error": return_error}
    return metric.pairwise(mixtures, others, **options)
