r"""Integrals over polyhedra of a Gaussian mixture in space, by quadrature on their facets.

The mass of a component in a cell is the flux ``int F dA_x`` through its boundary, with

.. math::

    F(x, y, z) = \int_{-\infty}^x g(s, y, z)\, ds
        = g_{yz}(y, z)\, \Phi\Bigl(\frac{x - E[x \mid y, z]}{\sigma_{x \mid yz}}\Bigr).

First moments are ``m G - Sigma int g dA``, by parts. Facets are split into triangles of at most two
standard deviations, where the integrands are not negligible, with a Gauss rule on each. They are
entire functions: against finer rules, errors of masses were below 1e-13. The wall at the upper end
of the first axis carries the flux of the marginal in the other two coordinates, in closed form.
"""

import functools
import math

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2

from skgmmot.transport.semidiscrete.cell_integrals import MixtureIntegrals
from skgmmot.transport.semidiscrete.space.diagram import Cuboid, SpaceDiagram, space_diagram
from skgmmot.transport.semidiscrete.whitened_edges import CUTOFF_DEVIATIONS

Array = np.ndarray

#: Sides of triangles in standard deviations of a component, at most.
LONGEST_SIDE = 2.0
#: Number of nodes of the Gauss rules along the two sides of a triangle.
N_NODES = 8
#: Triangles are evaluated in blocks of so many (about 30 MiB).
BLOCK = 2**13
#: Largest number of halvings of a triangle's sides.
MAX_SPLITS = 60


@functools.cache
def _rule(n: int) -> tuple[Array, Array]:
    """Barycentric coordinates ``(n n, 3)`` and weights of a Gauss rule on triangles."""
    t, w = np.polynomial.legendre.leggauss(n)
    t, w = (t + 1) / 2, w / 2
    u, v = (part.ravel() for part in np.meshgrid(t, t, indexing="ij"))
    return np.stack([1 - u, u * (1 - v), u * v], axis=1), np.outer(2 * w * t, w).ravel()


class SpaceMixtureIntegrals(MixtureIntegrals):
    """Integrals over cells of a Gaussian mixture in space.

    Parameters
    ----------
    weights : ndarray of shape (K,)
        Weights, of sum one.
    means : ndarray of shape (K, 3)
        Means.
    covariances : ndarray of shape (K, 3, 3)
        Covariances, positive definite.
    n_nodes : int, default=8
        Number of nodes of the Gauss rules along the two sides of a triangle.
    """

    def __init__(self, weights: Array, means: Array, covariances: Array, n_nodes: int = N_NODES):
        super().__init__(weights, means, covariances)
        self.rule = _rule(n_nodes)
        self.box = Cuboid(*self.box)
        self.others = MixtureIntegrals(weights, means[:, 1:], covariances[:, 1:, 1:])

    def finer(self) -> "SpaceMixtureIntegrals":
        """The same by a finer quadrature, to estimate the error by."""
        return SpaceMixtureIntegrals(self.weights, self.means, self.covariances, N_NODES + 2)

    def nodes(self, n: int) -> tuple[Array, Array]:
        """At least ``n`` points that approximate the density, and their positive masses."""
        used = self.weights > 0
        each = math.ceil(n / np.count_nonzero(used))
        # points spread evenly over the sphere, at radii that are quantiles
        k = np.arange(each) + 0.5
        height, turn = 1 - 2 * k / each, math.pi * (3 - math.sqrt(5)) * k
        level = ((k * (math.sqrt(2) - 1)) % 1.0 + 0.5 / each) / (1 + 1 / each)
        radius = np.sqrt(chi2.ppf(level, 3))
        level = np.sqrt(1 - height**2)
        z = radius * np.stack([level * np.cos(turn), level * np.sin(turn), height])
        places = self.means[used, None] + (self.factors[used] @ z).transpose(0, 2, 1)
        return places.reshape(-1, 3), np.repeat(self.weights[used] / each, each)

    def diagram(self, sites: Array, heights: Array) -> SpaceDiagram:
        """The power diagram of sites of some heights, in the box."""
        return space_diagram(sites, heights, self.box)

    def measure(self, diagram: SpaceDiagram) -> tuple[Array, Array]:
        """Masses of the cells ``(n,)``, and integrals over the facets between them ``(m,)``."""
        flux, along = self._on_facets(diagram)
        masses = diagram.gather(self.weights @ flux) + self.others.measure(diagram.wall)[0]
        return masses, self.weights @ along

    def component_moments(self, diagram: SpaceDiagram) -> tuple[Array, Array]:
        """Masses ``(K, n)`` and first moments ``int x g_k (K, n, 3)`` of the cells."""
        flux, along = self._on_facets(diagram)
        wall, _ = self.others.component_moments(diagram.wall)
        mass = np.stack([diagram.gather(f) for f in flux]) + wall
        normals = diagram.normals()
        first = np.stack(
            [
                np.stack([diagram.gather(a * x) for x in normals.T], axis=1) @ covariance
                for a, covariance in zip(along, self.covariances, strict=True)
            ]
        )
        return mass, mass[..., None] * self.means[:, None] - first

    def _on_facets(self, diagram: SpaceDiagram) -> tuple[Array, Array]:
        """Fluxes ``int F dA_x`` and integrals ``int g dA`` of each component, ``(K, m)``.

        Those of the last diagram are cached, since moments are computed right after masses.
        """
        if self._cached is None or self._cached[0] is not diagram:
            corners, facet = diagram.facets.triangles()
            parts = [
                _Component(mean, covariance, self.rule).integrals(
                    corners, facet, diagram.n_interfaces
                )
                for mean, covariance in zip(self.means, self.covariances, strict=True)
            ]
            self._cached = diagram, *(np.stack(part) for part in zip(*parts, strict=True))
        return self._cached[1:]


class _Component:
    """One Gaussian: its density, and its integral along the first axis."""

    def __init__(self, mean: Array, covariance: Array, rule):
        self.rule = rule
        self.mean, self.of_others = mean, np.linalg.cholesky(covariance[1:, 1:])
        self.slope = np.linalg.solve(covariance[1:, 1:], covariance[1:, 0])
        self.deviation = math.sqrt(covariance[0, 0] - covariance[0, 1:] @ self.slope)

    def whitened(self, places: Array) -> Array:
        """Coordinates ``(..., 3)`` in which the component is standard normal, x last."""
        away = places - self.mean
        # triangular, so that the first two depend on y and z alone
        a, b, c = self.of_others[0, 0], self.of_others[1, 0], self.of_others[1, 1]
        first = away[..., 1] / a
        second = (away[..., 2] - b * first) / c
        third = (away[..., 0] - away[..., 1:] @ self.slope) / self.deviation
        return np.stack([first, second, third], axis=-1)

    def integrals(self, corners: Array, facet: Array, m: int) -> tuple[Array, Array]:
        """Sums over the triangles of each facet of ``int F dA_x`` and ``int g dA``, ``(m,)``."""
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        white, index, share = _small(self.whitened(corners))
        scale = 1 / (2 * math.pi * self.of_others[0, 0] * self.of_others[1, 1])
        flux, along = np.zeros(m), np.zeros(m)
        for rows in np.array_split(np.arange(len(index)), len(index) // BLOCK + 1):
            x = np.tensordot(self.rule[0], white[rows], axes=(1, 1))  # (nodes, triangles, 3)
            g = scale * np.exp(-(x[..., 0] ** 2 + x[..., 1] ** 2) / 2) * self.rule[1][:, None]
            third, of = x[..., 2], index[rows]
            F = (g * ndtr(third)).sum(0) * share[rows]
            g = (g * np.exp(-(third**2) / 2)).sum(0) * share[rows]
            g /= math.sqrt(2 * math.pi) * self.deviation
            flux += np.bincount(facet[of], F * area[of, 0], m)
            along += np.bincount(facet[of], g * np.linalg.norm(area[of], axis=1), m)
        return flux, along


def _small(white: Array) -> tuple[Array, Array, Array]:
    """Split triangles until they are small, leaving out those where nothing is.

    Returns the small triangles, the index of the one each is a part of, and its share of the area.
    """
    index, share = np.arange(len(white)), np.ones(len(white))
    done = []
    for _ in range(MAX_SPLITS):
        far = _beyond(white)
        white, index, share = (t[~far] for t in (white, index, share))
        sides = np.linalg.norm(white - np.roll(white, -1, axis=1), axis=2)
        # F is constant in x far above, so that only the other two coordinates matter there
        above = white[..., 2].min(1) > CUTOFF_DEVIATIONS
        flat = white[above, :, :2]
        sides[above] = np.linalg.norm(flat - np.roll(flat, -1, axis=1), axis=2)
        small = sides.max(1) <= LONGEST_SIDE
        done.append((white[small], index[small], share[small]))
        white, index, share, sides = (t[~small] for t in (white, index, share, sides))
        if not len(white):
            break
        # halve the longest side
        longest = sides.argmax(1)[:, None, None]
        order = (longest[..., 0] + np.arange(3)) % 3
        white = np.take_along_axis(white, order[..., None], axis=1)
        middle = (white[:, 0] + white[:, 1]) / 2
        one, two = white.copy(), white.copy()
        one[:, 1], two[:, 0] = middle, middle
        white, index, share = np.vstack([one, two]), np.tile(index, 2), np.tile(share / 2, 2)
    return tuple(np.concatenate(parts) for parts in zip(*done, strict=True))


def _beyond(white: Array) -> Array:
    """Whether all of a triangle is beyond the cut-off, in the first two coordinates or below."""
    low, high = white.min(1), white.max(1)
    nearest = np.maximum(0.0, np.maximum(low, -high))
    beside = np.hypot(nearest[:, 0], nearest[:, 1]) > CUTOFF_DEVIATIONS
    return beside | (high[:, 2] < -CUTOFF_DEVIATIONS)
