"""
How do points fill a tile, and a part of a density?
===================================================

In a periodic box, the distance to a point is that to the nearest of its repetitions. Dots that
approximate a density there can be repeated like tiles without a seam. Where each tile is filled by
itself, dots line up along its edges.

If only a share of the density is transported, each point takes the part that costs least: a disc,
if the point is alone, and a piece of a disc where discs meet. The larger the share, the more of the
box the cells fill; with all of it they are polygons.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, Polygon, Rectangle

from skgmmot import GridDensity, WassersteinQuantizer, semidiscrete_plan

# %%
# A density that repeats itself, and 150 dots for one tile.

x = (np.arange(32) + 0.5) / 32 * 2 * np.pi
waves = 1.3 + np.sin(x[:, None]) * np.cos(x[None, :])

dots = {}
for periodic in (False, True):
    tile = GridDensity(waves, origin="lower", periodic=periodic)
    quantizer = WassersteinQuantizer(150, tol=1e-4, random_state=0).fit(tile)
    dots[periodic] = quantizer.cluster_centers_
    print(f"periodic: {periodic}, distance {quantizer.distance_:.5f}, {quantizer.n_iter_} steps")

# %%
# Above, the corners of four tiles. One by one, dots keep half of their usual distance from the
# edges: on both sides they run in lines along the seam. In the periodic box nothing shows where the
# tiles meet. Right, cells of equal mass for 12 points of such a box: those at its edges go on at
# the other side, so that the cells tile the plane.
#
# Below, growing shares of the density in a box that ends at its edges. The squared radius of a disc
# is the point's potential.

few = np.random.default_rng(1).random((12, 2))
box = GridDensity(waves, origin="lower", periodic=True)
colours = plt.get_cmap("tab20").colors
shifts = np.array(list(itertools.product((-1, 0, 1), repeat=2)))
figure, axes = plt.subplots(2, 3, figsize=(10, 7), layout="constrained")
for ax, (periodic, centres) in zip(axes[0], dots.items(), strict=False):
    ax.scatter(*np.vstack([centres + shift for shift in shifts]).T, s=7, color="k")
    ax.axhline(1, color="C3", lw=0.6)
    ax.axvline(1, color="C3", lw=0.6)
    ax.set(title="tiles made " + ("in a periodic box" if periodic else "one by one"))
    ax.set(xlim=(0.45, 1.55), ylim=(0.45, 1.55))

plan = semidiscrete_plan(box, few)
for polygon, point, colour in zip(plan.cells.polygons(), few, colours, strict=False):
    for shift in shifts:
        strength = 0.3 if shift.any() else 1.0
        axes[0, 2].add_patch(Polygon(polygon + shift, fc=colour, ec="w", lw=0.8, alpha=strength))
    axes[0, 2].plot(*point, "k.", ms=4)
axes[0, 2].add_patch(Rectangle((0, 0), 1, 1, fc="none", ec="C3"))
axes[0, 2].set(title="cells of equal mass", xlim=(-0.4, 1.4), ylim=(-0.4, 1.4))

for ax, mass in zip(axes[1], (0.2, 0.5, 0.9), strict=True):
    plan = semidiscrete_plan(box._replace(periodic=False), few, mass=mass)
    ax.imshow(waves, extent=(0, 1, 0, 1), origin="lower", cmap="Greys", alpha=0.5)
    parts = zip(plan.cells.polygons(), few, plan.potentials, colours, strict=False)
    for polygon, point, potential, colour in parts:
        cell = ax.add_patch(Polygon(polygon, fc=colour, ec="w", lw=0.8))
        cell.set_clip_path(Circle(point, np.sqrt(max(potential, 0)), transform=ax.transData))
        ax.plot(*point, "k.", ms=4)
    ax.set(title=f"{mass:.0%} of the density, cost {plan.cost:.4f}", xlim=(0, 1), ylim=(0, 1))
for ax in axes.flat:
    ax.set(aspect="equal", xticks=[], yticks=[])
figure.savefig("tiles_and_parts.png", dpi=100)
