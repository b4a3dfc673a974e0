"""
Free or fixed weights
=====================

A cloud whose groups hold 1/5, 1/5 and 3/5 of the points flows to a target whose groups hold 1/2,
3/10 and 1/5: gradient descent on ``MW2^2`` between the mixtures fitted to the two. With free
weights, points have to pass from one group to another on the way. With fixed, uniform weights they
do not.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_blobs
from tqdm import trange

from skgmmot.nn import MixtureWassersteinLoss
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# The two clouds.

cloud, _ = make_blobs(
    [40, 40, 120], centers=[[-2, -1], [-2, 1], [0, 0]], cluster_std=0.3, random_state=0
)
centers = np.array([[4, 2], [6, 0], [4, -2]])
target, _ = make_blobs([100, 60, 40], centers=centers, cluster_std=0.3, random_state=1)

# %%
# The flow, by the warm start: one iteration of EM a step. Both mixtures are fitted with the same
# kind of weights.


def flow(fixed_weights, n_steps=500):
    """Move the cloud; returns where it ends, the losses, and the weights of its mixture."""
    loss = MixtureWassersteinLoss(
        target,
        n_components=3,
        fixed_weights=fixed_weights,
        gradient="one_step",
        max_iter=1,
        reg_covar=1e-4,
        random_state=0,
    )
    X = torch.tensor(cloud, requires_grad=True)
    optimiser = torch.optim.SGD([X], lr=0.02 * len(X))
    values = []
    for _ in trange(n_steps, desc="fixed weights" if fixed_weights else "free weights"):
        optimiser.zero_grad()
        value = loss(X)
        value.backward()
        optimiser.step()
        values.append(value.item())
    return X.detach().numpy(), values, loss.em.mixture


flows = {"free": flow(False), "fixed": flow(True)}

# %%
# Where the flows end, with the fitted mixtures (two standard deviations).
#
# With free weights the flow gets stuck, as in the paper. The component that began with 3/5 of the
# weight is split between two groups, and its points would have to cross a gap in which there are
# none: no point there is shared by two components, so that no weight changes any more.
#
# With fixed weights the loss goes to zero, and the components of the fit are those of the target.
# But look at the points: their groups still hold about 1/5, 3/5 and 1/5 of them. A mixture of
# uniform weights does not see how many points a group has, so a flow by it does not move them.
# Where proportions matter, take free weights, and groups that are wide enough to exchange points:
# with ``cluster_std=0.5`` the free flow comes to (.505, .295, .200).

figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
axes[0, 0].scatter(*cloud.T, s=8, color="black", label="start")
axes[0, 0].scatter(*target.T, s=8, color="0.7", label="target")
axes[0, 0].set_title("weights (1/5, 1/5, 3/5) and (1/2, 3/10, 1/5)")
axes[0, 0].legend()
for ax, (name, (X, values, mixture)) in zip(axes.flat[1:], flows.items(), strict=False):
    nearest = np.argmin(((X[:, None] - centers) ** 2).sum(-1), axis=1)
    shares = np.bincount(nearest, minlength=3) / len(X)
    GaussianMixtureDisplay.from_estimator(tuple(mixture), ax=ax, colors=["C1"] * 3, n_std=2)
    ax.scatter(*target.T, s=8, color="0.7")
    ax.scatter(*X.T, s=8, color="C0")
    ax.set_title(f"{name} weights: points at the three groups {shares.round(3)}")
    axes[1, 1].semilogy(values, label=f"{name} weights")
axes[1, 1].set(title="$MW_2^2$ to the target's fit", xlabel="step")
axes[1, 1].legend()
figure.savefig("fixed_weights.png", dpi=110)
