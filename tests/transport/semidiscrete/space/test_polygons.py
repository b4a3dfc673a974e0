"""Convex polygons in space: clipped, cut into slabs, split into triangles."""

import numpy as np

from skgmmot.transport.semidiscrete.space.polygons import Polygons


def square(low, high, z):
    """The corners of a square across the third axis."""
    return np.array([[low, low, z], [high, low, z], [high, high, z], [low, high, z]], float)


TWO = Polygons(np.vstack([square(0, 1, 0), square(2, 4, 1)]), np.repeat([0, 1], 4))


def areas(polygons, n):
    corners, of = polygons.triangles()
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    return np.bincount(of, normal[:, 2], n)


def test_triangles_cover_polygons():
    corners, of = TWO.triangles()
    assert corners.shape == (4, 3, 3) and of.tolist() == [0, 0, 1, 1]
    assert np.allclose(areas(TWO, 2), [1, 4])
    assert TWO.following().tolist() == [1, 2, 3, 0, 5, 6, 7, 4]


def test_clipping_keeps_one_side_of_each_polygons_plane():
    below = TWO.clipped(0, np.array([0.25, 3.5]), -1)
    assert np.allclose(areas(below, 2), [0.25, 3])
    assert np.allclose(areas(TWO.clipped(0, np.array([0.25, 3.5]), 1), 2), [0.75, 1])
    assert np.allclose(areas(TWO.clipped(1, np.array([1.5]), 1), 2), [0, 4])
    assert TWO.clipped(2, np.array([0.0]), 1) is TWO


def test_polygons_of_which_nothing_is_left_still_have_their_planes():
    first = TWO.clipped(2, np.array([0.5]), -1)
    assert np.allclose(areas(first.clipped(0, np.array([0.25, 3.5]), -1), 2), [0.25, 0])


def test_a_box_cuts_off_what_is_outside():
    within = TWO.within(np.array([0.5, 0.5, -1.0]), np.array([3.0, 3.0, 1.0]))
    assert np.allclose(areas(within, 2), [0.25, 1])
    assert len(TWO.within(np.full(3, 8.0), np.full(3, 9.0)).of) == 0


def test_slabs_are_the_parts_between_planes():
    pieces, origin = TWO.slabs(0, 0.0, 0.5, 8)
    assert origin.tolist() == [0, 0, 1, 1, 1, 1]
    assert np.allclose(areas(pieces, 6), [0.5, 0.5, 1, 1, 1, 1])
    assert np.allclose(areas(TWO.slabs(0, 0.0, 1.0, 2)[0], 2), [1, 4])  # the last is unbounded
    nothing = Polygons(np.empty((0, 3)), np.empty(0, dtype=int))
    assert len(nothing.slabs(0, 0.0, 1.0, 2)[1]) == 0
