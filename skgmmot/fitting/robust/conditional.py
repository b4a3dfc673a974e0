r"""Conditional distributions of mixtures of Student-t distributions, which are such mixtures again.

With the features split into those that are given, *a*, and the others, *b*, and slopes
:math:`B_k = S_{k,ba} S_{k,aa}^{-1}`, the component k given :math:`x_a` is a t distribution of

.. math::

    \nu_k + d_a, \qquad m_{k,b} + B_k (x_a - m_{k,a}), \qquad
    \frac{\nu_k + \delta_k(x_a)}{\nu_k + d_a} \bigl(S_{k,bb} - B_k S_{k,ab}\bigr)

degrees of freedom, location and scale matrix, where :math:`\delta_k` are squared distances in
:math:`S_{k,aa}`, and its weight the responsibility of the marginal of :math:`x_a`.
"""

from dataclasses import dataclass

import torch
from scipy.special import gammaincinv, ndtr
from torch import Tensor

from skgmmot.fitting.robust.student import (
    StudentEStep,
    StudentMixtureParams,
    log_constant,
)
from skgmmot.gaussian.conditional import PreparedCondition
from skgmmot.numerics.exponentials import log_sum_exp
from skgmmot.numerics.linalg import safe_sqrt


@dataclass(frozen=True)
class StudentCondition:
    """A mixture whose features are split in two, as `PreparedCondition` has Gaussians.

    Parameters
    ----------
    gaussians : PreparedCondition
        The Gaussians of the same locations and scale matrices.
    nu : Tensor of shape (K,)
        Degrees of freedom of the mixture.
    """

    gaussians: PreparedCondition
    nu: Tensor

    @classmethod
    def of(cls, mixture: StudentMixtureParams, features) -> "StudentCondition":
        """Split the features of a mixture into those that are given and the others."""
        gaussians = PreparedCondition.of(mixture.gaussians(), features)
        return cls(gaussians, mixture.degrees_of_freedom)

    @property
    def n_normals(self) -> int:
        """How many normal numbers `draw` makes a draw of: one more, for the tails."""
        return self.gaussians.n_normals + 1

    @property
    def requires_grad(self) -> bool:
        """Whether any of it is on a graph."""
        return self.gaussians.requires_grad or self.nu.requires_grad

    @property
    def row_size(self) -> int:
        """Numbers that a condition takes while its components are worked out."""
        return self.gaussians.row_size + self.gaussians.given.means.numel()

    def to(self, **options) -> "StudentCondition":
        """The same, as a constant, with another ``device`` or ``dtype``."""
        return StudentCondition(self.gaussians.to(**options), self.nu.detach().to(**options))

    def e_step(self, n_samples: int | None = None, dtype=torch.float64) -> StudentEStep:
        """The marginal of what is given, ready for so many samples; None is its definition."""
        return StudentEStep(self.gaussians.given, self.nu, n_samples, dtype)

    @property
    def degrees_of_freedom(self) -> Tensor:
        """Those of the components ``(K, 1)``, once the features are given."""
        return (self.nu + self.gaussians.given.means.shape[1]).unsqueeze(1)

    def factors(self, values: Tensor) -> Tensor:
        """What conditional scale matrices are multiplied by ``(K, n)``."""
        given, nu = self.gaussians.given, self.nu.unsqueeze(1)
        centred = values - given.means.unsqueeze(1)
        distances = given.covariance_type.squared_distances(centred, given.factors)
        finite = torch.where(torch.isinf(nu), 1.0, nu)
        found = (finite + distances) / (finite + given.means.shape[1])
        return torch.where(torch.isinf(nu), 1.0, found)

    def at(self, values: Tensor) -> StudentMixtureParams:
        """The mixture for values ``(d1,)``; every component has a scale matrix of its own."""
        found, rows = self.gaussians.at(values), values.unsqueeze(0)
        weights = self.e_step().responsibilities(rows)[0].squeeze(1)
        covariance_type = found.covariance_type.base.unshared
        storage = found.covariances.expand(covariance_type.shape(*found.means.shape))
        covariances = storage * covariance_type.each(self.factors(rows).squeeze(1))
        nu = self.degrees_of_freedom.squeeze(1)
        return StudentMixtureParams(weights, found.means, covariances, nu, covariance_type)

    def mean(self, values: Tensor, resp: Tensor) -> Tensor:
        """Conditional means ``(n, d2)``, with the responsibilities ``(K, n)`` of the values."""
        return self.gaussians.mean(values, resp)

    def mean_and_deviation(self, values: Tensor, resp: Tensor) -> tuple[Tensor, Tensor]:
        """Conditional means and standard deviations ``(n, d2)`` of each feature.

        Deviations are infinite where a component with a share has two degrees of freedom or fewer.
        """
        g, nu, shares = self.gaussians, self.degrees_of_freedom, resp.unsqueeze(-1)
        means = g.component_means(values)
        mean = (shares * means).sum(0)
        light = nu > 2
        tails = torch.where(torch.isinf(nu) | ~light, 1.0, nu / (nu - 2))
        factors = torch.where(light, tails * self.factors(values), torch.inf).unsqueeze(-1)
        within = g.covariance_type.diagonals(g.covariances).unsqueeze(1) * factors
        # (far away squares overflow: those of components without a share do not count)
        each = torch.where(shares > 0, within + (means - mean).square(), 0.0)
        return mean, safe_sqrt((shares * each).sum(0))

    def log_density(self, values: Tensor, others: Tensor, log_resp: Tensor) -> Tensor:
        """``log p(x_b | x_a) (n,)`` at values ``(n, d1)`` and ``(n, d2)``.

        ``log_resp (K, n)`` are log-responsibilities of the former.
        """
        g, nu, d = self.gaussians, self.degrees_of_freedom, others.shape[1]
        factors, widths = g.covariance_type.precision_factor(g.covariances), self.factors(values)
        centred = others - g.component_means(values)
        distances = g.covariance_type.squared_distances(centred, factors) / widths
        finite = torch.where(torch.isinf(nu), 1.0, nu)
        heavy = (finite + d) / 2 * torch.log1p(distances / finite)
        heavy = torch.where(torch.isinf(nu), distances / 2, heavy)
        size = g.covariance_type.log_det(factors, d).unsqueeze(-1) - d / 2 * widths.log()
        constant = log_constant(nu.squeeze(1), d).unsqueeze(1)
        return log_sum_exp(constant + size - heavy + log_resp, 0)

    def draw(self, values: Tensor, resp: Tensor, uniforms: Tensor, normals: Tensor) -> Tensor:
        """Draws ``(n, s, d2)``, from random numbers ``(n, s)`` and ``(n, s, n_normals)``."""
        labels = self.gaussians.labels(resp, uniforms)
        nu = self.degrees_of_freedom.squeeze(1)[labels]  # (n, s)
        half = torch.where(torch.isinf(nu), 2.0, nu).cpu().numpy() / 2
        chi = gammaincinv(half, ndtr(normals[..., -1].cpu().numpy())) / half
        chi = torch.from_numpy(chi).to(nu)
        widths = self.factors(values).mT.gather(1, labels)
        stretch = torch.where(torch.isinf(nu), 1.0, widths / chi).sqrt()
        return self.gaussians.drawn(values, labels, normals[..., :-1] * stretch.unsqueeze(-1))
