"""
Should the weights of a flowing mixture be free or fixed?
=========================================================

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
# The two clouds, and a flow of one to the other.

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

BLUE, ORANGE = "#1f4e9c", "#f39c34"
figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
(before, free), (fixed, losses) = axes
before.scatter(*cloud.T, s=10, color=BLUE, label="moving points")
before.scatter(*target.T, s=10, color="0.6", marker="x", linewidths=1, label="target")
before.set_title("before: shares of the groups")
for place, share in zip([[-2, -1], [-2, 1], [0, 0]], [0.2, 0.2, 0.6], strict=True):
    before.text(place[0], place[1] + 0.85, f"{share:.0%}", color=BLUE, ha="center")
for ax, (name, (X, values, mixture)) in zip((free, fixed), flows.items(), strict=True):
    nearest = np.argmin(((X[:, None] - centers) ** 2).sum(-1), axis=1)
    shares = np.bincount(nearest, minlength=3) / len(X)
    GaussianMixtureDisplay.from_estimator(tuple(mixture), ax=ax, colors=[ORANGE] * 3, n_std=2)
    ax.scatter(*target.T, s=10, color="0.6", marker="x", linewidths=1)
    ax.scatter(*X.T, s=10, color=BLUE)
    for center, share in zip(centers, shares, strict=True):
        ax.text(center[0] - 1.3, center[1], f"{share:.0%}", color=BLUE, ha="right", va="center")
    ax.set_title(f"{name} weights, after {len(values)} steps")
    style = {"free": "--", "fixed": "-"}[name]
    losses.semilogy(values, style, color="black", label=f"{name} weights")
for ax in (before, free, fixed):
    for center, share in zip(centers, [0.5, 0.3, 0.2], strict=True):
        ax.text(center[0] + 1, center[1], f"{share:.0%}", color="0.4", va="center")
    ax.set(xlim=(-3.2, 8.4), ylim=(-3.3, 3.3), aspect="equal")
    ax.set(xlabel="first feature", ylabel="second feature")
free.scatter([], [], color=ORANGE, s=80, label="fitted mixture, two deviations")
for ax in (before, free):
    ax.legend(loc="lower left")
losses.set(title="distance of the mixtures", xlabel="step", ylabel="$MW_2^2$ to the target's fit")
losses.legend()
figure.savefig("fixed_weights.png", dpi=110)
