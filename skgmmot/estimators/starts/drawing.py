"""One start: what is given, and for the rest what is drawn."""

from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_random_state
from sklearn.utils.random import sample_without_replacement
from torch import Tensor

from skgmmot._inputs.arrays import NUMPY, ArrayKind
from skgmmot.estimators.starts.assignments import ASSIGNMENTS, assign, start
from skgmmot.estimators.starts.balanced import balanced
from skgmmot.estimators.starts.labelled import assign_labelled, in_order_of_classes
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.labels import Labelling
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.stream import OutOfCore, start_rows
from skgmmot.gaussian.mixture import GaussianMixtureParams, select

#: Generators that are not in use: making one takes fifty times longer than seeding it.
_IDLE: list[np.random.RandomState] = []


@contextmanager
def random_numbers(random_state):
    """Give the generator of a ``random_state`` to a block; an integer seeds it anew."""
    if not isinstance(random_state, Integral):
        yield check_random_state(random_state)
        return
    try:
        rng = _IDLE.pop()
    except IndexError:
        rng = np.random.RandomState()
    rng.seed(random_state)
    try:
        yield rng
    finally:
        _IDLE.append(rng)


#: Starts that are more than the moments of an assignment.
FITTED = {"sinkhorn": balanced}
STARTS = {*ASSIGNMENTS, *FITTED}


def one_start(
    estimator,
    em: EM,
    given: tuple,
    rng,
    run: int,
    kind: ArrayKind = NUMPY,
    grouped: EM | None = None,
    labelling: Labelling | None = None,
) -> GaussianMixtureParams:
    """One start: what is given, and for the rest the moments of an assignment, or Sinkhorn-EM.

    The assignment may be of the same samples in other coordinates, ``grouped``. A callable start
    gets them in the user's kind of array. Where classes are known, components begin with theirs.
    """
    name = estimator.init_params
    fitted = None if callable(name) else FITTED.get(name)
    if fitted is not None:
        # another run from given means and covariances would be the first one again
        given = given if run == 0 else (given[0], None, None)
        size = estimator._covariance(), estimator.n_components
        if labelling is None:
            return fitted(em, given, *size, rng)
        plain = EM(InMemory(em.X, em.sample_weight), em.origin, em.reg_covar, em.constraint)
        found = fitted(plain, given, *size, rng)
        return found if given[1] is not None else in_order_of_classes(found, plain, labelling)
    if all(part is not None for part in given):
        covariance_type = estimator._covariance().reduced(*given[1].shape)
        return GaussianMixtureParams(*given, covariance_type)
    if labelling is None:
        assignment = assign(name, grouped or em, estimator.n_components, rng, kind)
    else:
        assignment = assign_labelled(name, em, labelling, rng, run, kind)
    found = start(assignment, em, estimator._covariance(), estimator.n_components)
    if em.constraint.means is not None and labelling is None:
        found = _in_order_of(given[1], found)
    if estimator.max_iter == 0:
        # Nothing normalises the weights of a start later: do it now.
        found = found._replace(weights=found.weights / found.weights.sum())
    parts = (f if g is None else g for f, g in zip(found, given, strict=True))
    return GaussianMixtureParams(*parts, found.covariance_type)


def _in_order_of(means: Tensor, found: GaussianMixtureParams) -> GaussianMixtureParams:
    """Components in the order of given means, each near its own."""
    distances = torch.cdist(means, found.means).cpu().numpy()
    if not np.isfinite(distances).all():  # as with a prior that overflows; any order will do
        return found
    return select(found, torch.from_numpy(linear_sum_assignment(distances)[1]).to(means.device))


def sample_of(samples: OutOfCore, n_components: int, rng) -> InMemory:
    """Samples to start from, in memory: all if they are not many, else some drawn uniformly.

    Those of weight zero are not drawn, and the others keep their weights.
    """
    n, facts = start_rows(samples.facts, n_components), samples.facts
    if facts.n_samples <= n:
        return InMemory(*samples.take())
    n_positive = facts.n_positive
    drawn = sample_without_replacement(n_positive, min(n, n_positive), random_state=rng)
    return InMemory(*samples.take(np.sort(drawn)))
