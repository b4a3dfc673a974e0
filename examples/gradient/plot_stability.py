"""
How many samples does MW2 need?
===============================

A mixture fitted to ``n`` samples of a mixture is near it: how near in MW2, and how near is the
distance of two fits to that of the two mixtures? `skgmmot.metrics.stability_bounds` bounds both,
from the two mixtures and the number of samples alone. This compares the bounds with what happens,
in 40 draws for mixtures of separated, touching and overlapping components (propositions 3.1 and 3.2
of :term:`Boite, Tanguy, Delon, Desolneux and Flamary 2025`).
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture
from skgmmot.metrics import MixtureWasserstein, stability_bounds

SIZES = [1000, 5000, 20_000]
N_REPEATS = 40
warnings.simplefilter("ignore", ConvergenceWarning)  # the paper studies 200 iterations
squared = MixtureWasserstein(squared=True)

# %%
# Two mixtures of three components in the plane, as far apart as ``spread`` says, and fits to
# samples of them.


def mixture(spread, angle):
    """Weights, means and covariances."""
    turns = angle + 2 * np.pi * np.arange(3) / 3
    means = spread * np.column_stack([np.cos(turns), np.sin(turns)])
    covariances = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.6, 0.0], [0.0, 1.2]], np.eye(2)])
    return np.array([0.5, 0.3, 0.2]), means, covariances


def fit(true, n_samples, rng):
    """A mixture fitted to samples, its components in the order of the true ones."""
    weights, means, covariances = true
    parts = zip(means, covariances, rng.multinomial(n_samples, weights), strict=True)
    X = np.vstack([rng.multivariate_normal(*part) for part in parts])
    fitted = DifferentiableGaussianMixture(
        3, init_params="k-means++", tol=1e-6, max_iter=200, random_state=0
    ).fit(X)
    found = (fitted.weights_, fitted.means_, fitted.covariances_)
    _, order = linear_sum_assignment(squared.cost(true, found))
    return tuple(part[order] for part in found)


def repeat(trues, n_samples, seed):
    """The squared distance of a fit to the truth, and the change of that between two fits."""
    rng = np.random.default_rng(seed)
    founds = [fit(true, n_samples, rng) for true in trues]
    return squared(founds[0], trues[0]), abs(squared(*founds) - squared(*trues))


# %%
# Curves are means over the draws, dashed lines the bounds.
#
# The squared distance falls like ``n^{-1/2}`` if components are separated: the weights of the fit
# are off by so much, and that much mass has to move from one component to another. The distance
# itself then falls like ``n^{-1/4}``. Left, the bound is nearly attained. Right, it is 30 to 50
# times too large, but falls alike. Where components overlap, 200 iterations of EM are too few: the
# bound is that of the maximum of the likelihood, and what is lost before it does not fall
# with more samples.

sizes = np.array(SIZES)
figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
cases = [
    ("separated", "#1f4e9c", "o", 4.0),
    ("touching", "#d1495b", "s", 2.5),
    ("overlapping", "#f39c34", "^", 1.5),
]
for name, color, marker, spread in cases:
    trues = [mixture(spread, 0.0), mixture(spread, 0.8)]
    draws = [[repeat(trues, n, seed) for seed in range(N_REPEATS)] for n in tqdm(SIZES, desc=name)]
    bounds = [stability_bounds(*trues, n) for n in SIZES]
    bounds = [[b.source for b in bounds], [b.distance for b in bounds]]
    for ax, values, bound in zip(axes, np.mean(draws, axis=1).T, bounds, strict=True):
        slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
        label = f"{name}, falls like $n^{{{slope:.2f}}}$"
        ax.plot(sizes, values, color=color, marker=marker, label=label)
        ax.plot(sizes, bound, color=color, linestyle="--", marker=marker, markersize=3)
        print(f"{name}: {values[-1]:.4f}, bound {bound[-1]:.4f}, slope {slope:.2f}")
axes[0].set(title="a fit to samples of a mixture: how far from it?")
axes[0].set(ylabel="$MW_2^2$, mean of the draws", ylim=(0.02, 1.5))
axes[1].set(title="the distance of two mixtures: how far off is that of their fits?")
axes[1].set(ylabel="error of $MW_2^2$, mean of the draws", ylim=(6e-3, 50))
for ax in axes:
    ax.plot([], [], color="0.4", linestyle="--", label="bound of stability_bounds")
    ax.set(xlabel="number of samples $n$", xscale="log", yscale="log")
    ax.legend(loc="lower left")
    ax.grid(alpha=0.3)
figure.savefig("stability.png", dpi=110)
