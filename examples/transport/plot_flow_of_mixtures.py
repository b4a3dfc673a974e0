"""
How do samples flow from one mixture to another?
================================================

Two mixtures are joined by a flow in closed form. Without entropy it is the geodesic of MW2: each
sample follows a velocity field. With entropy it is a Schrödinger bridge: samples wander by Brownian
motion, and still end as samples of the target.
"""

import matplotlib.pyplot as plt
import numpy as np

from skgmmot import DifferentiableGaussianMixture, MixtureFlow
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# Two moons become three blobs.

rng = np.random.default_rng(0)
angle = rng.uniform(0, np.pi, size=1000)
moon = np.c_[np.cos(angle), np.sin(angle)]
moons = np.r_[moon[:500], np.array([1.0, 0.4]) - moon[500:]] + rng.normal(0, 0.06, size=(1000, 2))
centres = np.array([[4.5, 1.6], [5.5, 0.2], [4.5, -1.2]])
blobs = rng.normal(0, 0.22, size=(900, 2)) + centres.repeat(300, axis=0)

source = DifferentiableGaussianMixture(6, random_state=0).fit(moons)
target = DifferentiableGaussianMixture(3, random_state=0).fit(blobs)

# %%
# A flow gives the mixture, the velocity and the drift at any time, moves samples and draws paths.

flows = {
    "geodesic (reg = 0)": MixtureFlow(source, target),
    "Schrödinger bridge (reg = 0.6)": MixtureFlow(source, target, reg=0.6),
}
times = np.linspace(0, 1, 81)
figure, axes = plt.subplots(2, 1, figsize=(9, 8.4), sharex=True, layout="constrained")
for ax, (name, flow) in zip(axes, flows.items(), strict=True):
    for end, color in ((0.0, "0.25"), (1.0, "tab:blue")):
        GaussianMixtureDisplay.from_estimator(
            flow.mixture(end), ax=ax, colors=[color] * len(flow.mixture(end).means_), n_std=2
        )
    paths = flow.paths(times, 60, random_state=1)
    ax.plot(*paths.transpose(2, 0, 1), color="tab:orange", lw=0.7, alpha=0.8)
    x, y = np.meshgrid(np.linspace(-1.6, 6.6, 26), np.linspace(-2, 2.4, 14))
    grid = np.c_[x.ravel(), y.ravel()]
    velocity = flow.velocity(0.5, grid)
    near = flow.mixture(0.5).score_samples(grid) > -7
    arrows = ax.quiver(*grid[near].T, *velocity[near].T, color="black", width=0.003, zorder=3)
    ax.quiverkey(arrows, 0.9, 0.94, 5, "speed 5", labelpos="E")
    ax.set(title=name, ylabel="second feature", aspect="equal", xlim=(-2, 7), ylim=(-2.3, 2.6))
axes[1].set_xlabel("first feature")
axes[0].plot([], [], color="tab:orange", label="60 paths")
axes[0].scatter([], [], marker="$\u2192$", color="black", label="velocity at t = 0.5")
axes[0].scatter([], [], color="0.25", label="source, two deviations")
axes[0].scatter([], [], color="tab:blue", label="target, two deviations")
axes[0].legend(loc="lower left", ncols=2, fontsize=8)
figure.savefig("flow_of_mixtures.png", dpi=100)

# %%
# Samples that follow the velocity have the law of the target at the end, whatever the entropy.

X, _ = source.set_params(random_state=2).sample(2000)
for name, flow in flows.items():
    there = flow.transport(X)[-1]
    print(f"{name}: mean log-likelihood under the target {target.score(there):.3f}")
print(f"samples of the target itself: {target.score(target.sample(2000)[0]):.3f}")
