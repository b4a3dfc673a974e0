"""Assignments of samples of which some classes are known."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs.arrays import NUMPY, ArrayKind
from skgmmot.estimators.starts.assignments import (
    Assignment,
    by_chance,
    kmeans_labels,
    of_labels,
    of_responsibilities,
)
from skgmmot.estimators.starts.user_function import called
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.labels import Labelling, clusters, masses, single_samples
from skgmmot.gaussian.mixture import GaussianMixtureParams, select
from skgmmot.numerics.blocks import map_rows


def assign_labelled(
    name: str | Callable,
    em: EM,
    labelling: Labelling,
    rng: np.random.RandomState,
    run: int = 0,
    kind: ArrayKind = NUMPY,
) -> Assignment:
    """Assign samples, of which some classes are known, to components that are possible for them.

    Parameters
    ----------
    name : {'kmeans', 'k-means++', 'random', 'random_from_data'} or callable
        The start. ``'kmeans'`` begins with the means of the classes in the first run, and without
        them in others, which would be the first one again. Components that are found without the
        classes, or by a callable, are put in the order that fits the classes best.
    em : EM
        The samples, their weights and their origin.
    labelling : Labelling
        The classes.
    rng : RandomState
        Source of random numbers.
    run : int, default=0
        How many starts there were before.
    kind : ArrayKind, default=NUMPY
        The kind of array that a callable gets.

    Returns
    -------
    callable
        The responsibilities, block by block.
    """
    K = labelling.n_components
    if callable(name):
        found = called(name, em.X, K, rng, kind)
        found = torch.from_numpy(found) if found.ndim == 1 else found
        return _assigned_in_order(found.to(em.X.device), em, labelling)
    if name == "kmeans" and run > 0:
        return _assigned_in_order(kmeans_labels(em, K, rng), em, labelling)
    if name == "random":
        return _restricted(by_chance(em, K, rng), labelling)
    X = em.X - em.origin
    if name == "kmeans":
        return of_labels(clusters(labelling, X, em.sample_weight, rng), K, em.X)
    far = name == "k-means++"
    chosen = single_samples(labelling, X, em.sample_weight, rng, far=far)
    labels = torch.full_like(labelling.codes, -1)
    labels[chosen] = torch.arange(K, device=labels.device)
    for c, components in enumerate(labelling.components):
        if len(components) == 1:
            labels[labelling.rows(c)] = components[0]
    return of_labels(labels, K, em.X)


def _assigned_in_order(found: Tensor, em: EM, labelling: Labelling) -> Assignment:
    """Labels ``(n,)`` or responsibilities ``(n, K)`` of components in any order."""
    if found.ndim == 1:
        found = torch.nn.functional.one_hot(found.long(), labelling.n_components).double()
    order = labelling.order(masses(labelling, found.mT, em.sample_weight))
    return _restricted(of_responsibilities(found[:, order], em.X), labelling)


def _restricted(assignment: Assignment, labelling: Labelling) -> Assignment:
    """Responsibilities of all components, shared among those that are possible."""

    def blocks():
        for rows, components, resp in assignment():
            yield rows, components, labelling.restricted(resp, rows)

    return blocks


def in_order_of_classes(
    found: GaussianMixtureParams, em: EM, labelling: Labelling
) -> GaussianMixtureParams:
    """Components in the order that fits the classes of the samples best."""
    step = em.fastest(found)

    def resp(block):
        return step.responsibilities(block)[0].mT

    of_all = map_rows(resp, step.row_size, em.X, min_rows=step.min_rows).mT
    return select(found, labelling.order(masses(labelling, of_all, em.sample_weight)))
