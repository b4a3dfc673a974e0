"""
How many digits must be labelled?
=================================

Pictures of digits are cheap, labels are not. A mixture with one component for each digit learns
from all pictures, of which only a few have a label. How many labels does it need, and what are the
pictures without labels worth?
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture

# that few samples need a large reg_covar is known here
warnings.filterwarnings("ignore", message="reg_covar must be small")
pictures, digits = load_digits(return_X_y=True)
pca = PCA(10, whiten=True, random_state=0)
X = pca.fit_transform(pictures)

# %%
# Some labels of each digit are kept, the others are -1: unknown. ``labels='y'`` has the fit take
# them into account: a labelled picture stays with the component of its digit.


def some_labels(n_labels, seed):
    """Labels of ``n_labels`` pictures of each digit."""
    rng, y = np.random.default_rng(seed), np.full(len(digits), -1)
    for digit in range(10):
        known = rng.choice(np.flatnonzero(digits == digit), n_labels, replace=False)
        y[known] = digit
    return y


mixture = DifferentiableGaussianMixture(10, labels="y", reg_covar=0.1, max_iter=500, random_state=0)

# %%
# Three ways to learn: from the labelled pictures alone (with a larger ``reg_covar``, which they
# need), from all pictures alike, and from all pictures where the few labelled ones weigh as much as
# all others together. Their results are the share of unlabelled pictures that are read correctly,
# for several choices of the labelled ones.


def alone(y):
    known = y >= 0
    return clone(mixture).set_params(reg_covar=0.3).fit(X[known], y[known])


def alike(y):
    return mixture.fit(X, y)


def weighted(y):
    known = y >= 0
    return mixture.fit(X, y, np.where(known, np.sum(~known) / np.sum(known), 1.0))


counts, seeds, ways = [1, 2, 5, 10, 20, 50], range(5), (weighted, alike, alone)
shares = np.zeros((len(ways), len(counts), len(seeds)))
for i, n_labels in enumerate(tqdm(counts, desc="labels a digit")):
    for seed in seeds:
        y = some_labels(n_labels, seed)
        unknown = y < 0
        for way, learn in enumerate(ways):
            predicted = learn(y).predict_class(X[unknown])
            shares[way, i, seed] = np.mean(predicted == digits[unknown])
for n_labels, row in zip(counts, shares.mean(axis=2).T, strict=True):
    texts = (f"{way.__name__} {share:.3f}" for way, share in zip(ways, row, strict=True))
    print(f"{n_labels:2d} labels a digit: {', '.join(texts)}")

# %%
# With two labels a digit, the pictures without labels are worth eight points: they show where the
# groups are, and the labels only have to say which digit a group is. With more labels, components
# that fit all pictures alike drift from the digits, which are not quite Gaussian; labelled pictures
# that weigh more hold them. Above, one of the two labelled pictures of each digit in one run, and
# the means of its components.

y = some_labels(2, seed=0)
labelled = pictures[[np.flatnonzero(y == digit)[0] for digit in range(10)]]
means = pca.inverse_transform(weighted(y).means_)
figure = plt.figure(figsize=(9, 8), layout="constrained")
upper, middle, lower = figure.subfigures(3, 1, height_ratios=[1, 1, 4])
titles = ["one of two labelled pictures of each digit", "means of the components"]
for part, title, shown in zip([upper, middle], titles, [labelled, means], strict=True):
    part.suptitle(title, fontsize=11)
    for ax, picture in zip(part.subplots(1, 10), shown, strict=True):
        ax.imshow(picture.reshape(8, 8), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
ax = lower.subplots()
names = [
    "all pictures, half of the weight on labelled ones",
    "all pictures alike",
    "labelled pictures alone",
]
for name, look, found in zip(names, ("o-", "s--", "^:"), 100 * shares, strict=True):
    ax.plot(counts, found.mean(axis=1), look, label=name)
    ax.fill_between(counts, found.min(axis=1), found.max(axis=1), alpha=0.15)
ax.set(
    xscale="log",
    xticks=counts,
    xticklabels=counts,
    xlabel="labelled pictures of each digit",
    ylabel="unlabelled pictures read correctly (%)",
)
ax.minorticks_off()
ax.legend(loc="lower right")
figure.savefig("semi_supervised.png", dpi=90)
plt.show()
