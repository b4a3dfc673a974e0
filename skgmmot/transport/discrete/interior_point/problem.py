r"""Discrete transport with penalties, entropy, or both, and its dual.

With ``KL(p | q) = sum p log(p / q) - p + q``,

.. math::

    \min_{P \ge 0}\; \langle P, C\rangle + \mathrm{reg}\, KL(P \mid a b^T)
        + \lambda_0 KL(P 1 \mid a) + \lambda_1 KL(P^T 1 \mid b)

    \max_{f, g}\; \langle a, \phi_0(f)\rangle + \langle b, \phi_1(g)\rangle
        - \mathrm{reg} \sum_{kl} a_k b_l \bigl(e^{(f_k + g_l - C_{kl}) / \mathrm{reg}} - 1\bigr)

where :math:`\phi(f) = \lambda (1 - e^{-f / \lambda})`. With :math:`\lambda = \infty` the
marginal is prescribed, and :math:`\phi(f) = f`. With ``reg = 0`` the last term is the constraint
``f + g <= C``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Bound of the exponent in marginals: ``exp`` of more would overflow in float32.
LARGEST_EXPONENT = 80.0
#: Bound of the exponent in entropic plans.
LARGEST_CLAMP = 300.0


class Penalised(NamedTuple):
    """A transport problem with penalties, in float64 and with positive weights."""

    a: Tensor
    """Source weights ``(K,)``."""
    b: Tensor
    """Target weights ``(L,)``."""
    C: Tensor
    """Costs ``(K, L)``, at most about one; not negative if a penalty is finite."""
    lam0: float
    """Penalty of the source marginal; infinite if it is prescribed."""
    lam1: float
    """Penalty of the target marginal."""
    reg: float
    """Weight of the entropy."""

    def in_unit(self, unit: float) -> "Penalised":
        """The same problem with its costs measured in another unit."""
        return Penalised(self.a, self.b, *(value / unit for value in self[2:]))

    def primal(self, P: Tensor) -> float:
        """The primal objective of a plan, assuming that prescribed marginals are met."""
        value = (P * self.C).sum()
        for marginal, weights, lam in (
            (P.sum(1), self.a, self.lam0),
            (P.sum(0), self.b, self.lam1),
        ):
            if not math.isinf(lam):
                value = value + lam * divergence(marginal, weights)
        if self.reg:
            value = value + self.reg * self._divergence(P)
        return float(value)

    def dual(self, f: Tensor, g: Tensor) -> float:
        """The dual objective of potentials, a lower bound of the primal."""
        value = self.a @ conjugate(f, self.lam0, 700.0) + self.b @ conjugate(g, self.lam1, 700.0)
        if self.reg:
            change = torch.expm1(self.exponent(f, g))  # exact where costs are small against reg
            value = value - self.reg * (self.independent() * change).sum()
        return float(value)

    def _divergence(self, P: Tensor) -> Tensor:
        """``KL(P | a b^T)``."""
        independent = self.independent()
        if independent.min() > 0:
            return divergence(P, independent)
        logs = self.a.log().unsqueeze(1) + self.b.log()  # a product of weights underflows
        return (torch.xlogy(P, P) - P * logs - P + independent).sum()

    def independent(self) -> Tensor:
        """The independent plan ``a b^T``."""
        return self.a.unsqueeze(1) * self.b

    def coupling(self, f: Tensor, g: Tensor) -> Tensor:
        """The entropic plan of potentials, ``a b^T exp((f + g - C) / reg)``."""
        independent = self.independent()
        if independent.min() > 0:
            return independent * self.exponent(f, g).exp()
        logs = self.a.log().unsqueeze(1) + self.b.log()
        exponent = (f.unsqueeze(1) + g - self.C) / self.reg
        return (exponent + logs).clamp(max=LARGEST_CLAMP).exp()

    def exponent(self, f: Tensor, g: Tensor) -> Tensor:
        """``(f + g - C) / reg``, bounded so that its exponential is finite."""
        return ((f.unsqueeze(1) + g - self.C) / self.reg).clamp(max=LARGEST_CLAMP)


def conjugate(f: Tensor, lam: float, most: float = LARGEST_EXPONENT) -> Tensor:
    """Return ``lam (1 - exp(-f / lam))``, the derivative of a penalised cost in the weights.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.
    most : float, default=80.0
        Bound of the exponent.

    Returns
    -------
    Tensor of shape (K,)
        The derivative, finite in float32, too; ``f`` itself if the marginal is prescribed.
    """
    return f if math.isinf(lam) else -lam * torch.expm1((-f / lam).clamp(max=most))


def marginal(f: Tensor, lam: float, weights: Tensor) -> Tensor:
    """Return ``w exp(-f / lam)``, the marginal of the optimal plan of potentials under a penalty.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.
    weights : Tensor of shape (K,)
        Weights ``w``.

    Returns
    -------
    Tensor of shape (K,)
        The marginal; ``w`` if it is prescribed.
    """
    return weights if math.isinf(lam) else weights * torch.exp(-f / lam)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence ``KL(p | q) = sum p log(p / q) - p + q``.

    Parameters
    ----------
    p : Tensor
        Masses, not negative.
    q : Tensor of the shape of p
        Masses, positive.

    Returns
    -------
    Tensor of shape ()
        The divergence, exact to rounding also where ``p`` is nearly ``q``.
    """
    change = p / q - 1
    return (q * (torch.special.xlog1py(1 + change, change) - change)).sum()
