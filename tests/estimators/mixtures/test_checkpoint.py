"""Fits that are stopped and go on from a file, bit for bit."""

import contextlib
import itertools
import os
import signal
import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot import SlicedWassersteinGMM
from skgmmot.estimators.mixtures import _checkpoint
from skgmmot.numerics import archive
from skgmmot.numerics.runs import Runs

SHOWN = [
    *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
    *("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "entropic_ot_gap_"),
    *("sliced_wasserstein_", "sliced_wassersteins_"),
]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


@pytest.fixture(autouse=True)
def nobody_waits_for_the_disk(monkeypatch):
    """Processes end here, machines do not; tests of archives see that files are synchronised."""
    monkeypatch.setattr(archive.os, "fsync", lambda handle: None)


def bits(estimator):
    """All that a fit shows, to the last bit."""
    found = {name: getattr(estimator, name, None) for name in SHOWN}
    return {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in found.items()}


class Stopped(BaseException):
    """Something stops a fit."""


def stopping_after(n_writes, monkeypatch):
    """Have the process stop after so many checkpoints."""
    count, write = iter(range(1, n_writes + 1)), archive.write

    def counted(*args, **options):
        write(*args, **options)
        if next(count, None) == n_writes:
            raise Stopped

    monkeypatch.setattr(_checkpoint.archive, "write", counted)


def fitted_with_stops(make, X, path, stops, monkeypatch, **options):
    """A fit that is stopped again and again, after so many writings, and at last ends."""
    for n_writes in stops:
        with monkeypatch.context() as patch:
            stopping_after(n_writes, patch)
            with pytest.raises(Stopped):
                make(checkpoint=path).fit(X, **options)
    return make(checkpoint=path).fit(X, **options)


def em(**options):
    defaults = {"random_state": 3, "tol": 1e-4, "max_iter": 15}
    return lambda **more: EM(5, **defaults | options | more)


def sliced(**options):
    defaults = {"random_state": 3, "n_projections": 10, "max_iter": 12}
    return lambda **more: SlicedWassersteinGMM(3, **defaults | options | more)


def by_hand(parameters, learning_rate):
    """An optimiser that evaluates the loss several times a step, and keeps lists of tensors."""
    return torch.optim.LBFGS(parameters, lr=learning_rate, max_iter=3)


FITS = {
    "em": em(n_init=3),
    "squarem": em(acceleration="squarem", tol=1e-9),
    "newton": em(acceleration="newton", tol=1e-9),
    "newton, products": lambda **more: EM(
        14, acceleration="newton", max_iter=40, tol=1e-9, random_state=3, **more
    ),
    "random starts": em(n_init=3, init_params="random"),
    "tied": em(n_init=2, covariance_type="tied", init_params="random"),
    "diag": em(n_init=2, covariance_type="diag", init_params="random_from_data"),
    "spherical": em(covariance_type="spherical", acceleration="squarem"),
    "sinkhorn": em(e_step="sinkhorn", tol=1e-4),
    "sliced": sliced(),
    "batches": sliced(batch_size=250, projections="max"),
    "an odd number of steps": sliced(max_iter=9),
    "optimiser": sliced(optimizer=by_hand, projections="max", max_iter=9),
    "adam": sliced(optimizer="adam", refine="em"),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_that_is_stopped_ends_with_the_same_bits(name, blobs, path, monkeypatch):
    monkeypatch.setattr("skgmmot.fitting.sliced.N_ASCENT", 2)  # of directions, at every draw
    expected = bits(FITS[name]().fit(blobs))
    assert bits(fitted_with_stops(FITS[name], blobs, path, (1, 2, 4), monkeypatch)) == expected
    again = FITS[name](checkpoint=str(path))
    assert bits(again.fit(blobs)) == expected
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weighted_samples_of_both_dtypes_end_with_the_same_bits(
    dtype, blobs, rng, path, monkeypatch
):
    X, a = blobs.astype(dtype), rng.uniform(size=len(blobs))
    make = em(n_init=2, init_params="random")
    expected = bits(make().fit(X, sample_weight=a))
    found = fitted_with_stops(make, X, path, (3, 5), monkeypatch, sample_weight=a)
    assert bits(found) == expected


@pytest.mark.parametrize("make", [em(n_init=2, init_params="random"), sliced()])
def test_a_generator_goes_on_too(make, blobs, path, monkeypatch):
    expected, generator = make(random_state=np.random.RandomState(5)), np.random.RandomState(5)
    expected.fit(blobs)

    def with_generator(**options):
        return make(random_state=np.random.RandomState(5), **options)

    fitted_with_stops(with_generator, blobs, path, (2, 4), monkeypatch)
    path.unlink()
    found = make(random_state=generator, checkpoint=path)
    with monkeypatch.context() as patch:
        stopping_after(3, patch)
        with pytest.raises(Stopped):
            found.fit(blobs)
    found = make(random_state=np.random.RandomState(5), checkpoint=path).fit(blobs)
    assert bits(found) == bits(expected)
    assert found.random_state.uniform() == expected.random_state.uniform()


@pytest.mark.parametrize("make", [em(n_init=3, init_params="random"), sliced(max_iter=20)])
def test_without_a_seed_a_fit_goes_on_and_leaves_the_global_generator(
    make, blobs, path, monkeypatch
):
    with monkeypatch.context() as patch:
        stopping_after(3, patch)
        with pytest.raises(Stopped):
            make(random_state=None, checkpoint=path).fit(blobs)
    stored, ends = path.read_bytes(), []
    for seed in (7, 8):
        path.write_bytes(stored)
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()[1]  # noqa: NPY002
        ends.append(bits(make(random_state=None, checkpoint=path).fit(blobs)))
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert ends[0] == ends[1]


@pytest.mark.parametrize("drawn", [False, True])
def test_samples_in_blocks_go_on_too(drawn, blobs, path, monkeypatch):
    """Also where starts are found from some samples, which are drawn once for all runs."""
    if drawn:
        monkeypatch.setattr("skgmmot.fitting.stream.START_ROWS", 100)

    def blocks(size=70):
        return lambda: iter(np.array_split(blobs, range(size, len(blobs), size)))

    make = em(n_init=3, init_params="random_from_data")
    expected = bits(make().fit(blocks()))
    assert bits(fitted_with_stops(make, blocks(), path, (1, 2, 4), monkeypatch)) == expected
    assert bits(make(checkpoint=path).fit(blocks())) == expected
    with pytest.raises(ValueError, match="other numbers in lengths of blocks"):
        make(checkpoint=path).fit(blocks(71))


@pytest.mark.parametrize("gradient", ["implicit", "automatic", "one_step"])
def test_a_differentiated_fit_goes_on_up_to_the_end_of_em(gradient, blobs, path, monkeypatch):
    def found(checkpoint, stops=()):
        X = torch.tensor(blobs, requires_grad=True)
        make = em(gradient=gradient, checkpoint=checkpoint, tol=1e-3)
        for n_writes in stops:
            with monkeypatch.context() as patch:
                stopping_after(n_writes, patch)
                with pytest.raises(Stopped):
                    make().fit(X)
        fitted = make().fit(X)
        fitted.means_.square().sum().backward()
        return fitted.means_.detach(), X.grad

    expected = found(None)
    assert all(map(torch.equal, found(path, (2,)), expected))
    assert all(map(torch.equal, found(path), expected))


def test_a_warm_start_is_another_fit_for_each_one_that_it_starts_from(blobs, path, monkeypatch):
    first = em(max_iter=2, warm_start=True)().fit(blobs)
    expected = clone(first).fit(blobs)
    expected.set_params(max_iter=50).fit(blobs)

    def again(**options):
        made = clone(first).fit(blobs)
        return made.set_params(max_iter=50, **options)

    assert bits(fitted_with_stops(again, blobs, path, (3, 5), monkeypatch)) == bits(expected)
    other = em(max_iter=3, warm_start=True)().fit(blobs)
    with pytest.raises(ValueError, match=r"another fit to start from \(warm_start\)"):
        other.set_params(max_iter=50, checkpoint=path).fit(blobs)
    with pytest.raises(ValueError, match=r"another fit to start from"):
        em(max_iter=50, warm_start=True, checkpoint=path)().fit(blobs)


def test_an_interrupted_fit_shows_the_best_so_far_also_right_after_it_went_on(
    blobs, path, monkeypatch
):
    with monkeypatch.context() as patch:
        stopping_after(5, patch)
        stopped = em(tol=1e-6, checkpoint=path)()
        with pytest.raises(Stopped):
            stopped.fit(blobs)
    again = em(tol=1e-6, checkpoint=path)()
    with monkeypatch.context() as patch:
        patch.setattr("skgmmot.fitting.em.rows.m_step", _stop)
        with pytest.raises(Stopped):
            again.fit(blobs)
    assert bits(again) == bits(stopped)
    assert not again.converged_ and again.n_iter_ == 4 and len(again.lower_bounds_) == 4


def _stop(*_, **__):
    raise Stopped


@pytest.mark.parametrize(("every", "n_writes"), [(1, 12), (5, 4), (100, 2)])
def test_it_is_written_so_often(every, n_writes, blobs, path, monkeypatch):
    written, write = [], archive.write
    monkeypatch.setattr(
        _checkpoint.archive, "write", lambda *a, **o: (written.append(1), write(*a, **o))
    )
    em(checkpoint=path, checkpoint_every=every, tol=0.0, max_iter=10)().fit(blobs)
    assert len(written) == n_writes  # of the start, of iterations, of the end


def test_a_fit_says_where_it_goes_on(blobs, path, monkeypatch, capsys):
    make = em(n_init=2, verbose=1, verbose_interval=1, max_iter=4, tol=0.0)
    with monkeypatch.context() as patch:
        stopping_after(3, patch)
        with pytest.raises(Stopped):
            make(checkpoint=path).fit(blobs)
    capsys.readouterr()
    make(checkpoint=path).fit(blobs)
    first = capsys.readouterr().out.splitlines()[:3]
    assert first == ["Initialization 0", "  Iteration 2", "  Iteration 3"]


# --- other fits are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tol": 1e-2}, r"with tol=0\.0001, not 0\.01\. Delete the file, or choose another path"),
        ({"n_components": 4, "n_init": 2}, "with n_components=5, not 4; n_init=1, not 2"),
        ({"random_state": None}, "random_state=3, not None"),
        ({"random_state": np.random.RandomState(3)}, "random_state=3, not 'RandomState"),
        ({"acceleration": "squarem"}, "acceleration=None, not 'squarem'"),
        ({"means_init": np.zeros((5, 3))}, r"means_init=None, not 'array of shape \(5, 3\)"),
    ],
)
def test_a_fit_of_other_parameters_is_refused(changes, message, blobs, path):
    em(checkpoint=path)().fit(blobs)
    with pytest.raises(ValueError, match=message):
        em(checkpoint=path, max_iter=100)().set_params(**changes).fit(blobs)


@pytest.mark.parametrize(
    "changes",
    [
        *({"verbose": True}, {"verbose_interval": 3}, {"checkpoint_every": 9}, {"device": "cpu"}),
        *({"n_components": np.int64(5)}, {"tol": np.float64(1e-4)}, {"gradient": "one_step"}),
    ],
)
def test_parameters_that_do_not_matter_may_differ(changes, blobs, path):
    expected = bits(em(checkpoint=path)().fit(blobs))
    assert bits(em(checkpoint=path)().set_params(**changes).fit(blobs)) == expected


@pytest.mark.parametrize("acceleration", [None, "squarem", "newton"])
@pytest.mark.parametrize("n_writes", [4, 99])
def test_a_fit_goes_on_with_a_larger_max_iter(acceleration, n_writes, blobs, path, monkeypatch):
    """Where it was interrupted, and where it had ended."""
    make = em(acceleration=acceleration, tol=1e-9)
    expected = bits(make(max_iter=12).fit(blobs))
    with monkeypatch.context() as patch:
        stopping_after(n_writes, patch)
        with contextlib.suppress(Stopped):
            make(checkpoint=path, max_iter=6).fit(blobs)
    assert bits(make(checkpoint=path, max_iter=12).fit(blobs)) == expected
    assert bits(make(checkpoint=path, max_iter=12).fit(blobs)) == expected


def test_the_best_of_several_runs_goes_on_with_a_larger_max_iter(blobs, path):
    make = em(n_init=3, init_params="random_from_data", tol=1e-9)
    short = make(checkpoint=path, max_iter=4).fit(blobs)
    found = make(checkpoint=path, max_iter=30).fit(blobs)
    assert found.n_iter_ == 30 and np.array_equal(found.lower_bounds_[:4], short.lower_bounds_)


def test_iterations_that_were_made_stay_with_a_smaller_max_iter(blobs, path):
    expected = bits(em(checkpoint=path, tol=1e-9, max_iter=8)().fit(blobs))
    assert bits(em(checkpoint=path, tol=1e-9, max_iter=3)().fit(blobs)) == expected


@pytest.mark.parametrize(
    ("make", "before", "after"), [(em(), 0, 9), (em(), 9, 0), (sliced(), 10, 20)]
)
def test_another_max_iter_is_refused_where_the_path_depends_on_it(make, before, after, blobs, path):
    make(checkpoint=path, max_iter=before).fit(blobs)
    with pytest.raises(ValueError, match=f"with max_iter={before}, not {after}"):
        make(checkpoint=path, max_iter=after).fit(blobs)


def test_a_fit_of_other_samples_is_refused(blobs, rng, path):
    a = rng.uniform(size=len(blobs))
    em(checkpoint=path)().fit(blobs, sample_weight=a)
    changed = blobs.copy()
    changed[-1, -1] += 1e-9
    cases = [
        (blobs[:-1], a[:-1], r"samples of shape \[600, 3\], not \[599, 3\]"),
        (blobs.astype(np.float32), a, "samples of dtype float64, not float32"),
        (changed, a, "other numbers in samples"),
        (blobs[::-1], a, "other numbers in samples"),
        (blobs, a[::-1], "other numbers in sample_weight"),
        (blobs, None, "other numbers in sample_weight"),
    ]
    for X, weights, message in cases:
        with pytest.raises(ValueError, match=message):
            em(checkpoint=path)().fit(X, sample_weight=weights)


def test_a_fit_of_another_estimator_is_refused(blobs, path):
    sliced(checkpoint=path)().fit(blobs)
    with pytest.raises(ValueError, match="a SlicedWassersteinGMM, not a Differentiable"):
        em(checkpoint=path)().fit(blobs)


def test_an_earlier_fit_is_left_as_it_was_when_the_file_is_refused(blobs, path):
    fitted = em()().fit(blobs)
    before = bits(fitted)
    path.write_bytes(b"a letter to my mother")
    with pytest.raises(ValueError, match=r"file of this package or none, .* Delete the file"):
        fitted.set_params(checkpoint=path).fit(blobs)
    assert bits(fitted) == before
    assert path.read_bytes() == b"a letter to my mother"


@pytest.mark.parametrize("kept", range(0, 100, 5))
def test_a_truncated_file_is_refused(kept, blobs, path):
    em(checkpoint=path, max_iter=2)().fit(blobs)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * kept // 100])
    with pytest.raises(ValueError, match=r"is no skgmmot checkpoint, or a damaged one"):
        em(checkpoint=path, max_iter=2)().fit(blobs)


def forged(path, change):
    """Write a checkpoint again with a change of its content."""
    options = {"what": _checkpoint.WHAT, "version": 1, "kinds": _checkpoint.KINDS}
    content = archive.read(path, **options)
    archive.write(path, change(content), **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: None,
        lambda c: [],
        lambda c: {"fit": c["fit"]},
        lambda c: c | {"reached": 3},
        lambda c: c | {"fit": {}},
        lambda c: c | {"fit": c["fit"] | {"parameters": []}},
        lambda c: c | {"fit": c["fit"] | {"samples": None}},
    ],
)
def test_a_file_of_other_content_is_refused(change, blobs, path):
    em(checkpoint=path, max_iter=2)().fit(blobs)
    forged(path, change)
    with pytest.raises(ValueError, match=r"checkpoint must"):
        em(checkpoint=path, max_iter=2)().fit(blobs)


def test_a_file_of_another_version_is_refused(blobs, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "VERSION", 99)
        em(checkpoint=path)().fit(blobs)
    with pytest.raises(ValueError, match="of version 1, got version 99"):
        em(checkpoint=path)().fit(blobs)


def test_places_that_cannot_be_written_are_refused_before_any_work(
    blobs, path, tmp_path, monkeypatch
):
    monkeypatch.setattr("skgmmot.estimators.starts.drawing.one_start", _stop)
    file = tmp_path / "file"
    file.write_bytes(b"")
    places = (tmp_path, tmp_path / "none" / "fit.npz", file / "fit.npz", "", "x" * 300, "a\0b")
    for wrong in places:
        with pytest.raises(ValueError, match=r"checkpoint must be a file in a folder that can be"):
            em(checkpoint=wrong)().fit(blobs)
    for wrong in (3, True, b"fit.npz"):
        with pytest.raises(ValueError, match="'checkpoint' parameter"):
            em(checkpoint=wrong)().fit(blobs)
    with pytest.raises(ValueError, match="'checkpoint_every' parameter"):
        em(checkpoint=path, checkpoint_every=0)().fit(blobs)


def test_a_folder_without_permission_is_refused(blobs, path, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(archive, "open", refused, raising=False)
    with pytest.raises(ValueError, match="Permission denied"):
        em(checkpoint=path)().fit(blobs)


def test_a_disk_that_fills_up_costs_a_warning_and_not_the_fit(blobs, path, monkeypatch):
    write, count = archive.write, itertools.count()

    def sometimes(*args, **options):
        if 3 <= next(count) < 6:
            raise OSError(28, "No space left on device")
        write(*args, **options)

    monkeypatch.setattr(_checkpoint.archive, "write", sometimes)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        found = em(checkpoint=path)().fit(blobs)
    assert len([w for w in caught if "could not be written" in str(w.message)]) == 1
    assert bits(found) == bits(em()().fit(blobs))
    assert bits(em(checkpoint=path)().fit(blobs)) == bits(found)


# --- processes that die --------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
warns_of_fork = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def in_process(function):
    """Call a function in a forked process; returns its exit code, or what killed it, negative."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(n_writes, fit):
    """A fit whose process is killed at a writing, before what is written is on disk."""
    count, fsync = itertools.count(1), os.fsync

    def killing(handle):
        if next(count) == n_writes:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    def run():
        os.fsync = killing
        fit()

    return run


MORTAL = {
    "em": em(n_init=2, acceleration="squarem", tol=0.0, max_iter=9, init_params="random_from_data"),
    "sliced": sliced(max_iter=20, n_projections=8),
}


@needs_fork
@warns_of_fork
@pytest.mark.parametrize(("name", "kills"), [("em", [2, 9]), ("sliced", [5])])
def test_processes_that_are_killed_in_the_midst_of_a_writing_go_on_with_the_same_bits(
    name, kills, blobs, path
):
    X = blobs.astype(np.float32) if name == "em" else blobs
    expected = bits(MORTAL[name]().fit(X))
    for n_writes in kills:
        fit = partial(MORTAL[name](checkpoint=path).fit, X)
        assert in_process(killed_at(n_writes, fit)) == -signal.SIGKILL
    assert bits(MORTAL[name](checkpoint=path).fit(X)) == expected


@needs_fork
@warns_of_fork
def test_sigterm_has_the_state_written_and_then_its_way(blobs, path, monkeypatch):
    step = Runs.step

    def told(self, loop):
        step(self, loop)
        if loop.solution.n_iter >= 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Runs, "step", told)
    mixture = MORTAL["em"](checkpoint=path, checkpoint_every=1000)
    assert in_process(partial(mixture.fit, blobs)) == -signal.SIGTERM
    assert os.listdir(path.parent) == [path.name]
    options = {"what": _checkpoint.WHAT, "version": 1, "kinds": _checkpoint.KINDS}
    reached = archive.read(path, **options)["reached"]
    assert (reached.run, reached.loop.solution.n_iter) == (0, 5)


def test_a_handler_of_sigterm_is_called_and_put_back(blobs, path):
    """One that raises leaves the best so far, like an interruption."""
    told = []

    def handler(number, frame):
        told.append(number)
        raise SystemExit(7)

    before, n_threads = signal.signal(signal.SIGTERM, handler), torch.get_num_threads()
    n_active = threading.active_count()
    mixture = em(checkpoint=path, checkpoint_every=1000, tol=0.0, max_iter=10**6)()
    killer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    try:
        killer.start()
        with pytest.raises(SystemExit):
            mixture.fit(blobs)
        killer.join()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [signal.SIGTERM]
    assert mixture.n_iter_ > 0 and not mixture.converged_
    assert torch.get_num_threads() == n_threads and threading.active_count() == n_active
    with pytest.raises(ValueError, match=r"with tol=0\.0, not 1\.0"):
        mixture.set_params(tol=1.0).fit(blobs)


def test_signals_are_left_alone_elsewhere(blobs, path, tmp_path, monkeypatch):
    """In other threads, where SIGTERM is ignored, and without a checkpoint."""
    installed = []
    monkeypatch.setattr(_checkpoint.signal, "signal", lambda *a: installed.append(a))
    thread = threading.Thread(target=em(checkpoint=path)().fit, args=(blobs,))
    thread.start()
    thread.join()
    assert path.exists()
    em()().fit(blobs)
    monkeypatch.setattr(_checkpoint.signal, "getsignal", lambda _: signal.SIG_IGN)
    em(checkpoint=tmp_path / "a")().fit(blobs)
    monkeypatch.setattr(_checkpoint.signal, "getsignal", lambda _: None)
    em(checkpoint=tmp_path / "b")().fit(blobs)
    assert not installed


@pytest.fixture
def ctrl_c_interrupts():
    """SIGINT raises KeyboardInterrupt also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_has_the_state_written(blobs, path):
    mixture = em(checkpoint=path, checkpoint_every=10**6, tol=0.0, max_iter=10**6)()
    killer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(blobs)
    killer.join()
    options = {"what": _checkpoint.WHAT, "version": 1, "kinds": _checkpoint.KINDS}
    reached = archive.read(path, **options)["reached"]
    assert 0 <= mixture.n_iter_ - reached.loop.solution.n_iter <= 1  # the one that was interrupted
