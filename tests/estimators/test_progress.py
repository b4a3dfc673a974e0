"""The progress bar of fits."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import skgmmot
from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureBarycenter,
    MixtureEmbedding,
    WassersteinQuantizer,
)
from skgmmot.estimators._progress import ProgressBar
from skgmmot.numerics.fixed_point import iterate

X = np.random.default_rng(0).normal(size=(60, 2))
MIXTURES = [([0.5, 0.5], [[0.0, j], [5.0, 1.0]], [1.0, 2.0], "spherical") for j in range(3)]


def halve(verbose):
    """Five steps of an iteration, shown by a bar."""
    with ProgressBar(verbose, 5, "halving", lambda s: {"left": -s.objective}) as bar:
        bar.begin(0)
        iterate(
            lambda t: ((t[0] / 2,), -float(t[0][0])),
            (np.ones(1),),
            tol=0.0,
            max_iter=5,
            callback=bar.step,
        )


def test_a_bar_shows_steps_and_a_number_on_stderr(capsys):
    halve(1)
    shown = capsys.readouterr()
    assert "halving" in shown.err and "5/5 [" in shown.err and "left=0.0625]" in shown.err
    assert not shown.out


def test_nothing_is_shown_unless_verbose(capsys):
    halve(0)
    shown = capsys.readouterr()
    assert not shown.err and not shown.out


FITS = {
    "MixtureBarycenter": lambda **v: MixtureBarycenter(2, random_state=0, **v).fit(MIXTURES),
    "WassersteinQuantizer": lambda **v: WassersteinQuantizer(4, random_state=0, **v).fit(X),
    "MixtureEmbedding": lambda **v: MixtureEmbedding(2, random_state=0, **v).fit_transform([X, X]),
}


@pytest.mark.parametrize("name", FITS)
def test_verbose_shows_a_bar_and_changes_nothing_else(name, capsys):
    quiet, loud = FITS[name](), FITS[name](verbose=1)
    assert "it/s" in (shown := capsys.readouterr().err) or "step/s" in shown
    for attribute in ("cluster_centers_", "means_"):
        if hasattr(quiet, attribute):
            assert np.array_equal(getattr(quiet, attribute), getattr(loud, attribute))


def test_the_distance_shown_is_the_one_reached(capsys):
    quantizer = FITS["WassersteinQuantizer"](verbose=1)
    last = capsys.readouterr().err.split("distance=")[-1].split("]")[0]
    assert np.isclose(float(last), quantizer.distance_, rtol=1e-2)


def test_a_bar_that_shows_nothing_starts_no_thread(monkeypatch):
    """Which tqdm does to refresh those that are shown."""

    def refused(*_, **__):
        raise AssertionError("a bar was made")

    for module in ("estimators._progress", "estimators.transport.embedding", "metrics._mixture"):
        monkeypatch.setattr(f"skgmmot.{module}.tqdm", refused)
    with ProgressBar(0, 5, "nothing") as bar:
        bar.begin(0)
        bar.at(3)
    clouds = [np.random.default_rng(0).normal(size=(20, 1)) for _ in range(2)]
    mixtures = skgmmot.MixtureEmbedding(1).fit_transform(clouds)
    assert skgmmot.metrics.pairwise_mixture_wasserstein(mixtures).shape == (2, 2)


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


def test_the_verbose_output_is_that_of_scikit_learn(blobs):
    printed = []
    for estimator in (GaussianMixture, DifferentiableGaussianMixture):
        params = {"n_init": 2, "init_params": "random", "verbose": 1, "verbose_interval": 2}
        with redirect_stdout(io.StringIO()) as out:
            estimator(4, random_state=0, **params).fit(blobs)
        printed.append(out.getvalue())
    assert printed[0] == printed[1]
    with redirect_stdout(io.StringIO()) as out:
        fitted(blobs, verbose=2, verbose_interval=1)
    assert "\t time lapse " in out.getvalue() and "\t ll change " in out.getvalue()
    assert "Initialization converged. time lapse" in out.getvalue()
    assert "\t lower bound " in out.getvalue()
