"""Data frames of pandas and polars: names of features, and results in frames."""

import models
import numpy as np
import pytest

import skgmmot
from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot import OTMap

NAMES = ["width", "height"]
X = models.X


@pytest.fixture(params=["pandas", "polars"])
def library(request):
    """A package of data frames."""
    return pytest.importorskip(request.param)


@pytest.fixture
def frame(library):
    """The samples as a data frame."""
    return library.DataFrame(dict(zip(NAMES, X.T, strict=True)))


def named(library):
    """Its name."""
    return library.__name__


FITTED = {
    "em": lambda: EM(2, random_state=0),
    "sliced": lambda: skgmmot.SlicedWassersteinGMM(2, random_state=0, max_iter=0),
    "map": lambda: OTMap(models.TARGET, mixture=EM(2, random_state=0)),
    "points": lambda: skgmmot.WassersteinQuantizer(3, random_state=0),
    "search": lambda: skgmmot.GaussianMixtureSearch((1, 2), "diag", random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", FITTED)
def test_fits_keep_the_names_and_check_them(name, frame):
    model, plain = FITTED[name]().fit(frame), FITTED[name]().fit(X)
    assert list(model.feature_names_in_) == NAMES and model.n_features_in_ == 2
    answer = "transform" if hasattr(model, "transform") else "predict_proba"
    found = getattr(model, answer)
    np.testing.assert_array_equal(found(frame), getattr(plain, answer)(X))
    with pytest.raises(ValueError, match="feature names"):
        found(frame[NAMES[::-1]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        found(X)


@pytest.mark.parametrize("name", ["map", "points"])
def test_transformers_return_frames_where_asked(name, library, frame):
    model = FITTED[name]().fit(frame)
    expected = model.transform(frame)
    found = model.set_output(transform=named(library)).transform(frame)
    assert type(found) is library.DataFrame
    assert list(found.columns) == list(model.get_feature_names_out())
    np.testing.assert_array_equal(found.to_numpy(), expected)


def test_distances_return_frames_where_asked(library):
    model = skgmmot.PairwiseMW2().set_output(transform=named(library))
    found = model.fit_transform(models.clouds_as_mixtures())
    assert list(found.columns) == list(model.get_feature_names_out()) and len(found) == 3


def test_columns_are_samples_targets_and_weights(frame):
    weights = frame["width"] * 0 + 1
    model = EM(2, random_state=0).fit(frame, sample_weight=weights)
    assert model.marginal("height").n_features_in_ == 1
    regression = skgmmot.MixtureRegressor(random_state=0).fit(frame[["width"]], frame["height"])
    assert regression.predict(frame[["width"]]).shape == (len(X),)
    assert list(OTMap(frame, mixture=EM(1)).fit(frame).get_feature_names_out()) == NAMES


def test_a_saved_map_keeps_its_target_and_output(library, frame, tmp_path):
    model = OTMap(frame, mixture=EM(2, random_state=0)).fit(frame)
    model.set_output(transform=named(library)).save(tmp_path / "map.npz")
    loaded = skgmmot.load(tmp_path / "map.npz")
    assert type(loaded.target) is library.DataFrame and loaded.target.equals(frame)
    assert loaded.transform(frame).equals(model.transform(frame))
