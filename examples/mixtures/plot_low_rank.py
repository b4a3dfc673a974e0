"""
How does a handwritten digit vary?
==================================

A digit of 8 by 8 pixels is a point in 64 dimensions, eleven of which hardly vary. A full covariance
for each of ten groups has 1,431 numbers, which 1,198 digits do not determine; a diagonal one says
that pixels vary independently, which they do not. In between is a mixture of factor analysers,
``covariance_type='lowrank'``: each group varies in a few directions, and the rest is noise of the
pixels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture

X = load_digits().data
varies = X.var(axis=0) > 0.1
X = X[:, varies]
train, test = train_test_split(X, test_size=1 / 3, random_state=0)


def fitted(covariance_type, rank=1):
    """Ten groups; the noise of a pixel, of values up to 16, has a variance of at least 0.01."""
    return DifferentiableGaussianMixture(
        10,
        covariance_type=covariance_type,
        rank=rank,
        reg_covar=0.01,
        acceleration="squarem",
        random_state=0,
    ).fit(train)


# %%
# How well mixtures of several ranks describe digits that they have not seen.

ranks = [1, 2, 3, 5, 8, 12, 20]
low = {rank: fitted("lowrank", rank) for rank in tqdm(ranks, desc="ranks")}
scores = [low[rank].score(test) for rank in ranks]
others = {name: fitted(name).score(test) for name in ("diag", "full")}
best = ranks[int(np.argmax(scores))]
print(f"held-out log-likelihood: {max(scores):.1f} with rank {best},", end=" ")
print(", ".join(f"{score:.1f} {name}" for name, score in others.items()))

# %%
# The best rank is neither the smallest nor the largest. In the pictures each row is a group: its
# mean in the middle, and on either side the mean plus or minus two deviations along the first
# direction of its factors: strokes become longer, shorter, or slant.

shown = low[best]
groups = np.argsort(shown.weights_)[::-1][:5]
figure = plt.figure(figsize=(10, 5), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
ax = left.subplots()
ax.plot(ranks, scores, "o-", label="lowrank, by its rank")
for color, look, (name, score) in zip(("C1", "C2"), (":", "--"), others.items(), strict=True):
    ax.axhline(score, color=color, linestyle=look, label=name)
ax.set(xlabel="rank", ylabel="log-likelihood (nats a held-out digit)", xscale="log")
ax.set_xticks(ranks, [str(rank) for rank in ranks], minor=False)
ax.minorticks_off()
ax.legend()
steps = (-2, -1, 0, 1, 2)
for row, k in zip(right.subplots(len(groups), len(steps)), groups, strict=True):
    for ax, step in zip(row, steps, strict=True):
        image = np.zeros(64)
        image[varies] = shown.means_[k] + step * shown.factor_loadings_[k, :, 0]
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
        if k == groups[0]:
            ax.set_title(f"{step:+d}" if step else "mean")
right.supxlabel("deviations along the first direction")
figure.savefig("low_rank.png", dpi=100)
