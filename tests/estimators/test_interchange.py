"""Mixture estimators as scikit-learn's, torch's and ONNX's, and back."""

import models
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_t
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot import StudentMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = models.X
OPTIONS = {"rtol": 1e-12, "atol": 1e-12}


def check_same_answers(model, other):
    """Both predict the same, to rounding."""
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(X), **OPTIONS)
    np.testing.assert_allclose(model.score_samples(X), other.score_samples(X), **OPTIONS)
    np.testing.assert_allclose(model.bic(X), other.bic(X))


# --- scikit-learn --------------------------------------------------------------------------------


def test_scikit_learn_predicts_the_same_and_back(covariance_type):
    frame = pd.DataFrame(X, columns=["a", "b"])
    options = {"tol": 1e-5, "reg_covar": 1e-4, "max_iter": 50, "random_state": 3, "n_init": 2}
    model = EM(2, covariance_type=covariance_type, **options).fit(frame)
    other = model.to_sklearn()
    assert type(other) is GaussianMixture
    expected = GaussianMixture(2, covariance_type=covariance_type, **options)
    assert other.get_params() == expected.get_params()
    assert vars(expected.fit(frame)).keys() <= vars(other).keys() | {"lower_bounds_"}
    again = EM.from_sklearn(other, gradient="one_step")
    assert again.get_params() == model.set_params(gradient="one_step").get_params()
    for one in (other, again):
        assert list(one.feature_names_in_) == ["a", "b"] and one.converged_
        np.testing.assert_array_equal(one.predict(frame), model.predict(frame))
    np.testing.assert_allclose(other.score_samples(frame), model.score_samples(frame), **OPTIONS)
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    assert other.means_ is not model.means_ and again.means_ is not other.means_


def test_what_scikit_learn_does_not_accept_keeps_its_default():
    model = EM(
        2,
        init_params="sinkhorn",
        means_init=torch.tensor([[0.0, 0.0], [4.0, 4.0]]),
        acceleration="squarem",
    )
    other = model.fit(X).to_sklearn()
    assert other.init_params == "kmeans" and isinstance(other.means_init, np.ndarray)
    check_same_answers(model, other)
    other.fit(X)  # it is whole


def test_types_of_this_package_become_full():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 5)) + rng.normal(size=(60, 5))
    model = EM(2, covariance_type="lowrank", random_state=0).fit(samples)
    other = model.to_sklearn()
    assert other.covariance_type == "full"
    np.testing.assert_allclose(other.score_samples(samples), model.score_samples(samples))
    found = model.to_torch().log_prob(torch.from_numpy(samples))
    np.testing.assert_allclose(found, model.score_samples(samples))
    other.fit(samples)


def test_tensors_become_arrays():
    model = models.em(torch.from_numpy(X).requires_grad_())
    other = model.to_sklearn()
    assert all(not isinstance(value, torch.Tensor) for value in vars(other).values())
    np.testing.assert_allclose(other.means_, model.means_.detach())


@pytest.mark.parametrize("name", ["SlicedWassersteinGMM", "SemidiscreteGMM", "MixtureBarycenter"])
def test_other_mixtures_go_to_scikit_learn_too(name):
    model = models.made(name)
    other = model.to_sklearn()
    check_same_answers(model, other)
    assert other.n_components == 2
    other.fit(X)


def test_a_mixture_of_scikit_learn_goes_on_with_gradients():
    other = models.sklearn_mixture()
    model = EM.from_sklearn(other, warm_start=True, max_iter=1, tol=0)
    check_same_answers(model, other)
    samples = torch.from_numpy(X).requires_grad_()
    model.set_params(gradient="one_step").fit(samples).means_.sum().backward()
    assert samples.grad.shape == X.shape


def test_refusals_of_scikit_learn_are_named():
    with pytest.raises(NotFittedError):
        EM().to_sklearn()
    with pytest.raises(NotFittedError):
        EM.from_sklearn(GaussianMixture())
    bayesian = BayesianGaussianMixture().fit(X)
    for wrong in (bayesian, models.em(), X):
        with pytest.raises(TypeError, match=r"must be a GaussianMixture .* got .* from_parameters"):
            EM.from_sklearn(wrong)
    with pytest.raises(TypeError, match="has no parameter 'unknown'"):
        EM.from_sklearn(models.sklearn_mixture(), unknown=1)
    singular = EM.from_parameters([1.0], [[0.0, 0.0]], [np.zeros((2, 2))])
    with pytest.raises(ValueError, match="singular"):
        singular.to_sklearn()


# --- torch ---------------------------------------------------------------------------------------


def test_torch_has_the_same_density_and_back(covariance_type):
    model = models.em(covariance_type=covariance_type)
    distribution = model.to_torch()
    found = distribution.log_prob(torch.from_numpy(X))
    np.testing.assert_allclose(found, model.score_samples(X), **OPTIONS)
    again = EM.from_torch(distribution, random_state=5)
    assert again.covariance_type == covariance_type and again.random_state == 5
    check_same_answers(model, again)
    model.means_[:] = 0  # a distribution has numbers of its own
    assert distribution.log_prob(torch.from_numpy(X)).equal(found)


def test_gradients_go_through_the_distribution_of_a_fit():
    samples = torch.from_numpy(X).requires_grad_()
    model = EM(2, random_state=0).fit(samples)
    loss = model.to_torch().log_prob(torch.zeros(1, 2, dtype=torch.float64)).sum()
    (found,) = torch.autograd.grad(loss, samples, retain_graph=True)
    assert found.abs().sum() > 0
    again = EM.from_torch(model.to_torch())
    (other,) = torch.autograd.grad(again.score_samples([[0.0, 0.0]]).sum(), samples)
    torch.testing.assert_close(other, found)


def test_noise_is_refused():
    outliers = np.vstack([X, np.random.default_rng(0).uniform(-20, 20, size=(20, 2))])
    model = EM(2, noise="uniform", random_state=0).fit(outliers)
    for convert in (model.to_sklearn, model.to_torch):
        with pytest.raises(ValueError, match=r"must be without noise to become .* of weight 0"):
            convert()


# --- t distributions -----------------------------------------------------------------------------


@pytest.fixture
def student():
    return StudentMixture(2, degrees_of_freedom=[3.0, 5.0], random_state=0).fit(X)


def test_t_distributions_are_refused_and_their_moments_are_not(student):
    for method in ("to_sklearn", "to_torch"):
        with pytest.raises(TypeError, match=rf"got t distributions. Use moments\(\).{method}\(\)"):
            getattr(student, method)()
    with pytest.raises(NotFittedError):
        StudentMixture().to_sklearn()
    factors = np.array([3.0, 5 / 3])[:, None, None]
    for other in (student.moments().to_sklearn(), EM.from_torch(student.moments().to_torch())):
        np.testing.assert_allclose(other.covariances_, factors * student.covariances_, rtol=1e-12)


@pytest.mark.parametrize("degrees_of_freedom", [3.0, [1.5, 40.0], np.inf])
def test_gaussians_become_t_distributions_of_their_covariances_as_scales(
    covariance_type, degrees_of_freedom
):
    if covariance_type == "lowrank":
        pytest.skip("t distributions have none")
    theirs = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    ours = EM.from_sklearn(theirs)
    full = ours._params().full_covariances().numpy()
    nu = np.broadcast_to(degrees_of_freedom, len(full))
    parts = zip(theirs.weights_, theirs.means_, full, nu, strict=True)
    density = sum(w * multivariate_t(m, S, df).pdf(X) for w, m, S, df in parts)
    options = {"degrees_of_freedom": degrees_of_freedom, "random_state": 3}
    for found in (
        StudentMixture.from_sklearn(theirs, **options),
        StudentMixture.from_torch(ours.to_torch(), **options),
    ):
        np.testing.assert_allclose(found.score_samples(X), np.log(density), rtol=1e-8)
        assert found.predict(X).shape == (len(X),) and found.random_state == 3
        assert not hasattr(found, "lower_bound_")
        assert found.sample(5)[0].shape == (5, 2)


def test_degrees_of_freedom_are_asked_for():
    theirs = models.sklearn_mixture()
    makers = [
        lambda **options: StudentMixture.from_sklearn(theirs, **options),
        lambda **options: StudentMixture.from_torch(EM.from_sklearn(theirs).to_torch(), **options),
        lambda degrees_of_freedom=None: StudentMixture.from_parameters(
            [1.0], [[0.0]], [[[1.0]]], degrees_of_freedom=degrees_of_freedom
        ),
    ]
    for make in makers:
        with pytest.raises(TypeError, match="degrees_of_freedom must be given where no samples"):
            make()
        with pytest.raises(ValueError, match="must be positive, got -1"):
            make(degrees_of_freedom=-1.0)


def test_refusals_of_torch_are_named():
    with pytest.raises(NotFittedError):
        EM().to_torch()
    with pytest.raises(TypeError, match="distribution must be a MixtureSameFamily"):
        EM.from_torch(torch.distributions.Categorical(torch.ones(2)))


# --- ONNX ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_onnx_answers_the_same(dtype, covariance_type):
    skl2onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = models.em(covariance_type=covariance_type)
    samples = X.astype(dtype)
    onnx = skl2onnx.to_onnx(model.to_sklearn(), samples[:1], options={"score_samples": True})
    session = runtime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, probabilities, scores = session.run(None, {"X": samples})
    tolerance = 1e-4 if dtype == np.float32 else 1e-12  # products of features in float32
    np.testing.assert_array_equal(labels.ravel(), model.predict(X))
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=tolerance)
    np.testing.assert_allclose(scores.ravel(), model.score_samples(X), atol=tolerance)


def test_onnx_takes_a_pipeline_that_ends_in_a_mixture():
    skl2onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    pipeline = make_pipeline(StandardScaler(), EM(2, random_state=0)).fit(X)
    onnx = skl2onnx.to_onnx(make_pipeline(*pipeline[:-1], pipeline[-1].to_sklearn()), X[:1])
    session = runtime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"X": X})[0].ravel(), pipeline.predict(X))
