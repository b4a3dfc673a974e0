"""
How much memory does a fit to a large file take?
================================================

EM needs sums over the samples, and nothing else: it can read them from a file, block by block, once
an iteration. The memory needed does not grow with the file. From the same start the mixture is the
same as in memory, to rounding.

Here one file is fitted twice, in blocks and then loaded as a whole. It would fit into memory many
times; the figure shows how much memory each fit takes while it works, and the mixtures that they
find.
"""

import tempfile
import threading
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture
from skgmmot.datasets import make_ring_square_line
from skgmmot.plotting import GaussianMixtureDisplay

N_SAMPLES, BLOCK = 3_000_000, 100_000

# %%
# A file of samples, written part by part.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "samples.bin"
with path.open("wb") as file:
    for i in tqdm(range(N_SAMPLES // BLOCK), desc="writing"):
        make_ring_square_line(BLOCK, random_state=i)[0].tofile(file)
print(f"{path.stat().st_size / 2**20:.0f} MB of samples")

# %%
# Blocks are what a *function* returns, for EM reads the file anew in every iteration. They may come
# from anywhere: here they are read as they were written.


def blocks():
    """A fresh iterator of blocks of rows."""
    for i in range(0, N_SAMPLES, BLOCK):
        yield np.fromfile(path, count=2 * BLOCK, offset=2 * 8 * i).reshape(-1, 2)


def load():
    """All rows."""
    return np.fromfile(path).reshape(-1, 2)


# %%
# Fit either way, while another thread notes how much memory the process holds (on Linux).


def memory():
    """Memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def watched(work):
    """The result of a function, and the times and the memory while it ran."""
    before, began, done, notes = memory(), time.perf_counter(), threading.Event(), []

    def watch():
        while not done.wait(0.02):
            notes.append((time.perf_counter() - began, memory() - before))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return work(), np.array(notes).T
    finally:
        done.set()
        watcher.join()


warnings.simplefilter("ignore", ConvergenceWarning)
options = {"random_state": 0, "tol": 1e-4, "max_iter": 15}
DifferentiableGaussianMixture(7, **options).fit(next(blocks()))  # loads what is loaded once
found = {}
for way, samples in {"in blocks": lambda: blocks, "in memory": load}.items():
    mixture = DifferentiableGaussianMixture(7, **options)
    found[way] = watched(lambda m=mixture, s=samples: m.fit(s()))
    used, likelihood = found[way][1][1].max(), mixture.lower_bound_
    print(f"{way}: up to {used:.0f} MB, log-likelihood {likelihood:.4f} a sample")

# %%
# The fit in memory needs the samples, and for its start by k-means copies of them. In blocks, the
# start is found from 131,072 of the rows. So the two fits start a little differently, and after 15
# iterations each, before they have converged, their mean log-likelihoods differ by 0.002.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=[1.3, 1, 1])
sample = next(blocks())[:3000]
for (way, (fitted, (times, used))), ax, color in zip(
    found.items(), axes[1:], ("C0", "C1"), strict=True
):
    look = "-" if way == "in blocks" else "--"
    axes[0].plot(times, used, look, color=color, linewidth=2, label=way)
    ax.scatter(*sample.T, s=1, color="0.7")
    GaussianMixtureDisplay.from_estimator(fitted, ax=ax, colors=[color] * 7, n_std=2)
    ax.set(title=f"{way}: log-likelihood {fitted.lower_bound_:.4f}", xticks=[], yticks=[])
    ax.set(xlabel="first feature", ylabel="second feature")
size = path.stat().st_size / 2**20
axes[0].axhline(size, color="0.5", linestyle=":", label="size of the file")
axes[0].set(xlabel="seconds", ylabel="memory beyond that before the fit (MB)", ylim=(0, None))
axes[0].set_title("memory of a fit")
axes[0].legend()
figure.tight_layout()
figure.savefig("larger_than_memory.png", dpi=100)
folder.cleanup()
plt.show()
