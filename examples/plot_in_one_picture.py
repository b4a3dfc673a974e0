"""
What does the library do, in one picture?
=========================================

It fits Gaussian mixtures to samples, compares two mixtures by optimal transport between their
components, and moves samples of one distribution to another by the maps of that transport.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from skgmmot import GaussianMixtureSearch, MixtureWasserstein, OTMap
from skgmmot.plotting import GaussianMixtureDisplay

parser = argparse.ArgumentParser(description="Draw what the library does.")
parser.add_argument("--out", default="in_one_picture.png", help="PNG to write")
args = parser.parse_args()

# %%
# Two sets of samples: two moons, and three groups.

rng = np.random.default_rng(0)
X, _ = make_moons(1500, noise=0.07, random_state=0)
centres = np.array([[3.2, -0.4], [4.3, 1.1], [5.1, -0.4]])
deviations = np.array([[0.15, 0.4], [0.45, 0.12], [0.25, 0.25]])
groups = rng.integers(3, size=1500)
Y = centres[groups] + rng.normal(size=(1500, 2)) * deviations[groups]

# %%
# Fit a mixture to each. The search chooses the number of components and the covariance type.

source = GaussianMixtureSearch(range(1, 15), random_state=0).fit(X)
target = GaussianMixtureSearch(range(1, 15), random_state=0).fit(Y)
for name, search in (("moons", source), ("groups", target)):
    print(name, search.best_params_)

# %%
# Compare them: the distance MW2, and its plan, which says how much of each component is moved to
# each of the other mixture.

distance = MixtureWasserstein()
plan = distance.plan(source, target)
print(f"MW2 = {distance(source, target):.3f}")

# %%
# Move the samples of one to the other. The random map reproduces the target's spread; the mean map,
# the default, is smooth.

transport = OTMap(target, mixture=source.best_estimator_, strategy="random", random_state=0)
moved = transport.fit_transform(X)

# %%
# One picture. Ellipses are two standard deviations wide, lines as wide as the mass that the plan
# moves.

BLUE, ORANGE = "#1f4e9c", "#f39c34"
figure, axes = plt.subplots(1, 3, figsize=(12, 2.0), sharex=True, sharey=True, layout="constrained")


def ellipses(mixture, colour, ax):
    """Draw a mixture in one colour."""
    colours = [colour] * len(mixture.weights_)
    GaussianMixtureDisplay.from_estimator(mixture, ax=ax, colors=colours, n_std=2)


for samples, colour in ((X, BLUE), (Y, ORANGE)):
    axes[0].scatter(*samples.T, s=1, color=colour, alpha=0.6)
for mixture, colour in ((source, BLUE), (target, ORANGE)):
    ellipses(mixture, colour, axes[1])
for (k, l), mass in np.ndenumerate(plan):
    ends = np.stack([source.means_[k], target.means_[l]])
    axes[1].plot(*ends.T, color="0.2", linewidth=20 * mass, solid_capstyle="round")
ellipses(target, ORANGE, axes[2])
axes[2].scatter(*X.T, s=1, color=BLUE, alpha=0.1)
axes[2].scatter(*moved.T, s=1, color=BLUE)
for start, end in zip(X[:12], moved[:12], strict=True):
    axes[2].annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.2", "lw": 0.8})
titles = (
    "samples of two distributions",
    f"fitted mixtures, compared: MW2 = {distance(source, target):.2f}",
    "samples of one, moved to the other",
)
for ax, title in zip(axes, titles, strict=True):
    ax.set(title=title, aspect="equal", xticks=[], yticks=[])
figure.savefig(args.out, dpi=100)
