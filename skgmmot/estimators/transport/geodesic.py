"""Interpolation between two mixtures: geodesics, Schrodinger bridges and their flows."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, overload

import numpy as np
import torch

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_pair
from skgmmot._inputs.seeds import seed_of
from skgmmot._types import Array, Elsewhere, Mixture, RandomState, Samples
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.mixtures import flow, geodesic


@single_threaded_torch()
def interpolate(
    source: Mixture, target: Mixture, t: float, *, reg: float = 0.0
) -> DifferentiableGaussianMixture:
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
    reg : float, default=0.0
        Entropy of the coupling of samples, in squared units of the data. 0 is the geodesic;
        otherwise the mixture is that of the Schrodinger bridge at time ``t``, see `MixtureFlow`.

    Returns
    -------
    DifferentiableGaussianMixture
        The mixture as an estimator that was never fitted to samples, ready to sample,
        score, predict, draw and compare. At most ``K + L - 1`` components, in the same
        order at every ``t``; covariances are diagonal, spherical or tied if both mixtures' are,
        else full. Constants; tensors if a mixture requires a gradient or is not on the CPU.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a mixture is neither an estimator nor a tuple, or ``t`` or ``reg`` is not a number.
    ValueError
        If ``t`` is not in [0, 1], the mixtures differ in dimension, one is not a mixture, or
        ``reg`` is negative or not finite.

    See Also
    --------
    skgmmot.MixtureWasserstein : The distance whose geodesics these are.
    skgmmot.MixtureFlow : The flow of samples along the geodesic.
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
    t = time(t)
    a, b, kind = as_pair(source, target)
    return known_mixture(geodesic.interpolate(a, b, t, reg=reg), arrays.answer_kind(kind))


class MixtureFlow:
    r"""Flow of samples from one mixture to another, along the geodesic or a Schrodinger bridge.

    Each pair of components that the plan joins moves along the geodesic between its Gaussians, or
    along their Schrodinger bridge if ``reg > 0``; `mixture` is their mixture at any time, and
    `velocity` the field that samples follow:

    .. math::

        \mu_t = \sum_{kl} P_{kl} \, g_{kl, t}, \qquad
        v(t, x) = \sum_{kl} \gamma_{kl}(t, x) \, v_{kl}(t, x),

    with the responsibilities :math:`\gamma` of the pairs at time ``t`` and the velocities
    :math:`v_{kl}` of their Gaussians, which are affine in ``x``.

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures, of K and L components. A fourth entry of a tuple names its covariance type.
    reg : float, default=0.0
        Entropy of the coupling of samples, in squared units of the data. 0 is the geodesic of MW2.
        Otherwise the plan minimises the entropic costs between Gaussians, and samples move by
        Brownian motion as well, whose variance at time 1 is ``reg / 2``.

    Attributes
    ----------
    plan : array or Tensor of shape (K, L)
        Masses of the pairs of components.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a mixture is neither an estimator nor a tuple, or ``reg`` is not a number.
    ValueError
        If the mixtures differ in dimension, one is not a mixture, or ``reg`` is negative or not
        finite.

    See Also
    --------
    interpolate : The mixture at one time.
    OTMap : Moves samples to the end at once.

    Notes
    -----
    Constants: nothing is differentiable. A velocity costs ``O((K + L) d^3)``, and
    ``O(n (K + L) d^2)`` for n samples. With ``reg`` the coupling is the best mixture of Gaussian
    couplings, which is the Schrodinger bridge itself if K = L = 1.

    References
    ----------
    .. [1] Delon and Desolneux 2020, geodesics between mixtures.
    .. [2] Bunne, Hsieh, Cuturi and Krause 2023, theorem 3: the bridge between Gaussians.
    .. [3] Rapakoulias, Pedram and Tsiotras 2024: bridges between mixtures.

    Examples
    --------
    >>> from skgmmot import MixtureFlow
    >>> source = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    >>> target = ([0.5, 0.5], [[4.0, -4.0], [4.0, 4.0]], [9.0, 4.0], "spherical")
    >>> flow = MixtureFlow(source, target)
    >>> flow.velocity(0.0, [[0.0, 0.0]])
    array([[4., 0.]])
    >>> flow.transport([[0.0, -1.0]], [0.0, 0.5, 1.0]).shape
    (3, 1, 2)
    """

    def __init__(self, source: Mixture, target: Mixture, *, reg: float = 0.0) -> None:
        *pair, kind = as_pair(source, target)
        self._kind = arrays.answer_kind(kind)
        with single_threaded_torch():
            plan, self._flow = flow.mixture_flow(*pair, reg=reg)
        self.plan = self._kind.restore(plan.coupling)
        self._start = known_mixture(self._flow.mixture(0.0), self._kind)

    @single_threaded_torch()
    def mixture(self, t: float) -> DifferentiableGaussianMixture:
        """Return the mixture at a time, as a fitted estimator.

        Parameters
        ----------
        t : float
            Time, from 0 at the source to 1 at the target.

        Returns
        -------
        DifferentiableGaussianMixture
            At most ``K + L - 1`` components, in the same order at every time.

        Raises
        ------
        TypeError
            If ``t`` is not a number.
        ValueError
            If ``t`` is not in [0, 1].
        """
        return known_mixture(self._flow.mixture(time(t)), self._kind)

    @overload
    def velocity(self, t: float, X: Elsewhere) -> Any: ...

    @overload
    def velocity(self, t: float, X: Array) -> np.ndarray: ...

    def velocity(self, t, X):
        r"""Compute the velocity of samples at a time.

        Samples of the source that follow :math:`dx/dt = v(t, x)` are samples of ``mixture(t)`` at
        every time. It is the target of flow matching, in closed form.

        Parameters
        ----------
        t : float
            Time from 0 to 1.
        X : array-like or Tensor of shape (n_samples, n_features)
            Positions.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            Velocities, in the dtype of ``X``.

        Raises
        ------
        TypeError
            If ``t`` is not a number.
        ValueError
            If ``t`` is not in [0, 1], ``X`` is not a finite matrix with the features of the
            mixtures, or a covariance at that time is singular.
        """
        return self._evaluate(self._flow.velocity, t, X)

    @overload
    def drift(self, t: float, X: Elsewhere) -> Any: ...

    @overload
    def drift(self, t: float, X: Array) -> np.ndarray: ...

    def drift(self, t, X):
        r"""Compute the drift of the Schrodinger bridge at a time.

        .. math:: v(t, x) + \tfrac14 \text{reg} \, \nabla \log \mu_t(x)

        Samples of the source that follow :math:`dx = \text{drift} \, dt + \sigma dB` with
        :math:`\sigma^2 = \text{reg} / 2` are samples of ``mixture(t)`` at every time. Without
        entropy it is the velocity.

        Parameters
        ----------
        t : float
            Time from 0 to 1.
        X : array-like or Tensor of shape (n_samples, n_features)
            Positions.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            The drift, in the dtype of ``X``.

        Raises
        ------
        TypeError
            As `velocity`.
        ValueError
            As `velocity`.
        """
        return self._evaluate(self._flow.drift, t, X)

    @single_threaded_torch()
    def _evaluate(self, field, t, X):
        """A field at samples, in the user's kind of array."""
        t = time(t)
        X, kind = arrays.samples(self._start, X, reset=False)
        return kind.restore(flow.field_at(field(t), X.detach()))

    @single_threaded_torch()
    def transport(
        self, X: Samples, times: Sequence[float] = (0.0, 1.0), *, n_steps: int = 50
    ) -> Any:
        """Move samples along the velocity field, by the Runge-Kutta method of order four.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Positions at the first time.
        times : sequence of T float, default=(0.0, 1.0)
            Times from 0 to 1, ascending or descending.
        n_steps : int, default=50
            Steps for a unit of time. Twice as many reduce the error to a sixteenth.

        Returns
        -------
        array or Tensor of shape (T, n_samples, n_features)
            Positions at each time, in the dtype of ``X``.

        Raises
        ------
        TypeError
            If a time is not a number.
        ValueError
            As `velocity`, and if times are not monotone or ``n_steps`` is not positive.
        """
        times = monotone(times)
        X, kind = arrays.samples(self._start, X, reset=False)
        return kind.restore(self._flow.transport(X.detach(), times, n_steps))

    @single_threaded_torch()
    def paths(
        self, times: Sequence[float], n_paths: int = 1, *, random_state: RandomState = None
    ) -> Any:
        """Draw paths from the source to the target, exact at the given times.

        Parameters
        ----------
        times : sequence of T float
            Ascending times from 0 to 1.
        n_paths : int, default=1
            Number of paths.
        random_state : int, RandomState instance or None, default=None
            Source of random numbers.

        Returns
        -------
        array or Tensor of shape (T, n_paths, n_features)
            Positions, float64: samples of ``mixture(t)`` at each time. Lines without entropy;
            Brownian bridges between coupled ends with it.

        Raises
        ------
        TypeError
            If a time is not a number.
        ValueError
            If times are not ascending in [0, 1] or ``n_paths`` is not positive.
        """
        times = monotone(times)
        if list(times) != sorted(times):
            raise ValueError(f"times must ascend, got {times}. Sort them.")
        seed = seed_of(random_state)
        generator = torch.Generator(self._flow.weights.device).manual_seed(seed)
        paths, _ = self._flow.paths(times, n_paths, generator=generator)
        return self._kind.restore(paths)


def known_mixture(params, kind):
    """An estimator whose parameters are set to those of a given mixture."""
    return DifferentiableGaussianMixture._known(params, kind)


def time(t) -> float:
    """A time between two mixtures, validated."""
    if not isinstance(t, Real) or isinstance(t, bool):
        raise TypeError(f"t must be a number, got {type(t).__name__}. Pass one time a call.")
    if not 0 <= float(t) <= 1:
        raise ValueError(
            f"t must be from 0 to 1, got {t}. Beyond its ends a geodesic need not go on."
        )
    return float(t)


def monotone(times) -> list[float]:
    """Times, validated: ascending or descending."""
    try:
        found = [time(t) for t in times]
    except TypeError as error:
        raise TypeError(
            f"times must be a sequence of numbers, got {times!r}. Pass for example (0.0, 0.5, 1.0)."
        ) from error
    if not found or found not in (sorted(found), sorted(found, reverse=True)):
        raise ValueError(
            f"times must ascend or descend, and be one or more, got {found}. Sort them."
        )
    return found
