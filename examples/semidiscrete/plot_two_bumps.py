"""
How is an image transported to points?
======================================

Semi-discrete transport maps a density to weighted points: each point receives the mass of its
cell. Here the density is an image of two bumps, and the points are 200 uniform draws. Voronoi's
cells, where each pixel goes to the nearest point, hold very different masses. The optimal plan
changes the cells, by one potential for each point, until all have the same mass.

Then the points are moved, too, repeatedly to the barycentres of their cells. This is
quantisation: it finds the 200 points that are nearest to the image in the Wasserstein distance.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import PolyCollection

from skgmmot import GridDensity, WassersteinQuantizer, semidiscrete_plan
from skgmmot.functional import nearest_plan

# %%
# The image, 64 x 64 pixels on the unit square, and the points.

side = (np.arange(64) + 0.5) / 64
x, y = np.meshgrid(side, side)
image = sum(np.exp(-50 * ((x - c) ** 2 + (y - c) ** 2)) for c in (0.25, 0.75))
density = GridDensity(image, extent=(0, 1, 0, 1), origin="lower")
points = np.random.default_rng(0).uniform(size=(200, 2))

# %%
# Cells of the nearest points, and cells of the plan. Newton's method takes seven steps to find
# potentials whose cells hold a two-hundredth of the image each, to ``1e-8`` in all.

nearest = nearest_plan(density._replace(values=torch.tensor(image)), torch.tensor(points))
plan = semidiscrete_plan(density, points)
print(f"nearest points: masses from {nearest.masses.min():.1e} to {nearest.masses.max():.1e}")
print(f"optimal plan:   masses from {plan.masses.min():.6f} to {plan.masses.max():.6f}")
print(f"{plan.n_iter} Newton steps, W2 = {plan.cost**0.5:.4f}")

# %%
# The quantiser moves the points and keeps their masses equal.

quantizer = WassersteinQuantizer(200, init=points, max_iter=300).fit(density)
moved = semidiscrete_plan(density, quantizer.cluster_centers_)
print(f"after {quantizer.n_iter_} steps: W2 = {quantizer.distance_:.4f}")

# %%
# Top left, the image and the points. Top right, Voronoi's cells, coloured by what they hold: nearly
# all of it is in the cells under the bumps. Bottom left, the plan: all cells hold the same, so they
# are small under the bumps and reach far for their mass elsewhere; a line leads from each point to
# the barycentre of its cell. Most points are far outside their cells: there is nothing to be had
# where they are, and they are served from a bump. Bottom right, the quantised image: points lie in
# their cells, close where it is bright, in a pattern of near-hexagons.

panels = [
    ("the image and 200 points", None, points, None),
    ("nearest points: unequal masses", nearest.cells, points, nearest.masses.numpy()),
    ("optimal plan: equal masses", plan.cells, points, plan.masses),
    ("quantised: points moved", moved.cells, quantizer.cluster_centers_, moved.masses),
]
figure, axes = plt.subplots(2, 2, figsize=(9, 9), layout="constrained")
for ax, (title, cells, sites, masses) in zip(axes.flat, panels, strict=True):
    if cells is None:
        ax.imshow(image, origin="lower", extent=density.extent, cmap="Greys")
    else:
        polygons = [p for p in cells.polygons() if len(p) > 2]
        held = [m for m, p in zip(masses, cells.polygons(), strict=True) if len(p) > 2]
        drawn = PolyCollection(polygons, array=np.array(held), cmap="Blues", edgecolor="0.4")
        drawn.set(clim=(0, 4 / 200), linewidth=0.6)
        ax.add_collection(drawn)
    if cells is plan.cells:
        for start, stop in zip(points, plan.barycentres, strict=True):
            ax.plot(*np.stack([start, stop]).T, color="C1", linewidth=0.5)
        ax.plot([], [], color="C1", label="to the barycentre of its cell")
    ax.plot(*sites.T, ".", color="C3", markersize=3, label="points")
    ax.set(title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
for ax in (axes[0, 0], axes[1, 0]):
    ax.legend(loc="lower right")
figure.colorbar(drawn, ax=axes[:, 1], shrink=0.5, label="mass of a cell", extend="max")
figure.savefig("two_bumps.png", dpi=100)
