"""Models in files, pickles and copies: the same bits back, and nothing that runs."""

import copy
import io
import json
import os
import pathlib
import pickle
import warnings
import zipfile

import joblib
import models
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

import skgmmot
from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot import OTMap
from skgmmot.estimators.saving import SavedEstimator
from skgmmot.numerics import archive
from skgmmot.numerics.archive import ArchiveError
from skgmmot.numerics.fixed_point import Solution

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, TARGET = models.X, models.TARGET


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


@pytest.fixture(scope="module")
def fitted():
    """Every model, fitted once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        return {name: models.made(name) for name in models.MODELS}


def same(value, other):
    """Whether two values are of one type and equal to the last bit, through all their parts."""
    assert type(value) is type(other), (value, other)
    if isinstance(value, dict):
        assert value.keys() == other.keys()
        return all(same(value[name], other[name]) for name in value)
    if isinstance(value, Solution):  # what backward has found is not in a file
        return same([*value[:-1]], [*other[:-1]])
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, torch.Tensor):
        return value.dtype == other.dtype and value.detach().equal(other.detach())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype == other.dtype and value.tobytes() == other.tobytes()
    if isinstance(value, np.random.RandomState):
        return same(value.get_state(legacy=False), other.get_state(legacy=False))
    if isinstance(value, pd.DataFrame):
        return value.equals(other)
    if isinstance(value, SavedEstimator):
        return same(value._state(), other._state())
    if isinstance(value, skgmmot.Prior | skgmmot.UniformNoise | BaseEstimator):
        return same(vars(value), vars(other))
    if hasattr(value, "covariance_type"):
        return value.covariance_type == other.covariance_type and same([*value], [*other])
    return repr(value) == repr(other)


def saved_and_loaded(model, path):
    skgmmot.save(model, path)
    return skgmmot.load(path)


def dumped_and_loaded(model, path):
    joblib.dump(model, path)
    return joblib.load(path)


def through_skops(model, path):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(model)
    return skops.loads(data, trusted=skops.get_untrusted_types(data=data))


WAYS = {
    "save": saved_and_loaded,
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "joblib": dumped_and_loaded,
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "skops": through_skops,
}


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_a_model_comes_back_with_its_bits_and_answers(way, name, fitted, path):
    model, ask = fitted[name], models.MODELS[name][1]
    if way == "skops" and not isinstance(model, BaseEstimator):
        pytest.skip("a value, which skops does not take")
    loaded = WAYS[way](model, path)
    assert loaded is not model and same(loaded, model)
    before = copy.deepcopy(getattr(model, "random_state", None))
    answers = ask(model)
    if before is not None:
        model.random_state = before
    assert same(ask(loaded), answers)


@pytest.mark.parametrize("name", models.RELEASED)
def test_a_file_of_an_earlier_release_answers_as_it_did(name):
    """Files in ``data`` are never written anew once there is a release: mend the loading."""
    saved = skgmmot.load(models.DATA / f"{name}.npz")
    assert type(saved["model"]).__name__ == name
    found = models.RELEASED[name][1](saved["model"])
    for answer, expected in zip(found, saved["answers"], strict=True):
        if np.asarray(answer).dtype.kind == "f":  # machines round differently
            np.testing.assert_allclose(answer, expected, rtol=1e-8, atol=1e-10)
        else:
            assert same(answer, expected)


def test_every_estimator_of_the_package_has_such_a_file():
    public = [getattr(skgmmot, name) for name in skgmmot.__all__]
    estimators = {
        o.__name__ for o in public if isinstance(o, type) and issubclass(o, BaseEstimator)
    } - {"AdaptedClassifier"}  # which holds a classifier of any package: a matter for skops
    assert estimators <= models.RELEASED.keys() <= {path.stem for path in models.DATA.iterdir()}


# --- what a file keeps ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [EM(3, tol=1e-5), OTMap(X, mixture=EM(2)), OTMap()])
def test_an_estimator_that_is_not_fitted_has_its_parameters(estimator, path):
    estimator.save(path)
    loaded = skgmmot.load(path)
    assert same(loaded, estimator)
    with pytest.raises(NotFittedError):
        loaded.transform(X) if hasattr(loaded, "transform") else loaded.predict(X)


@pytest.mark.parametrize(
    "parameters",
    [
        {"means_init": pd.DataFrame({"a": [0.0, 4.0], "b": np.float32([0, 4])})},
        {"means_init": [[0, 0], [4, 4]], "weights_init": (0.5, 0.5)},
        {"random_state": np.random.RandomState(np.random.PCG64(3))},
        {"random_state": np.random.RandomState(3), "n_components": np.int32(2)},
        {"checkpoint": pathlib.Path("somewhere") / "fit.npz"},
        {"device": torch.device("cpu"), "covariance_type": np.array(["diag"])[0]},
        {"n_components": range(1, 5, 2)},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_parameters_of_any_kind_come_back(parameters, path):
    loaded = saved_and_loaded(EM(**parameters), path)
    for name, value in parameters.items():
        found = getattr(loaded, name)
        assert found == value if isinstance(value, str) else same(found, value)


def test_generators_go_on_where_they_were(path):
    for bits in (np.random.PCG64, np.random.Philox, np.random.SFC64, np.random.MT19937):
        generator = np.random.Generator(bits(3))
        generator.normal(size=7)
        assert saved_and_loaded(generator, path).normal() == generator.normal()


def test_names_of_features_the_output_and_requests_are_kept(path):
    frame = pd.DataFrame(X, columns=["width", "height"])
    with sklearn.config_context(enable_metadata_routing=True):
        model = OTMap(frame + 1, mixture=EM(1)).set_fit_request(sample_weight=True).fit(frame)
        model.set_output(transform="pandas")
        loaded = saved_and_loaded(model, path)
        request = loaded.get_metadata_routing().fit.requests
    assert request == {"sample_weight": True, "sample_domain": True}
    assert loaded.transform(frame).equals(model.transform(frame))
    assert list(loaded.feature_names_in_) == ["width", "height"]
    assert loaded.target.equals(frame + 1)
    with pytest.raises(ValueError, match="feature names"):
        loaded.transform(frame[["height", "width"]])


def test_mixtures_of_scikit_learn_and_several_models_go_into_one_file(path, fitted):
    several = {"a": models.sklearn_mixture(), "b": [fitted["tied"], (X, "text")]}
    loaded = saved_and_loaded(several, path)
    assert same(loaded, several)
    np.testing.assert_array_equal(loaded["a"].predict_proba(X), several["a"].predict_proba(X))


def test_a_fit_goes_on_from_a_file(path):
    whole = EM(2, random_state=0, tol=0, max_iter=4).fit(X)
    half = EM(2, random_state=0, tol=0, max_iter=2, warm_start=True).fit(X)
    assert same(saved_and_loaded(half, path).fit(X).means_, whole.means_)


def test_tensors_go_to_the_device_that_is_asked_for(path):
    EM(means_init=torch.ones(1, 2)).save(path)
    for device in (None, "meta", torch.device("cpu")):
        found = skgmmot.load(path, device=device).means_init.device
        assert found == torch.device("cpu" if device is None else device)


def test_equal_models_give_equal_files(path, tmp_path):
    models.em().save(path)
    models.em().save(tmp_path / "again.npz")
    assert path.read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_parameters_of_later_releases_have_their_defaults(path, monkeypatch):
    EM(2).save(path)
    rewritten(path, path, lambda text: text.replace('["acceleration", null], ', ""))
    assert skgmmot.load(path).acceleration is None


# --- what is not saved ---------------------------------------------------------------------------


def start(X, n_components, random_state):
    """A start of a user."""
    return np.arange(len(X)) % n_components


class OfAUser(EM):
    """An estimator outside the package."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (EM(init_params=start), r"init_params must be no function .* got start.*set_params"),
        (EM(init_params=lambda *_: 0), "got .*<lambda>: files hold no code"),
        (OTMap(mixture=EM(init_params=start)), "DifferentiableGaussianMixture.init_params"),
        (OfAUser(), "model must be an estimator of skgmmot .* got OfAUser of .*joblib or skops"),
        (OTMap(mixture=OfAUser()), "OTMap.mixture must be an estimator of skgmmot .* got OfAUser"),
        (make_pipeline(OTMap()), "model must be an estimator of skgmmot .* got Pipeline"),
        (skgmmot.GaussianMixtureSearch(cv=KFold(3)), r"\['cv'\] must be .* got KFold"),
        (EM(means_init=np.array([[None, 1]])), r"\['means_init'\] must be .* of dtype object"),
        (OTMap(pd.DataFrame([[1, 2]], columns=["a", "a"])), "columns of different names"),
        (np.sin, "content must be .* got ufunc"),
        ([start], "must hold no functions to be saved, got start"),
    ],
)
def test_what_cannot_be_saved_is_named(model, message, path):
    with pytest.raises(TypeError, match=message):
        skgmmot.save(model, path)
    assert not path.exists()


def test_no_place_for_a_file_is_named(path, tmp_path):
    with pytest.raises(IsADirectoryError, match="path must be a file, got the folder"):
        EM().save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No such file.*nowhere/model.npz'$"):
        EM().save(tmp_path / "nowhere" / "model.npz")
    with pytest.raises(TypeError, match=r"path must be .* got OTMap. Call save\(model, path\)"):
        skgmmot.save(path, OTMap())
    with pytest.raises(IsADirectoryError, match="path must be a file"):
        skgmmot.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No such file.*model\.npz"):
        skgmmot.load(path)
    with pytest.raises(TypeError, match="path must be a string or a path, got NoneType"):
        skgmmot.load(None)


def test_a_writing_that_fails_leaves_the_old_file(path, monkeypatch):
    EM(2).save(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.npz"):
        EM(3).save(path)
    assert skgmmot.load(path).n_components == 2 and len(list(path.parent.iterdir())) == 1


# --- files that are none of ours -----------------------------------------------------------------


def rewritten(path, to, change):
    """A file with another header, all checksums right."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    header = members[archive.HEADER].decode()
    assert change(header) != header
    members[archive.HEADER] = change(header).encode()
    with zipfile.ZipFile(to, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_truncated_and_altered_files_are_refused(path, fitted):
    fitted["OTMap"].save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 1000):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match="is no skgmmot model, or a damaged one"):
            skgmmot.load(path)
        altered = bytearray(whole)
        altered[length] ^= 1
        path.write_bytes(altered)
        try:  # the date of a member counts for nothing
            assert same(skgmmot.load(path), fitted["OTMap"])
        except ArchiveError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "of version 1, got version 2. A newer release wrote it"),
        (
            '"version": 1',
            '"version": "one"',
            "got version one. Read it with the release that wrote it",
        ),
        (
            "skgmmot model",
            "skgmmot checkpoint",
            "be a skgmmot model, got a skgmmot checkpoint",
        ),
        ('"OTMap"', '"NoMap"', "something unknown, 'NoMap'"),
        ('"OTMap"', '"os.system"', "something unknown, 'os.system'"),
        ('"OTMap"', '"SavedEstimator"', "something unknown"),
        ('["reg", 0.0]', '["power", 0.0]', "OTMap has no parameter power in this release"),
        ('["reg", 0.0]', '["__class__", 0.0]', "no parameter __class__"),
        ('["distance_"', '["fit"', "OTMap has another attribute 'fit'"),
        ('["distance_"', '["__dict__"', "OTMap has another attribute '__dict__'"),
        ('["distance_"', "[7", "OTMap has another attribute 7"),
        ('{"value": ["Plan"', '{"value": ["Prior"', "damaged"),
        ('"PCG64"', '"os"', None),
    ],
)
def test_headers_of_strangers_are_refused(old, new, message, path, fitted):
    if message is None:
        skgmmot.save(np.random.default_rng(0), path)
        message = "must come from a generator of numpy, got 'os'"
    else:
        fitted["OTMap"].save(path)
    rewritten(path, path, lambda text: text.replace(old, new))
    with pytest.raises(ArchiveError, match=message):
        skgmmot.load(path)


@pytest.mark.parametrize("library", ["os", "skgmmot", "pandas.io"])
def test_no_module_is_imported_for_a_data_frame_of_strangers(library, path):
    EM(means_init=pd.DataFrame([[1.0]])).save(path)
    rewritten(path, path, lambda text: text.replace('"pandas"', f'"{library}"'))
    with pytest.raises(ArchiveError, match="must be of pandas or polars"):
        skgmmot.load(path)


def test_other_files_are_refused(path, tmp_path):
    np.savez(path, a=np.ones(3))
    with pytest.raises(ArchiveError, match="its members have other names"):
        skgmmot.load(path)
    joblib.dump(EM(), path)
    with pytest.raises(ArchiveError, match="does not begin as an archive does"):
        skgmmot.load(path)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def with_array(path, data):
    """A file whose first array is another."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, own in (members | {"0.npy": data}).items():
            file.writestr(name, own)


def test_objects_and_sizes_that_are_only_declared_are_refused(path, tmp_path):
    models.em().save(path)
    out = io.BytesIO()
    np.lib.format.write_array(out, np.array([Harm(tmp_path / "harm")]), allow_pickle=True)
    with_array(path, out.getvalue())
    with pytest.raises(ArchiveError, match="must hold numbers"):
        skgmmot.load(path)
    assert not (tmp_path / "harm").exists()
    out = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(out, header)
    with_array(path, out.getvalue() + bytes(80))
    with pytest.raises(ArchiveError, match="as long as its shape says"):
        skgmmot.load(path)


def test_a_file_says_in_json_what_it_holds(path):
    models.em().save(path)
    with np.load(path, allow_pickle=False) as file:
        header = json.loads(file["header.json"])
    assert header["format"] == "skgmmot model" and header["version"] == 1
    assert header["content"]["value"][0] == "DifferentiableGaussianMixture"
