"""
When do free weights get stuck?
===============================

In the paper a cloud moves to a target by descent on ``MW2^2`` between fitted mixtures. Its groups
hold 1/5, 1/5 and 3/5 of the points, those of the target 1/2, 1/5 and 3/10. With free weights it
stops on the way, at .410, .203 and .387; with uniform, fixed weights it arrives. Here are both
energies and the weights, step by step, and where the flow ends if groups are narrower or wider.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_blobs
from tqdm import trange

from skgmmot.nn import MixtureWassersteinLoss

N_STEPS = 200

# %%
# The flow. The weights are those of the paper, which does not give the places: these are ours, as
# in :ref:`sphx_glr_auto_examples_gradient_plot_fixed_weights.py`, where the ends of two flows are
# shown.


def flow(width, fixed_weights, seed):
    """Energies and weights along the flow of a cloud: of the upper, lower and right component."""
    start = [[-2, 1], [-2, -1], [0, 0]]
    end = [[4, 2], [4, -2], [6, 0]]
    cloud, _ = make_blobs([40, 40, 120], centers=start, cluster_std=width, random_state=seed)
    target, _ = make_blobs([100, 40, 60], centers=end, cluster_std=width, random_state=100 + seed)
    loss = MixtureWassersteinLoss(
        target,
        n_components=3,
        fixed_weights=fixed_weights,
        reg_covar=1e-4,
        random_state=0,
    )
    X = torch.tensor(cloud, requires_grad=True)
    optimiser = torch.optim.SGD([X], lr=0.02 * len(X))
    energies, weights = [], []
    for _ in trange(N_STEPS, desc=f"width {width}, {'fixed' if fixed_weights else 'free'}"):
        optimiser.zero_grad()
        value = loss(X)
        value.backward()
        optimiser.step()
        energies.append(value.item())
        mixture = loss.em.mixture
        order = mixture.means[:, 1].argsort(descending=True)[[0, 2, 1]]
        weights.append(mixture.weights[order].detach().numpy())
    return np.array(energies), np.array(weights)


# %%
# Three clouds with free weights and one with fixed ones, whose groups have a standard deviation of
# 0.3; then narrower and wider groups.

runs = {(0.3, seed): flow(0.3, False, seed) for seed in range(3)}
runs |= {(width, 0): flow(width, False, 0) for width in (0.2, 0.4, 0.5, 0.6)}
fixed = flow(0.3, True, 0)
for (width, seed), (energies, weights) in sorted(runs.items()):
    print(f"width {width}, cloud {seed}: energy {energies[-1]:.1e}, weights {weights[-1].round(3)}")
print(f"fixed weights: energy {fixed[0][-1]:.1e}")

# %%
# Left, the energy with fixed weights goes to zero at a steady rate, and that with free weights
# stops. In the middle, why: weights change as long as some points are shared by two components.
# These become fewer as the groups move apart, one point after another, and then none is left. Where
# that happens depends on single points; our clouds stop a little earlier than that of the paper.
# Right, in wider groups enough points stay shared, and free weights arrive; the groups of the
# target are 2.8 apart.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
left.semilogy(fixed[0], "k--", label="fixed, uniform")
components = {"upper": (0.5, 0.410, "-"), "lower": (0.2, 0.203, ":"), "right": (0.3, 0.387, "--")}
for seed, color in enumerate(("C0", "C1", "C2")):
    energies, weights = runs[0.3, seed]
    left.semilogy(energies, color=color, label=f"free, cloud {seed + 1}")
    for values, (_, _, style) in zip(weights.T, components.values(), strict=True):
        middle.plot(values, style, color=color)
left.set(title="energy", xlabel="step", ylabel="$MW_2^2$ to the target")
for name, (target, paper, style) in components.items():
    middle.plot([], [], style, color="black", label=f"{name} group")
    for place, value, marker in ((1.1, paper, "D"), (1.4, target, "*")):
        middle.plot(place * N_STEPS, value, "k", marker=marker, markersize=8)
        middle.text((place + 0.04) * N_STEPS, value, name, va="center")
middle.plot([], [], "kD", label="where the paper's flow is stuck")
middle.plot([], [], "k*", markersize=8, label="target")
middle.set(title="free weights", xlabel="step", ylabel="weight", ylim=(0.15, 0.8))
middle.set_xlim(None, 1.65 * N_STEPS)
for (width, seed), (energies, _) in runs.items():
    right.semilogy(width, energies[-1], "os^"[seed], color=f"C{seed}", markersize=8)
right.set(title="free weights: where the flow ends", xlabel="standard deviation of the groups")
right.set_ylabel(f"$MW_2^2$ after {N_STEPS} steps")
left.legend()
middle.legend(fontsize="small", loc="upper right")
figure.savefig("stuck_weights.png", dpi=90)
plt.show()
