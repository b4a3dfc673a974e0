"""Starts that a function of the user makes."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skgmmot import DifferentiableGaussianMixture, SemidiscreteGMM, SlicedWassersteinGMM


def by_kmeans(X, n_components, random_state):
    """Labels as the start 'kmeans' finds them."""
    return KMeans(n_components, n_init=1, random_state=random_state).fit(X).labels_


def by_chance(X, n_components, random_state):
    """Responsibilities as the start 'random' draws them."""
    resp = random_state.uniform(size=(len(X), n_components))
    return resp / resp.sum(axis=1, keepdims=True)


def mixture(init_params, **options):
    """Four components."""
    options = {"n_components": 4, "random_state": 0, "tol": 1e-5, **options}
    return DifferentiableGaussianMixture(init_params=init_params, **options)


@pytest.mark.parametrize("function, name", [(by_kmeans, "kmeans"), (by_chance, "random")])
@pytest.mark.parametrize("n_init", [1, 3])
def test_a_function_that_does_as_a_named_start_gives_its_fit(
    blobs, covariance_type, function, name, n_init, difference
):
    options = {"covariance_type": covariance_type, "n_init": n_init, "max_iter": 500}
    ours, named = (mixture(start, **options).fit(blobs) for start in (function, name))
    assert difference(ours, named) < 1e-7
    assert ours.n_iter_ == named.n_iter_


def test_labels_and_their_indicators_are_one_start(blobs, difference):
    def one_hot(X, n_components, random_state):
        return np.eye(n_components)[by_kmeans(X, n_components, random_state)]

    assert difference(mixture(by_kmeans).fit(blobs), mixture(one_hot).fit(blobs)) == 0


@pytest.mark.parametrize(
    "convert",
    [
        lambda labels: labels.tolist(),
        lambda labels: labels.astype(np.uint8),
        lambda labels: labels.astype(np.float32),
        torch.tensor,
        lambda labels: torch.nn.functional.one_hot(torch.tensor(labels).long()).bfloat16(),
        lambda labels: torch.eye(4, requires_grad=True)[labels],
        lambda labels: np.eye(4, dtype=bool)[labels],
    ],
)
def test_a_start_may_be_of_any_kind_of_array(blobs, convert, difference):
    def start(X, n_components, random_state):
        return convert(by_kmeans(X, n_components, random_state))

    assert difference(mixture(start).fit(blobs), mixture(by_kmeans).fit(blobs)) == 0


def test_a_large_start_of_responsibilities_is_taken_block_by_block(rng):
    X = rng.normal(size=(40_000, 1)) + 5 * rng.integers(0, 2, size=(40_000, 1))
    resp = rng.dirichlet([1.0, 1.0], size=len(X))
    start = mixture(lambda *_: resp, n_components=2, max_iter=0).fit(X)
    np.testing.assert_allclose(start.weights_, resp.mean(0))
    np.testing.assert_allclose(start.means_, resp.T @ X / resp.sum(0)[:, None])


class Recorder:
    """A start that keeps what it was given."""

    def __init__(self):
        self.seen, self.states = [], []

    def __call__(self, X, n_components, random_state):
        self.seen.append(X)
        self.states.append(random_state.uniform())
        return np.arange(len(X)) % n_components

    __eq__ = None  # and so it has no hash


def test_the_function_gets_the_samples_as_they_are_in_the_kind_of_the_results(blobs, array_kind):
    recorder = Recorder()
    mixture(recorder).fit(array_kind(blobs + 1e3))
    (seen,) = recorder.seen
    assert type(seen) is np.ndarray
    np.testing.assert_array_equal(seen, blobs + 1e3)


def test_the_function_gets_tensors_where_the_results_are_tensors(blobs):
    recorder = Recorder()
    X = torch.tensor(blobs, dtype=torch.float32, requires_grad=True)
    mixture(recorder).fit(X).means_.sum().backward()
    (seen,) = recorder.seen
    assert seen.dtype == torch.float32
    assert not seen.requires_grad
    assert torch.equal(seen, X)
    assert seen.data_ptr() != X.data_ptr()


def test_the_function_may_change_its_samples_and_use_autograd(blobs, difference):
    def start(X, n_components, random_state):
        labels = by_kmeans(X, n_components, random_state)
        X[:] = 0
        leaf = torch.ones(3, requires_grad=True)
        leaf.square().sum().backward()
        assert leaf.grad.tolist() == [2, 2, 2]
        return labels

    X = blobs.copy()
    assert difference(mixture(start).fit(X), mixture(by_kmeans).fit(blobs)) == 0
    np.testing.assert_array_equal(X, blobs)


def test_random_numbers_go_on_from_run_to_run(blobs):
    recorder = Recorder()
    mixture(recorder, n_init=3, random_state=7).fit(blobs)
    assert recorder.states == np.random.RandomState(7).uniform(size=3).tolist()
    mixture(recorder, n_init=3, random_state=7).fit(blobs)
    assert recorder.states[3:] == recorder.states[:3]


def test_sample_weights_weigh_the_start(blobs, rng):
    a = rng.integers(0, 3, size=len(blobs))
    labels = rng.integers(0, 4, size=len(blobs))
    weighted = mixture(lambda *_: labels, max_iter=0).fit(blobs, sample_weight=a)
    repeated = mixture(lambda *_: labels.repeat(a), max_iter=0).fit(blobs.repeat(a, axis=0))
    np.testing.assert_allclose(weighted.weights_, repeated.weights_)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_)


def test_what_is_given_takes_the_place_of_the_start(blobs):
    start = mixture(by_kmeans, max_iter=0, means_init=blobs[:4]).fit(blobs)
    np.testing.assert_allclose(start.means_, blobs[:4])
    labels = by_kmeans(blobs, 4, np.random.RandomState(0))
    np.testing.assert_allclose(start.weights_, np.bincount(labels) / len(blobs))


def test_a_component_without_a_label_has_no_samples(blobs):
    with pytest.warns(ConvergenceWarning, match="without samples: 1 of 4"):
        fitted = mixture(lambda X, *_: np.arange(len(X)) % 3).fit(blobs)
    assert fitted.weights_[3] == 0


def test_an_estimator_with_a_function_is_cloned_and_pickled(blobs, difference):
    model = mixture(by_kmeans)
    assert clone(model).get_params()["init_params"] is by_kmeans
    fitted = pickle.loads(pickle.dumps(model.fit(blobs)))
    assert fitted.init_params is by_kmeans
    assert difference(fitted, model) == 0


def filtered(X, n_components, random_state):
    """Labels along the first feature."""
    assert X.min() > 5, "the samples are those of the user"
    return np.argsort(np.argsort(X[:, 0])) * n_components // len(X)


@pytest.mark.parametrize("make", [SemidiscreteGMM, SlicedWassersteinGMM])
def test_other_mixtures_take_a_function_too(rng, make):
    X = 1000 + np.vstack([rng.normal(size=(100, 2)), rng.normal([9, 0], size=(100, 2))])
    X = np.vstack([X, [[0.0, 0.0]]])
    weights = np.r_[np.ones(200), 0]
    fitted = make(2, init_params=filtered, random_state=0).fit(X, sample_weight=weights)
    np.testing.assert_allclose(np.sort(fitted.means_[:, 0]), [1000, 1009], atol=0.5)


def spoilt(value):
    """Responsibilities of which one row is another."""
    resp = np.full((600, 4), 0.25)
    resp[7] = value
    return resp


@pytest.mark.parametrize(
    "found, error, message",
    [
        (np.zeros(599, int), ValueError, r"labels of shape \(600,\) or .*\(600, 4\), got .*\(599,"),
        (np.zeros((600, 1), int), ValueError, r"got shape \(600, 1\). Return one entry or row"),
        (np.zeros((4, 600)), ValueError, r"got shape \(4, 600\)"),
        (np.arange(600) % 5, ValueError, r"labels from 0 to n_components - 1 = 3, got 0 to 4"),
        (np.arange(600) % 3 - 1, ValueError, "got -1 to 1. Give every sample to one"),
        (np.r_[0.5, np.ones(599)], ValueError, "labels that are integers, got 0.5 for sample 0"),
        (np.r_[np.ones(599), np.nan], ValueError, "integers, got nan for sample 599"),
        (spoilt(0.3), ValueError, "rows sum to one, got 1.2 for sample 7. Divide each row"),
        (spoilt(np.nan), ValueError, r"that are finite, got \[nan, .* for sample 7"),
        (spoilt([2, -1, 0, 0]), ValueError, "that are not negative, got -1"),
        (torch.tensor(spoilt(0.0)), ValueError, "rows sum to one, got 0 for sample 7"),
        (None, TypeError, "an array of labels or responsibilities, got NoneType"),
        (["a"] * 600, TypeError, "got an array of <U1. Return integers"),
        (np.zeros(600, complex), TypeError, "got an array of complex128"),
        (3, ValueError, r"got shape \(\)"),
    ],
)
def test_what_is_no_start_is_refused(blobs, found, error, message):
    with pytest.raises(error, match=f"init_params must return .*{message}"):
        mixture(lambda *_: found).fit(blobs)


def test_an_error_of_the_function_passes_through(blobs):
    def start(X, n_components, random_state):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        mixture(start).fit(blobs)
