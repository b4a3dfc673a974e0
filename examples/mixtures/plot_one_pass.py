"""
How good is a mixture that sees each sample once?
=================================================

Samples arrive in blocks and are not kept: ``partial_fit`` updates a mixture by each block, and the
memory needed is that of one block. What does this cost, against iterations of EM that read all
samples again and again? And does the mixture follow if the stream changes?
"""

import copy
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture

N_BLOCKS, BLOCK, N_PASSES = 200, 1000, 2

# %%
# The stream: eight overlapping groups in five dimensions. In a second stream the groups move, from
# the first to the last block by about their width.

rng = np.random.default_rng(1)
K, d = 8, 5
roots = 0.5 * rng.normal(size=(K, d, d)) + 0.5 * np.eye(d)
means = 2 * rng.normal(size=(K, d))
weights = rng.dirichlet(np.full(K, 3.0))
drift = 1.5 * rng.normal(size=(K, d))


def draw(n, seed, moved=0.0):
    """Samples of the stream when it has gone a share of its way."""
    rng = np.random.default_rng(seed)
    group = rng.choice(K, size=n, p=weights)
    noise = np.einsum("nij,nj->ni", roots[group], rng.normal(size=(n, d)))
    return (means + moved * drift)[group] + noise


def best(X, moved=0.0):
    """Mean log-density of the distribution that made the samples."""
    parts = zip(weights, means + moved * drift, roots @ roots.mT, strict=True)
    return logsumexp(
        [np.log(w) + multivariate_normal(m, S).logpdf(X) for w, m, S in parts], 0
    ).mean()


def blocks():
    """A fresh iterator of the blocks of the first stream."""
    return (draw(BLOCK, seed) for seed in range(N_BLOCKS))


# %%
# The first stream. Both ways start from a fit to the first block. How fast earlier blocks are
# forgotten is ``partial_fit_decay``: with 1 all count alike, 0.6 is the default. EM reads the
# blocks anew in each iteration: a function that returns them is enough.

warnings.simplefilter("ignore", ConvergenceWarning)  # EM is called for one iteration at a time
test = draw(20_000, seed=N_BLOCKS)
limit = best(test)
first = DifferentiableGaussianMixture(K, random_state=0).fit(draw(BLOCK, seed=0))
decays = (0.6, 0.8, 1.0)

behind = {}  # after how many passes over the stream: how far behind the limit
for decay in decays:
    online = copy.deepcopy(first).set_params(partial_fit_decay=decay)
    points = behind[f"partial_fit, decay {decay}"] = {}
    for n in tqdm(range(1, N_PASSES * N_BLOCKS), desc=f"decay {decay}"):
        online.partial_fit(draw(BLOCK, seed=n % N_BLOCKS))
        if n < 10 or n % 10 == 9:
            points[(n + 1) / N_BLOCKS] = limit - online.score(test)
points = behind["EM in blocks"] = {}
em = copy.deepcopy(first).set_params(warm_start=True, max_iter=1, tol=0)
for n in tqdm(range(1, N_PASSES + 1), desc="EM"):
    points[n] = limit - em.fit(blocks).score(test)
print(f"first block alone: {limit - first.score(test):.4f}")
for name, points in behind.items():
    found = ", ".join(f"{points[n]:.4f}" for n in range(1, N_PASSES + 1))
    print(f"{name}: {found} after passes 1 to {N_PASSES}")

# %%
# The second stream. Each block is scored before the mixture has seen it.

drifting = {}
for decay in decays:
    online = DifferentiableGaussianMixture(K, partial_fit_decay=decay, random_state=0)
    online.fit(draw(BLOCK, seed=0))
    lost = drifting[f"partial_fit, decay {decay}"] = []
    for n in tqdm(range(1, N_BLOCKS), desc=f"decay {decay}, drifting"):
        moved = n / N_BLOCKS
        X = draw(BLOCK, seed=n, moved=moved)
        lost.append(best(X, moved) - online.score(X))
        online.partial_fit(X)

# %%
# Left, one pass with ``partial_fit_decay=1`` is as good as two of EM. With smaller values the
# mixture keeps changing with the last blocks, and stays behind. Right, where the groups move, it is
# the other way round: a mixture has to forget, and the smallest value loses least. All fall behind
# as blocks become more, since steps become smaller with each.

styles = dict(zip(drifting, ("C0-", "C1--", "C2:"), strict=True))
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
left.axhline(limit - first.score(test), color="0.6", linestyle=":", label="first block alone")
for name, points in behind.items():
    left.plot(points.keys(), points.values(), styles.get(name, "ks-."), label=name)
left.set(title="a stream that stays the same", xlabel="passes over the stream")
for name, lost in drifting.items():
    smooth = np.convolve(lost, np.full(10, 0.1), "valid")
    right.plot(np.arange(len(smooth)) + 10, smooth, styles[name], label=name)
right.set(title="a stream that changes (mean of ten blocks)", xlabel="blocks seen")
for ax in (left, right):
    ax.set(yscale="log", ylabel="log-likelihood a sample below that of the truth")
    ax.legend()
figure.savefig("one_pass.png", dpi=90)
plt.show()
