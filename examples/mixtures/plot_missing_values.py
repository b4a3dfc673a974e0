"""
Missing values: fit what is left, or impute first?
==================================================

Half of the entries of two correlated features are removed at random. Which mixture is nearest to
that of the complete samples: the one fitted to samples whose missing entries were filled in, by
means or by neighbours, or the one fitted by exact EM to what is left?
"""

# %%
# The samples
# -----------
#
# Two groups, in which the features depend on each other in opposite ways. Nothing is left of a
# quarter of the samples; they do not count.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.impute import KNNImputer, SimpleImputer

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.plotting import GaussianMixtureDisplay

truth = DifferentiableGaussianMixture.from_parameters(
    [0.6, 0.4],
    [[0.0, 0.0], [4.0, 1.0]],
    [[[1.0, 0.9], [0.9, 1.2]], [[0.8, -0.7], [-0.7, 1.0]]],
    random_state=0,
)
X, _ = truth.sample(600)
rng = np.random.default_rng(0)
X_missing = np.where(rng.random(X.shape) < 0.5, np.nan, X)
complete = ~np.isnan(X_missing).any(axis=1)
print(f"{complete.sum()} of {len(X)} samples are complete")

# %%
# Four fits
# ---------
#
# With ``missing_values="nan"`` the mixture is fitted to what is observed. Its own imputation is a
# draw of each missing entry given the other one.


def mixture(**options):
    """Two components from the best of three starts."""
    return DifferentiableGaussianMixture(2, n_init=3, random_state=0, **options)


exact = mixture(missing_values="nan", max_iter=500).fit(X_missing)
imputed = {
    "missing entries: means": SimpleImputer().fit_transform(X_missing),
    "missing entries: neighbours": KNNImputer().fit_transform(X_missing),
    "exact EM, missing entries: draws": exact.impute(X_missing, draw=True),
}
fits = {name: mixture(max_iter=500).fit(filled) for name, filled in imputed.items()}
fits["exact EM, missing entries: draws"] = exact
fits["complete samples alone"] = mixture(max_iter=500).fit(X_missing[complete])
imputed["complete samples alone"] = X_missing[complete]

# %%
# Filling in by means puts samples on a cross, and neighbours are of the wrong group where one
# feature does not tell the groups apart: both fits take that for the shape of the groups. Dropping
# incomplete samples has no such bias, but three quarters of the samples are lost.

distance = MixtureWasserstein()
fig, axes = plt.subplots(1, 4, figsize=(13, 3.6), sharex=True, sharey=True, layout="constrained")
for ax, (name, fitted) in zip(axes, fits.items(), strict=True):
    ax.scatter(*imputed[name].T, s=5, color="0.6", linewidths=0)
    for shown, color in ((truth, "0.1"), (fitted, "C3")):
        GaussianMixtureDisplay.from_estimator(shown, ax=ax, colors=[color] * 2, n_std=2)
    for k, ellipse in enumerate(ax.patches):
        ellipse.set(fill=False, linewidth=2, alpha=1, linestyle="-" if k < 2 else "--")
    ax.set_title(f"{name}\nMW2 to the truth: {distance(truth, fitted):.2f}", fontsize=9)
    ax.set_xlabel("first feature")
axes[0].set_ylabel("second feature")
fig.suptitle(
    "fitted (red, dashed) and true mixture (black), two standard deviations; "
    "grey: samples, with what was filled in",
    fontsize=10,
)
fig.savefig("missing_values.png", dpi=90)
plt.show()
