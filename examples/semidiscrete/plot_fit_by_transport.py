"""
Can a mixture be fitted to points by semi-discrete transport?
=============================================================

The Wasserstein distance between a mixture and points is differentiable in both. Here the means,
covariances and weights of three Gaussians descend along it, by Adam and by `SemidiscreteGMM`, to
150 points. In the other direction, a gradient step of the points is a step of Lloyd's algorithm:
with masses ``m`` and the rate ``1 / (2 m)`` each point lands on the barycentre of its cell.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import trange

from skgmmot import SemidiscreteGMM, semidiscrete_distance, semidiscrete_plan
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# Points of three groups, and a start far from them.

rng = np.random.default_rng(0)
turn = np.array([[0.8, -0.6], [0.6, 0.8]])
groups = [
    ((-2.0, 0.0), (1.0, 0.2), 60),
    ((2.0, 1.5), (0.3, 0.3), 40),
    ((1.5, -1.5), (0.9, 0.3), 50),
]
X = np.vstack([np.array(m) + rng.normal(size=(n, 2)) * s @ turn for m, s, n in groups])
points = torch.tensor(X)

logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
means = torch.tensor([[-0.5, 0.5], [0.5, 0.5], [0.0, -0.5]], dtype=torch.float64).requires_grad_()
factors = 0.7 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
factors.requires_grad_()

# %%
# Adam, on the logarithms of weights and on factors of covariances.


def mixture():
    """Weights, means and covariances."""
    return logits.softmax(0), means, factors @ factors.mT + 1e-4 * torch.eye(2)


start = tuple(part.detach().clone() for part in mixture())
optimiser = torch.optim.Adam([logits, means, factors], lr=0.08)
values = []
for _ in trange(100, desc="Adam"):
    optimiser.zero_grad()
    value = semidiscrete_distance(mixture(), points, squared=True)
    value.backward()
    optimiser.step()
    values.append(value.item())

# %%
# `SemidiscreteGMM` descends by a quasi-Newton method in coordinates of its own, from k-means.

fitted = SemidiscreteGMM(3, random_state=0).fit(X)
print(f"squared distance by Adam {values[-1]:.4f}, by SemidiscreteGMM {fitted.distance_**2:.4f}")

# %%
# One gradient step of 12 points towards the start: they land on the barycentres of their cells.

few = points[::13].clone().requires_grad_()

semidiscrete_distance(start, few, squared=True).backward()
plan = semidiscrete_plan(start, few.detach())
landed = few.detach() - few.grad / (2 * plan.masses[:, None])
print(f"largest way from a barycentre: {float((landed - plan.barycentres).norm(dim=1).max()):.1e}")

figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
axes = axes.flat
for ax, model, title in (
    (axes[0], tuple(part.detach() for part in mixture()), "fitted by Adam"),
    (axes[1], fitted, "fitted by SemidiscreteGMM"),
):
    ax.scatter(*X.T, s=8, color="0.3", label="points")
    GaussianMixtureDisplay.from_estimator(model, ax=ax, n_std=2)
    ax.set(title=title, xlabel="first feature", ylabel="second feature", aspect="equal")
    ax.legend(loc="lower left")
axes[2].semilogy(values, label="Adam")
axes[2].axhline(fitted.distance_**2, color="0.4", linestyle=":", label="SemidiscreteGMM")
axes[2].set(title="distance of the mixture to the points", xlabel="step", ylabel="squared distance")
axes[2].legend()
GaussianMixtureDisplay.from_estimator(start, ax=axes[3], n_std=2, colors=["0.8"] * 3)
axes[3].plot(*few.detach().T, "o", color="C0", label="points")
axes[3].plot(*plan.barycentres.T, "x", color="C3", markersize=9, label="barycentres of their cells")
for before, after in zip(few.detach(), landed, strict=True):
    axes[3].annotate("", after, before, arrowprops={"arrowstyle": "->", "color": "0.4"})
axes[3].set(title="one gradient step of points to a mixture", aspect="equal")
axes[3].set(xlabel="first feature", ylabel="second feature")
axes[3].legend(loc="lower left")
figure.savefig("fit_by_transport.png", dpi=100)
