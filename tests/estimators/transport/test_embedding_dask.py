"""MixtureEmbedding of dask collections: a cloud a task, with the result of memory."""

import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureEmbedding,
    PairwiseMW2,
    SlicedWassersteinGMM,
)
from skgmmot.metrics import pairwise_mixture_wasserstein

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
distributed = pytest.importorskip("distributed")

MIXTURES = {
    "default": None,
    "another": GaussianMixture(2, random_state=0),
    "by descent": SlicedWassersteinGMM(2, max_iter=5, random_state=0),
}


@pytest.fixture
def clouds(rng):
    """Clouds of 40 to 70 points in the plane."""
    return [
        rng.normal(size=(n, 2)) + [[4.0], [0.0]][n % 2] * rng.integers(2, size=(n, 1))
        for n in (40, 51, 60, 70)
    ]


@pytest.fixture
def client():
    """A client of a cluster in this process."""
    options = {"dashboard_address": ":0", "silence_logs": 50, "processes": False}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def collections(clouds):
    """The clouds as dask arrays, also of unknown lengths, and a data frame."""
    first, second, third, last = clouds
    unknown = da.from_array(second, chunks=(20, 2))
    return [
        da.from_array(first, chunks=(15, 1)),
        unknown[unknown[:, 0] > -np.inf],
        dd.from_pandas(pd.DataFrame(third, columns=["a", "b"]), npartitions=2),
        last,
    ]


def assert_same(found, expected):
    for one, two in zip(found, expected, strict=True):
        assert type(one) is type(two)
        for name in ("weights_", "means_", "covariances_"):
            assert np.array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_each_cloud_is_a_task_and_has_the_mixture_of_memory(clouds, mixture):
    embedding = MixtureEmbedding(2, mixture=mixture, random_state=0)
    expected = embedding.fit_transform(clouds)
    found = embedding.fit(collections(clouds)).transform(collections(clouds))
    assert embedding.n_features_in_ == 2
    assert_same(found, expected)
    assert found[2].feature_names_in_.tolist() == ["a", "b"]


def test_clouds_of_equal_length_may_be_one_array(clouds):
    X = np.stack([cloud[:40] for cloud in clouds])
    embedding = MixtureEmbedding(2, random_state=0)
    assert_same(embedding.fit_transform(da.from_array(X)), embedding.fit_transform(X))


def test_the_tasks_are_those_of_the_current_client(clouds, client):
    mixtures = MixtureEmbedding(2, random_state=0).fit_transform(clouds)
    found = MixtureEmbedding(2, random_state=0).fit_transform(collections(clouds))
    assert_same(found, mixtures)
    scheduler = client.cluster.scheduler
    done = scheduler.transition_counter
    assert done > 0
    with joblib.parallel_config(backend="dask"):
        by_rows = pairwise_mixture_wasserstein(mixtures)
    assert scheduler.transition_counter > done
    assert np.array_equal(by_rows, PairwiseMW2().fit_transform(mixtures))


def test_nothing_is_computed_by_fit(clouds):
    def fail(block):
        raise RuntimeError("computed")

    x = da.from_array(clouds[0]).map_blocks(fail, dtype=float)
    embedding = MixtureEmbedding(2, random_state=0).fit([x])
    with pytest.raises(RuntimeError, match="computed"):
        embedding.transform([x])


def test_fits_that_stop_early_are_said_once_and_filters_stay(clouds):
    hasty = DifferentiableGaussianMixture(2, max_iter=1, tol=0, random_state=0)
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        within = list(warnings.filters)
        MixtureEmbedding(mixture=hasty).fit_transform(collections(clouds))
        assert warnings.filters == within
    assert [str(w.message)[:38] for w in caught] == ["The mixtures of 4 of 4 clouds did not "]
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: x, TypeError, "X must be a sequence of clouds, got Array. Put arrays in a list"),
        (lambda x: dask.delayed(x), TypeError, "X must be a sequence of clouds, got Delayed"),
        (
            lambda x: dd.from_pandas(pd.DataFrame({"a": [1.0, 2.0]}), npartitions=1),
            TypeError,
            "X must be a sequence of clouds, got DataFrame",
        ),
        (lambda x: [x, x[:, :1]], ValueError, r"X\[1\] must have 2 feature\(s\)"),
        (lambda x: [x, x[:, 0]], ValueError, r"X\[1\] must have shape .*X\[1\]\[:, None\]"),
        (lambda x: [x, dask.delayed(x)], ValueError, r"X\[1\] must have shape .*got no matrix"),
        (lambda x: [x, x * np.nan], ValueError, r"X\[1\] must be a cloud .*NaN"),
        (lambda x: [x, x[:1]], ValueError, r"X\[1\] must be a cloud"),
        (lambda x: [x, x.astype("M8[s]")], (TypeError, ValueError), "datetime64"),
    ],
)
def test_what_is_no_list_of_clouds_is_refused(clouds, make, error, message):
    x = da.from_array(clouds[0], chunks=(20, 2))
    with pytest.raises(error, match=message):
        MixtureEmbedding(2, random_state=0).fit_transform(make(x))


def test_tensors_among_them_are_fitted_as_arrays(clouds):
    X = [da.from_array(clouds[0]), torch.from_numpy(clouds[1])]
    found = MixtureEmbedding(2, random_state=0).fit_transform(X)
    assert_same(found, MixtureEmbedding(2, random_state=0).fit_transform(clouds[:2]))
