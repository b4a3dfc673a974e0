"""scikit-learn's callbacks on iterative fits."""

import pickle
import warnings

import models
import numpy as np
import pytest
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skgmmot
from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot.estimators.callbacks import CalledLog, called_log, fit_task
from skgmmot.numerics.runs import Runs

X = models.X
FITS = {
    "em": lambda: EM(3, random_state=0, n_init=2, init_params="random"),
    "squarem": lambda: EM(3, random_state=0, acceleration="squarem"),
    "sinkhorn": lambda: EM(3, random_state=0, e_step="sinkhorn", tol=0, max_iter=4),
    "sliced": lambda: skgmmot.SlicedWassersteinGMM(
        2, random_state=0, max_iter=30, n_projections=3, n_init=1
    ),
    "semidiscrete": lambda: skgmmot.SemidiscreteGMM(2, n_nodes=32, random_state=0, max_iter=4),
    "points": lambda: skgmmot.WassersteinQuantizer(3, random_state=0),
    "search": lambda: skgmmot.GaussianMixtureSearch((1, 2), "diag", random_state=0),
}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Recording:
    """A callback that notes its calls, and stops tasks of a name and number."""

    max_propagation_depth = None

    def __init__(self, stop=None):
        self.stop, self.begun, self.ended, self.setups, self.teardowns = stop, [], [], 0, 0

    def setup(self, estimator, context):
        self.setups += 1

    def teardown(self, estimator, context):
        self.teardowns += 1

    def on_fit_task_begin(self, estimator, context, *, X=None):
        assert X is not None
        self.begun.append((context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, metadata=None, fitted_estimator=None):
        self.ended.append((context.task_name, context.task_id))
        self.metadata, self.fitted = metadata, fitted_estimator
        return self.stop == self.ended[-1]


@pytest.fixture
def callbacks():
    """The module of scikit-learn, if this release has it."""
    return pytest.importorskip("sklearn.callback")


def names(record):
    return [name for name, _ in record]


@pytest.mark.parametrize("name", FITS)
def test_a_fit_calls_and_its_result_is_the_same(name, callbacks):
    recording = Recording()
    called, plain = FITS[name]().set_callbacks(recording).fit(X), FITS[name]().fit(X)
    for attribute, value in vars(plain).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(called, attribute), value), attribute
    assert sorted(recording.begun) == sorted(recording.ended)
    assert recording.ended[-1] == ("fit", 0) and recording.begun[0] == ("fit", 0)
    assert recording.setups == recording.teardowns == 1
    assert not [private for private in vars(called) if private.startswith("_callback")]
    # the last call has the whole fit
    assert np.array_equal(recording.fitted.predict(X), plain.predict(X))
    if hasattr(plain, "n_iter_") and name in ("em", "sinkhorn", "semidiscrete", "points"):
        assert ("iteration", plain.n_iter_ - 1) in recording.ended


@pytest.mark.parametrize("name", [name for name in FITS if name != "search"])
def test_an_iteration_that_stops_ends_its_run_without_a_warning(name, callbacks):
    model = FITS[name]().set_callbacks(Recording(("iteration", 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.fit(X)
    assert not model.converged_ and model.n_iter_ == (20 if name == "sliced" else 2)
    model.predict(X)


def test_a_run_that_stops_is_the_last(callbacks):
    recording = Recording(("run", 0))
    EM(2, n_init=5, random_state=0).set_callbacks(recording).fit(X)
    assert names(recording.ended).count("run") == 1
    recording = Recording(("fit of a candidate", 0))
    search = skgmmot.GaussianMixtureSearch((1, 2, 3), "diag", random_state=0)
    assert search.set_callbacks(recording).fit(X).best_estimator_.n_components == 1


def test_a_callback_gets_an_estimator_fitted_so_far(callbacks):
    class Each(Recording):
        scores = []

        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "iteration":
                self.scores.append(fitted_estimator.score(X))
                assert not hasattr(estimator, "means_")  # the fit is not over

    model = EM(3, random_state=0, tol=0, max_iter=5).set_callbacks(each := Each()).fit(X)
    expected = [EM(3, random_state=0, tol=0, max_iter=n).fit(X).score(X) for n in range(1, 6)]
    assert each.scores == expected and model.score(X) == expected[-1]


def test_barycentres_call(callbacks):
    mixtures = models.clouds_as_mixtures()
    make = skgmmot.MixtureBarycenter
    plain = make(2, random_state=0, n_init=2).fit(mixtures)
    recording = Recording()
    called = make(2, random_state=0, n_init=2).set_callbacks(recording).fit(mixtures)
    assert np.array_equal(called.means_, plain.means_)
    assert names(recording.ended)[-2:] == ["run", "fit"] and len(recording.ended) > 4
    stopped = make(2, random_state=0, n_init=1).set_callbacks(Recording(("iteration", 0)))
    assert stopped.fit(mixtures).objective_ >= plain.objective_


def test_weights_and_labels_are_passed_on(callbacks):
    recording, weights = Recording(), np.arange(len(X)) + 1.0
    EM(2, random_state=0).set_callbacks(recording).fit(X, sample_weight=weights)
    assert recording.metadata == {"sample_weight": weights}
    scores = callbacks.ScoringMonitor(scoring=lambda model, X, y: {"score": model.score(X)})
    EM(2, random_state=0).set_callbacks(scores).fit(X, models.y)
    assert all(np.isfinite(row["score"]) for row in scores.get_logs().data if "score" in row)


def test_blocks_and_gradients_call(callbacks):
    recording = Recording()
    blocks = EM(2, random_state=0).set_callbacks(recording).fit(lambda: iter([X[:30], X[30:]]))
    assert ("iteration", blocks.n_iter_ - 1) in recording.ended
    samples = torch.from_numpy(X).requires_grad_()
    plain = EM(2, random_state=0).fit(samples)
    called = EM(2, random_state=0).set_callbacks(Recording()).fit(samples)
    assert torch.equal(called.means_, plain.means_)
    called.means_.sum().backward()


def test_a_pipeline_passes_callbacks_on(callbacks):
    recording = Recording()
    pipeline = make_pipeline(StandardScaler(), EM(2, random_state=0)).set_callbacks(recording)
    pipeline.fit(X)
    assert ("iteration", pipeline[-1].n_iter_ - 1) in recording.ended
    assert not {"_parent_callback_ctx", "_skl_callbacks"} & vars(pipeline[-1]).keys()


def test_callbacks_take_leave_of_a_fit_that_fails(callbacks, tmp_path):
    recording = Recording()
    model = EM(2).set_callbacks(recording)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X * np.nan)
    assert recording.teardowns == 1 and not [p for p in vars(model) if p.startswith("_callback")]
    model.fit(X).save(tmp_path / "model.npz")  # and are not saved
    assert not hasattr(skgmmot.load(tmp_path / "model.npz"), "_skl_callbacks")
    assert pickle.loads(pickle.dumps(EM(2).fit(X))).n_components == 2


def test_a_progress_bar_of_scikit_learn_is_shown(callbacks, capsys):
    pytest.importorskip("rich")
    EM(2, random_state=0).set_callbacks(callbacks.ProgressBar()).fit(X)
    assert "DifferentiableGaussianMixture" in capsys.readouterr().out


def test_without_callbacks_logs_stay_as_they_are():
    with fit_task(EM(2), X) as task:
        assert task is None
    assert called_log(None, None, 3, None) is None
    runs = Runs()
    assert called_log(runs.log, None, 3, None) is runs.log
    assert not isinstance(runs.log, CalledLog)


def test_older_releases_of_scikit_learn_have_none():
    version = tuple(map(int, sklearn.__version__.split(".")[:2]))
    assert hasattr(EM(), "set_callbacks") == (version >= (1, 9))
