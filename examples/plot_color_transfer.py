"""
How does a photograph take the colours of another?
==================================================

A picture is a cloud of pixels in the RGB cube. Fit a Gaussian mixture to the cloud of a source
and of a target picture, find the optimal plan between the two mixtures, and move every pixel of
the source by the maps of that plan: the source keeps its shapes and takes the target's palette. The
change of colour is then smoothed, which leaves no bands, haloes or clipped colours whatever the
mixtures; ``--plain`` shows the images of the pixels as they are.

Run it on two pictures of your own::

    python examples/plot_color_transfer.py --source A.jpg --target B.jpg --picture C.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, OTMap
from skgmmot.datasets import load_photograph
from skgmmot.pictures import smooth_recolouring
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# What can be chosen: the two pictures, and how fine the mixtures are.

parser = argparse.ArgumentParser(description="Give a picture the palette of another.")
parser.add_argument("--source", default="china", help="image to recolour (default: china)")
parser.add_argument("--target", default="flower", help="image of the palette (default: flower)")
parser.add_argument("--out", default="color_transfer.png", help="PNG of the whole figure to write")
parser.add_argument("--picture", help="PNG of the recoloured picture alone (default: none)")
parser.add_argument("--n-components", type=int, default=10, help="components a mixture")
parser.add_argument("--strategy", choices=["mean", "random"], default="mean")
parser.add_argument("--plain", action="store_true", help="clip the colours, do not smooth")
args = parser.parse_args()

for option, path in (("--out", args.out), ("--picture", args.picture)):
    if path is not None and not Path(path).resolve().parent.is_dir():
        parser.error(f"{option} must be in a folder that exists, got {path}")
    if path is not None and Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"{option} must end in .png or .jpg, got {path}")
try:
    source, target = load_photograph(args.source), load_photograph(args.target)
except (OSError, ValueError) as error:
    parser.error(str(error))
source_pixels, target_pixels = source.reshape(-1, 3), target.reshape(-1, 3)

# %%
# Fit the target's mixture, then the map: `OTMap.fit` fits the source's mixture and the plan.
# ``reg_covar`` keeps components as wide as a camera's noise (1 % of the range): the map would
# stretch a thinner one, such as an overexposed sky, until its JPEG blocks show. What is left of
# that goes with the smoothing. The grain of the random map is what it is for, and is left.

mixture = DifferentiableGaussianMixture(args.n_components, reg_covar=1e-4, random_state=0)
with tqdm(total=3, desc="fitting the target's mixture", bar_format="{l_bar}{bar}{r_bar}") as bar:
    target_mixture = mixture.fit(target_pixels)
    bar.update()

    bar.set_description("fitting the source's mixture and the map")
    transport = OTMap(target_mixture, strategy=args.strategy, mixture=mixture, random_state=0)
    transport.fit(source_pixels)
    bar.update()

    bar.set_description("mapping every pixel")
    mapped_pixels = transport.transform(source_pixels)
    if args.plain or args.strategy == "random":
        mapped_pixels = mapped_pixels.clip(0, 1)
    else:
        result = smooth_recolouring(source, mapped_pixels.reshape(source.shape))
        mapped_pixels = result.reshape(-1, 3)
    bar.update()

# %%
# How far apart the palettes are, and how close the result comes, in units where white is 1 away
# from black in each channel.

distance = MixtureWasserstein()(transport.source_mixture_, target_mixture)
print(f"MW2 between the two palettes: {distance:.4f}")
for name, pixels in [("target", target_pixels), ("result", mapped_pixels)]:
    mean = ", ".join(f"{value:.3f}" for value in pixels.mean(axis=0))
    spread = ", ".join(f"{value:.3f}" for value in pixels.std(axis=0))
    print(f"{name}: mean RGB ({mean}), standard deviation ({spread})")

# %%
# The pictures, and the mixtures in the RGB cube: each ellipsoid has the colour of its centre.

figure = plt.figure(figsize=(13, 8.5), layout="constrained")
rows = figure.subfigures(2, 1, height_ratios=[1, 1.4])
pictures = [
    ("source", source),
    ("target", target),
    (f"source in the target's colours ({args.strategy} map)", mapped_pixels.reshape(source.shape)),
]
for ax, (title, picture) in zip(rows[0].subplots(1, 3), pictures, strict=True):
    ax.imshow(picture)
    ax.set_title(title, pad=10)
    ax.axis("off")

mixtures = [("source's mixture", transport.source_mixture_), ("target's mixture", target_mixture)]
axes = rows[1].subplots(1, 2, subplot_kw={"projection": "3d"})
for ax, (title, fitted) in zip(axes, mixtures, strict=True):
    colors = fitted.means_.clip(0, 1)
    GaussianMixtureDisplay.from_estimator(fitted, ax=ax, colors=colors, n_std=1.5)
    ax.set(title=title, xlabel="red", ylabel="green", zlabel="blue")
    ax.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))

figure.savefig(args.out, dpi=110, bbox_inches="tight", pad_inches=0.1)
print(f"wrote {args.out}")
if args.picture is not None:
    plt.imsave(args.picture, mapped_pixels.reshape(source.shape))
    print(f"wrote {args.picture}")
