"""A small model of every estimator, and what it answers: for the tests of how models are saved."""

import functools
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

import skgmmot
from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot.transport.semidiscrete.grid import GridDensity

rng = np.random.default_rng(0)
#: Two clouds in the plane, their labels, the same moved, and three clouds of them.
X = np.vstack([rng.normal(size=(30, 2)), 0.5 * rng.normal(size=(30, 2)) + 4]).round(3)
y = np.repeat(["left", "right"], 30)
TARGET = X @ np.diag([1.5, 0.5]) + 1
HOLES = np.where(np.arange(120).reshape(60, 2) % 7 == 0, np.nan, X)
MORE = rng.normal(size=(2, 4))
CLOUDS = [X[:25], X[10:40], X[30:]]


def clouds_as_mixtures():
    """The three clouds as mixtures."""
    return skgmmot.MixtureEmbedding(2, random_state=0).fit_transform(CLOUDS)


def em(samples=X, **options):
    """A mixture fitted by EM."""
    return EM(2, random_state=0, **options).fit(samples)


def gradient():
    """A mixture whose attributes are on a graph, after backward."""
    mixture = em(torch.from_numpy(X).requires_grad_())
    mixture.means_.sum().backward()
    return mixture


def sklearn_mixture(samples=X, cls=GaussianMixture):
    """A mixture of scikit-learn."""
    return cls(n_components=2, random_state=0).fit(samples)


def density(model):
    """What a mixture answers."""
    return [model.predict_proba(X), model.score_samples(X), *model.sample(5)]


def wide(model):
    """What a mixture of more features answers."""
    return [model.predict_proba(X @ MORE), model.score_samples(X @ MORE), *model.sample(5)]


def images(model):
    """What a map answers."""
    return [model.transform(X), model.inverse_transform(TARGET), model.plan_]


def classes(model):
    """What a map with classes answers."""
    return [*images(model), model.predict(TARGET), model.predict_proba(TARGET)]


def distances(model):
    """What distances between mixtures answer."""
    return [model.transform(clouds_as_mixtures())]


def mixtures(model):
    """What an embedding answers."""
    found = model.transform(CLOUDS)
    return [array for m in found for array in (m.weights_, m.means_, m.covariances_)]


def cells(model):
    """What points answer."""
    return [model.predict(X), model.transform(X), model.cluster_centers_]


def regression(model):
    """What a regression answers."""
    return [model.predict(X[:, :1]), *model.predict(X[:, :1], return_std=True)]


def imputed(model):
    """What an imputer answers."""
    return [model.transform(HOLES), model.get_feature_names_out().astype(str)]


def params(model):
    """What a mixture that is a value holds."""
    return [*model]


#: How each model is made, and what it is asked; those of the first part have a file in ``data``.
RELEASED = {
    "DifferentiableGaussianMixture": (em, density),
    "SlicedWassersteinGMM": (
        lambda: skgmmot.SlicedWassersteinGMM(
            2, covariance_type="diag", random_state=0, max_iter=20, n_projections=5
        ).fit(X),
        density,
    ),
    "SemidiscreteGMM": (
        lambda: skgmmot.SemidiscreteGMM(2, random_state=0, n_nodes=64, max_iter=3).fit(X),
        density,
    ),
    "StudentMixture": (lambda: skgmmot.StudentMixture(2, random_state=0).fit(X), density),
    "OTMap": (lambda: skgmmot.OTMap(TARGET, class_wise=True).fit(X, y), classes),
    "MixtureBarycenter": (
        lambda: skgmmot.MixtureBarycenter(2, random_state=0, max_iter=3).fit([em(), em(TARGET)]),
        density,
    ),
    "MixtureEmbedding": (
        lambda: skgmmot.MixtureEmbedding(2, random_state=0).fit(CLOUDS),
        mixtures,
    ),
    "PairwiseMW2": (lambda: skgmmot.PairwiseMW2().fit(clouds_as_mixtures()), distances),
    "WassersteinQuantizer": (
        lambda: skgmmot.WassersteinQuantizer(3, random_state=0).fit(X),
        cells,
    ),
    "MixtureRegressor": (
        lambda: skgmmot.MixtureRegressor(random_state=0).fit(X[:, :1], X[:, 1]),
        regression,
    ),
    "MixtureImputer": (
        lambda: skgmmot.MixtureImputer(EM(2), add_indicator=True, random_state=0).fit(HOLES),
        imputed,
    ),
    "GaussianMixtureSearch": (
        lambda: skgmmot.GaussianMixtureSearch((1, 2), "diag", random_state=0).fit(X),
        density,
    ),
    "GaussianMixtureParams": (lambda: em(covariance_type="tied")._params(), params),
}
OTHERS = {
    "low rank": (lambda: EM(2, covariance_type="lowrank", random_state=0).fit(X @ MORE), wide),
    "classes": (
        lambda: EM(2, labels="y", random_state=0).fit(X, np.repeat([0, -1, 1], 20)),
        density,
    ),
    "float32": (lambda: em(X.astype(np.float32)), density),
    "tied": (lambda: em(covariance_type="tied"), density),
    "spherical, weighted, held": (
        lambda: EM(
            2,
            covariance_type="spherical",
            means_init=[[0, 0], [4, 4]],
            fixed_means=True,
            random_state=0,
        ).fit(X, sample_weight=np.arange(60) + 1),
        density,
    ),
    "tensors": (
        lambda: em(torch.from_numpy(X), means_init=torch.tensor([[0.0, 0], [4, 4]])),
        density,
    ),
    "gradient": (gradient, density),
    "prior and generator": (
        lambda: EM(
            2,
            prior=skgmmot.Prior(weight_concentration=2.0, mean=torch.zeros(2)),
            random_state=np.random.RandomState(3),
            device=torch.device("cpu"),
            checkpoint=None,
        ).fit(X),
        density,
    ),
    "noise": (
        lambda: EM(
            2, noise=skgmmot.UniformNoise(bounds=(-9.0, [9.0, 9.0])), random_state=0, reg_covar=0.1
        ).fit(torch.from_numpy(X).requires_grad_()),
        density,
    ),
    "blocks": (lambda: EM(2, random_state=0).partial_fit(X), density),
    "map between mixtures": (
        lambda: skgmmot.OTMap(em(TARGET), strategy="random", random_state=0).fit(em()),
        images,
    ),
    "map between scikit-learn's": (
        lambda: skgmmot.OTMap(sklearn_mixture(TARGET, BayesianGaussianMixture)).fit(
            sklearn_mixture()
        ),
        images,
    ),
    "map to tensors": (
        lambda: skgmmot.OTMap(torch.from_numpy(TARGET), mixture=EM(2, random_state=0)).fit(X),
        images,
    ),
    "map from tuples": (
        lambda: skgmmot.OTMap(([1.0], [[5.0, 0.0]], [[[4.0, 0.0], [0.0, 1.0]]])).fit(
            ([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
        ),
        images,
    ),
    "unbalanced map": (lambda: skgmmot.OTMap(em(TARGET), reg_m=(1.0, np.inf)).fit(em()), images),
    "points of an image": (
        lambda: skgmmot.WassersteinQuantizer(3, random_state=0).fit(
            GridDensity(torch.ones((4, 4)))
        ),
        cells,
    ),
    "search over a range": (
        lambda: skgmmot.GaussianMixtureSearch(range(1, 3), ["diag"], random_state=0).fit(X),
        density,
    ),
}
MODELS = RELEASED | OTHERS


@functools.cache
def made(name: str):
    """A model, which is made once: not to be changed."""
    return MODELS[name][0]()


def numbers(found) -> list:
    """Numbers of a result, or of an estimator's fitted attributes, as arrays on the host."""
    if isinstance(found, torch.Tensor):
        return [found.detach().cpu().numpy()]
    if isinstance(found, list | tuple):
        return [array for part in found for array in numbers(part)]
    if hasattr(found, "get_params"):
        fitted = sorted(name for name in vars(found) if name.endswith("_"))
        return numbers([vars(found)[name] for name in fitted])
    return [np.asarray(found)] if isinstance(found, np.ndarray | float | int) else []


#: Files of earlier releases, which every later one loads.
DATA = Path(__file__).parent / "data"


def save_released():
    """Write the files that are missing: run it before a release that has a new estimator."""
    DATA.mkdir(exist_ok=True)
    for name, (make, ask) in RELEASED.items():
        path = DATA / f"{name}.npz"
        if not path.exists():
            model = make()
            skgmmot.save({"model": model, "answers": ask(model)}, path)


if __name__ == "__main__":
    save_released()
