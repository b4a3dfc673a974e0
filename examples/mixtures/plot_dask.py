"""
How do I fit a mixture to data on a cluster?
============================================

Pass ``fit`` a dask array: each iteration of EM is one task a chunk, wherever the current client's
workers are, and only sums over the chunks come back. Predictions are dask arrays that nothing has
computed yet. The number of components is chosen before, on a sample that fits into memory, by many
small fits at once.

The cluster of this example is two threads of this process, so that it runs anywhere. With
``Client("tcp://scheduler:8786")`` in its place the same lines run on many machines.
"""

import dask.array as da
import joblib
import matplotlib.pyplot as plt
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV

from skgmmot import DifferentiableGaussianMixture
from skgmmot.plotting import GaussianMixtureDisplay

N_CHUNKS, CHUNK = 10, 50_000

cluster = LocalCluster(
    n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", silence_logs=50
)
client = Client(cluster)

# %%
# The samples: six clusters of different shapes. Each chunk is made by the task that needs it, as it
# would be read by ``da.from_zarr("s3://...")`` or ``dd.read_parquet``. ``persist`` keeps the chunks
# in the memory of the workers, so that iterations need not make them again.


def make_chunk(block_info=None):
    """The samples of one chunk."""
    rng = np.random.default_rng(block_info[None]["chunk-location"][0])
    k = rng.choice(6, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1], size=CHUNK)
    angles = np.pi / 3 * k
    outward = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sideways = outward[:, ::-1] * [-1, 1]
    length = np.where(k % 2, 0.9, 0.4)[:, None]
    along, across = rng.normal(size=(2, CHUNK, 1))
    return (2.5 + length * along) * outward + (1.3 - length) * across * sideways


X = da.map_blocks(make_chunk, chunks=((CHUNK,) * N_CHUNKS, (2,)), dtype=float).persist()
print(X)

# %%
# How many components? A cross-validated search over 5,000 of the samples; its fits run on the
# workers. EM finds a local optimum, so that each number is tried from three starts: put
# ``random_state`` into the grid, and the starts run side by side.

sample = X[:: len(X) // 5000].compute()
grid = {"n_components": [2, 3, 4, 5, 6, 7, 8, 9], "random_state": [0, 1, 2]}
search = GridSearchCV(DifferentiableGaussianMixture(max_iter=300), grid, cv=3)
with joblib.parallel_config(backend="dask"):
    search.fit(sample)
print(f"best: {search.best_params_}")

# %%
# The fit to all samples goes on from the best mixture of the sample. The component of each of them
# is lazy: here the ``labels`` are counted without ever being in one place, ``labels.to_zarr`` would
# store them.

mixture = search.best_estimator_.set_params(warm_start=True).fit(X)
labels = mixture.predict(X)
counts = da.bincount(labels, minlength=mixture.n_components).compute()
print(labels)
print(f"{len(X):,} samples, log-likelihood {mixture.lower_bound_:.4f} a sample")

# %%
# More components no longer help on samples that the fits have not seen, once there is one for each
# cluster. A start that misses a cluster shows as a point far below the line. On the right, the
# ellipses hold 86 % of each component, and the numbers are the shares of the counted labels.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1, 1.25])
tried = search.cv_results_["param_n_components"].astype(int)
scores = search.cv_results_["mean_test_score"]
left.plot(tried, scores, "o", color="0.6", label="one start")
best = [scores[tried == n].max() for n in grid["n_components"]]
left.plot(grid["n_components"], best, color="C0", label="best of three")
chosen = search.best_params_["n_components"]
left.plot(chosen, search.best_score_, "o", color="C3", markersize=9, label=f"chosen: {chosen}")
left.set(xlabel="number of components", ylabel="held-out log-likelihood a sample")
left.set_title(f"{len(scores)} fits to {len(sample):,} samples, on the workers")
left.legend(loc="lower right")

colors = plt.get_cmap("tab10")(np.arange(mixture.n_components))
shown = slice(None, None, len(X) // 4000)
right.scatter(*X[shown].compute().T, s=3, color=colors[labels[shown].compute()])
GaussianMixtureDisplay.from_estimator(mixture, ax=right, colors=list(colors), n_std=2)
for mean, count in zip(mixture.means_, counts, strict=True):
    right.text(*mean, f"{count / len(X):.0%}", ha="center", va="center", weight="bold")
right.set(xticks=[], yticks=[])
right.set_title(f"one fit to {len(X):,} samples, in {N_CHUNKS} chunks")
figure.tight_layout()
figure.savefig("dask.png", dpi=100)

client.close()
cluster.close()
plt.show()
