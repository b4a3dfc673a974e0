"""Moments of samples that are shared among the components of a fixed mixture.

They are sums, so that those of batches and of processes add, and one M-step makes them a mixture.
"""

import functools
import math

import torch
from torch import Tensor

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS


class AssignedMoments:
    """Sums of mass, shift and scatter of samples about the components of a fixed mixture.

    The sums are one vector in float64: the mass ``(K,)``, the centres ``(K, d)`` that shift and
    scatter are about, the shift ``(K, d)``, and the scatter in the storage of its covariance type.

    Parameters
    ----------
    reference : GaussianMixtureParams, default=None
        The mixture whose responsibilities share each sample among its components, about whose means
        the sums are taken. None is a single Gaussian, about the mean of the first samples.
    """

    def __init__(self, reference: GaussianMixtureParams | None = None):
        self.reference = reference
        if reference is not None:
            self._origin = reference.weights @ reference.means
            self._prepared = reference.translated(-self._origin).prepare()

    def on(self, device: torch.device) -> "AssignedMoments":
        """Return the same with the reference on a device.

        Parameters
        ----------
        device : torch.device
            Where samples are.

        Returns
        -------
        AssignedMoments
            Itself, if it is there already.
        """
        if self.reference is None or self.reference.means.device == device:
            return self
        return AssignedMoments(self.reference.to(device=device))

    @property
    def _n_components(self) -> int:
        return 1 if self.reference is None else len(self.reference.means)

    @property
    def _covariance_type(self):
        return FULL if self.reference is None else self.reference.covariance_type

    def _shapes(self, n_features: int) -> list[tuple[int, ...]]:
        """The shapes of mass, centres, shift and scatter."""
        K = self._n_components
        scatter = self._covariance_type.shape(K, n_features)
        return [(K,), (K, n_features), (K, n_features), scatter]

    def n_features(self, sums: Tensor) -> int | None:
        """Return the number of features of sums.

        Parameters
        ----------
        sums : Tensor
            The vector of sums; empty, if nothing is known of them.

        Returns
        -------
        int or None
            Their number d, None of an empty vector.
        """
        if self.reference is not None:
            return self.reference.means.shape[1]
        return math.isqrt(len(sums)) - 1 if len(sums) else None  # (1 + d)^2 numbers

    def _unpacked(self, sums: Tensor) -> list[Tensor]:
        """Mass, centres, shift and scatter."""
        shapes = self._shapes(self.n_features(sums))
        parts = sums.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def n_samples(self, sums: Tensor) -> float:
        """Return the number of samples of sums.

        Parameters
        ----------
        sums : Tensor
            The vector of sums.

        Returns
        -------
        float
            The mass of all components, but for rounding an integer.
        """
        return float(sums[: self._n_components].sum())

    def nothing(self, n_features: int | None = None) -> Tensor:
        """Return the sums of no samples.

        Parameters
        ----------
        n_features : int, default=None
            Their number d, if there is no reference.

        Returns
        -------
        Tensor
            The vector of sums; an empty one if the number of features is not known.
        """
        if self.reference is not None:
            n_features = self.reference.means.shape[1]
        shapes = [] if n_features is None else self._shapes(n_features)
        return torch.zeros(sum(map(math.prod, shapes)), dtype=torch.float64)

    @staticmethod
    def _packed(*parts: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in parts])

    def added(self, sums: Tensor, X: Tensor) -> Tensor:
        """Add the moments of samples.

        Parameters
        ----------
        sums : Tensor
            The sums of those before.
        X : Tensor of shape (n, d)
            Samples in float64, at least one, where the reference is.

        Returns
        -------
        Tensor
            The sums of all, where those before are.
        """
        if self.reference is not None:
            em = EM(InMemory(X), self._origin, 0.0)
            centres, (mass, shift, scatter, _) = self.reference.means, em.statistics(self._prepared)
        else:
            known = self.n_samples(sums)
            centres = self._unpacked(sums)[1].to(X.device) if known else X.mean(0, keepdim=True)
            mass, (shift, scatter) = X.new_full((1,), len(X)), InMemory(X).sum(_Centred(centres))
        more = self._packed(mass, centres, shift, scatter)
        return self.pooled([sums, more.to(sums.device)])

    def pooled(self, several) -> Tensor:
        """Add the sums of several sets of samples.

        Parameters
        ----------
        several : sequence of Tensor, or Tensor of shape (n_sets, size)
            The vectors of sums.

        Returns
        -------
        Tensor
            The vector of sums over all samples.

        Raises
        ------
        ValueError
            If they are about different references.
        """
        filled = [sums for sums in several if self.n_samples(sums)]
        return functools.reduce(self._sum, filled) if filled else several[0]

    def _sum(self, one: Tensor, other: Tensor) -> Tensor:
        """The sums of two sets of samples, about the centres of the first."""
        centres, theirs = (self._unpacked(sums)[1] for sums in (one, other))
        if not torch.equal(centres, theirs):
            other = self._recentred(other, theirs - centres)
        total = one + other
        self._unpacked(total)[1].copy_(centres)
        return total

    def _recentred(self, sums: Tensor, by: Tensor) -> Tensor:
        """The sums of one Gaussian about another centre."""
        if self.reference is not None:
            raise ValueError(
                "reference must be the same mixture wherever samples are added, got others in "
                "other processes. Fit it once, save it, and load it in each process."
            )
        mass, centres, shift, scatter = self._unpacked(sums)
        moved = Statistics(mass, shift, scatter, mass.sum()).recentred(by, self._covariance_type)
        return self._packed(mass, centres - by, *moved[1:3])

    def mixture(self, sums: Tensor, ddof: int = 1) -> GaussianMixtureParams:
        """Return the mixture of the samples: one M-step from the reference.

        Parameters
        ----------
        sums : Tensor
            Their sums, of more than ``ddof`` samples.
        ddof : int, default=1
            Covariances are those of maximum likelihood times ``n / (n - ddof)``.

        Returns
        -------
        GaussianMixtureParams
            A mixture of the covariance type of the reference. With full covariances, and but for
            this factor, its mean and covariance are those of the samples.
        """
        mass, centres, shift, scatter = self._unpacked(sums)
        theta = (
            _gaussian(centres) if self.reference is None else self.reference.to(device=sums.device)
        )
        found = m_step(theta, Statistics(mass, shift, scatter, mass.sum()))
        n_samples = self.n_samples(sums)
        factor = n_samples / (n_samples - ddof)
        return found._replace(covariances=found.covariance_type.scaled(found.covariances, factor))


def _gaussian(origin: Tensor) -> GaussianMixtureParams:
    """A component to take sums about; its covariance does not matter."""
    d = origin.shape[1]
    return GaussianMixtureParams(origin.new_ones(1), origin, origin.new_zeros(1, d, d), FULL)


class _Centred:
    """Shift ``(1, d)`` and scatter ``(1, d, d)`` about a point, over a block."""

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, origin: Tensor):
        self.origin, self.row_size = origin, origin.shape[1]

    def block(self, X, sample_weight, buffers):
        x = X - self.origin
        return x.sum(0, keepdim=True), (x.mT @ x).unsqueeze(0)
