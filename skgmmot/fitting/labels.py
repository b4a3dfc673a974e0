"""Mixtures of samples that are known, some of them, to belong to certain components.

A sample of a known class has a density in the components of its class only. Starts respect that:
each class begins with its own samples, and components of no class with samples of unknown class.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from skgmmot.fitting import kmeans
from skgmmot.fitting.groups import WHOLE, Grouped, Possible, View
from skgmmot.gaussian.incomplete.patterns import by_pattern
from skgmmot.gaussian.mixture import GaussianMixtureParams

#: Iterations of Lloyd's at most, and the movement of centres at which they end, as in `kmeans`.
MAX_ITER, TOL = 300, 1e-4


class Labelling(NamedTuple):
    """What is known of the components that samples belong to."""

    codes: Tensor
    """The class of each sample ``(n,)``, -1 if it is unknown."""
    components: tuple[tuple[int, ...], ...]
    """The components of each class; those of no class are for samples of unknown class alone."""
    n_components: int
    """K."""

    def counted(self, sample_weight: Tensor | None) -> "Labelling":
        """The same without labels of classes whose samples all have weight zero."""
        if sample_weight is None:
            return self
        mass = self._mass(sample_weight.detach().double())
        absent = torch.cat([mass == 0, mass.new_zeros(1, dtype=torch.bool)])  # -1 is the last
        return self._replace(codes=torch.where(absent[self.codes], -1, self.codes))

    def _mass(self, sample_weight):
        """The weight of each class's samples."""
        known = self.codes >= 0
        mass = sample_weight.new_zeros(len(self.components))
        return mass.index_add(0, self.codes[known], sample_weight[known])

    def grouped(
        self, X: Tensor, sample_weight: Tensor | None, *, incomplete: bool = False
    ) -> Grouped:
        """The samples in groups: those of unknown class, then those of each class."""
        views: list[View] = [WHOLE, *map(Possible, self.components)]
        groups = [(self.rows(c), view) for c, view in enumerate(views, start=-1)]
        if incomplete:
            groups = [(rows[by_pattern(X[rows])], view) for rows, view in groups]
        groups = [group for group in groups if len(group[0])]
        return Grouped(X, sample_weight, groups, incomplete=incomplete)

    def rows(self, code: int) -> Tensor:
        """The samples of a class, or with -1 those of unknown class."""
        return (self.codes == code).nonzero().flatten()

    def possible(self) -> Tensor:
        """Which components ``(n_classes + 1, K)`` are possible for each code; -1 is the last."""
        found = torch.zeros(len(self.components) + 1, self.n_components, dtype=torch.bool)
        for c, components in enumerate(self.components):
            found[c, list(components)] = True
        found[-1] = True
        return found.to(self.codes.device)

    def restricted(self, resp: Tensor, rows) -> Tensor:
        """Responsibilities ``(K, b)`` of some samples, shared among what is possible for them.

        Where they are all elsewhere, what is possible has equal shares.
        """
        possible = self.possible()[self.codes[rows]].mT  # (K, b)
        resp = resp * possible
        total = resp.sum(0)
        equal = possible.to(resp.dtype) / possible.sum(0)
        return torch.where(total > 0, resp / torch.where(total > 0, total, 1.0), equal)

    def with_weight(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        """A mixture with the weight of a sample for components of classes that would have none."""
        weights = theta.weights.clone()
        for c, components in enumerate(self.components):
            if len(self.rows(c)) and not float(weights[list(components)].sum()):
                weights[list(components)] = 1 / len(self.codes)
        return theta._replace(weights=weights / weights.sum())

    def order(self, mass: Tensor) -> Tensor:
        """The order in which components agree best with the classes.

        ``mass (n_classes, K)`` is how much of the samples of each class a component has.
        """
        gain = mass.new_zeros(self.n_components, self.n_components)  # of a place, by a component
        for c, components in enumerate(self.components):
            gain[list(components)] = mass[c]
        _, order = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
        return torch.from_numpy(order).to(self.codes.device)


def single_samples(
    labelling: Labelling, X: Tensor, sample_weight: Tensor | None, rng, *, far: bool
) -> Tensor:
    """Choose a sample for each component: of its class, or of unknown class.

    Parameters
    ----------
    labelling : Labelling
        The classes.
    X : Tensor of shape (n, d)
        Samples, of a mean near zero.
    sample_weight : Tensor of shape (n,) or None
        Their weights.
    rng : RandomState
        Source of random numbers.
    far : bool
        Whether to choose them far from each other, by greedy k-means++; else by their weights.

    Returns
    -------
    Tensor of int64 of shape (K,)
        Which samples.

    Raises
    ------
    ValueError
        If there are too few samples.
    """
    chosen = torch.full((labelling.n_components,), -1, device=X.device)
    for c, components in enumerate(labelling.components):
        found = _drawn(X, sample_weight, labelling.rows(c), len(components), rng, far=far)
        chosen[list(components)[: len(found)]] = found
    free = (chosen < 0).nonzero().flatten()
    if len(free):
        beside = _centres(labelling, X, sample_weight, chosen)[chosen >= 0]
        unknown = labelling.rows(-1)
        found = _drawn(X, sample_weight, unknown, len(free), rng, far=far, beside=beside)
        if len(found) < len(free):
            raise ValueError(
                "n_components must be at most the number of samples that may belong to them, got "
                f"{len(found)} of unknown class for {len(free)} components that no class has "
                f"enough samples for: {free.tolist()}. Use fewer components, or leave more samples "
                "unlabelled."
            )
        chosen[free] = found
    return chosen


def _drawn(X, sample_weight, rows, n, rng, *, far, beside=()) -> Tensor:
    """Draw so many of some samples, or as many as there are, perhaps far from centres beside."""
    a = None if sample_weight is None else sample_weight[rows]
    if a is not None:
        rows, a = rows[a > 0], a[a > 0]
    n = min(n, len(rows))
    if not n:
        return rows[:0]
    if not far:
        p = None if a is None else (a.double() / a.double().sum()).cpu().numpy()
        found = torch.from_numpy(rng.choice(len(rows), n, replace=False, p=p)).to(X.device)
    elif len(beside):
        found = kmeans.further_seeds(X[rows], n, rng, a, beside)
    else:
        found = kmeans.seeds(X[rows], n, rng, a)
    return rows[found]


def _centres(labelling, X, sample_weight, chosen) -> Tensor:
    """The chosen samples ``(K, d)``; of a class of one component, the mean of its samples."""
    centres = X[chosen].double()
    for c, components in enumerate(labelling.components):
        rows = labelling.rows(c)
        if len(components) == 1 and len(rows):
            a = X.new_ones(len(rows)) if sample_weight is None else sample_weight[rows]
            centres[components[0]] = a.double() @ X[rows].double() / a.double().sum()
    return centres


def clusters(labelling: Labelling, X: Tensor, sample_weight: Tensor | None, rng) -> Tensor:
    r"""Cluster samples by k-means whose clusters are components: constrained k-means.

    .. math:: \min_c \sum_i a_i \min_{k \text{ possible for } i} |x_i - c_k|^2

    There are two runs, of which the one of least inertia counts. In the first a class of one
    component begins with the mean of its samples, others with samples that are far from each other.
    The second begins with the centres of k-means without the classes, in the order that fits them
    best: of few samples, whose mean may be anywhere in their class, that is often better.

    Parameters
    ----------
    labelling : Labelling
        The classes.
    X : Tensor of shape (n, d)
        Samples, of a mean near zero.
    sample_weight : Tensor of shape (n,) or None
        Their weights.
    rng : RandomState
        Source of random numbers.

    Returns
    -------
    Tensor of int64 of shape (n,)
        The cluster of each sample.

    Raises
    ------
    ValueError
        If there are too few samples.

    References
    ----------
    .. [1] Basu, Banerjee and Mooney 2002, semi-supervised clustering by seeding.
    """
    chosen = single_samples(labelling, X, sample_weight, rng, far=True)
    found = kmeans.kmeans(X, labelling.n_components, rng, sample_weight)
    one_hot = torch.nn.functional.one_hot(found.labels, labelling.n_components)
    order = labelling.order(masses(labelling, one_hot.mT, sample_weight))
    samples = kmeans.Weighted(X, sample_weight)
    runs = [
        _run(samples, centres, labelling)
        for centres in (_centres(labelling, X, sample_weight, chosen), found.centres[order])
    ]
    return min(runs, key=lambda run: run[1])[0]


def _run(samples, centres, labelling) -> tuple[Tensor, float]:
    """Lloyd's iterations from some centres: the labels and their inertia."""
    tol = TOL * float(samples.variance())
    far = torch.where(labelling.possible(), 0.0, torch.inf).double()  # (n_classes + 1, K)
    labels = torch.full_like(labelling.codes, -1)
    for _ in range(MAX_ITER):
        centres_next, inertia, changed = _lloyd(samples, centres, labels, far, labelling.codes)
        shift, centres = float((centres_next - centres).square().sum()), centres_next
        if not changed or shift <= tol:
            break
    return labels, inertia


def _lloyd(samples, centres, labels, far, codes) -> tuple[Tensor, float, bool]:
    """Label each sample by its nearest possible centre, in place.

    Returns the next centres, the inertia about these ones, and whether a label changed.
    """
    sums, mass, changed = torch.zeros_like(centres), torch.zeros_like(centres[:, 0]), False
    inertia = 0.0
    for rows, x, a in samples.blocks(3 * len(centres)):
        squares = torch.cdist(x.double(), centres).square() + far[codes[rows]]  # (b, K)
        nearest, found = squares.min(1)
        inertia += float(a @ nearest)
        changed = changed or not torch.equal(found, labels[rows])
        labels[rows] = found
        sums.index_add_(0, found, x.double() * a.unsqueeze(1))
        mass.index_add_(0, found, a)
    full = (mass > 0).unsqueeze(1)
    centres = torch.where(full, sums / torch.where(full, mass.unsqueeze(1), 1.0), centres)
    return centres, inertia, changed


def masses(labelling: Labelling, resp: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return how much of the samples of each class every component has.

    Parameters
    ----------
    labelling : Labelling
        The classes.
    resp : Tensor of shape (K, n)
        Responsibilities.
    sample_weight : Tensor of shape (n,) or None
        The samples' weights.

    Returns
    -------
    Tensor of shape (n_classes, K)
        Sums of responsibilities, times weights.
    """
    weighted = (resp if sample_weight is None else resp * sample_weight).double()
    known = labelling.codes >= 0
    sums = weighted.new_zeros(len(labelling.components), labelling.n_components)
    return sums.index_add(0, labelling.codes[known], weighted.mT[known])


def check_weights(labelling: Labelling, weights: Tensor, names: np.ndarray) -> None:
    """Refuse weights by which the samples of a class have probability zero.

    Parameters
    ----------
    labelling : Labelling
        The classes.
    weights : Tensor of shape (K,)
        The weights of the components.
    names : ndarray
        What the classes are called.

    Raises
    ------
    ValueError
        If a class that has samples has components of weight zero alone.
    """
    for c, components in enumerate(labelling.components):
        if float(weights[list(components)].sum()) == 0 and len(labelling.rows(c)):
            raise ValueError(
                "weights_init must be positive for components of classes in y, got 0 for "
                f"component(s) {list(components)} of class {names.tolist()[c]!r}. Give them some "
                "weight."
            )
