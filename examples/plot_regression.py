"""
What if a regression has several answers?
=========================================

A regression that predicts one number fails where there are several answers. `MixtureRegressor` fits
a Gaussian mixture to ``(X, y)`` and has the distribution of ``y`` at any ``x``: its mean and
deviation, and all of its branches. The same mixture gives the distribution of ``y`` if only some
features are known.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import cross_val_score

from skgmmot import DifferentiableGaussianMixture, MixtureRegressor

# %%
# An inverse problem: a sensor reads ``x`` at position ``y``. Each position has one reading, but
# some readings belong to three positions. Their mean need not be near any of them.

rng = np.random.default_rng(0)
position = rng.uniform(size=2000)
reading = position + 0.3 * np.sin(2 * np.pi * position) + 0.03 * rng.normal(size=2000)
X, y = reading[:, None], position

curve = DifferentiableGaussianMixture(15, tol=1e-5, max_iter=1000, random_state=0)
regressor = MixtureRegressor(curve).fit(X, y)
forest = RandomForestRegressor(min_samples_leaf=20, random_state=0).fit(X, y)

across, up = np.linspace(-0.1, 1.1, 240), np.linspace(-0.1, 1.1, 240)
pairs = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
density = np.exp(regressor.log_density(pairs[:, :1], pairs[:, 1])).reshape(240, 240)

# %%
# At the reading 0.5: the density has three modes, and draws are in all three.

part = regressor.condition([0.5])
near = position[np.abs(reading - 0.5) < 0.02]
drawn = regressor.sample_y([[0.5]], n_samples=2000, random_state=0)[0]

# %%
# Real data: how diabetes had progressed after one year, from ten measurements of 442 patients.
# There are few patients for each feature, so one covariance is shared by all components.

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
tied = DifferentiableGaussianMixture(2, covariance_type="tied", random_state=0)
patients = MixtureRegressor(tied)
trees = RandomForestRegressor(200, random_state=0)
for name, model in {"mixture": patients, "random forest": trees}.items():
    scores = cross_val_score(model, X, y, cv=5)
    print(f"R2 of the {name} on patients held out: {scores.mean():.2f}")

held_out = 34
joint = patients.fit(X.drop(index=held_out), y.drop(index=held_out)).mixture_

# %%
# From the same fit, the relation to the body mass index alone: the density of both, from a marginal
# of the joint mixture, over that of the index.

both = joint.marginal(["bmi", "target"])
bmi, progression = np.linspace(17, 43, 160), np.linspace(0, 360, 160)
grid = pd.DataFrame(
    np.stack(np.meshgrid(bmi, progression), axis=-1).reshape(-1, 2), columns=["bmi", "target"]
)
conditional = np.exp(both.score_samples(grid) - both.marginal("bmi").score_samples(grid[["bmi"]]))
means = [part.weights_ @ part.means_ for part in (both.condition(value, "bmi") for value in bmi)]

# %%
# One patient, who was left out of the fit: each measurement that becomes known changes the
# distribution of the progression.

patient, line = X.loc[held_out], pd.DataFrame({"target": np.linspace(-50, 400, 300)})
shown = {"nothing": [], "bmi": ["bmi"], "bmi, bp, s5": ["bmi", "bp", "s5"], "all ten": list(X)}
densities = {}
for label, known in shown.items():
    one = joint.marginal([*known, "target"])
    if known:
        one = one.condition(patient[known], known)
    densities[label] = np.exp(one.score_samples(line))

# %%
# Upper row: a random forest predicts the mean, as the mixture's mean does; the mixture has the
# three branches, too. Lower row: one fit answers each question, whichever features are known.

figure, axes = plt.subplots(2, 2, figsize=(12, 9.5), layout="constrained")
ax = axes[0, 0]
picture = ax.imshow(
    density, extent=(-0.1, 1.1, -0.1, 1.1), origin="lower", aspect="auto", cmap="Blues", vmax=8
)
ax.plot(reading[:300], position[:300], ".", color="0.4", markersize=3, label="samples")
ax.plot(across, regressor.predict(across[:, None]), "C1", lw=2, label="mean of the mixture")
ax.plot(across, forest.predict(across[:, None]), "C3--", lw=1.5, label="random forest")
ax.axvline(0.5, color="k", lw=1, ls=":")
ax.set(xlabel="reading x", ylabel="position y", title="Where is it, given the reading?")
ax.legend(loc="upper left", framealpha=1)
figure.colorbar(picture, ax=ax, label="density p(y | x)")

ax = axes[0, 1]
ax.hist(
    near, bins=40, range=(0, 1), density=True, color="0.8", label="samples with readings near 0.5"
)
ax.hist(drawn, bins=40, range=(0, 1), density=True, histtype="step", color="C2", label="2000 draws")
ax.plot(up, np.exp(part.score_samples(up[:, None])), "C0", lw=2, label="density p(y | x = 0.5)")
ax.axvline(regressor.predict([[0.5]])[0], color="C1", lw=2, label="mean")
ax.axvline(forest.predict([[0.5]])[0], color="C3", ls="--", label="random forest")
ax.set(xlim=(0, 1), ylim=(0, 11), xlabel="position y", title="The reading 0.5 has three answers")
ax.legend(loc="upper center", ncols=2)

ax = axes[1, 0]
ax.imshow(
    conditional.reshape(160, 160),
    extent=(17, 43, 0, 360),
    origin="lower",
    aspect="auto",
    cmap="Blues",
)
ax.plot(X["bmi"], y, ".", color="0.4", markersize=4, label="patients")
ax.plot(bmi, means, "C1", lw=2, label="mean")
ax.set(
    xlabel="body mass index", ylabel="progression", title="Diabetes: p(y | x), only the bmi known"
)
ax.legend(loc="upper left", framealpha=1)

ax = axes[1, 1]
styles = zip(["0.6", "C4", "C2", "C0"], ["-", ":", "--", "-"], strict=True)
for (label, values), (color, look) in zip(densities.items(), styles, strict=True):
    ax.plot(line, values, look, color=color, lw=2, label=f"known: {label}")
ax.axvline(y[held_out], color="k", ls=":", label="the true value")
ax.set(xlabel="progression", ylabel="density", title="One patient, as more is known")
ax.set_ylim(0, None)
ax.legend()
figure.savefig("regression.png", dpi=90)
