r"""Second derivatives of semi-discrete transport in the plane, in the parameters of a mixture.

The dual objective is an integral of ``phi(x) = min_j |x - y_j|^2 - psi_j``, whose second derivative
is twice the identity, less a measure on the edges between cells:

.. math::

    \nabla^2 \phi = 2 I - \sum_{jk} \frac{2}{|y_j - y_k|} (y_j - y_k) (y_j - y_k)^T\,
        \delta_{\text{edge } jk}.

A derivative of a Gaussian integral in the mean is the integral of a derivative, one in the
covariance is half of one more (the heat equation). So all second derivatives of the objective in
means and covariances are integrals of polynomials of degree two over edges, and those of the masses
of cells of degree one: all in closed form. Here they are in the coordinates in which a component is
standard normal, ``x = m + L (mu + (I + S)^{1/2} z)``, at ``mu = 0`` and ``S = 0``.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from skgmmot.transport.semidiscrete.cells import Cells
from skgmmot.transport.semidiscrete.whitened_edges import WhitenedEdges, normal_density

Array = np.ndarray

#: Factors of the entries (1, 1), (1, 2), (2, 2) of symmetric matrices in a product of two.
PAIRED = np.array([1.0, 2.0, 1.0])


class SecondOrder(NamedTuple):
    """Derivatives of the dual objective of fixed potentials, and of the masses of cells.

    They are those in the weight, the mean ``mu`` and the entries (1, 1), (1, 2), (2, 2) of ``S`` of
    each component: six numbers.
    """

    gradient: Array
    """``(K, 6)``; that in the weights up to a constant, which changes of sum zero do not see."""
    hessian: Array
    """``(K, 6, 6)``; that between components is zero."""
    masses: Array
    """Of the masses of the cells, ``(K, 6, n)``."""


def second_order(problem, cells: Cells) -> SecondOrder:
    """Return derivatives at the cells of a mixture in the plane.

    Parameters
    ----------
    problem : ScaledProblem
        The problem, of a mixture.
    cells : Cells
        Its cells, at any heights.

    Returns
    -------
    SecondOrder
        In the unit of the cost.
    """
    of, diagram = problem.density, cells.diagram
    (sites, heights, shift), L, w = problem.in_one_unit(cells), of.factors, of.weights
    mass, first = of.component_moments(diagram)
    squares = np.trace(of.covariances, axis1=1, axis2=2) + (of.means**2).sum(1)
    phi = squares - 2 * (first * sites).sum((1, 2)) + mass @ heights + 2 * of.means @ shift
    slope = 2 * (of.means + shift - mass @ sites)
    # int_j z, and from it E[grad phi z^T]
    about = (first - mass[..., None] * of.means[:, None]) @ np.linalg.inv(L).mT
    bend = 2 * L.mT @ (L - sites.T @ about)
    bend = (bend + bend.mT) / 2
    in_mean = (slope[:, None] @ L)[:, 0]
    in_covariance = PAIRED / 2 * np.stack([bend[:, 0, 0], bend[:, 0, 1], bend[:, 1, 1]], axis=1)
    inner = np.concatenate([in_mean, in_covariance], axis=1)  # (K, 5)
    lines = _lines(of, diagram)
    hessian = np.zeros((len(w), 6, 6))
    hessian[:, 0, 1:] = hessian[:, 1:, 0] = inner
    hessian[:, 1:, 1:] = w[:, None, None] * _within(lines, L, sites)
    masses = np.concatenate([about.mT, _masses_in_covariance(lines, mass.shape)], axis=1)
    unit = problem.unit**2
    return SecondOrder(
        unit * np.concatenate([phi[:, None], w[:, None] * inner], axis=1),
        unit * hessian,
        np.concatenate([mass[:, None], w[:, None, None] * masses], axis=1),
    )


class _Lines(NamedTuple):
    """Line integrals, in standard normal coordinates, over the edges between two cells."""

    component: Array
    """Component of each of p pairs of a component and an edge near it."""
    sites: Array
    """The sites on the left and on the right of its edge, ``(p, 2)``."""
    white: WhitenedEdges
    """The edges."""
    scale: Array
    """Integrals over the edges in the plane, as multiples of those in standard coordinates."""
    level: Array
    """``int phi``, ``(p,)``."""
    first: Array
    """``int z phi``, ``(2, p)``."""
    second: Array
    """Entries (1, 1), (1, 2), (2, 2) of ``int (z z^T - I) phi``, ``(3, p)``."""


def _lines(of, diagram) -> _Lines:
    """Integrals of polynomials over the edges near each component."""
    near = of.near(diagram)
    between = np.flatnonzero(near.pairs[1] < diagram.n_interfaces)
    (k, edge), white = (side[between] for side in near.pairs), near.white.take(between)
    across, begin, end = (normal_density(t) for t in (white.offset, white.begin, white.end))
    # int t^i phi along the edge, t from the foot of the perpendicular
    level = across * (ndtr(white.end) - ndtr(white.begin))
    first = across * (begin - end)
    second = level + across * (white.begin * begin - white.end * end)
    x, y, offset = white.along_x, white.along_y, white.offset
    at_x, at_y = offset * y, -offset * x  # the foot
    length = np.hypot(*(diagram.stop[edge] - diagram.start[edge]).T)
    L = of.factors[k]
    return _Lines(
        k,
        diagram.sites[edge],
        white,
        length / white.length / (L[:, 0, 0] * L[:, 1, 1]),
        level,
        np.stack([at_x * level + x * first, at_y * level + y * first]),
        np.stack(
            [
                (at_x**2 - 1) * level + 2 * at_x * x * first + x**2 * second,
                at_x * at_y * level + (at_x * y + at_y * x) * first + x * y * second,
                (at_y**2 - 1) * level + 2 * at_y * y * first + y**2 * second,
            ]
        ),
    )


def _within(lines: _Lines, L: Array, sites: Array) -> Array:
    """Second derivatives of ``E[phi]`` in mean and covariance, ``(K, 5, 5)``."""
    left, right = lines.sites.T
    apart = sites[left] - sites[right]
    across = (apart[:, None] @ L[lines.component])[:, 0].T  # L^T (y_j - y_k), (2, p)
    jump = 2 * lines.scale / np.hypot(*apart.T)
    K = len(L)

    def summed(integrals: Array) -> Array:
        """Sums over the edges of each component, ``(K, 3, q)``, by entries of the jump."""
        jumps = jump * across[[0, 0, 1]] * across[[0, 1, 1]]
        sums = [np.bincount(lines.component, j * i, K) for j in jumps for i in integrals]
        return np.reshape(sums, (3, len(integrals), K)).transpose(2, 0, 1)

    hessian = np.empty((K, 5, 5))
    level = summed(lines.level[None])[:, [0, 1, 1, 2], 0].reshape(K, 2, 2)
    hessian[:, :2, :2] = 2 * L.mT @ L - level
    mixed = PAIRED[:, None] / 2 * summed(lines.first)
    hessian[:, 2:, :2], hessian[:, :2, 2:] = -mixed, -mixed.mT
    both = np.outer(PAIRED, PAIRED) / 4 * summed(lines.second)
    hessian[:, 2:, 2:] = -(both + both.mT) / 2
    return hessian


def _masses_in_covariance(lines: _Lines, shape: tuple[int, int]) -> Array:
    """Derivatives ``int (z z^T - I) phi / 2`` of the masses in covariances, ``(K, 3, n)``."""
    left, right = lines.sites.T
    normal_x, normal_y = lines.white.along_y, -lines.white.along_x
    x, y = lines.first
    flux = -normal_x * x, -(normal_x * y + normal_y * x), -normal_y * y
    start, size = lines.component * shape[1], shape[0] * shape[1]
    gathered = [
        np.bincount(start + left, part, size) - np.bincount(start + right, part, size)
        for part in flux
    ]
    return np.stack([part.reshape(shape) for part in gathered], axis=1) / 2
