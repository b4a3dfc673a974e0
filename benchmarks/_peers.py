"""Programs that fit mixtures of Gaussians with full covariances, each called in the same two ways.

`given` makes a number of EM iterations from given weights, means and covariances, as far as the
program lets itself be told them; `own` is its fit with its own start and its own stopping rule, as
its documentation shows it. Both return weights, means and covariances. A program is imported where
it is called, so that this module can be read without any of them.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Program(NamedTuple):
    """Where a program comes from and how it is called."""

    module: str
    distribution: str
    given: Callable
    own: Callable
    dtype: str = "float64"
    start: str = "given"
    compiles: bool = False  # for each shape and number of iterations, at its first call

    @property
    def installed(self):
        """Whether it can be imported here."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self):
        """The version of what is installed, or nothing."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return ""


def sklearn_like(new, X, K, **params):
    """The mixture fitted by scikit-learn's estimator or ours."""
    model = new(K, **params).fit(X)
    return model.weights_, model.means_, model.covariances_


def sklearn_start(start):
    """A start in the words of scikit-learn."""
    weights, means, covariances = start
    precisions = np.linalg.inv(covariances)
    return {"weights_init": weights, "means_init": means, "precisions_init": precisions}


def skgmmot_given(X, start, n_iter):
    """DifferentiableGaussianMixture."""
    from skgmmot import DifferentiableGaussianMixture as New

    return sklearn_like(New, X, len(start[0]), max_iter=n_iter, tol=0, **sklearn_start(start))


def skgmmot_own(X, K, seed):
    """DifferentiableGaussianMixture with its defaults."""
    from skgmmot import DifferentiableGaussianMixture as New

    return sklearn_like(New, X, K, random_state=seed)


def sklearn_given(X, start, n_iter):
    """scikit-learn's GaussianMixture."""
    from sklearn.mixture import GaussianMixture as New

    return sklearn_like(New, X, len(start[0]), max_iter=n_iter, tol=0, **sklearn_start(start))


def sklearn_own(X, K, seed):
    """scikit-learn's GaussianMixture with its defaults."""
    from sklearn.mixture import GaussianMixture as New

    return sklearn_like(New, X, K, random_state=seed)


def pomegranate_given(X, start, n_iter):
    """pomegranate's mixture of normals; it updates its parameters in place, so they are copied."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    weights, means, covariances = (torch.tensor(t) for t in start)
    normals = [Normal(m, S, check_data=False) for m, S in zip(means, covariances, strict=True)]
    model = GeneralMixtureModel(
        normals, priors=weights, max_iter=n_iter, tol=-np.inf, check_data=False
    )
    return pomegranate_mixture(model.fit(torch.as_tensor(X)))


def pomegranate_own(X, K, seed):
    """pomegranate's mixture of normals, as its tutorial shows it."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    model = GeneralMixtureModel([Normal() for _ in range(K)], random_state=seed)
    return pomegranate_mixture(model.fit(torch.as_tensor(X, dtype=torch.float32)))


def pomegranate_mixture(model):
    """Weights, means and covariances."""
    parts = model.distributions
    mixture = model.priors, *(_stacked(parts, name) for name in ("means", "covs"))
    return [t.detach().double().numpy() for t in mixture]


def _stacked(parts, name):
    """One parameter of all components."""
    import torch

    return torch.stack([getattr(part, name) for part in parts])


def tgmm_given(X, start, n_iter):
    """tgmm's GaussianMixture; a tolerance of zero is refused."""
    import torch

    weights, means, covariances = (torch.tensor(t) for t in start)
    return tgmm_mixture(
        X,
        n_components=len(weights),
        init_weights=weights,
        init_means=means,
        init_covariances=covariances,
        max_iter=n_iter,
        tol=1e-300,
    )


def tgmm_own(X, K, seed):
    """tgmm's GaussianMixture with its defaults."""
    return tgmm_mixture(X, n_components=K, random_state=seed)


def tgmm_mixture(X, **params):
    """Weights, means and covariances."""
    import torch
    from tgmm import GaussianMixture

    model = GaussianMixture(**params, device="cpu").fit(torch.as_tensor(X))
    return [t.numpy() for t in (model.weights_, model.means_, model.covariances_)]


def torchgmm_given(X, start, n_iter):
    """torchgmm's GaussianMixture: only means can be given."""
    import torch

    params = {"init_means": torch.tensor(start[1]), "convergence_tolerance": 0}
    return torchgmm_mixture(X, len(start[0]), {"max_epochs": n_iter}, **params)


def torchgmm_own(X, K, seed):
    """torchgmm's GaussianMixture with its defaults."""
    import torch

    torch.manual_seed(seed)
    return torchgmm_mixture(X, K, {})


def torchgmm_mixture(X, K, trainer_params, **params):
    """Weights, means and covariances."""
    import torch
    from torchgmm.bayes import GaussianMixture

    trainer_params |= {"precision": 64, "enable_progress_bar": False, "accelerator": "cpu"}
    model = GaussianMixture(K, covariance_type="full", trainer_params=trainer_params, **params)
    fitted = model.fit(torch.as_tensor(X)).model_
    return [t.numpy() for t in (fitted.component_probs, fitted.means, fitted.covariances)]


def gmmx_given(X, start, n_iter):
    """gmmx's EMFitter, in the only precision it has."""
    import jax
    from gmmx import EMFitter, GaussianMixtureModelJax

    weights, means, covariances = (np.float32(t) for t in start)
    model = GaussianMixtureModelJax.from_squeezed(means, covariances, weights, "full")
    fitted = EMFitter(max_iter=n_iter, tol=0.0).fit(jax.numpy.asarray(X), model).gmm
    return fitted.weights_numpy, fitted.means_numpy, fitted.covariances.values_numpy


def gmmx_own(X, K, seed):
    """gmmx's copy of scikit-learn's class."""
    from gmmx import GaussianMixtureSKLearn

    return sklearn_like(GaussianMixtureSKLearn, X, K, random_state=seed)


def opencv_given(X, start, n_iter):
    """OpenCV's EM, which ends with an E-step. Rows of covariances must not be read as channels."""
    import cv2

    weights, means, covariances = start
    model = _opencv(len(weights))
    model.setTermCriteria((cv2.TERM_CRITERIA_COUNT, n_iter + 1, 0))
    model.trainE(X, means, cv2.Mat(covariances, wrap_channels=False), weights)
    return _opencv_mixture(model)


def opencv_own(X, K, seed):
    """OpenCV's EM with its defaults."""
    import cv2

    cv2.setRNGSeed(seed)
    model = _opencv(K)
    model.trainEM(X)
    return _opencv_mixture(model)


def _opencv(K):
    """OpenCV's EM with full covariances, on one thread."""
    import cv2

    cv2.setNumThreads(1)
    model = cv2.ml.EM.create()
    model.setClustersNumber(K)
    model.setCovarianceMatrixType(cv2.ml.EM_COV_MAT_GENERIC)
    return model


def _opencv_mixture(model):
    """Weights, means and covariances."""
    return model.getWeights()[0], model.getMeans(), np.stack(model.getCovs())


def mlpack_given(X, start, n_iter):
    """mlpack's gmm_train, which counts from one, and starts from k-means whatever it is given."""
    params = {"max_iterations": n_iter + 1, "tolerance": 1e-300, "kmeans_max_iterations": 5}
    return mlpack_mixture(X, gaussians=len(start[0]), seed=1, **params)


def mlpack_own(X, K, seed):
    """mlpack's gmm_train with its defaults."""
    return mlpack_mixture(X, gaussians=K, seed=seed + 1)


def mlpack_mixture(X, **params):
    """Weights, means and covariances."""
    import mlpack

    fitted = mlpack.gmm_train(input_=X, **params)["output_model"].get_cpp_params()["GMM"]
    means, covariances = (
        np.stack([part[name] for part in fitted["dists"]]) for name in ("mean", "covariance")
    )
    return np.ravel(fitted["weights"]), means.reshape(len(means), -1), covariances


PROGRAMS = {
    "skgmmot": Program("skgmmot", "skgmmot", skgmmot_given, skgmmot_own),
    "skgmmot, float32": Program("skgmmot", "skgmmot", skgmmot_given, skgmmot_own, "float32"),
    "scikit-learn": Program("sklearn", "scikit-learn", sklearn_given, sklearn_own),
    "pomegranate": Program("pomegranate", "pomegranate", pomegranate_given, pomegranate_own),
    "tgmm": Program("tgmm", "tgmm", tgmm_given, tgmm_own),
    "torchgmm": Program(
        "torchgmm", "torchgmm", torchgmm_given, torchgmm_own, start="its own, given means"
    ),
    "gmmx": Program("gmmx", "gmmx", gmmx_given, gmmx_own, "float32", compiles=True),
    "OpenCV": Program("cv2", "opencv-python-headless", opencv_given, opencv_own),
    "mlpack": Program("mlpack", "mlpack", mlpack_given, mlpack_own, start="its own k-means"),
}
