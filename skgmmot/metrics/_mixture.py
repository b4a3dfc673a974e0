"""MW2 between mixtures: one distance, a plan, many at once."""

import functools
import math

import torch
from tqdm import tqdm

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_pair, as_two_sequences
from skgmmot.numerics.linalg import safe_sqrt
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.discrete.plan import penalties_of
from skgmmot.transport.mixtures import distance
from skgmmot.transport.mixtures.pairwise import pairwise_squared

#: Squares of smaller numbers lose digits.
SMALLEST = 1e-150


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
    debiased : bool, default=False
        Whether to take away the bias of the entropy: the Sinkhorn divergence ``T(mu0, mu1) -
        (T(mu0, mu0) + T(mu1, mu1)) / 2``, with ``T`` the minimum above, is zero between equal
        mixtures. The entropic minimum is least for a mixture that is narrower than the other: as a
        loss, this is the form to use. Needs equal penalties; costs two more plans.

    See Also
    --------
    mixture_wasserstein_distance : The same as a function.
    skgmmot.OTMap : The maps that belong to the plan.

    Notes
    -----
    A mixture is a fitted estimator of this package or of scikit-learn, or a tuple ``(weights,
    means, covariances)`` of arrays or tensors in scikit-learn's shapes. Two mixtures may have
    different numbers of components and covariance types. Distances between tensors are tensors,
    differentiable once in all parameters of both mixtures. Without entropy, equal mixtures are at
    distance zero exactly, with gradients of zero; exchanging two changes no bit. Costs
    ``O(K L d^3)`` at most, and less where components are apart (only pairs that a plan could join
    are computed); ``O(K L d)`` if the covariances are diagonal, or one of them is spherical. Plans
    are solved to a relative duality gap of 1e-8, and exact ones to 1e-9 of the cost that is left
    when what each component costs anyway is taken away: far components do not blur the others.
    Weights count as equal if they differ by the rounding of their dtype. With a finite penalty,
    weights of tuples may have any positive sums, and those of the two mixtures different ones.

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

    Moving all mass costs 5; a penalty of 1 a unit rather destroys most of it:

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
            If the mixtures differ in dimension, one is not a mixture, a penalty is negative or
            NaN, or the bias is to be taken away and the two penalties differ.
        """
        *pair, kind = as_pair(source, target, any_mass=self._any_mass())
        if self.debiased:
            cost = distance.debiased_cost(*pair, reg=self.reg, reg_m=self.reg_m)
        else:
            cost = distance.transport_plan(*pair, reg=self.reg, reg_m=self.reg_m).cost
        _check_size(cost, pair)
        value = self._value(cost)
        return value if kind.is_tensor else float(value)

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
            target's, unless penalties stand in their place. ``(plan * cost).sum()`` is the part
            of the squared distance that is not penalties.

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
        sources, targets, kind = as_two_sequences(
            mixtures, others, ("mixtures", "others"), any_mass=self._any_mass()
        )
        squared = pairwise_squared(
            sources,
            targets,
            reg=self.reg,
            reg_m=self.reg_m,
            debiased=self.debiased,
            track=functools.partial(tqdm, disable=not progress, desc="mixtures"),
        )
        _check_size(squared, [*sources, *(targets or ())])
        return kind.restore(self._value(squared))

    def _value(self, squared):
        return squared if self.squared else safe_sqrt(squared)

    def _any_mass(self) -> bool:
        """Whether weights may have any sums: if a marginal is penalised, and not held."""
        return any(lam < math.inf for lam in penalties_of(self.reg_m))


def _check_size(squared, mixtures):
    """Refuse mixtures so small that squares leave the range of numbers, rather than answer zero."""
    if squared.detach().min() > SMALLEST**2:
        return
    mixtures = [m.detach() for m in mixtures]
    origin = mixtures[0].means[0]
    variances = (m.full_covariances().diagonal(dim1=-2, dim2=-1) for m in mixtures)
    sizes = [(m.means - origin).abs().max() for m in mixtures] + [v.max().sqrt() for v in variances]
    if 0 < (size := float(max(sizes))) < SMALLEST:
        raise ValueError(
            f"mixtures must have spreads and distances of at least {SMALLEST:.0e}, got {size:.2g}. "
            "Multiply all means by a large number, and all covariances by its square."
        )


def mixture_wasserstein_distance(
    source, target, *, reg=0.0, reg_m=None, squared=False, debiased=False
):
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
    debiased : bool, default=False
        Whether to take away the bias of the entropy; see `MixtureWasserstein`.

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
    metric = MixtureWasserstein(reg, reg_m, squared=squared, debiased=debiased)
    return metric(source, target)


def pairwise_mixture_wasserstein(
    mixtures, others=None, *, reg=0.0, reg_m=None, squared=False, debiased=False, progress=False
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
    debiased : bool, default=False
        Whether to take away the bias of the entropy; see `MixtureWasserstein`.
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
    metric = MixtureWasserstein(reg, reg_m, squared=squared, debiased=debiased)
    return metric.pairwise(mixtures, others, progress=progress)


@single_threaded_torch()
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
    Differentiable once in means and covariances, in closed form, also at equal eigenvalues. MW2
    between mixtures of one component is this distance; covariances may be singular.

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


@single_threaded_torch()
def frechet_distance(source, target, *, ddof=1, squared=False):
    """Compute the Wasserstein distance between Gaussians of the moments of two sets of samples.

    ``W2^2(N(m0, S0), N(m1, S1))`` with ``S = sum_i (x_i - m)(x_i - m)^T / (n - ddof)``. Of the
    features of a network and squared, it is the Frechet inception distance (FID).

    Parameters
    ----------
    source, target : array-like or Tensor of shape (n_samples, n_features)
        Samples, perhaps fewer than features: singular covariances have distances too.
    ddof : {0, 1}, default=1
        What is taken from the number of samples: 1 gives unbiased covariances, as numpy.cov and
        FID, 0 those of a fitted mixture of one component.
    squared : bool, default=False
        Whether to return the square.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if one was handed in.

    Raises
    ------
    ValueError
        If samples are not two-dimensional, not finite, too few, or differ in dimension.

    See Also
    --------
    bures_wasserstein_distance : The same between given moments.

    Notes
    -----
    Computed in float64, and differentiable once in the samples. Costs ``O(n d^2 + d^3)``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.

    Examples
    --------
    >>> from skgmmot.metrics import frechet_distance
    >>> frechet_distance([[0.0], [2.0]], [[3.0], [7.0]], squared=True)  # 4^2 + (8^.5 - 2^.5)^2
    18.0
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}. 1 gives unbiased covariances.")
    kind = arrays.joint_kind(arrays.kind_of(source), arrays.kind_of(target))
    pairs = ((source, "source"), (target, "target"))
    gaussians = (_moments(X, name, ddof, kind.device) for X, name in pairs)
    value = bures_wasserstein_distance(*gaussians, squared=squared)
    return value if kind.is_tensor else float(value)


def _moments(X, name, ddof, device):
    """The mean and the covariance of samples."""
    X = arrays.as_tensor(X, dtype=torch.float64, device=device)
    if X.ndim != 2 or len(X) <= ddof or not X.shape[1]:
        raise ValueError(
            f"{name} must have shape (n_samples, n_features) with more than {ddof} samples, got "
            f"{tuple(X.shape)}. Pass one sample a row."
        )
    if not torch.isfinite(X.detach()).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity. Drop those samples.")
    mean = X.mean(0)
    centred = X - mean
    return mean, centred.mT @ centred / (len(X) - ddof)


def _single(gaussian, name):
    """A Gaussian as a mixture of one component."""
    if not isinstance(gaussian, tuple | list) or len(gaussian) != 2:
        raise TypeError(
            f"{name} must be a pair (mean, covariance), got {type(gaussian).__name__}. "
            "Put them into a tuple."
        )
    mean, covariance = (arrays.as_tensor(t) for t in gaussian)
    if mean.ndim != 1 or covariance.ndim > 2:
        raise ValueError(
            f"{name} must have a mean (d,) and a covariance (d, d), (d,) or (), got shapes "
            f"{tuple(mean.shape)} and {tuple(covariance.shape)}. Pass one Gaussian."
        )
    covariance_type = ("spherical", "diag", "full")[covariance.ndim]
    parts = mean.new_ones(1), mean.unsqueeze(0), covariance.unsqueeze(0)
    if not any(arrays.kind_of(t).is_tensor for t in gaussian):
        parts = (t.numpy() for t in parts)
    return (*parts, covariance_type)
