"""
Which readings of a machine are unusual?
========================================

A pump reports its flow and its power every minute. It runs in several states, which nobody wrote
down. A mixture fitted to a day without faults says how many states there are, where they lie, and
how probable a new reading is: the improbable ones are worth a look. The readings are simulated.
"""

import matplotlib.pyplot as plt
import numpy as np

from skgmmot import DifferentiableGaussianMixture, GaussianMixtureSearch
from skgmmot.plotting import CriterionDisplay, GaussianMixtureDisplay

# %%
# A day of readings in three states, and the next day, on which 20 of 620 readings are faults: too
# much power for the flow, or too little.

rng = np.random.default_rng(0)
states = {  # mean and covariance of flow (m3/h) and power (kW), and the share of the day
    "idle": ([6.0, 3.0], [[1.0, 0.1], [0.1, 0.15]], 0.3),
    "supply": ([25.0, 8.0], [[16.0, 4.5], [4.5, 1.6]], 0.5),
    "flush": ([38.0, 20.0], [[4.0, -3.0], [-3.0, 5.0]], 0.2),
}


def readings(n):
    """Readings without faults."""
    means, covariances, shares = zip(*states.values(), strict=True)
    state = rng.choice(3, size=n, p=shares)
    return np.array([rng.multivariate_normal(means[k], covariances[k]) for k in state])


yesterday, today = readings(1440), readings(600)
faults = readings(20)
faults[:10, 1] *= rng.uniform(1.2, 1.8, size=10)  # clogged
faults[10:, 1] *= rng.uniform(0.4, 0.8, size=10)  # leaking
today = np.vstack([today, faults])
faulty = np.arange(len(today)) >= 600

# %%
# How many states? BIC falls while a further component helps, and rises when it only costs
# parameters. The search compares shapes of covariances as well, and gives up those that are far
# behind.

search = GaussianMixtureSearch(
    range(1, 8), mixture=DifferentiableGaussianMixture(n_init=3), random_state=0
).fit(yesterday)
print(f"{search.n_components_} components, {search.covariance_type_} covariances")
for share, mean in zip(search.weights_, search.means_, strict=True):
    print(f"{share:.0%} of the day near {mean[0]:.1f} m3/h and {mean[1]:.1f} kW")

# %%
# What is unusual? A reading whose log-density is below that of all but one in a hundred of
# yesterday's: this is the share of false alarms to expect. For comparison, limits on flow and power
# one by one, which cut off the same share.

threshold = np.quantile(search.score_samples(yesterday), 0.01)
alarms = search.score_samples(today) < threshold
lower, upper = np.quantile(yesterday, [0.0025, 0.9975], axis=0)
out_of_limits = ((today < lower) | (today > upper)).any(axis=1)
for name, found in {"mixture": alarms, "limits of each feature": out_of_limits}.items():
    caught, false = found[faulty].sum(), found[~faulty].sum()
    print(f"{name}: {caught} of {faulty.sum()} faults, {false} false alarms in {(~faulty).sum()}")

# %%
# Left, the criterion; the ring marks the fit that is chosen. In the middle, its ellipses of two
# standard deviations on yesterday's readings. Right, the line on which the log-density is the
# threshold, and today's readings. Most faults lie between the states or beside a narrow one: each
# of their two numbers is usual, and only the pair is not. The faults that are missed look like
# readings of a state.

figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
CriterionDisplay.from_estimator(search, ax=axes[0])
axes[0].set(title="how many states: BIC (smaller is better)", xlabel="number of components")

GaussianMixtureDisplay.from_estimator(search, yesterday, ax=axes[1], n_std=2)
axes[1].set_title(f"yesterday: {search.n_components_} states")

grid = np.stack(np.meshgrid(np.linspace(0, 47, 300), np.linspace(0, 32, 300)), axis=-1)
density = search.score_samples(grid.reshape(-1, 2)).reshape(300, 300)
axes[2].contourf(*grid.transpose(2, 0, 1), density, [threshold, np.inf], colors=["0.9"])
axes[2].contour(*grid.transpose(2, 0, 1), density, [threshold], colors="black", linestyles="solid")
for rows, marker, color, label in [
    (~faulty & ~alarms, ".", "0.5", "usual, no alarm"),
    (~faulty & alarms, "o", "C1", "false alarm"),
    (faulty & alarms, "^", "C0", "fault, found"),
    (faulty & ~alarms, "X", "black", "fault, missed"),
]:
    axes[2].scatter(*today[rows].T, s=12 if marker == "." else 45, marker=marker, color=color)
    axes[2].scatter([], [], s=45, marker=marker, color=color, label=f"{label}: {rows.sum()}")
axes[2].set_title("today: alarms outside the line")
axes[2].legend(loc="upper left")
for ax in axes[1:]:
    ax.set(xlim=(0, 47), ylim=(0, 32), xlabel="flow (m³/h)", ylabel="power (kW)")
figure.savefig("unusual_readings.png", dpi=90)
plt.show()
