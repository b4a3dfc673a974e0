"""
Where do EM and the sliced fit end from random starts?
======================================================

Ten components are fitted to samples of a ring, a square and the line between them, from random
starts near the middle (figure 3 of :term:`Kolouri, Rohde and Hoffmann 2018`). Where does each fit
end, in likelihood and in sliced distance? Here are seven of the starts; a hundred are in
``benchmarks/results/bench_sliced_histograms.md``.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tqdm import trange

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.datasets import make_ring_square_line
from skgmmot.metrics import sliced_wasserstein_distance

K, N_STARTS = 10, 7
warnings.simplefilter("ignore", ConvergenceWarning)  # of runs of EM that lose components
X, _ = make_ring_square_line(random_state=0)

# %%
# A sliced fit, with EM after it, takes as long as 25 runs of EM. So EM also has as many, from
# further random starts, of which the likeliest is kept.

N_RUNS = 25


def start(seed):
    """Ten small components around the middle of the data, as in the paper."""
    rng = np.random.default_rng([seed, 2018])
    A = 0.1 * rng.uniform(size=(K, 2, 2))
    return {
        "weights_init": np.full(K, 1 / K),
        "means_init": X.mean(axis=0) + rng.uniform(-1, 1, size=(K, 2)),
        "precisions_init": np.linalg.inv(A @ A.transpose(0, 2, 1) + 1e-3 * np.eye(2)),
    }


def em(seed):
    """EM, run to its end."""
    return DifferentiableGaussianMixture(K, tol=1e-6, max_iter=1000, **start(seed)).fit(X)


def sliced(seed, refine=None):
    """One run of the sliced fit, and of EM from where it ends if ``refine='em'``."""
    fit = SlicedWassersteinGMM(K, n_init=1, refine=refine, random_state=seed, **start(seed))
    return fit.fit(X)


def em_of_many(seed):
    """The likeliest of many runs of EM; the first is that of `em`."""
    fits = [em(seed + 1000 * run) for run in range(N_RUNS)]
    return max(fits, key=lambda fit: fit.lower_bound_)


methods = {
    "EM, 1 run": em,
    f"EM, best of {N_RUNS} runs": em_of_many,
    "sliced": sliced,
    "sliced, then EM": lambda seed: sliced(seed, refine="em"),
}
found = {name: np.empty((N_STARTS, 2)) for name in methods}
for seed in trange(N_STARTS, desc="starts"):
    for name, method in methods.items():
        fit = method(seed)
        distance = sliced_wasserstein_distance(fit, X, n_projections=200, random_state=0)
        found[name][seed] = -fit.score(X), distance

best = min(values[:, 0].min() for values in found.values())
for name, values in found.items():
    near = (values[:, 0] < best + 0.01).sum()
    loss, distance = np.median(values, axis=0)
    print(f"{name}: medians {loss:.3f} nats a sample and {distance:.4f};", end=" ")
    print(f"{near} of {N_STARTS} within 0.01 nats of the best")

# %%
# Of the hundred starts, this many ended within 0.01, 0.05 and 0.1 nats a sample of the best
# likelihood that any method found:
#
# ===================================  ======  ======  =====  ===============  =====
# \                                    0.01    0.05    0.1    sliced distance  CPU s
# ===================================  ======  ======  =====  ===============  =====
# EM, 1 run                            1       11      23     0.0702           0.04
# EM, runs of the same time (25)       30      95      100    0.0439           1.03
# sliced, as published                 0       0       0      0.0598           0.46
# sliced, as published, then EM        78      80      80     0.0417           0.51
# sliced                               0       1       3      0.0384           1.56
# sliced, then EM                      99      100     100    0.0417           1.01
# EM from k-means, 1 run               48      100     100    0.0414           0.04
# ===================================  ======  ======  =====  ===============  =====
#
# (Medians of distances and times.) From random starts, one sliced fit with EM after it reaches the
# best likelihood nearly always, one run of EM nearly never, and EM in equal time in three of ten.
# That is as much as can be said for it: the sliced fit alone has the least distance and a worse
# likelihood than most runs of EM, and a start by k-means brings EM within 0.05 of the best, always,
# in a twenty-fifth of the time. *As published* is five random directions a step, 175 steps, with
# fixed weights.

columns = ("negative log-likelihood (nats a sample)", "sliced distance")
figure, axes = plt.subplots(
    len(found), 2, figsize=(10, 6.5), sharex="col", sharey=True, layout="constrained"
)
for column, label in enumerate(columns):
    everything = np.concatenate([values[:, column] for values in found.values()])
    bins = np.linspace(everything.min(), everything.max() + 1e-6, 31)
    for i, (ax, (name, values)) in enumerate(zip(axes[:, column], found.items(), strict=True)):
        ax.hist(values[:, column], bins, color=f"C{i}")
        ax.axvline(np.median(values[:, column]), color="black", linewidth=1, label="median")
        ax.set_title(name, loc="left", fontsize=10)
        ax.set(ylim=(0, N_STARTS + 0.5), yticks=range(0, N_STARTS + 1, 2))
    axes[-1, column].set_xlabel(label)
for ax in axes[:, 0]:
    ax.set_ylabel("starts")
axes[0, 1].legend()
figure.savefig("hundred_starts.png", dpi=110)
plt.show()
