"""Convex polygons in space, many at a time: clipped, cut into slabs, and split into triangles."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Polygons(NamedTuple):
    """Convex polygons, given by their corners in order."""

    corners: Array
    """Corners of one polygon after the other, ``(c, 3)``."""
    of: Array
    """Index of the polygon of each corner, ascending, ``(c,)``."""

    def following(self) -> Array:
        """The index of the next corner of the same polygon, ``(c,)``."""
        following = np.arange(1, len(self.of) + 1)
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        following[np.append(starts[1:], len(self.of))[: len(starts)] - 1] = starts
        return following

    def triangles(self) -> tuple[Array, Array]:
        """Triangles from the first corner of each polygon: ``(t, 3, 3)``, and their polygons."""
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        first = np.repeat(starts, np.diff(np.append(starts, len(self.of))))
        here = np.arange(len(self.of))
        following = self.following()
        used = (here != first) & (following != first)
        index = np.stack([first[used], here[used], following[used]], axis=1)
        return self.corners[index], self.of[used]

    def clipped(self, axis: int, bound: Array, side: int) -> "Polygons":
        """Keep what is on one side of planes across an axis.

        Parameters
        ----------
        axis : int
            The axis.
        bound : ndarray of shape (number of polygons,) or (1,)
            Where the plane of each polygon meets the axis.
        side : {-1, 1}
            -1 keeps what is below, 1 what is above.

        Returns
        -------
        Polygons
            The polygons; those of which nothing is left have no corners.
        """
        plane = bound[self.of if len(bound) > 1 else np.zeros_like(self.of)]
        inside = side * (self.corners[:, axis] - plane)
        if (inside >= 0).all():
            return self
        following = self.following()
        kept, then = inside >= 0, inside[following]
        crosses = kept != (then >= 0)
        start, stop = self.corners[crosses], self.corners[following[crosses]]
        share = inside[crosses] / (inside[crosses] - then[crosses])
        met = start + share[:, None] * (stop - start)
        met[:, axis] = plane[crosses]
        where = np.concatenate([2 * np.flatnonzero(kept), 2 * np.flatnonzero(crosses) + 1])
        order = np.argsort(where)
        return Polygons(
            np.vstack([self.corners[kept], met])[order],
            np.concatenate([self.of[kept], self.of[crosses]])[order],
        )

    def within(self, low: Array, high: Array) -> "Polygons":
        """The polygons clipped to a box."""
        clipped = self
        for axis in range(3):
            clipped = clipped.clipped(axis, low[axis : axis + 1], 1)
            clipped = clipped.clipped(axis, high[axis : axis + 1], -1)
        return clipped

    def slabs(self, axis: int, low: float, width: float, n: int) -> tuple["Polygons", Array]:
        """Cut the polygons where they meet equidistant planes across an axis.

        Parameters
        ----------
        axis : int
            The axis.
        low : float
            Where the first slab begins.
        width : float
            Width of the slabs.
        n : int
            Their number; the first and the last one are unbounded.

        Returns
        -------
        polygons : Polygons
            The pieces.
        origin : ndarray of shape (number of pieces,)
            The polygon of each.
        """
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        if not len(starts):
            return self, np.zeros(0, dtype=np.intp)
        place = (self.corners[:, axis] - low) / width
        first = np.clip(np.floor(np.minimum.reduceat(place, starts)), 0, n - 1).astype(np.intp)
        last = np.clip(np.ceil(np.maximum.reduceat(place, starts)) - 1, first, n - 1)
        counts = (last - first + 1).astype(np.intp)  # of each polygon that has corners
        polygon = np.repeat(np.arange(len(starts)), counts)
        slab = first[polygon] + np.arange(len(polygon)) - (np.cumsum(counts) - counts)[polygon]
        sizes = np.diff(np.append(starts, len(self.of)))[polygon]
        piece = np.repeat(np.arange(len(polygon)), sizes)
        inner = np.arange(len(piece)) - (np.cumsum(sizes) - sizes)[piece]
        copies = Polygons(self.corners[starts[polygon][piece] + inner], piece)
        cut = copies.clipped(axis, np.where(slab == 0, -np.inf, low + slab * width), 1)
        cut = cut.clipped(axis, np.where(slab == n - 1, np.inf, low + (slab + 1) * width), -1)
        return cut, self.of[starts][polygon]
