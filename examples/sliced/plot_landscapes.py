"""
Where do the likelihood and the Wasserstein distance lead a fit?
================================================================

A mixture of two Gaussians is fitted to samples of one, with everything known but one mean (top) or
both means (middle), as in figure 1 of :term:`Kolouri, Rohde and Hoffmann 2018`. Both objectives
have their minima at the right means: one minimum for one mean, two symmetric ones for two. But the
negative log-likelihood is almost flat where the first mean is beyond the second, so that descent
is slow there. The squared Wasserstein distance grows like the square of the distance to the
minimum.

The bottom row is about the gradient of the distance. Equation 14 of the paper integrates the cost
:math:`|f(t) - t|^2` of the transport map :math:`f` against the change of the density. The right
gradient integrates the potential :math:`\\varphi` with :math:`\\varphi'(t) = 2 (t - f(t))` instead.
Descent along the published one does not move from the left, and ends at a wrong mean from the
right.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import norm

from skgmmot.functional import GaussianMixtureParams, log_density, sliced_wasserstein

# %%
# Samples of two Gaussians on the line, and both objectives as functions of the means. On the line
# there is one direction, and the sliced distance is the Wasserstein distance itself.

MEANS, DEVIATION = np.array([0.0, 5.0]), 1.0
rng = np.random.default_rng(0)
X = np.concatenate([rng.normal(m, DEVIATION, size=500) for m in MEANS])
samples = torch.tensor(X)[:, None]
direction = torch.ones(1, 1, dtype=torch.float64)


def mixture(means):
    """Two Gaussians of equal weights and known deviations."""
    return GaussianMixtureParams(
        torch.full((2,), 0.5, dtype=torch.float64), means[:, None], torch.ones(2, 1).double()
    )


def negative_log_likelihood(means):
    return -log_density(mixture(means), samples).mean()


def squared_distance(means):
    return sliced_wasserstein(mixture(means), samples, direction)


OBJECTIVES = {
    "negative log-likelihood (nats a sample)": negative_log_likelihood,
    "squared Wasserstein distance": squared_distance,
}


def on_grid(objective, firsts, seconds):
    """Values for all pairs of means."""
    pairs = [[torch.tensor([m, other]) for other in seconds] for m in firsts]
    return np.array([[float(objective(pair)) for pair in row] for row in pairs])


# %%
# The gradient in the first mean, by equation 14 and right. Both integrate over the line.

t = np.linspace(-12, 17, 2001)
quantiles = np.sort(X)


def gradients(mean):
    """The published and the right gradient of the squared distance in the first mean."""
    parts = [norm(m, DEVIATION) for m in (mean, MEANS[1])]
    cdf = sum(part.cdf(t) for part in parts) / 2
    f = quantiles[np.minimum((cdf * len(X)).astype(int), len(X) - 1)]
    slope = 0.5 * (t - mean) / DEVIATION**2 * parts[0].pdf(t)  # of the density in the mean
    potential = np.cumsum(2 * (t - f)) * (t[1] - t[0])
    return [np.trapezoid(u * slope, t) for u in ((f - t) ** 2, potential)]


def descend(which, start, rate=0.5, n_steps=60):
    """Means along gradient descent."""
    found = [start]
    for _ in range(n_steps):
        found.append(found[-1] - rate * gradients(found[-1])[which])
    return found


# %%
# Minima on the line or the grid are marked.


def minima(values):
    """Where values are smaller than all around, inside the grid."""
    padded = np.pad(values, 1, constant_values=np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3,) * values.ndim)
    around = windows.reshape(*values.shape, -1)
    return np.argwhere((values == around.min(-1)) & ((around == values[..., None]).sum(-1) == 1))


grid = np.linspace(-5, 12, 69)
coarse = np.linspace(-4.0, 9.0, 53)
figure, axes = plt.subplots(3, 2, figsize=(11, 12), layout="constrained")
for column, (name, objective) in enumerate(OBJECTIVES.items()):
    line = on_grid(objective, grid, MEANS[1:])[:, 0]
    ax = axes[0, column]
    ax.plot(grid, line)
    lowest = minima(line)[:, 0]
    ax.plot(grid[lowest], line[lowest], "o", color="C3", label="minimum")
    ax.set(title=name, xlabel="first mean (the second is known)", ylabel="objective")
    ax.legend()
    print(f"{name}: minima of one mean at {grid[lowest].round(2)}")

    plane = on_grid(objective, coarse, coarse)
    ax = axes[1, column]
    contours = ax.contourf(coarse, coarse, np.log(plane - plane.min() + 0.1).T, 30, cmap="viridis")
    lowest = coarse[minima(plane)]
    ax.plot(*lowest.T, "o", color="C3", markeredgecolor="white", label="minimum")
    ax.set(xlabel="first mean", ylabel="second mean", aspect="equal")
    ax.legend(loc="lower right")
    figure.colorbar(contours, ax=ax, label="log (objective $-$ least + 0.1)", shrink=0.85)
    print(f"{name}: minima of two means at {lowest.round(2).tolist()}")

firsts = np.linspace(-5, 12, 120)
published, right = np.array([gradients(m) for m in firsts]).T
exact = []
for m in firsts[::12]:
    means = torch.tensor([m, MEANS[1]], requires_grad=True)
    squared_distance(means).backward()
    exact.append(means.grad[0].item())
axes[2, 0].plot(firsts, published, "--", color="C1", label="equation 14")
axes[2, 0].plot(firsts, right, color="C0", label="with the potential")
axes[2, 0].plot(firsts[::12], exact, "k.", label="of skgmmot")
axes[2, 0].axhline(0, color="0.7", zorder=0)
axes[2, 0].set(title="gradient of the distance", xlabel="first mean", ylabel="gradient")
for which, (label, style) in enumerate((("equation 14", "--C1"), ("with the potential", "-C0"))):
    for start in (-4.0, 3.0, 10.0):
        axes[2, 1].plot(descend(which, start), style, label=label if start == 3 else None)
axes[2, 1].axhline(MEANS[0], color="0.7", linestyle=":", label="the right mean")
axes[2, 1].set(title="gradient descent from three starts", xlabel="step", ylabel="first mean")
axes[2, 1].set_ylim(-6, 12)
for ax in axes[2]:
    ax.legend()
figure.savefig("landscapes.png", dpi=100)
