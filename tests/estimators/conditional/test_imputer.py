"""The transformer that fills in missing entries: options, names, pipelines, refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

import skgmmot
from skgmmot import DifferentiableGaussianMixture, MixtureImputer


@pytest.fixture
def M(rng):
    """Correlated samples in three dimensions with missing entries in the first two."""
    X = rng.normal(size=(60, 3)) @ np.array([[1, 1.0, 0.0], [0, 0.3, 0.5], [0, 0, 0.2]])
    X[::4, 0], X[1::5, 1] = np.nan, np.nan
    return X


def test_it_fills_in_what_its_mixture_does(M):
    imputer = MixtureImputer().fit(M)
    assert np.array_equal(imputer.transform(M), imputer.mixture_.impute(M))
    given = DifferentiableGaussianMixture(2, random_state=3)
    imputer = MixtureImputer(given, random_state=0).fit(M)
    assert imputer.mixture_.missing_values == "nan" and imputer.mixture_.random_state == 3
    assert not hasattr(given, "means_") and given.missing_values == "error"
    assert np.isfinite(imputer.transform(M[:, :])).all()


def test_the_number_of_components_is_that_of_the_mixture(M):
    assert MixtureImputer(n_components=2, random_state=0).fit(M).mixture_.n_components == 2
    given = DifferentiableGaussianMixture(3, covariance_type="diag")
    found = MixtureImputer(given, n_components=2, random_state=0).fit(M).mixture_
    assert found.n_components == 2 and found.covariance_type == "diag" and given.n_components == 3
    imputer = MixtureImputer(random_state=0).set_params(mixture__covariance_type="tied").fit(M)
    assert imputer.mixture_.covariance_type == "tied" and imputer.mixture_.n_components == 1
    with pytest.raises(ValueError, match="'n_components' parameter"):
        MixtureImputer(n_components=0).fit(M)


def test_draws_are_repeated_by_their_seed(M):
    one, same, other = (MixtureImputer(draw=True, random_state=s).fit(M) for s in (0, 0, 1))
    assert np.array_equal(one.transform(M), same.transform(M))
    assert not np.array_equal(one.transform(M), other.transform(M))


def test_columns_that_say_what_was_missing_follow(M):
    frame = pd.DataFrame(M, columns=["a", "b", "c"])
    imputer = MixtureImputer(add_indicator=True).set_output(transform="pandas")
    found = imputer.fit_transform(frame)
    names = ["a", "b", "c", "missingindicator_a", "missingindicator_b"]
    assert found.columns.tolist() == names == imputer.get_feature_names_out().tolist()
    assert np.array_equal(found[names[3:]].to_numpy() == 1, np.isnan(M[:, :2]))
    assert found.index.equals(frame.index)
    plain = MixtureImputer().fit(M)
    assert plain.get_feature_names_out().tolist() == ["x0", "x1", "x2"]


def test_it_serves_in_a_pipeline_and_keeps_gradients(M):
    y = np.nan_to_num(M[:, 2])
    assert make_pipeline(MixtureImputer(), LinearRegression()).fit(M, y).score(M, y) > 0.99
    x = torch.tensor(M, requires_grad=True)
    found = MixtureImputer(add_indicator=True).fit(M).transform(x)
    found.sum().backward()
    assert found.shape == (60, 5) and (x.grad.numpy()[np.isnan(M)] == 0).all()


def test_weights_count(M):
    weights = np.arange(60) % 3
    weighted = MixtureImputer().fit(M, sample_weight=weights).mixture_
    repeated = MixtureImputer().fit(np.repeat(M, weights, axis=0)).mixture_
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-8)


def test_what_cannot_be_is_refused(M):
    with pytest.raises(TypeError, match="got LinearRegression, which takes no missing entries"):
        MixtureImputer(LinearRegression()).fit(M)
    M[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"none in 1 of 3 \(first: 1\)"):
        MixtureImputer().fit(M)
    with pytest.raises(ValueError, match="infinity"):
        MixtureImputer().fit(np.where(np.isnan(M), np.inf, M))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        (
            "indicated_",
            np.array([5]),
            r"indicated_ must be numbers of features, got array\(\[5\]\)",
        ),
        ("indicated_", np.array([0.5]), "indicated_ must be numbers of features"),
        ("indicated_", None, "indicated_ must be numbers of features, got None"),
        ("mixture_", 1.0, "mixture_ must be a DifferentiableGaussianMixture"),
        ("n_features_in_", 3, r"mixture_ must have the 3 feature\(s\) of the fit"),
    ],
)
def test_a_file_of_another_content_is_refused_when_it_is_loaded(
    attribute, value, message, tmp_path
):
    X = np.arange(24.0).reshape(12, 2)
    model = MixtureImputer(n_components=1).fit(X)
    setattr(model, attribute, value)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        skgmmot.load(tmp_path / "model")


def test_a_file_of_a_mixture_that_is_not_finite_is_refused_when_it_is_loaded(tmp_path):
    model = MixtureImputer(n_components=1).fit(np.arange(24.0).reshape(12, 2))
    model.mixture_.precisions_cholesky_[0, 0, 0] = np.nan
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="precisions_cholesky_ of a mixture must be finite"):
        skgmmot.load(tmp_path / "model")
