"""
What do outliers do to a mixture?
=================================

Three clusters and, scattered around them, outliers: what becomes of a Gaussian mixture, of one with
uniform noise beside it, and of Student-t components?
"""

import matplotlib.pyplot as plt
import numpy as np

from skgmmot import DifferentiableGaussianMixture, StudentMixture
from skgmmot.plotting import GaussianMixtureDisplay

# %%
# Three clusters, and a third as many outliers.

rng = np.random.default_rng(4)
centres = np.array([[-4.0, -2.0], [4.0, -2.0], [0.0, 4.0]])
roots = np.array([[[1.0, 0.5], [0.0, 0.5]], [[0.6, 0.0], [0.0, 1.2]], [[1.4, 0.0], [0.3, 0.5]]])
cluster = rng.integers(3, size=450)
X = centres[cluster] + np.einsum("nij,nj->ni", roots[cluster], rng.normal(size=(450, 2)))
X = np.concatenate([X, rng.uniform(-14, 14, size=(150, 2))])

# %%
# The same fit, three times. To the Gaussians every sample matters. Noise takes the samples that it
# explains better, and its share of all is fitted. The heavy tails of t distributions let samples
# far away count little.

mixtures = {
    "Gaussian": DifferentiableGaussianMixture(3, random_state=0),
    "with noise='uniform'": DifferentiableGaussianMixture(3, noise="uniform", random_state=0),
    "StudentMixture": StudentMixture(3, random_state=0),
}
for mixture in mixtures.values():
    mixture.fit(X)

# %%
# Ellipses are those of two standard deviations (of t distributions, of their scale matrices),
# crosses the true centres. Samples in grey are predicted to be noise; 25 % of all samples are
# outliers.

options = {"sharex": True, "sharey": True, "layout": "constrained"}
figure, axes = plt.subplots(1, 3, figsize=(11, 4.4), **options)
for axis, (name, mixture) in zip(axes, mixtures.items(), strict=True):
    labels = mixture.predict(X)
    distances = np.linalg.norm(centres[:, None] - mixture.means_, axis=-1)
    noise = labels < 0
    axis.scatter(*X[noise].T, s=6, color="0.75")
    axis.scatter(*X[~noise].T, s=6, c=labels[~noise], cmap="tab10", vmin=0, vmax=9)
    ellipses = (mixture.weights_, mixture.means_, mixture.covariances_, "full")
    GaussianMixtureDisplay.from_estimator(ellipses, ax=axis, n_std=2)
    axis.plot(*centres.T, "k+", markersize=12, label="true centres")
    axis.set(title=f"{name}\nlargest error of a centre: {distances.min(axis=1).max():.2f}")
    axis.set(aspect="equal", xlim=(-15, 15), ylim=(-15, 15))
    axis.set_xlabel("first feature")
    if noise.any():
        share = f"noise, {mixture.noise_weight_:.0%} of the weight"
        axis.scatter([], [], s=20, color="0.75", label=share)
    axis.legend(loc="lower left", fontsize=8)
axes[0].set_ylabel("second feature")
figure.savefig("outliers.png", dpi=90)
plt.show()
