"""
What does EM have to do with optimal transport?
===============================================

The negative log-likelihood of a mixture is the cost of an entropic transport plan from samples to
components (:term:`Vayer and Lasalle 2025`): with costs :math:`C_{ik} = -\\log g_k(x_i)`,

.. math:: -\\sum_i a_i \\log \\sum_k w_k g_k(x_i) = \\min_{P 1 = a}
          \\langle P, C \\rangle + \\mathrm{KL}(P \\,|\\, a w^T).

EM minimises the right-hand side alternately: the E-step finds the optimal plan :math:`P` for the
mixture, the M-step the optimal mixture for the plan. The mass that each component receives is
free. Sinkhorn-EM (:term:`Mena, Nejatbakhsh, Varol and Niles-Weed 2020`) has the constraint
:math:`P^T 1 = w`, too: each component must receive its share, from any start.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import trange

from skgmmot.datasets import make_ring_square_line
from skgmmot.functional import (
    GaussianMixtureParams,
    entropic_ot_objective,
    fit_em,
    mixture_step,
    plan_objective,
    plan_step,
)
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# Samples from a ring, a strip and a square frame, and a bad start: ten thin components of equal
# weight, all amid the strip.

K, REG_COVAR = 10, 1e-6
X, _ = make_ring_square_line(random_state=0)
rng = np.random.default_rng(3)
factors = 0.1 * rng.uniform(size=(K, 2, 2))
covariances = factors @ factors.transpose(0, 2, 1) + 1e-3 * np.eye(2)
means = X.mean(axis=0) + rng.uniform(-1, 1, size=(K, 2))
samples = torch.tensor(X)
start = GaussianMixtureParams(
    torch.full((K,), 1 / K, dtype=torch.float64), torch.tensor(means), torch.tensor(covariances)
)

# %%
# EM, half a step at a time: the best plan for the mixture, then the best mixture for the plan. Each
# lowers the right-hand side above, which ``plan_objective`` computes for any plan; after an E-step
# it is the negative log-likelihood.

halves, theta = [], start
for _ in range(8):
    plan = plan_step(theta, samples)
    halves.append(float(plan_objective(plan, theta, samples)))  # after the E-step
    theta = mixture_step(plan, theta, samples, reg_covar=REG_COVAR)
    halves.append(float(plan_objective(plan, theta, samples)))  # after the M-step

# %%
# The free and the balanced cost along 100 iterations: of EM, and of Sinkhorn-EM, from whose result
# EM goes on. (``init_params="sinkhorn"`` of the estimators does the same.)

N_ITER = 50


def iterated(theta, e_step, desc):
    """The mixture after the iterations, and the free and balanced cost of each."""
    values = []
    for n_iter in trange(1, N_ITER + 1, desc=desc):
        options = {"max_iter": n_iter, "tol": 0.0, "e_step": e_step, "reg_covar": REG_COVAR}
        found = fit_em(theta, samples, **options).value
        values.append(
            [float(entropic_ot_objective(found, samples, balanced=b)) for b in (False, True)]
        )
    return found, values


ways = {"EM": ("posterior", "posterior"), "Sinkhorn-EM, then EM": ("sinkhorn", "posterior")}
ends, costs = {}, {}
for name, e_steps in ways.items():
    theta, costs[name] = start, []
    for e_step in e_steps:
        theta, values = iterated(theta, e_step, desc=f"{name}, {e_step}")
        costs[name] += values
    ends[name] = theta
    free, balanced = costs[name][-1]
    print(f"{name}: free {free:.4f}, balanced {balanced:.4f} nats a sample")

# %%
# Above left: every half step of EM lowers the objective. Above right: EM lowers the free cost,
# which is the negative log-likelihood. The balanced cost is never smaller, and equal at the end,
# where every component has its share of the samples: balance does not tell a good fit from a poor
# one. Sinkhorn-EM starts far from balance, and both costs rise and fall while its components move
# to their shares. Its weights are fixed and equal, which those of the data are not: EM from there,
# with free weights, ends far below EM from the start itself.
#
# Below: EM covers the ring with two components, breaks a side of the frame in two and leaves two
# components idle, too small to be seen. After Sinkhorn-EM none is idle: five share the ring,
# one has the strip, and one each side of the frame.

figure, axes = plt.subplots(2, 2, figsize=(12, 7.8), layout="constrained", height_ratios=[1.3, 1])
turns = np.arange(len(halves)) / 2
left, right = axes[0]
left.plot(turns, halves, color="0.6", zorder=0)
left.plot(turns[::2], halves[::2], "o", label="after an E-step (negative log-likelihood)")
left.plot(turns[1::2], halves[1::2], "s", label="after an M-step")
left.annotate(f"start: {halves[0]:.0f}", (0.5, halves[1] + 0.04), (0.7, halves[1] + 0.02))
left.set(title="EM: each half step lowers the objective", xlabel="iteration")
left.set(ylabel="objective (nats a sample)", ylim=(min(halves) - 0.05, halves[1] + 0.05))
left.legend()
for color, (name, values) in zip(("tab:blue", "tab:orange"), costs.items(), strict=True):
    iterations = np.arange(1, len(values) + 1)
    free, balanced = np.transpose(values)
    right.plot(iterations, balanced, "--", color=color, label=f"{name}: balanced cost")
    right.plot(iterations, free, color=color, linewidth=2, label=f"{name}: free cost")
right.axvline(N_ITER, color="0.4", linestyle=":", linewidth=1)
right.text(N_ITER + 1, 2.4, "from here on\nEM in both")
right.set(title="the costs of both ways", xlabel="iteration", ylim=(1.6, 3.2))
right.set_ylabel("cost (nats a sample)")
right.legend()
for ax, (name, end) in zip(axes[1], ends.items(), strict=True):
    ax.scatter(*X.T, s=3, color="0.7")
    GaussianMixtureDisplay.from_estimator(end, ax=ax, n_std=2)
    ax.plot(*means.T, "k+", label="means of the start")
    ax.set(title=f"{name}: ends at {costs[name][-1][0]:.3f} nats a sample", aspect="equal")
    ax.set(xlim=(0.2, 6.5), ylim=(0, 3), xlabel="first feature", ylabel="second feature")
    ax.legend(loc="upper center")
figure.savefig("entropic_em.png", dpi=110)
