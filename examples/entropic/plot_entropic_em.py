"""
EM as entropic transport
========================

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
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture
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
# The free and the balanced cost, along the iterations of EM and of Sinkhorn-EM.

N_ITER = 50
costs = {}
for name, e_step in [("EM", "posterior"), ("Sinkhorn-EM", "sinkhorn")]:
    options = {"e_step": e_step, "reg_covar": REG_COVAR, "tol": 0}
    values = []
    for n_iter in tqdm(range(1, N_ITER + 1), desc=f"iterations of {name}"):
        theta = fit_em(start, samples, max_iter=n_iter, **options).value
        values.append(
            [float(entropic_ot_objective(theta, samples, balanced=b)) for b in (False, True)]
        )
    costs[name] = np.array(values)
    free, balanced = values[-1]
    print(f"{name}, {N_ITER} iterations: free {free:.4f}, balanced {balanced:.4f}")

# %%
# The fits: EM from the bad start, and Sinkhorn-EM from the same start, then EM.

params = {"means_init": means, "precisions_init": np.linalg.inv(covariances)}
params |= {"weights_init": np.full(K, 1 / K), "tol": 1e-5, "max_iter": 500}
fits = {
    "EM": DifferentiableGaussianMixture(K, **params).fit(X),
    "Sinkhorn-EM, then EM": DifferentiableGaussianMixture(K, init_params="sinkhorn", **params).fit(
        X
    ),
}

# %%
# Above left: every half step of EM lowers the objective. Above right: EM lowers the free cost; the
# balanced one is never smaller, and equal at the end, where every component has its share of the
# samples. So balance does not tell a good fit from a poor one. Sinkhorn-EM starts far from balance,
# and both costs rise and fall while its components move to their shares; once balanced, it
# lowers the balanced cost. Its weights are fixed and equal, which those of the data are not. EM
# from there, with free weights, ends at the dotted line, far below EM from the start itself.
#
# Below: EM covers the ring with two components, breaks a side of the frame in two and leaves two
# components idle, too small to be seen. After Sinkhorn-EM none is idle: five share the ring,
# one has the strip, and one each side of the frame.

figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
turns = np.arange(len(halves)) / 2
axes[0, 0].plot(turns, halves, color="0.6", zorder=0)
axes[0, 0].plot(turns[::2], halves[::2], "o", label="after an E-step: $-$log-likelihood")
axes[0, 0].plot(turns[1::2], halves[1::2], "s", label="after an M-step")
axes[0, 0].text(0.1, halves[1] + 0.02, f"\u2191 start: {halves[0]:.1f}")
axes[0, 0].set(title="EM: each half step lowers the objective", xlabel="iteration")
axes[0, 0].set(ylabel="nats a sample", ylim=(min(halves) - 0.05, halves[1] + 0.05))
axes[0, 0].legend()
for color, (name, values) in zip(("C0", "C1"), costs.items(), strict=True):
    iterations = np.arange(1, len(values) + 1)
    axes[0, 1].plot(iterations, values[:, 0], color=color, label=f"{name}, free")
    axes[0, 1].plot(iterations, values[:, 1], "--", color=color, label=f"{name}, balanced")
axes[0, 1].axhline(
    -fits["Sinkhorn-EM, then EM"].score(X), color="C1", linestyle=":", label="Sinkhorn-EM, then EM"
)
axes[0, 1].set(title="free and balanced cost", xlabel="iteration", ylim=(1.6, 3.2))
axes[0, 1].set_ylabel("nats a sample")
axes[0, 1].legend()
for ax, (name, fit) in zip(axes[1], fits.items(), strict=True):
    ax.scatter(*X.T, s=3, color="0.7")
    GaussianMixtureDisplay.from_estimator(fit, ax=ax, n_std=2)
    ax.plot(*means.T, "k+", label="start")
    ax.set(title=f"{name}: {-fit.score(X):.3f} nats a sample", aspect="equal")
    ax.set(xlim=(0.2, 6.5), ylim=(0, 3))
    ax.legend(loc="upper center")
figure.savefig("entropic_em.png", dpi=110)
