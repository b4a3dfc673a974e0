"""
Can equal dots draw a photograph?
=================================

Stippling draws a picture with equal dots, here white ones on black, close together where it is
bright. This is quantisation with equal masses: the brightness of the photograph is a density in
the plane, and the dots are the points nearest to it in the Wasserstein distance. Each dot then
represents the same amount of light, that of its cell.

Run it on a photograph of your own::

    python examples/semidiscrete/plot_stippling.py --source A.jpg --n-dots 4000 --out B.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from skgmmot import GridDensity, WassersteinQuantizer, semidiscrete_plan
from skgmmot.datasets import load_photograph

parser = argparse.ArgumentParser(description="Draw a photograph in dots")
parser.add_argument("--source", default="flower", help="'china', 'flower' or an image file")
parser.add_argument("--n-dots", type=int, default=4000, help="number of dots")
parser.add_argument("--out", default="stippling.png", help="PNG to write")
args = parser.parse_args()

if not Path(args.out).resolve().parent.is_dir():
    parser.error(f"--out must be in a folder that exists, got {args.out}")
try:
    picture = load_photograph(args.source)
except (OSError, ValueError) as error:
    parser.error(str(error))

# %%
# The light: the grey of blocks of 3 x 3 pixels, squared for contrast.

height, width = (size // 3 * 3 for size in picture.shape[:2])
grey = picture[:height, :width].mean(axis=2).reshape(height // 3, 3, width // 3, 3).mean((1, 3))
density = GridDensity(grey**2, extent=(0, width, 0, height))

# %%
# Lloyd's steps, from random draws of the density, until one gains less than 0.3 %.

quantizer = WassersteinQuantizer(args.n_dots, tol=3e-3, random_state=0).fit(density)
plan = semidiscrete_plan(density, quantizer.cluster_centers_)
print(f"{quantizer.n_iter_} steps, W2 = {quantizer.distance_:.2f} pixels")

# %%
# Left, the photograph. Middle, all dots are equal and only their distances draw: bright edges of
# petals show as lines of dots. Right, the cells of a detail: they hold the same light each, so they
# are small on bright petals and wide in the shade, here that of the flower's heart.

figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained", width_ratios=[3, 3, 2])
axes[0].imshow(grey, cmap="gray", extent=density.extent)
axes[1].scatter(*quantizer.cluster_centers_.T, s=2.5, color="white", linewidths=0)
for polygon in plan.cells.polygons():
    axes[2].fill(*polygon.T, facecolor="none", edgecolor="0.5", linewidth=0.6)
axes[2].scatter(*quantizer.cluster_centers_.T, s=5, color="white", linewidths=0)
for ax, title in zip(axes, ["photograph", f"{args.n_dots} dots", "cells of a detail"], strict=True):
    ax.set_facecolor("black")
    ax.set(title=title, xlim=(0, width), ylim=(0, height), aspect="equal", xticks=[], yticks=[])
axes[2].set(xlim=(0.4 * width, 0.6 * width), ylim=(0.4 * height, 0.64 * height))
figure.savefig(args.out, dpi=110)
print(f"wrote {args.out}")
