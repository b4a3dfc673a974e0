"""`OTMap` on dask: mixtures fitted in blocks, images that stay lazy."""

import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture, OTMap

da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

MIXTURE = DifferentiableGaussianMixture(2, random_state=0)


def chunked(array):
    return da.from_array(array, chunks=(150, *array.shape[1:]))


@pytest.mark.parametrize("strategy", ["mean", "random"])
@pytest.mark.parametrize("way", ["transform", "inverse_transform"])
def test_images_are_lazy_and_those_of_memory(labelled, strategy, way):
    X, _, Y = labelled
    transport = OTMap(Y, strategy=strategy, mixture=MIXTURE, random_state=0).fit(X)
    images = getattr(transport, way)(chunked(X))
    assert isinstance(images, da.Array) and images.chunks == ((150, 150, 100), (2,))
    assert images.dtype == X.dtype
    np.testing.assert_allclose(images.compute(), getattr(transport, way)(X), rtol=1e-9)


def test_images_of_data_frames_and_other_dtypes(labelled):
    X, _, Y = labelled
    X, Y = (pd.DataFrame(samples, columns=["a", "b"]) for samples in (X, Y))
    df = dd.from_pandas(X, npartitions=3)
    transport = OTMap(Y, mixture=MIXTURE).fit(X)
    np.testing.assert_allclose(transport.transform(df).compute(), transport.transform(df.compute()))
    assert transport.transform(df.astype("float32")).compute().dtype == np.float32
    transport.set_params(strategy="random")
    with pytest.raises(ValueError, match=r"known lengths.*to_dask_array\(lengths=True\)"):
        transport.transform(df)


def test_fits_to_collections_are_those_to_memory(labelled):
    X, _, Y = labelled
    a = np.linspace(1, 2, len(X))
    expected = OTMap(Y, mixture=MIXTURE).fit(X, sample_weight=a)
    transport = OTMap(chunked(Y), mixture=MIXTURE).fit(chunked(X), sample_weight=chunked(a))
    np.testing.assert_allclose(transport.plan_, expected.plan_, atol=1e-9)
    assert transport.distance_ == pytest.approx(expected.distance_)
    assert transport.n_features_in_ == 2
    assert transport.score(chunked(X)) == pytest.approx(expected.score(X), rel=1e-6)


def test_few_samples_of_many_features_are_shrunk_as_in_memory(rng):
    X, Y = rng.normal(size=(2, 60, 20))
    expected = OTMap(Y, mixture=DifferentiableGaussianMixture(1)).fit(X)
    transport = OTMap(chunked(Y), mixture=DifferentiableGaussianMixture(1)).fit(chunked(X))
    np.testing.assert_allclose(transport.transform(X), expected.transform(X), rtol=1e-6)


def test_labels_are_carried_lazily(labelled):
    X, y, Y = labelled
    transport = OTMap(Y, class_wise=True, random_state=0).fit(X, y)
    labels = transport.predict(chunked(Y))
    assert labels.dtype == y.dtype
    assert labels.compute().tolist() == transport.predict(Y).tolist()
    proba = transport.predict_proba(chunked(Y))
    np.testing.assert_allclose(proba.compute(), transport.predict_proba(Y), atol=1e-9)


def test_what_needs_memory_is_refused(labelled):
    X, y, Y = labelled
    with pytest.raises(ValueError, match=r"in memory with class_wise=True.*X\[y == label\]"):
        OTMap(Y, class_wise=True).fit(chunked(X), y)
    with pytest.raises(ValueError, match=r"DifferentiableGaussianMixture for samples of dask"):
        OTMap(Y, mixture=GaussianMixture()).fit(chunked(X))
    with pytest.raises(ValueError, match=r"target must be samples like those of the fit.*features"):
        OTMap(chunked(Y)).fit(np.ones((50, 3)) + np.arange(50)[:, None])
    with pytest.raises(TypeError, match=r"sample_weight must be an array in memory where X is"):
        OTMap(Y).fit(X, sample_weight=da.ones(len(X)))
