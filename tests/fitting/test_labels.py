"""Starts that respect classes: constrained k-means, chosen samples, and orders of components."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.groups import WHOLE, Possible
from skgmmot.fitting.labels import (
    Labelling,
    check_weights,
    clusters,
    masses,
    single_samples,
)

F64 = torch.float64
CENTRES = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]], dtype=F64)
#: The first class has a component, the second two of them; one is free.
COMPONENTS = ((2,), (0, 3))


@pytest.fixture
def rng():
    return np.random.RandomState(0)


@pytest.fixture
def X():
    """Four clouds of 20 samples."""
    return CENTRES.repeat(20, 1) - 4 + 0.5 * torch.randn(80, 2, dtype=F64)


@pytest.fixture
def labelling():
    """Few known samples: one of the second cloud is of the first class, clouds 0 and 2 second."""
    codes = torch.full((80,), -1)
    codes[[1, 5]], codes[[0, 4, 2, 6]] = 0, 1
    return Labelling(codes, COMPONENTS, 4)


def test_samples_of_each_class_see_its_components(X, labelling):
    samples = labelling.grouped(X, None)
    assert [group.view for group in samples.groups] == [WHOLE, Possible((2,)), Possible((0, 3))]
    assert [len(group.rows) for group in samples.groups] == [74, 2, 4]
    assert samples.groups[1].rows.tolist() == [1, 5]


@pytest.mark.parametrize("weighted", [False, True])
def test_clusters_are_components_of_the_classes(X, labelling, weighted, rng):
    a = torch.rand(80, dtype=F64) + 0.1 if weighted else None
    labels = clusters(labelling, X, a, rng).view(20, 4)
    assert (labels == labels[0]).all()
    assert labels[0, 1] == 2 and {int(labels[0, 0]), int(labels[0, 2])} == {0, 3}


def test_known_samples_stay_with_their_class_wherever_they_are(X, labelling, rng):
    labelling.codes[3] = 0  # of another cloud
    labels = clusters(labelling, X, None, rng)
    assert labels[3] == 2 and labels[7] == 1


@pytest.mark.parametrize("far", [False, True])
def test_a_sample_is_chosen_from_each_class(X, labelling, far, rng):
    chosen = single_samples(labelling, X, None, rng, far=far)
    codes = labelling.codes[chosen]
    assert codes.tolist() == [1, -1, 0, 1]
    assert len(set(chosen.tolist())) == 4
    if far:
        assert chosen[1] % 4 == 3


def test_samples_of_weight_zero_are_not_chosen(X, labelling, rng):
    a = torch.ones(80, dtype=F64)
    a[1], a[8:] = 0, 0
    for _ in range(5):
        chosen = single_samples(labelling, X, a, rng, far=False)
        assert chosen[2] == 5 and chosen[1] in (3, 7)


def test_components_that_no_sample_may_belong_to_are_refused(X, rng):
    all_known = Labelling(torch.arange(80) % 2, ((0,), (1,)), 3)
    with pytest.raises(ValueError, match=r"got 0 of unknown class for 1 components .*: \[2\]"):
        clusters(all_known, X, None, rng)


def test_classes_of_weight_zero_are_absent(labelling):
    a = torch.ones(80)
    a[[1, 5]] = 0
    assert labelling.counted(None) is labelling
    found = labelling.counted(a).codes
    assert found[[1, 5]].tolist() == [-1, -1]
    assert (found == 1).sum() == 4


def test_responsibilities_are_shared_among_what_is_possible(labelling):
    resp = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.0, 0.0], [0.2, 0.4, 0.3, 0.1]]).mT
    found = labelling.restricted(resp, torch.tensor([0, 1, 3])).mT
    expected = torch.tensor([[0.2, 0.0, 0.0, 0.8], [0.0, 0.0, 1.0, 0.0], [0.2, 0.4, 0.3, 0.1]])
    assert_close(found, expected)


def test_components_are_put_in_the_order_of_the_classes(labelling):
    resp = torch.zeros(4, 80, dtype=F64)
    resp[torch.tensor([0, 1, 2, 3]).repeat(20), torch.arange(80)] = 1  # a component a cloud
    mass = masses(labelling, resp, None)
    assert mass.tolist() == [[0, 2, 0, 0], [2, 0, 2, 0]]
    order = labelling.order(mass).tolist()
    assert order[2] == 1 and {order[0], order[3]} == {0, 2}


def test_classes_without_weight_are_refused_or_given_some(labelling, make_mixture):
    theta = make_mixture("full", 4, 2)
    theta = theta._replace(weights=torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64))
    names = np.array(["a", "b"])
    with pytest.raises(ValueError, match=r"got 0 for component\(s\) \[2\] of class 'a'\. Give"):
        check_weights(labelling, theta.weights, names)
    found = labelling.with_weight(theta)
    check_weights(labelling, found.weights, names)
    assert_close(found.weights.sum(), torch.tensor(1.0, dtype=F64))
    assert found.weights[3] == 0
