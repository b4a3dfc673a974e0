"""What the package leaves alone: the network, global settings and random numbers, other modules."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import warnings

import matplotlib
import matplotlib.pyplot as plt
import models
import numpy as np
import pytest
import sklearn
import torch
from models import CLOUDS, HOLES, TARGET, X, em, y
from sklearn.linear_model import LogisticRegression

import skgmmot
from skgmmot import datasets, metrics, nn, pictures, plotting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def state():
    """All that is global and could be changed."""
    return {
        "numpy's random numbers": _plain(np.random.get_state()),  # noqa: NPY002
        "torch's random numbers": torch.get_rng_state().tolist(),
        "Python's random numbers": random.getstate(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "threads": threading.active_count(),
        "filters of warnings": list(warnings.filters),
        "showing warnings": (warnings.showwarning, warnings.formatwarning),
        "default dtype": (torch.get_default_dtype(), torch.get_default_device()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "anomalies": torch.is_anomaly_enabled(),
        "printing": (np.get_printoptions(), repr(torch.tensor(1 / 3))),
        "floating-point errors": (np.geterr(), np.geterrcall()),
        "scikit-learn": sklearn.get_config(),
        "matplotlib": (matplotlib.get_backend(), dict(matplotlib.rcParams)),
        "figures": len(plt.get_fignums()),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "hooks": (sys.excepthook, sys.gettrace(), sys.getprofile(), sys.getrecursionlimit()),
        "streams": (sys.stdout, sys.stderr),
        "files": len(os.listdir(os.getcwd())),
    }


def _plain(value):
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in value]


class Connected(BaseException):
    """Something was sent for."""


@pytest.fixture
def no_network(monkeypatch):
    """Any socket ends the test."""

    def refused(*_, **__):
        raise Connected

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def backward(loss):
    """The value of a loss, after its backward pass."""
    loss.backward()
    return loss.item()


#: Each public estimator, as `models` makes it, and what it answers.
ESTIMATORS = {
    name: lambda make=make, ask=ask: ask(make()) for name, (make, ask) in models.RELEASED.items()
} | {
    "AdaptedClassifier": lambda: (
        skgmmot.AdaptedClassifier(skgmmot.OTMap(TARGET, random_state=0), LogisticRegression())
        .fit(X, y)
        .predict(TARGET)
    ),
    "partial_fit": lambda: skgmmot.DifferentiableGaussianMixture(2).partial_fit(X),
    "without a seed": lambda: em(means_init=X[[0, 40]]).set_params(random_state=None).fit(X),
    "gradient": models.gradient,
    "noise": lambda: em(noise=skgmmot.UniformNoise()),
    "standard errors": lambda: em().standard_errors(X),
    "prior": lambda: em(prior=skgmmot.Prior()),
    "save, load": lambda: _saved(em()),
    "to_sklearn": lambda: em().to_sklearn().predict(X),
    "to_torch": lambda: em().to_torch().log_prob(torch.from_numpy(X)),
    "html": lambda: em()._repr_html_(),
}
A, B = em(), em(TARGET)
FUNCTIONS = {
    "MixtureWasserstein": lambda: skgmmot.MixtureWasserstein()(A, B),
    "bures_wasserstein_distance": lambda: metrics.bures_wasserstein_distance(
        (A.means_[0], A.covariances_[0]), (B.means_[0], B.covariances_[0])
    ),
    "frechet_distance": lambda: metrics.frechet_distance(X, TARGET),
    "mixture_wasserstein_distance": lambda: metrics.mixture_wasserstein_distance(A, B),
    "entropic": lambda: metrics.mixture_wasserstein_distance(A, B, reg=0.1),
    "pairwise_mixture_wasserstein": lambda: metrics.pairwise_mixture_wasserstein([A, B]),
    "sliced_mixture_wasserstein": lambda: metrics.sliced_mixture_wasserstein(A, B),
    "sliced_wasserstein_distance": lambda: metrics.sliced_wasserstein_distance(X, TARGET),
    "semidiscrete_distance": lambda: metrics.semidiscrete_distance(A, X[:5]),
    "semidiscrete_plan": lambda: metrics.semidiscrete_plan(A, X[:5]),
    "stability_bounds": lambda: metrics.stability_bounds(A, B, 100),
    "mixture_wasserstein_interval": lambda: metrics.mixture_wasserstein_interval(
        A, B, X, X + 1, n_resamples=20, random_state=0
    ),
    "scorers": lambda: [metrics.get_scorer(name)(A, X) for name in ("bic", "aic")],
    "interpolate": lambda: skgmmot.interpolate(A, B, 0.5),
    "reduce": lambda: skgmmot.reduce(A, 1),
    "ot_map": lambda: skgmmot.ot_map(A, B),
    "MixtureFlow": lambda: skgmmot.MixtureFlow(A, B).velocity(0.5, X),
    "GridDensity": lambda: skgmmot.GridDensity(np.ones((3, 4))),
    "make_ring_square_line": lambda: datasets.make_ring_square_line(30, random_state=0),
    "load_photograph": lambda: datasets.load_photograph("china"),
    "into_gamut": lambda: pictures.into_gamut(np.full((2, 2, 3), 1.5)),
    "smooth_recolouring": lambda: pictures.smooth_recolouring(
        np.full((20, 20, 3), 0.5), np.full((20, 20, 3), 0.25)
    ),
    "EMLayer": lambda: nn.EMLayer(2)(torch.from_numpy(X)),
    "MixtureWassersteinLoss": lambda: backward(
        nn.MixtureWassersteinLoss(B)(torch.from_numpy(X).requires_grad_())
    ),
    "MultiscalePatchLoss": lambda: nn.MultiscalePatchLoss(torch.rand(3, 20, 20), (1,))(
        torch.rand(3, 20, 20)
    ),
}
PLOTS = {
    "GaussianMixtureDisplay": lambda: plotting.GaussianMixtureDisplay.from_estimator(A, X),
    "TransportPlanDisplay": lambda: plotting.TransportPlanDisplay.from_mixtures(A, B),
    "TransportMapDisplay": lambda: plotting.TransportMapDisplay.from_estimator(
        skgmmot.OTMap(B).fit(A), X
    ),
    "FitTraceDisplay": lambda: plotting.FitTraceDisplay.from_estimator(A),
    "CriterionDisplay": lambda: skgmmot.GaussianMixtureSearch((1, 2), "diag").fit(X).plot(),
}
#: Errors in the middle: what fails, and where.
BAD = np.where(np.arange(120).reshape(60, 2) == 7, np.nan, X)
ERRORS = {
    "samples": lambda: em(BAD),
    "covariances that collapse": lambda: em(np.repeat(X[:2], 5, axis=0), reg_covar=0.0, n_init=2),
    "a block": lambda: em(lambda: iter([X, BAD])),
    "a start": lambda: em(init_params=lambda *_: 1 / 0),
    "sliced": lambda: skgmmot.SlicedWassersteinGMM(2, optimizer=lambda *_: 1 / 0).fit(X),
    "search": lambda: skgmmot.GaussianMixtureSearch((3,), cv=2, criterion="held_out").fit(X[:4]),
    "embedding": lambda: skgmmot.MixtureEmbedding(2).fit_transform([*CLOUDS, BAD]),
    "map": lambda: skgmmot.OTMap(BAD).fit(X),
    "imputer": lambda: skgmmot.MixtureImputer(reg_covar=-1).fit(HOLES),
    "prediction": lambda: em().predict(BAD),
    "mixtures": lambda: metrics.mixture_wasserstein_distance(A, ([1.0], [[0.0]], [[[-1.0]]])),
    "slices": lambda: metrics.sliced_wasserstein_distance(X, BAD),
    "layer": lambda: nn.EMLayer(2)(torch.from_numpy(BAD)),
    "plot": lambda: plotting.GaussianMixtureDisplay.from_estimator(A, BAD),
    "file": lambda: skgmmot.load(__file__),
    "photograph": lambda: datasets.load_photograph(__file__),
}


def _saved(model, name="model.npz"):
    path = os.path.join(os.environ["SKGMMOT_TEST_FOLDER"], name)
    skgmmot.save(model, path)
    return skgmmot.load(path)


@pytest.fixture(scope="module", autouse=True)
def torch_optimisers():
    """Have torch load what it loads, with filters of warnings, at its optimisers' first step."""
    x = torch.zeros(1, requires_grad=True)
    x.sum().backward()
    torch.optim.Adam([x]).step()


@pytest.fixture
def unusual(tmp_path, monkeypatch):
    """Settings that are not the defaults, so that setting one to its default is noticed."""
    monkeypatch.setenv("SKGMMOT_TEST_FOLDER", str(tmp_path))
    torch.set_default_dtype(torch.float32)
    np.random.seed(5)  # noqa: NPY002
    random.seed(6)
    with np.errstate(divide="raise", over="warn"), np.printoptions(precision=3):
        yield
    plt.close("all")


def changes(use):
    """What a use changes, by name."""
    before = state()
    try:
        use()
    finally:
        after = state()
    return {name: after[name] for name in before if before[name] != after[name]}


@pytest.mark.filterwarnings("ignore:reg_covar must be small")  # of random textures
@pytest.mark.usefixtures("no_network", "unusual")
@pytest.mark.parametrize("name", [*ESTIMATORS, *FUNCTIONS])
def test_a_use_changes_nothing_outside_and_sends_for_nothing(name):
    use = (ESTIMATORS | FUNCTIONS)[name]
    # without a seed numbers come from numpy's generator, as scikit-learn's do; torch's layers
    # and textures draw from torch's
    drawn = {"numpy's random numbers", "torch's random numbers"}
    allowed = drawn if name in ("without a seed", "partial_fit", *DRAWING) else set()
    assert changes(use).keys() <= allowed


#: Uses without a seed.
DRAWING = (
    *("sliced_wasserstein_distance", "sliced_mixture_wasserstein", "stability_bounds"),
    *(
        "OTMap",
        "reduce",
        "EMLayer",
        "MixtureWassersteinLoss",
        "MultiscalePatchLoss",
        "AdaptedClassifier",
    ),
)


@pytest.mark.usefixtures("no_network", "unusual")
@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_changes_nothing_but_its_figure(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        changed = changes(PLOTS[name])
    assert changed.keys() <= {"figures", "numpy's random numbers"} and changed["figures"] == 1


@pytest.mark.usefixtures("no_network", "unusual")
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_the_middle_leaves_nothing_changed(name):
    before = state()
    with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
        ERRORS[name]()
    after = state()
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"numpy's random numbers"}


def test_every_public_object_is_tried():
    tried = " ".join([*ESTIMATORS, *FUNCTIONS, *PLOTS]).replace("standard errors", "StandardErrors")
    tried += " Prior UniformNoise save load aic_scorer bic_scorer SCORERS get_scorer"
    tried += " make_mixture_wasserstein_scorer mixture_wasserstein_scorer sliced_wasserstein_scorer"
    public = [*skgmmot.__all__, *metrics.__all__, *nn.__all__, *plotting.__all__]
    public += [*datasets.__all__, *pictures.__all__]
    assert not [n for n in public if n not in tried.split() and n != "MixtureFrechetDistance"]


IMPORTED = """
import json, os, sys
before = dict(os.environ), list(sys.path), os.getcwd()
import sklearn.mixture, torch
loaded, filters = set(sys.modules), __import__("warnings").filters[:]
import numpy, random, threading
def state():
    drawn = numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()
    return (*drawn, torch.get_num_threads(), torch.get_default_dtype(), numpy.geterr(),
            threading.active_count())
now = state()
import skgmmot, skgmmot.functional, skgmmot.metrics, skgmmot.datasets
assert state() == now and filters == __import__("warnings").filters
assert before == (dict(os.environ), sys.path, os.getcwd())
print(json.dumps(sorted(set(sys.modules) - loaded)))
"""


def test_an_import_loads_little_beside_torch_and_scikit_learn_and_changes_nothing():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    others = [name for name in json.loads(done.stdout) if name.split(".")[0] != "skgmmot"]
    heavy = "ot networkx matplotlib pandas dask distributed PIL torchmetrics polars pyarrow sympy"
    assert not {name.split(".")[0] for name in others} & {*heavy.split(), "IPython"}
    assert "torch._dynamo" not in others  # the compiler of torch
    assert len(others) < 100
