"""
Does a sliced fit get away from a bad start?
============================================

EM converges to a local maximum of the likelihood near its start. A component far from all samples
has no responsibilities, and does not move. The gradient of the sliced Wasserstein distance moves
every component to where mass is missing, at any distance.

Here are samples from a ring, a square frame and the strip between them, and ten small components
that all start in the middle (:term:`Kolouri, Rohde and Hoffmann 2018`). From six such starts we
run EM, and `SlicedWassersteinGMM <skgmmot.SlicedWassersteinGMM>` followed by EM. The paper compares
100 such starts, of 175 steps along five directions each and 25 iterations of EM.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.datasets import make_ring_square_line
from skgmmot.plotting import GaussianMixtureDisplay

K, N_STARTS = 10, 6
warnings.simplefilter("ignore", ConvergenceWarning)  # one EM needs more than 1000 iterations
X, _ = make_ring_square_line(random_state=0)

# %%
# The starts of the paper: equal weights, means within one unit of the middle, deviations of about a
# tenth.


def start(seed):
    """Ten small components around the middle of the data."""
    rng = np.random.default_rng(seed)
    A = 0.1 * rng.uniform(size=(K, 2, 2))
    return {
        "weights_init": np.full(K, 1 / K),
        "means_init": X.mean(axis=0) + rng.uniform(-1, 1, size=(K, 2)),
        "precisions_init": np.linalg.inv(A @ A.transpose(0, 2, 1) + 1e-3 * np.eye(2)),
    }


# %%
# Both fits from every start. EM runs to its end in both; what differs is where it begins.

fits = {"EM": [], "sliced, then EM": []}
for seed in tqdm(range(N_STARTS), desc="fits from six starts"):
    em = DifferentiableGaussianMixture(K, tol=1e-6, max_iter=1000, **start(seed))
    sliced = SlicedWassersteinGMM(
        K, n_projections=16, refine="em", random_state=seed, **start(seed)
    )
    fits["EM"].append(em.fit(X))
    fits["sliced, then EM"].append(sliced.fit(X))

losses = {name: np.array([-fit.score(X) for fit in found]) for name, found in fits.items()}
best = min(values.min() for values in losses.values())
for name, values in losses.items():
    print(f"{name}: {values.min():.3f} to {values.max():.3f} nats a sample,", end=" ")
    print(f"{(values < best + 0.01).sum()} of {N_STARTS} within 0.01 of the best")

# %%
# Above are the two fits from the start where EM ends worst, at two standard deviations. EM covers
# three sides of the frame by one component that is wider than the picture, while six share the
# ring. The sliced fit has five components on the ring, one on the strip and one on each side of the
# frame.
#
# Below are all six starts. EM ends somewhere else every time, the sliced fit in the same place.
# Its distance falls to a tenth within fifty steps and to a twenty-fifth in the end, whatever the
# start. It jumps half way, where the weights, held until then, begin to move as well.

styles = {
    "EM": {"color": "tab:blue", "marker": "o", "linestyle": "--"},
    "sliced, then EM": {"color": "tab:orange", "marker": "s", "linestyle": "-"},
}
figure, axes = plt.subplots(2, 2, figsize=(12, 7), layout="constrained", height_ratios=[1.1, 1])
worst = int(losses["EM"].argmax())
for ax, (name, found) in zip(axes[0], fits.items(), strict=True):
    ax.scatter(*X.T, s=3, color="0.7")
    GaussianMixtureDisplay.from_estimator(found[worst], ax=ax, n_std=2)
    start_means = start(worst)["means_init"]
    ax.plot(*start_means.T, "k+", markersize=8, label="means of the start")
    ax.set(title=f"{name}: {losses[name][worst]:.3f} nats a sample", aspect="equal")
    ax.set(xlim=(0.2, 6.5), ylim=(0, 3), xlabel="first feature", ylabel="second feature")
    ax.legend(loc="upper center")

left, right = axes[1]
for name, values in losses.items():
    left.plot(range(1, N_STARTS + 1), np.sort(values), label=name, **styles[name])
left.axhline(best, color="black", linestyle=":", linewidth=1, label="best of all")
left.set(title="where each start ends", xlabel="starts, from best to worst")
left.set(ylabel="negative log-likelihood\n(nats a sample)")
left.legend()
for i, found in enumerate(fits["sliced, then EM"]):
    curve = found.sliced_wassersteins_
    label = None if i else "one line a start"
    right.semilogy(10 * np.arange(len(curve)), curve, color="tab:orange", alpha=0.7, label=label)
right.set(title="the sliced fit, before EM", xlabel="step", ylabel="sliced distance")
right.legend()
figure.savefig("ring_square_line.png", dpi=110)
plt.show()
