"""
What lies between two mixtures?
===============================

The plan of MW2 joins components of two mixtures; each pair moves along the geodesic between its
two Gaussians. At every time this gives a Gaussian mixture, and the distance to the start is
proportional to time.
"""

import matplotlib.pyplot as plt
import numpy as np

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, interpolate
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# A ring and a cross, each a mixture fitted to samples.

rng = np.random.default_rng(0)
angle = rng.uniform(0, 2 * np.pi, size=1500)
ring = np.c_[np.cos(angle), np.sin(angle)] * rng.normal(2, 0.12, size=(1500, 1))
bar = np.c_[rng.uniform(-2, 2, size=1500), rng.normal(0, 0.12, size=1500)]
cross = np.where(rng.random((1500, 1)) < 0.5, bar, bar[:, ::-1]) + np.array([20.0, 0.0])

source = DifferentiableGaussianMixture(8, random_state=0).fit(ring)
target = DifferentiableGaussianMixture(5, random_state=0).fit(cross)

# %%
# Five stations. `interpolate` returns a fitted mixture, which can be drawn, sampled and compared.

times = np.linspace(0, 1, 5)
stations = [interpolate(source, target, t) for t in times]

distance = MixtureWasserstein()
for t, station in zip(times, stations, strict=True):
    ways = distance(source, station), distance(station, target)
    print(f"t = {t:.2f}: {ways[0]:.4f} from the source, {ways[1]:.4f} from the target")

# %%
# A pair of components keeps its colour. Where a component of the source is split among several of
# the target, as many copies of it set out; they lie on top of each other at the start.

figure, axes = plt.subplots(2, 1, figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
colors = plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(stations[0].weights_)))
for station in stations:
    GaussianMixtureDisplay.from_estimator(station, ax=axes[0], colors=colors, n_std=1.5)
axes[0].set(title="the mixtures at five times, 1.5 deviations", aspect="equal")

for t, station in zip(times, stations, strict=True):
    X, _ = station.set_params(random_state=0).sample(1500)
    axes[1].scatter(*X.T, s=2, color=plt.get_cmap("viridis")(0.9 * t))
    axes[1].text(20 * t, 2.7, f"t = {t:.2f}", ha="center")
axes[1].set(title="samples of them", aspect="equal", ylim=(-3, 3.5), xlabel="first feature")
for ax in axes:
    ax.set_ylabel("second feature")
figure.savefig("geodesic.png", dpi=100)

# %%
# The ring does not fade into a cross. Its right and left arcs turn and stretch into the horizontal
# bar, those above and below into the vertical one, and half-way they are as wide as their two
# shapes make them: what lies between is the way of components, not of single samples.
