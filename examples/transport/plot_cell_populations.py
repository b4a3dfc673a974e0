"""
Which donors' cells are alike?
==============================

Blood of sixteen donors, four under each of four conditions; of each donor some hundred cells, and
of each cell the activity of twenty genes. A donor is not a row of numbers but a cloud of cells.
`MixtureEmbedding` fits a mixture to each cloud, `PairwiseMW2` compares them, and a tree of the
distances shows which donors are alike. The cells are simulated.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.cluster.hierarchy import dendrogram, fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from skgmmot import DifferentiableGaussianMixture, MixtureEmbedding, PairwiseMW2
from skgmmot.plotting import GaussianMixtureDisplay

N_DONORS, N_GENES = 4, 20

# %%
# Four types of cells. *Infection* makes one type more frequent at the cost of others. A *drug*
# changes the state of one type. Under *mixed response* half of the cells of a type go one way, and
# the other half the opposite way, so that the average cell remains the same. Donors differ under
# every condition: in the shares of the types, and by a shift of all of their cells.

rng = np.random.default_rng(3)
types = rng.normal(scale=2, size=(4, N_GENES))
response = rng.normal(size=N_GENES)


def cells(condition):
    """Cells of one donor."""
    shares = np.array([4, 3, 2, 1]) if condition != "infection" else np.array([2.5, 2, 1.5, 4])
    n = rng.integers(400, 700)
    kind = rng.choice(4, size=n, p=rng.dirichlet(40 * shares))
    X = types[kind] + rng.normal(size=(n, N_GENES)) + 0.15 * rng.normal(size=N_GENES)
    way = {"drug": np.ones(n), "mixed response": rng.choice([-1, 1], size=n)}
    X[kind == 0] += np.outer(way.get(condition, np.zeros(n)), response)[kind == 0]
    return X


names = ["control", "infection", "drug", "mixed response"]
condition = np.repeat(np.arange(4), N_DONORS)
donors = [cells(names[c]) for c in condition]

# %%
# As usual in this field, genes are first reduced to a few principal components, those of all cells
# together. Then a mixture for each donor, and all distances in three ways: between the average
# cells of donors, by MW2, and by unbalanced MW2. With ``reg_m=20``, cells that would have to change
# by more than about the root of 20, as from one type to another, count as cells that vanish and
# appear, at a limited price: differences in the shares of types then count less against those in
# states.

axes = PCA(6, random_state=0).fit(np.vstack(donors))
clouds = [axes.transform(X) for X in donors]
mixture = DifferentiableGaussianMixture(6, reg_covar=0.05, n_init=3, random_state=0)
mixtures = MixtureEmbedding(mixture=mixture).fit_transform(clouds)
distances = {
    "average cells": squareform(pdist([cloud.mean(axis=0) for cloud in clouds])),
    "MW2": PairwiseMW2().fit_transform(mixtures),
    "unbalanced MW2": PairwiseMW2(reg_m=20).fit_transform(mixtures),
}
trees = {name: linkage(squareform(D, checks=False), "average") for name, D in distances.items()}
agreement = {
    name: adjusted_rand_score(condition, fcluster(tree, 4, "maxclust"))
    for name, tree in trees.items()
}
for name, value in agreement.items():
    print(f"{name}: adjusted Rand index of four groups and the conditions {value:.2f}")

# %%
# Above, the cells of one donor under each condition, with the mixture. Below, the trees; the
# adjusted Rand index is 1 if four branches are the four conditions.
#
# Average cells cannot tell a mixed response from the control. MW2 sees it, but also that donors
# have a few per cent more or fewer cells of a type, which are then carried all the way to another
# type. Unbalanced MW2 puts every donor into its branch. Over the draws with the seeds 0 to 5 the
# index is 0.59 to 0.71 for average cells, 0.30 to 1 for MW2, and 1 each time for unbalanced MW2.

figure = plt.figure(figsize=(14, 8.5), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[1, 1.5])
for c, ax in enumerate(above.subplots(1, 4, sharey=True)):
    first = np.flatnonzero(condition == c)[0]
    ax.scatter(*clouds[first][:, :2].T, s=3, color="0.6")
    GaussianMixtureDisplay.from_estimator(
        mixtures[first], features=(0, 1), ax=ax, colors=[f"C{c}"] * 6, n_std=2
    )
    ax.set(xlabel="principal component 1", xlim=(-13, 13), ylim=(-13, 13))
    ax.set(title=f"a donor: {names[c]}", ylabel="" if c else "principal component 2")
for ax, (name, tree) in zip(below.subplots(1, 3), trees.items(), strict=True):
    options = {"orientation": "right", "color_threshold": 0, "above_threshold_color": "black"}
    dendrogram(tree, labels=[names[c] for c in condition], ax=ax, **options)
    for label in ax.get_yticklabels():
        label.set_color(f"C{names.index(label.get_text())}")
    ax.set(title=f"{name}\nadjusted Rand index {agreement[name]:.2f}", xlabel="distance")
figure.savefig("cell_populations.png", dpi=90)
plt.show()
