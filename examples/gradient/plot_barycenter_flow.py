"""
Can points find the average of three clouds?
============================================

The barycentre of several mixtures is the mixture with the smallest mean of ``MW2^2`` to them. Here
it is found by points: a standard normal cloud moves down the gradient of that mean, through the
mixture that is fitted to it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_blobs
from tqdm import trange

from skgmmot import DifferentiableGaussianMixture, MixtureBarycenter, MixtureWasserstein
from skgmmot.nn import EMLayer
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# Three clouds of 500 points, each of two stretched groups, and a mixture fitted to each.

centers = [[[-7, 5], [-4, 7]], [[4, 7], [7, 4]], [[-2, -5], [2, -5]]]
stretches = [[[1.2, 0.6], [0.6, 0.5]], [[1.2, -0.6], [-0.6, 0.5]], [[0.4, 0.0], [0.0, 1.2]]]
clouds = []
for ends, stretch in zip(np.array(centers), stretches, strict=True):
    noise, groups = make_blobs(500, centers=[[0, 0], [0, 0]], random_state=0)
    clouds.append(ends[groups] + 0.7 * noise @ stretch)
mixtures = [DifferentiableGaussianMixture(2, random_state=0).fit(cloud) for cloud in clouds]

# %%
# `EMLayer` fits a mixture to the moving points, once a step; the distances are taken from it.

X = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
layer = EMLayer(2, random_state=0)
distance = MixtureWasserstein(squared=True)
optimiser = torch.optim.SGD([X], lr=0.02 * len(X))
positions, values = [X.detach().clone()], []
for _ in trange(200, desc="flow"):
    optimiser.zero_grad()
    mixture = layer(X)
    value = sum(distance(mixture, other) for other in mixtures) / len(mixtures)
    value.backward()
    optimiser.step()
    positions.append(X.detach().clone())
    values.append(value.item())

# %%
# The paths of the points, and the mean squared distance.
#
# The points part into two groups, and each group becomes what lies between the groups that it goes
# with: their mean place, and a shape between theirs. The loss comes down to that of the barycentre
# of two components, which `MixtureBarycenter` finds from the mixtures alone. The paper does the
# same with three clouds of its own.

barycenter = MixtureBarycenter(n_components=2, random_state=0).fit(mixtures)
print(f"mean squared distance: flow {values[-1]:.4f}, barycentre {barycenter.objective_:.4f}")

BLUE, ORANGE = "#1f4e9c", "#f39c34"
figure, (left, right) = plt.subplots(
    1, 2, figsize=(12, 5.8), width_ratios=[1.4, 1], layout="constrained"
)
for i, (cloud, fitted) in enumerate(zip(clouds, mixtures, strict=True)):
    left.scatter(*cloud.T, s=3, color="0.6")
    GaussianMixtureDisplay.from_estimator(fitted, ax=left, colors=["0.8"] * 2, n_std=2)
    left.text(*[(-8, 7), (8, 7), (0, -5)][i], f"cloud {i + 1}", ha="center", va="center")
GaussianMixtureDisplay.from_estimator(barycenter, ax=left, colors=[ORANGE] * 2, n_std=2)
for path in np.stack([p.numpy() for p in positions], axis=1)[::8]:
    left.plot(*path.T, color="0.3", linewidth=0.5, alpha=0.6)
left.scatter(*positions[0].T, s=4, color="black", label="points at the start")
left.scatter(*positions[-1].T, s=4, color=BLUE, label=f"points after {len(values)} steps")
left.scatter([], [], s=80, color=ORANGE, label="MixtureBarycenter, two deviations")
left.plot([], [], color="0.3", linewidth=0.8, label="some paths")
left.set(title="three clouds, and points on their way to the barycentre", aspect="equal")
left.set(xlabel="first feature", ylabel="second feature")
figure.legend(loc="outside lower left", ncols=4, fontsize=9)
right.plot(values, color=BLUE, label="the points' mixture")
right.axhline(barycenter.objective_, color="black", linestyle="--", label="MixtureBarycenter")
right.set(title="mean of the squared distances to the three", xlabel="step", ylabel="$MW_2^2$")
right.legend(loc="upper right")
figure.savefig("barycenter_flow.png", dpi=110)
