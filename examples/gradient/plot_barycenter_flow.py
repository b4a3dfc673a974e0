"""
A cloud flows to the barycentre of three
========================================

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
    clouds.append(ends[groups] + noise @ stretch)
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
# The flow at three times, and the mean squared distance.
#
# The points part into two groups, and each group becomes what lies between the groups that it goes
# with: their mean place, and a shape between theirs. The loss comes down to that of the barycentre
# of two components, which `MixtureBarycenter` finds from the mixtures alone.

barycenter = MixtureBarycenter(n_components=2, random_state=0).fit(mixtures)
print(f"mean squared distance: flow {values[-1]:.4f}, barycentre {barycenter.objective_:.4f}")

figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), width_ratios=[1.4, 1], layout="constrained")
found = tuple(t.detach() for t in mixture)
for fitted, color in [*((m, "0.8") for m in mixtures), (found, "C1")]:
    GaussianMixtureDisplay.from_estimator(fitted, ax=axes[0], colors=[color] * 2, n_std=2)
for cloud in clouds:
    axes[0].scatter(*cloud.T, s=3, color="0.6")
for step, color in [(0, "black"), (20, "C4"), (200, "C0")]:
    axes[0].scatter(*positions[step].T, s=3, color=color, label=f"step {step}")
axes[0].set(title="three clouds, and one on its way to their barycentre", aspect="equal")
axes[0].legend(loc="lower left")
axes[1].plot(values, label="flow")
axes[1].axhline(barycenter.objective_, color="C1", linestyle="--", label="MixtureBarycenter")
axes[1].legend()
axes[1].set(title="mean $MW_2^2$ to the three", xlabel="step")
figure.savefig("barycenter_flow.png", dpi=110)
