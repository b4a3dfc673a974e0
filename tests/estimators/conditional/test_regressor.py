"""Gaussian mixture regression."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_linnerud
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skgmmot
from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureRegressor,
    MixtureWasserstein,
    OTMap,
    StudentMixture,
)
from skgmmot.gaussian.conditional import PreparedCondition

Mixture = DifferentiableGaussianMixture


@pytest.fixture
def data(rng):
    """A bent relation of one output to two features."""
    X = rng.uniform(-2, 2, size=(400, 2))
    return X, np.abs(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.normal(size=400)


@pytest.fixture
def two_outputs(data):
    """The same, and a second output."""
    X, y = data
    return X, np.stack([y, X[:, 0] - y**2], axis=1)


@pytest.fixture
def regressor(covariance_type):
    """A regressor with three components of each type."""
    return MixtureRegressor(Mixture(3, covariance_type=covariance_type, random_state=0))


def conditional(regressor, x):
    """The conditional mixture, by another path."""
    return regressor.mixture_.condition(x, slice(len(x)))


def test_predictions_are_those_of_the_conditional_mixtures(regressor, two_outputs):
    X, Y = two_outputs
    regressor.fit(X, Y)
    mean, deviation = regressor.predict(X[:5], return_std=True)
    np.testing.assert_allclose(regressor.predict(X[:5]), mean)
    density = regressor.log_density(X[:5], Y[:5])
    for i in range(5):
        part = conditional(regressor, X[i])
        expected = part.weights_ @ part.means_
        np.testing.assert_allclose(mean[i], expected)
        full = [part.marginal(j) for j in range(2)]
        variances = [
            p.weights_ @ (np.ravel(p.covariances_) + (p.means_[:, 0] - expected[j]) ** 2)
            for j, p in enumerate(full)
        ]
        np.testing.assert_allclose(deviation[i] ** 2, variances)
        assert density[i] == pytest.approx(part.score_samples(Y[i : i + 1])[0])
        same = regressor.condition(X[i])
        np.testing.assert_allclose(same.means_, part.means_)


def test_one_full_component_is_linear_regression():
    X, y = load_diabetes(return_X_y=True, scaled=False)
    ours = MixtureRegressor(Mixture(reg_covar=0.0)).fit(X, y)
    theirs = LinearRegression().fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-8)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))
    deviation = ours.predict(X, return_std=True)[1]
    np.testing.assert_allclose(deviation, np.std(y - theirs.predict(X)), rtol=1e-8)


def test_joint_density_less_that_of_the_samples_is_the_conditional_one(regressor, data):
    X, y = data
    regressor.fit(X, y)
    joint = regressor.mixture_.score_samples(np.c_[X, y])
    given = regressor.mixture_.marginal(slice(2)).score_samples(X)
    np.testing.assert_allclose(regressor.log_density(X, y), joint - given, rtol=1e-8, atol=1e-8)


def test_the_conditional_density_integrates_to_one_and_has_the_mean(regressor, data):
    X, y = data
    regressor.fit(X, y)
    line = np.linspace(-10, 14, 4001)
    for x in (X[0], np.array([5.0, -5.0])):
        density = np.exp(regressor.log_density(np.tile(x, (len(line), 1)), line))
        assert np.trapezoid(density, line) == pytest.approx(1, rel=1e-6)
        mean = np.trapezoid(density * line, line)
        assert mean == pytest.approx(regressor.predict([x])[0], rel=1e-6)


def test_with_diagonal_types_the_target_depends_on_the_weights_alone(data):
    X, y = data
    regressor = MixtureRegressor(Mixture(4, covariance_type="diag", random_state=0)).fit(X, y)
    resp = regressor.mixture_.marginal(slice(2)).predict_proba(X)
    np.testing.assert_allclose(regressor.predict(X), resp @ regressor.mixture_.means_[:, 2])


def test_shapes_are_those_of_the_targets(data, two_outputs):
    X, y = data
    shapes = {(): y, (1,): y[:, None], (2,): two_outputs[1]}
    for extra, target in shapes.items():
        fitted = MixtureRegressor(random_state=0).fit(X, target)
        assert fitted.predict(X[:3]).shape == (3, *extra)
        assert [a.shape for a in fitted.predict(X[:3], return_std=True)] == [(3, *extra)] * 2
        assert fitted.sample_y(X[:3], 4).shape == (3, *extra, 4)
        assert fitted.log_density(X[:3], target[:3]).shape == (3,)
        assert fitted.n_outputs_ == (extra or (1,))[0]


def test_draws_have_the_moments_and_the_seed_repeats_them(regressor, two_outputs, random_seed):
    X, Y = two_outputs
    regressor.fit(X, Y)
    drawn = regressor.sample_y(X[:3], 20_000, random_state=random_seed)
    mean, deviation = regressor.predict(X[:3], return_std=True)
    np.testing.assert_allclose(drawn.mean(2), mean, atol=0.1)  # 5 standard errors of the widest
    # five standard errors of a deviation, whose kurtosis may be 50
    np.testing.assert_allclose(drawn.std(2), deviation, rtol=0.12)
    np.testing.assert_array_equal(
        drawn, regressor.sample_y(X[:3], 20_000, random_state=random_seed)
    )
    assert not np.array_equal(
        drawn, regressor.sample_y(X[:3], 20_000, random_state=random_seed + 1)
    )
    regressor.random_state = 3
    np.testing.assert_array_equal(regressor.sample_y(X), regressor.sample_y(X))
    state = np.random.RandomState(0)
    assert not np.array_equal(regressor.sample_y(X, 1, state), regressor.sample_y(X, 1, state))


def test_several_branches_are_all_drawn(rng, random_seed):
    angle = rng.uniform(0, 2 * np.pi, size=2000)
    X, y = np.cos(angle)[:, None], np.sin(angle)
    regressor = MixtureRegressor(Mixture(8, random_state=random_seed)).fit(X, y)
    mean, deviation = regressor.predict([[0.0]], return_std=True)
    # the fit may give one branch twice the weight of the other
    assert abs(mean[0]) < 0.4 and deviation[0] == pytest.approx(1, abs=0.12)
    drawn = regressor.sample_y([[0.0]], 500, random_state=random_seed)[0]
    assert 0.2 < np.mean(drawn > 0) < 0.8
    assert np.mean(np.abs(np.abs(drawn) - 1) < 0.2) > 0.95


def test_many_samples_give_what_few_do(regressor, two_outputs):
    X, Y = two_outputs
    regressor.fit(X, Y)
    many, targets = np.tile(X, (150, 1)), np.tile(Y, (150, 1))
    few = regressor.predict(X, return_std=True)
    for found, expected in zip(regressor.predict(many, return_std=True), few, strict=True):
        np.testing.assert_allclose(found[-len(X) :], expected, rtol=1e-8, atol=1e-9)
    density = regressor.log_density(many, targets)
    np.testing.assert_allclose(density[: len(X)], regressor.log_density(X, Y), atol=1e-8)


def test_components_of_a_block_of_rows_alone_are_in_memory(data, monkeypatch):
    regressor, seen = MixtureRegressor(random_state=0).fit(*data), []
    plain = PreparedCondition.component_means

    def component_means(self, values):
        seen.append(len(values))
        return plain(self, values)

    monkeypatch.setattr(PreparedCondition, "component_means", component_means)
    X, y = np.tile(data[0], (500, 1)), np.tile(data[1], 500)
    for call in (regressor.predict, regressor.sample_y, lambda X: regressor.log_density(X, y)):
        call(X)
        assert max(seen) <= 2**14 < len(X)


def test_weights_are_repeats(data, rng):
    X, y = data
    a = rng.integers(0, 3, size=len(y))
    start = {"means_init": np.c_[X, y][[0, 100, 200]], "random_state": 0}
    weighted = MixtureRegressor(Mixture(3, **start)).fit(X, y, sample_weight=a)
    repeated = MixtureRegressor(Mixture(3, **start)).fit(np.repeat(X, a, 0), np.repeat(y, a))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6)
    expected = r2_score(y, weighted.predict(X), sample_weight=a)
    assert weighted.score(X, y, sample_weight=a) == pytest.approx(expected)


def test_units_do_not_matter_to_the_default(data):
    X, y = data
    plain = MixtureRegressor(random_state=0).fit(X, y)
    scaled = MixtureRegressor(random_state=0).fit(X * [1e3, 1.0], 1e4 * y)
    found = scaled.predict(X * [1e3, 1.0]) / 1e4
    np.testing.assert_allclose(found, plain.predict(X), rtol=0, atol=0.01)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(5))
def test_the_default_takes_few_samples_and_weights_of_zero(seed, rng):
    X, y = rng.normal(size=(11, 10)), rng.normal(size=(11, 5))
    regressor = MixtureRegressor(random_state=seed)
    assert np.isfinite(regressor.fit(X, y).predict(X)).all()
    a = np.r_[np.zeros(4), np.ones(7)]
    assert np.isfinite(regressor.fit(X, y, sample_weight=a).predict(X)).all()


def test_names_are_those_of_frames_and_series():
    X, y = load_linnerud(return_X_y=True, as_frame=True)
    regressor = MixtureRegressor(Mixture(random_state=0)).fit(X, y)
    assert regressor.feature_names_in_.tolist() == X.columns.tolist()
    names = [*X.columns, *y.columns]
    assert regressor.mixture_.feature_names_in_.tolist() == names
    part = regressor.condition(X.iloc[0][::-1])  # a series goes by its labels
    assert part.feature_names_in_.tolist() == y.columns.tolist()
    np.testing.assert_allclose(part.means_[0], regressor.predict(X[:1])[0])
    inverse = regressor.mixture_.condition(y.iloc[0], y.columns)
    assert inverse.feature_names_in_.tolist() == X.columns.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        regressor.predict(X[X.columns[::-1]])
    one = MixtureRegressor(random_state=0).fit(X, y["Weight"])
    assert one.mixture_.feature_names_in_[-1] == "Weight"
    unnamed = MixtureRegressor(random_state=0).fit(X, y.to_numpy())
    assert not hasattr(unnamed.mixture_, "feature_names_in_")


def test_it_works_in_pipelines_and_searches(data):
    X, y = data
    frame = pd.DataFrame(X, columns=["a", "b"])
    pipeline = make_pipeline(StandardScaler(), MixtureRegressor(random_state=0))
    pipeline.set_output(transform="pandas").fit(frame, y)
    assert pipeline[-1].feature_names_in_.tolist() == ["a", "b"]
    assert pipeline.score(frame, y) > 0.9
    grid = {"mixture__n_components": [1, 3], "mixture__covariance_type": ["full", "diag"]}
    search = GridSearchCV(MixtureRegressor(Mixture(random_state=0)), grid, cv=3).fit(X, y)
    assert search.best_params_ == {"mixture__n_components": 3, "mixture__covariance_type": "full"}
    search.set_params(scoring=lambda r, X, y: r.log_density(X, y).mean()).fit(X, y)
    assert search.best_params_["mixture__n_components"] == 3
    scaled = TransformedTargetRegressor(
        MixtureRegressor(random_state=0), transformer=StandardScaler()
    )
    assert cross_val_score(scaled, X, 1e6 * y, cv=3).mean() > 0.9


def test_a_saved_regressor_predicts_the_same_and_a_clone_is_unfitted(regressor, data):
    X, y = data
    regressor.fit(X, y)
    loaded = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(loaded.predict(X), regressor.predict(X))
    with pytest.raises(NotFittedError):
        clone(regressor).predict(X)
    assert not hasattr(regressor.mixture, "means_")  # what was given is not fitted itself


def test_mixtures_of_scikit_learn_are_taken(data):
    X, y = data
    theirs = MixtureRegressor(GaussianMixture(3, random_state=0)).fit(X, y)
    ours = MixtureRegressor(Mixture(3, random_state=0)).fit(X, y)
    np.testing.assert_allclose(theirs.predict(X), ours.predict(X), rtol=1e-6)
    np.testing.assert_allclose(
        theirs.condition(X[0]).means_, ours.condition(X[0]).means_, rtol=1e-6
    )
    with pytest.raises(ValueError, match="one whose fit takes sample_weight, got GaussianMixture"):
        theirs.fit(X, y, sample_weight=np.ones(len(y)))


def test_conditionals_and_the_joint_mixture_can_be_compared_and_mapped(data):
    X, y = data
    regressor = MixtureRegressor(random_state=0).fit(X, y)
    first, second = (regressor.condition(x) for x in X[:2])
    assert MixtureWasserstein()(first, second) > 0
    assert OTMap(second).fit(first).transform([[0.0]]).shape == (1, 1)
    assert OTMap(regressor.mixture_).fit(regressor.mixture_).distance_ == 0


def test_gradients_reach_the_samples_of_the_fit_and_of_the_prediction(data):
    X, y = (torch.tensor(a[:60]) for a in data)
    at = torch.tensor([[0.3, -0.2], [1.5, 0.4]], dtype=torch.float64)
    model = MixtureRegressor(Mixture(2, tol=1e-10, max_iter=2000, random_state=0))

    def value(X, y, at):
        fitted = model.fit(X, y)
        mean, deviation = fitted.predict(at, return_std=True)
        return (mean + deviation).sum() + fitted.log_density(at, mean + 0.1).sum()

    inputs = [t.clone().requires_grad_() for t in (X, y, at)]
    grads = torch.autograd.grad(value(*inputs), inputs)
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in inputs]
    found = sum((g * s).sum() for g, s in zip(grads, steps, strict=True))
    eps = 1e-5
    ahead, behind = (
        value(*((t + sign * eps * s).requires_grad_() for t, s in zip(inputs, steps, strict=True)))
        for sign in (1, -1)
    )
    assert found.item() == pytest.approx(((ahead - behind) / (2 * eps)).item(), rel=1e-4)


def test_tensors_give_arrays_unless_a_gradient_is_asked_for(data):
    X, y = data
    regressor = MixtureRegressor(random_state=0).fit(torch.tensor(X), torch.tensor(y))
    assert isinstance(regressor.predict(torch.tensor(X)), np.ndarray)
    assert isinstance(regressor.predict(torch.tensor(X, requires_grad=True)), torch.Tensor)
    density = regressor.log_density(X, torch.tensor(y, requires_grad=True))
    assert isinstance(density, torch.Tensor) and density.requires_grad
    fitted = MixtureRegressor(random_state=0).fit(X, torch.tensor(y, requires_grad=True))
    assert fitted.predict(X).requires_grad
    assert isinstance(fitted.score(X, y), float)
    assert not fitted.sample_y(X[:2]).requires_grad
    assert fitted.condition(X[0]).means_.requires_grad
    with torch.no_grad():
        assert not fitted.predict(X).requires_grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_answers_have_the_dtype_of_the_samples(dtype, data):
    X, y = (a.astype(dtype) for a in data)
    regressor = MixtureRegressor(random_state=0).fit(X, y)
    assert regressor.mixture_.means_.dtype == dtype
    assert regressor.predict(X).dtype == regressor.sample_y(X[:2]).dtype == dtype
    assert regressor.log_density(X, y).dtype == dtype
    double = MixtureRegressor(random_state=0).fit(*data).predict(data[0])
    np.testing.assert_allclose(regressor.predict(X), double, rtol=0, atol=1e-2)


def test_far_samples_are_predicted_by_one_component(regressor, data):
    regressor.fit(*data)
    for size in (1e3, 1e10, 1e160):
        mean, deviation = regressor.predict([[size, -size]], return_std=True)
        assert np.isfinite(mean).all() and np.isfinite(deviation).all()
        assert np.isfinite(regressor.sample_y([[size, -size]])).all()
        assert np.isfinite(regressor.log_density([[size, -size]], mean)).all()


def test_the_number_of_threads_changes_no_bit(regressor, data):
    X, y = data
    regressor.fit(X, y)
    many, before, found = np.tile(X, (300, 1)), torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(regressor.predict(many, return_std=True))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[1.0], [np.nan], [2.0], [3.0]], [1.0, 2, 3, 4], "X must be finite"),
        ([[1.0], [2.0], [2.0], [3.0]], [1.0, 2, np.nan, 4], "y must be finite"),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2, 3, 4], r"X must have shape \(n_samples, n_features\)"),
        ([[1.0], [2.0], [2.0], [3.0]], [1.0, 2, 3], "inconsistent numbers of samples"),
        ([[1.0], [2.0], [2.0], [3.0]], None, "requires y to be passed"),
        ([[1.0], [2.0], [2.0], [3.0]], [1.0, 1e200, 3, 4], "y must be smaller than .* Rescale y"),
        ([[1.0], [2e200], [2.0], [3.0]], [1.0, 2, 3, 4], "X must be smaller than .* Rescale X"),
    ],
)
def test_bad_data_are_refused_and_the_earlier_fit_stays(X, y, message, data):
    regressor = MixtureRegressor(random_state=0).fit(*data)
    before = regressor.mixture_
    with pytest.raises(ValueError, match=message):
        regressor.fit(X, y)
    assert regressor.mixture_ is before and regressor.n_features_in_ == 2


def test_bad_requests_are_refused(data):
    X, y = data
    regressor = MixtureRegressor(random_state=0).fit(X, y)
    for n in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="n_samples must be a positive integer, got"):
            regressor.sample_y(X, n)
    for call in (regressor.log_density, regressor.score):
        with pytest.raises(ValueError, match=r"the 1 output\(s\) of the fit, got 2"):
            call(X, np.c_[y, y])
        with pytest.raises(ValueError, match="y must be finite, got NaN"):
            call(X, np.full_like(y, np.nan))
    with pytest.raises(ValueError, match="expecting 2 features"):
        regressor.predict(X[:, :1])
    with pytest.raises(ValueError, match=r"values must have shape \(2,\)"):
        regressor.condition(X[:1])
    with pytest.raises(ValueError, match="values must be finite"):
        regressor.condition([np.nan, 0.0])
    with pytest.raises(NotFittedError):
        MixtureRegressor().condition([0.0])


def test_the_number_of_components_is_that_of_the_mixture(data):
    X, y = (part[:20] for part in data)
    assert MixtureRegressor(random_state=0).fit(X, y).mixture_.n_components == 1  # of few samples
    found = MixtureRegressor(n_components=2, random_state=0).fit(X, y)
    assert found.mixture_.n_components == 2
    given = DifferentiableGaussianMixture(3, covariance_type="tied", random_state=0)
    found = MixtureRegressor(given, n_components=2).fit(X, y).mixture_
    assert found.n_components == 2 and found.covariance_type == "tied" and given.n_components == 3
    with pytest.raises(ValueError, match="'n_components' parameter"):
        MixtureRegressor(n_components=0).fit(X, y)


def test_texts_and_booleans_are_no_targets(data):
    X, _ = data
    for y, what in ((X[:, 0] > 0, "booleans"), (np.where(X[:, 0] > 0, "a", "b"), "the text '")):
        with pytest.raises(ValueError, match=f"y must hold numbers, got {what}"):
            MixtureRegressor(random_state=0).fit(X, y)


def test_parameters_of_the_default_mixture_can_be_searched(data):
    both = MixtureRegressor().set_params(mixture=Mixture(), mixture__tol=1.0)
    assert both.mixture.tol == 1.0
    search = GridSearchCV(MixtureRegressor(random_state=0), {"mixture__n_components": [1, 2]}, cv=2)
    search.fit(*data)
    expected = MixtureRegressor(random_state=0).set_params(**search.best_params_).fit(*data)
    assert search.score(*data) == expected.score(*data)
    with pytest.raises(ValueError, match="Invalid parameter 'n_component'"):
        MixtureRegressor().set_params(n_component=2)


def test_other_estimators_are_no_mixtures(data):
    class Density:
        def fit(self, X):
            return self

        def score_samples(self, X):
            return X

    with pytest.raises(TypeError, match="mixture must be a Gaussian mixture estimator for X and y"):
        MixtureRegressor(Density()).fit(*data)
    for given in (3, "full", LinearRegression()):
        with pytest.raises(ValueError, match="'mixture' parameter of MixtureRegressor must be"):
            MixtureRegressor(given).fit(*data)


@pytest.mark.parametrize("n, n_components", [(20, 1), (40, 2), (60, 3), (200, 3)])
def test_the_default_has_few_components_of_few_samples(n, n_components, rng):
    X = rng.normal(size=(n, 3))
    y = X @ [1.0, 2.0, 0.0] + 0.1 * rng.normal(size=n)
    found = MixtureRegressor(random_state=0).fit(X, y)
    assert len(found.mixture_.means_) == n_components
    Z = rng.normal(size=(50, 3))
    assert found.score(Z, Z @ [1.0, 2.0, 0.0]) > 0.9
    a = np.r_[np.ones(20), np.zeros(n - 20)]  # those of weight zero are absent
    assert len(MixtureRegressor(random_state=0).fit(X, y, a).mixture_.means_) == 1


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("n_outputs_", 2, r"mixture_ must have 1 feature\(s\) and 2 output\(s\), got 2"),
        ("n_outputs_", "1", "n_outputs_ must be a number of outputs, got '1'"),
        ("_single_output", None, "n_outputs_ must be a number of outputs"),
        ("n_features_in_", 3, r"mixture_ must have 3 feature\(s\) and 1 output"),
        ("n_features_in_", 2.0, "n_features_in_ must be a number of features, got 2.0"),
    ],
)
def test_a_file_of_another_content_is_refused_when_it_is_loaded(
    attribute, value, message, tmp_path
):
    X = np.arange(12.0)[:, None]
    model = MixtureRegressor(n_components=1).fit(X, X)
    setattr(model, attribute, value)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        skgmmot.load(tmp_path / "model")


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("nu", [1.5, None])
def test_t_distributions_predict_by_their_own_conditional_distribution(
    two_outputs, kind, nu, tmp_path
):
    X, Y = two_outputs
    options = {"covariance_type": kind, "degrees_of_freedom": nu, "random_state": 0}
    regressor = MixtureRegressor(StudentMixture(2, **options)).fit(X, Y)
    joint, x = regressor.mixture_, X[:30]
    of_x = joint.marginal([0, 1]).score_samples(x)
    expected = joint.score_samples(np.hstack([x, Y[:30]])) - of_x
    np.testing.assert_allclose(regressor.log_density(x, Y[:30]), expected, rtol=1e-9, atol=1e-9)
    mean, deviation = regressor.predict(x, return_std=True)
    np.testing.assert_allclose(regressor.predict(x), mean)
    for i in range(3):
        at = regressor.condition(x[i])
        assert isinstance(at, StudentMixture)
        np.testing.assert_allclose(at.score_samples(Y[i : i + 1]), expected[i : i + 1], rtol=1e-9)
        np.testing.assert_allclose(at.weights_ @ at.means_, mean[i], rtol=1e-9)
        same = at.moments()
        variances = np.array([np.diag(S) if S.ndim == 2 else S for S in same.covariances_])
        second = same.weights_ @ (variances + same.means_**2)
        np.testing.assert_allclose(deviation[i] ** 2, second - mean[i] ** 2, rtol=1e-8)
    drawn = regressor.sample_y(x[:1], 4000, random_state=0)[0]
    expected = np.median(regressor.condition(x[0]).set_params(random_state=1).sample(4000)[0], 0)
    np.testing.assert_allclose(np.median(drawn, 1), expected, atol=0.1 * deviation[0].max())
    regressor.save(tmp_path / "it")
    loaded = skgmmot.load(tmp_path / "it")
    np.testing.assert_array_equal(loaded.predict(x), regressor.predict(x))


def test_gradients_reach_predictions_of_t_distributions(data):
    X, y = (torch.from_numpy(t[:60]) for t in data)
    X.requires_grad_()
    mixture = StudentMixture(1, degrees_of_freedom=4.0, tol=1e-10, max_iter=1000)
    at = torch.zeros(1, 2, dtype=torch.float64)
    MixtureRegressor(mixture).fit(X, y).predict(at, return_std=True)[1].sum().backward()
    eps, found = 1e-5, X.grad[3, 0]

    def deviation(by):
        moved = X.detach().clone()
        moved[3, 0] += by
        return MixtureRegressor(mixture).fit(moved, y).predict(at, return_std=True)[1].item()

    assert float(found) == pytest.approx((deviation(eps) - deviation(-eps)) / (2 * eps), rel=1e-3)


def test_noise_does_not_predict(data):
    X, y = np.vstack([data[0], [[30.0, 30.0]]]), np.append(data[1], -40.0)
    regressor = MixtureRegressor(Mixture(3, noise="uniform", random_state=0)).fit(X, y)
    joint = regressor.mixture_
    assert joint.noise_weight_ > 0
    alone = Mixture.from_parameters(joint.weights_, joint.means_, joint.covariances_)
    x = X[:5]
    expected = [alone.condition(row, [0, 1]) for row in x]
    means = [float((at.weights_ @ at.means_)[0]) for at in expected]
    np.testing.assert_allclose(regressor.predict(x), means)
    densities = [at.score_samples([[value]])[0] for at, value in zip(expected, y[:5], strict=True)]
    np.testing.assert_allclose(regressor.log_density(x, y[:5]), densities)
