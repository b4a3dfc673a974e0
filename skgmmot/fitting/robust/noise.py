"""Uniform noise beside the components of a mixture: its density, and where its samples may be."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory

#: Samples that are looked at to find a start, and how many for each component.
LOOKED_AT, EACH = 4096, 32
#: The neighbour whose distance tells noise, and features that its distances count as having.
NEIGHBOUR, MOST_FEATURES = 10, 8
#: Iterations of EM on these distances.
ITERATIONS = 50
#: Weights of noise that a fit begins with, if they are not given.
LEAST_WEIGHT, MOST_WEIGHT = 0.02, 0.5


@dataclass(frozen=True, eq=False)
class UniformNoise:
    r"""Uniform noise beside the components of a mixture.

    .. math:: p(x) = (1 - w_0) \sum_k w_k \, g_k(x) + \frac{w_0}{V}

    Its density :math:`1 / V` is the same everywhere, so that samples far from all components are
    noise rather than members of the nearest one.

    Parameters
    ----------
    bounds : tuple (low, high) of floats or array-like of shape (n_features,), default=None
        The box of volume V that noise fills. None is the smallest one around the samples.
    log_density : float, default=None
        :math:`-\log V`, in place of the bounds.
    weight : float, default=None
        :math:`w_0` that EM starts from; None is the share of the samples that look like noise, by
        the distance of their neighbours.
    fixed_weight : bool, default=False
        Whether the weight stays.

    Raises
    ------
    TypeError
        If a value is of another kind.
    ValueError
        If bounds are not finite or leave no volume, bounds and a density are given, a weight is not
        between 0 and 1, or one that is not given is fixed.

    Notes
    -----
    V is constant in gradients, also where it is that of the samples' own box. In features whose
    samples are all equal the box has the width :math:`\sqrt{2 \pi \,\mathrm{reg\_covar}}`: there
    noise is as dense as the components.

    References
    ----------
    .. [1] Banfield and Raftery 1993, model-based Gaussian and non-Gaussian clustering.
    .. [2] Byers and Raftery 1998, nearest-neighbor clutter removal.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import DifferentiableGaussianMixture, UniformNoise
    >>> X = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [0.5], [50.0]])
    >>> noise = UniformNoise(bounds=(-100.0, 100.0))
    >>> DifferentiableGaussianMixture(1, noise=noise).fit_predict(X)
    array([ 0,  0,  0,  0,  0,  0, -1])
    """

    bounds: Any = None
    log_density: float | None = None
    weight: float | None = None
    fixed_weight: bool = False

    def __post_init__(self):
        if self.bounds is not None:
            if self.log_density is not None:
                raise ValueError(
                    "bounds must be None where log_density is given, got both. Pass one of them."
                )
            object.__setattr__(self, "bounds", _box(self.bounds))
        if self.log_density is not None:
            _check_number("log_density", self.log_density)
            if not math.isfinite(self.log_density):
                raise ValueError(
                    f"log_density must be finite, got {self.log_density}. Pass minus the logarithm "
                    "of a volume."
                )
        if not isinstance(self.fixed_weight, bool):
            raise TypeError(
                f"fixed_weight must be True or False, got {self.fixed_weight!r}. Choose one."
            )
        if self.weight is not None:
            _check_number("weight", self.weight)
            if not 0 < self.weight < 1:
                raise ValueError(
                    f"weight must be between 0 and 1, got {self.weight}. Pass the share of the "
                    "samples that may be noise."
                )
        elif self.fixed_weight:
            raise ValueError("weight must be given where fixed_weight=True, got None. Pass it.")

    def density(
        self, low: Tensor, high: Tensor, reg_covar: float
    ) -> tuple[float, np.ndarray | None]:
        """Return the log-density of the noise beside samples, and its box.

        Parameters
        ----------
        low, high : Tensor of shape (d,)
            The bounds of the samples.
        reg_covar : float
            What the fit adds to variances.

        Returns
        -------
        log_density : float
            Minus the logarithm of the volume.
        bounds : ndarray of shape (2, d) or None
            The box; None if the density is given.

        Raises
        ------
        ValueError
            If bounds are of other features, or the samples' box has no volume.
        """
        if self.log_density is not None:
            return float(self.log_density), None
        d = len(low)
        if self.bounds is None:
            box = torch.stack([low, high]).double().cpu().numpy()
            least = math.sqrt(2 * math.pi * reg_covar)
        else:
            box, least = self.bounds, 0.0
            if box.shape[1:] not in ((), (d,)):
                raise ValueError(
                    f"bounds of noise must be numbers or have shape ({d},) each, the features of "
                    f"X, got {box.shape[1]} each. Match the features of X."
                )
            box = np.stack([np.broadcast_to(side, (d,)) for side in box])
        # half of each side: the whole may overflow
        width = np.maximum(box[1] / 2 - box[0] / 2, least / 2)
        if not (width > 0).all():
            raise ValueError(
                "noise must have a box of positive volume, got samples of which feature "
                f"{int(width.argmin())} is constant. Drop it, pass UniformNoise(bounds=...), or "
                "reg_covar > 0."
            )
        return -float(np.log(width).sum() + d * math.log(2)), box


def _check_number(name: str, value) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}. Pass a float.")


def _box(bounds) -> np.ndarray:
    """The bounds of a user as an array ``(2,)`` or ``(2, d)``."""
    if not isinstance(bounds, tuple | list | np.ndarray | Tensor) or len(bounds) != 2:
        raise TypeError(
            f"bounds must be a pair (low, high), got {bounds!r}. Pass two numbers, or two arrays "
            "of one number a feature."
        )
    try:
        sides = [np.asarray(torch.as_tensor(side).detach().cpu(), np.float64) for side in bounds]
        low, high = np.broadcast_arrays(*sides)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"bounds must be a pair of numbers or of arrays of one shape, got {bounds!r}. Pass one "
            "number a feature."
        ) from error
    if low.ndim > 1:
        raise ValueError(
            f"bounds must be two numbers or two arrays (n_features,), got shape {low.shape} each. "
            "Pass one number a feature."
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(
            f"bounds must be finite with low < high in every feature, got low={low} and "
            f"high={high}. A box without volume has no density."
        )
    return np.stack([low, high])


NOISES = {"none": None, "uniform": UniformNoise()}


def check_noise(noise) -> UniformNoise | None:
    """Return noise given by name or as such; None for none.

    Parameters
    ----------
    noise : {'none', 'uniform'} or UniformNoise
        What a user writes.

    Returns
    -------
    UniformNoise or None
        The noise.
    """
    return noise if isinstance(noise, UniformNoise) else NOISES[noise]


# --- where it may be ------------------------------------------------------------------------------


def looks_like_noise(X: Tensor) -> Tensor:
    r"""Find samples with far neighbours, by the distance :math:`r_i` of the k-th of them.

    Where samples are spread with the density :math:`\lambda`, :math:`\lambda r_i^d` has a gamma
    distribution of shape k. EM for two densities divides the samples.

    Parameters
    ----------
    X : Tensor of shape (m, d)
        Samples.

    Returns
    -------
    Tensor of bool of shape (m,)
        Which are more probably of the lower density; at most half of them.

    References
    ----------
    .. [1] Byers and Raftery 1998, nearest-neighbor clutter removal.
    """
    m, d = X.shape
    k = min(NEIGHBOUR, m - 1)
    if k < 1:
        return torch.zeros(m, dtype=torch.bool, device=X.device)
    x = X.double() - X.double().mean(0)
    width = x.amax(0) - x.amin(0)
    x = x / torch.where(width > 0, width, 1.0)
    points = x.cpu().numpy()
    distance, _ = KDTree(points).query(points, [k + 1])  # the first neighbour is the sample
    distance = torch.from_numpy(distance[:, 0]).to(x)
    # duplicates have no distance
    positive = distance[distance > 0]
    if not len(positive):
        return torch.zeros(m, dtype=torch.bool, device=X.device)
    distance = distance.clamp(min=float(positive.min()))
    log_volume = min(d, MOST_FEATURES) * (distance / distance.median()).log()
    noise = _sparse(log_volume, k)
    too_many = max(int(noise.sum()) - m // 2, 0)
    if too_many:
        nearest = torch.where(noise, distance, torch.inf).argsort()[:too_many]
        noise[nearest] = False
    return noise


def _sparse(log_volume: Tensor, k: int) -> Tensor:
    """Which volumes, of gamma distributions of shape ``k``, belong to the lower of two rates."""
    volume = log_volume.exp()
    order = volume.sort().values
    m = len(order)
    means = torch.stack([order[: (m + 1) // 2].mean(), order[m // 2 :].mean()])
    shares = torch.full_like(means, 0.5)
    for _ in range(ITERATIONS):
        rates = k / means
        joint = shares.log() + k * rates.log() - volume.unsqueeze(1) * rates  # (m, 2)
        resp = torch.softmax(joint, dim=1)
        mass = resp.sum(0).clamp(min=torch.finfo(resp.dtype).tiny)
        shares, means = mass / m, (volume @ resp) / mass
        means = means.clamp(min=torch.finfo(means.dtype).tiny)
    return resp[:, int(means.argmax())] > 0.5


def clear_of_noise(em: EM, n_components: int) -> tuple[EM, float]:
    """Return the samples that do not look like noise, and the weight of the others.

    Parameters
    ----------
    em : EM
        The iteration over samples in memory.
    n_components : int
        K; at least as many samples are left.

    Returns
    -------
    EM
        The same over the samples, or some thousand of them, without those that look like noise.
    float
        The share of noise, moved into the range that a fit begins with.
    """
    a = em.sample_weight
    rows = torch.arange(em.samples.n_samples) if a is None else (a > 0).nonzero().flatten().cpu()
    most = max(LOOKED_AT, EACH * n_components)
    if len(rows) > most:  # always the same: what is drawn for the start does not depend on it
        chosen = np.random.RandomState(0).choice(len(rows), most, replace=False)
        rows = rows[torch.from_numpy(np.sort(chosen))]
    X, a = em.samples[rows.to(em.X.device)]
    noise = looks_like_noise(X)
    kept = ~noise if len(X) - int(noise.sum()) >= n_components else torch.ones_like(noise)
    share = float(noise.double().mean())
    weight = min(max(share, LEAST_WEIGHT), MOST_WEIGHT)
    samples = InMemory(X[kept], None if a is None else a[kept])
    return EM(samples, em.origin, em.reg_covar, em.constraint), weight
