"""Fits that are interrupted or killed, full disks, and files that are broken or hostile."""

import copy
import gc
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import warnings
import zipfile
from contextlib import suppress

import models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CLOUDS, HOLES, MORE, TARGET, X, em, y
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression

import skgmmot
from skgmmot import DifferentiableGaussianMixture as EM
from skgmmot.estimators import saving
from skgmmot.estimators.mixtures import _checkpoint
from skgmmot.numerics import archive, threads
from skgmmot.numerics.archive import ArchiveError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
#: Samples of another number of features, for the fit that is interrupted.
WIDE = X @ MORE


def samples(change=0):
    """Samples of two clouds, which require a gradient."""
    return torch.from_numpy(X + change).requires_grad_()


def blocks(samples):
    """A function that returns blocks of samples."""
    return lambda: iter([samples[:30], samples[30:]])


#: An estimator, its first fit, and the second one, which is interrupted.
FITS = {
    "em": (EM(2, n_init=2, max_iter=3, random_state=0), X, WIDE),
    "squarem": (EM(2, acceleration="squarem", max_iter=4, random_state=0), X, WIDE),
    "sinkhorn": (EM(2, e_step="sinkhorn", max_iter=2, random_state=0), X, WIDE),
    "gradient": (EM(2, max_iter=5, random_state=0), samples(), samples(1)),
    "blocks": (EM(2, max_iter=3, random_state=0), blocks(X), blocks(WIDE)),
    "sliced": (
        skgmmot.SlicedWassersteinGMM(2, max_iter=3, n_projections=3, random_state=0),
        *(X, WIDE),
    ),
    "student": (skgmmot.StudentMixture(2, max_iter=2, random_state=0), X, WIDE),
    "semidiscrete": (
        skgmmot.SemidiscreteGMM(2, n_nodes=8, max_iter=1, random_state=0),
        *(X, WIDE),
    ),
    "barycenter": (
        skgmmot.MixtureBarycenter(2, max_iter=1, random_state=0),
        *([em(), em(TARGET)], [em(WIDE), em(2 * WIDE)]),
    ),
    "map": (skgmmot.OTMap(TARGET, n_components=2, random_state=0), X, X + 1),
    "quantizer": (skgmmot.WassersteinQuantizer(3, max_iter=3, random_state=0), X, WIDE),
    "imputer": (
        skgmmot.MixtureImputer(EM(2, max_iter=2), random_state=0),
        *(HOLES, np.hstack([HOLES, HOLES])),
    ),
    "search": (skgmmot.GaussianMixtureSearch((1, 2), "diag", random_state=0), X, WIDE),
    "embedding": (
        skgmmot.MixtureEmbedding(2, random_state=0),
        *(CLOUDS, [cloud @ MORE for cloud in CLOUDS]),
    ),
    "distances": (skgmmot.PairwiseMW2(), [em(), em(TARGET)], [em(WIDE), em(2 * WIDE)]),
    "regressor": (skgmmot.MixtureRegressor(EM(2, max_iter=2), random_state=0), X, WIDE),
    "classifier": (
        skgmmot.AdaptedClassifier(skgmmot.OTMap(TARGET, random_state=0), LogisticRegression()),
        *(X, X + 1),
    ),
}


def fit(estimator, data):
    """Fit an estimator, with labels or targets where it needs some."""
    if isinstance(estimator, skgmmot.MixtureRegressor):
        return estimator.fit(data, data[:, 0])
    return estimator.fit(data, y) if hasattr(estimator, "classifier") else estimator.fit(data)


def frozen(value):
    """All of a value but times, to be compared later."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        return type(value).__name__, array.shape, array.tolist()
    if isinstance(value, dict):
        return {name: frozen(part) for name, part in value.items() if name != "fit_time"}
    if isinstance(value, list | tuple):
        return [frozen(part) for part in value]
    return frozen(vars(value)) if isinstance(value, BaseEstimator) else type(value).__name__


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """Leave what earlier tests have left out of the collections of garbage of these."""
    gc.collect()
    gc.freeze()


class Interruption(KeyboardInterrupt):
    """What the tests raise."""


class Interrupter:
    """Raises at one of the points where Python takes notice of signals.

    These are the entries of Python's functions and the returns of C's.
    """

    def __init__(self, at=None, error=Interruption):
        self.n, self.at, self.error = 0, at, error

    def __call__(self, frame, event, _):
        # generators that are freed are entered as well, but take no notice of signals
        freed = frame.f_code.co_name in ("<genexpr>", "__del__")
        if event in ("call", "c_return") and not freed:
            self.n += 1
            if self.n == self.at:
                sys.setprofile(None)
                raise self.error

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


def process_state():
    """What a fit changes for a while."""
    torch_now = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    ours = threads._THREAD.n_threads, dict(threads._SETTINGS_BEFORE)
    of_python = list(warnings.filters), threading.active_count(), signal.getsignal(signal.SIGTERM)
    return torch_now, ours, of_python, np.geterr(), open_files()


def open_files():
    """The files that are open.

    Sockets, and what is read of processes, come and go with the cluster that other tests keep.
    """
    paths = (os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd"))
    return sorted(path for path in paths if os.path.isfile(path) and path[:6] != "/proc/")


def shows_a_mixture(estimator):
    """Whether an interrupted estimator shows the best so far, and all of it."""
    if getattr(estimator, "converged_", True):
        return False
    data = np.hstack([X, X])[:, : estimator.n_features_in_]
    return len(estimator.predict(data)) == len(data)


@pytest.fixture(autouse=True)
def unchanged_settings():
    """Keep a test that fails from changing what others compute."""
    with config_context():
        yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize(
    ("name", "error"), [*((name, Interruption) for name in FITS), ("em", TimeoutError)]
)
def test_a_fit_that_is_interrupted_anywhere_leaves_the_earlier_one_or_the_best_so_far(name, error):
    """Also by an exception of a signal's handler; and it leaves nothing else changed."""
    estimator, data, others = FITS[name]
    estimator = fit(copy.copy(estimator), data)
    earlier, before = vars(estimator), frozen(estimator)
    again = estimator._shallow_copy()
    fit(again, others)  # what is computed once is computed
    with Interrupter() as counter:
        fit(again, others)
    ended, drawn = frozen(again), random.Random(name)
    n_moments = max(1, settings().max_examples // 3)
    n_raised, moments = 0, drawn.sample(range(1, counter.n), n_moments)
    for at in moments:
        interrupted, state = object.__new__(type(estimator)), process_state()
        interrupted.__dict__ = earlier.copy()
        with suppress(error), Interrupter(at, error):
            fit(interrupted, others)
            n_raised -= 1
        n_raised += 1
        gc.collect()  # a context whose end was interrupted is left when its traceback is freed
        assert process_state() == state, at
        left = frozen(interrupted)
        told = error is Interruption and shows_a_mixture(interrupted)
        assert left in (before, ended) or told, at
    assert n_raised >= 0.9 * len(moments)  # Python ignores those in what ends when it is freed


class Own(Exception):
    """An exception of a user's function."""


class Failing:
    """A function that fails after so many calls; None is never."""

    def __init__(self, function):
        self.function, self.left = function, None

    def __call__(self, *args, **options):
        if self.left == 0:
            raise Own
        self.left = None if self.left is None else self.left - 1
        return self.function(*args, **options)


@pytest.mark.parametrize("n_calls", range(4))
@pytest.mark.parametrize("of", ["start", "blocks", "callback"])
def test_an_exception_of_a_users_function_leaves_the_earlier_fit(of, n_calls):
    """At each call."""
    if of == "callback":
        pytest.importorskip("sklearn.callback")
    returned = {
        "start": lambda data, *_: np.arange(len(data)) % 2,
        "blocks": lambda i: WIDE[i : i + 15],
        "callback": lambda *_, **__: False,
    }
    function = Failing(returned[of])
    estimator = EM(2, n_init=4, max_iter=2, random_state=0)
    if of == "start":
        estimator.set_params(init_params=function)
    before, data = frozen(estimator.fit(X)), WIDE
    if of == "callback":
        hooks = ("setup", "teardown", "on_fit_task_begin", "on_fit_task_end")
        members = {hook: lambda self, *a, **k: function(*a, **k) for hook in hooks}
        estimator.set_callbacks(type("Callback", (), members)())
    if of == "blocks":
        data = lambda: map(function, range(0, 60, 15))  # noqa: E731
    function.left = n_calls
    with pytest.raises(Own):
        estimator.fit(data)
    vars(estimator).pop("_skl_callbacks", None)
    assert frozen(estimator) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_fits_in_threads_that_are_told_to_end_leave_what_they_have_reached(error, tmp_path):
    """At a random moment; the checkpoint has the last iteration that ended."""
    import ctypes

    path = str(tmp_path / "fit.npz")
    mixture = EM(
        2, tol=0.0, max_iter=10**6, random_state=0, checkpoint=path, checkpoint_every=10**6
    )
    caught, begun = [], threading.Event()

    def work():
        begun.set()
        try:
            mixture.fit(X)
        except error as one:
            caught.append(one)

    thread, n_threads = threading.Thread(target=work), torch.get_num_threads()
    thread.start()
    assert begun.wait(10)
    thread.join(random.uniform(0.2, 0.4))
    tell = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert tell(ctypes.c_ulong(thread.ident), ctypes.py_object(error)) == 1
    thread.join(30)
    assert caught and torch.get_num_threads() == n_threads
    assert shows_a_mixture(mixture)
    reached = archive.read(path, what=_checkpoint.WHAT, version=1, kinds=_checkpoint.KINDS)
    assert 0 <= mixture.n_iter_ - reached["reached"].loop.solution.n_iter <= 1


# --- checkpoints of fits that die ----------------------------------------------------------------

KILLED = """
    import os, random, signal, sys, time, warnings
    import numpy as np, torch
    import skgmmot
    from skgmmot.estimators.mixtures import _checkpoint
    from skgmmot.numerics import archive

    folder, n_kills = sys.argv[1], int(sys.argv[2])
    warnings.simplefilter("ignore")
    rng, drawn = np.random.default_rng(0), random.Random(n_kills)
    X = np.vstack([c + rng.normal(size=(60, 2)) for c in 2 * rng.normal(size=(4, 2))])
    options = {"random_state": 0, "tol": 0.0}
    FITS = {
        "em": lambda path: skgmmot.DifferentiableGaussianMixture(
            4, n_init=3, max_iter=20, init_params="random_from_data", checkpoint=path, **options),
        "student": lambda path: skgmmot.StudentMixture(2, max_iter=20, checkpoint=path, **options),
        "sliced": lambda path: skgmmot.SlicedWassersteinGMM(
            3, max_iter=20, n_projections=5, random_state=0, checkpoint=path),
    }

    def end_of(name, path):
        mixture = FITS[name](path).fit(X)
        found = mixture.weights_, mixture.means_, mixture.covariances_
        return b"".join(array.tobytes() for array in found)

    def where(reached):
        # the run, and its last iteration
        if reached.loop is None:
            return reached.run, 0
        solution = getattr(reached.loop, "solution", None) or reached.loop.best
        return reached.run, solution.n_iter

    def killed(name, path, pipe):
        # a process that says which states it has kept, and is killed at some moment
        keep = _checkpoint.Checkpoint.keep

        def told(self, reached):
            keep(self, reached)
            os.write(pipe, "{} {}\\n".format(*where(reached)).encode())

        _checkpoint.Checkpoint.keep = told
        with open(path + ".end", "wb") as file:
            file.write(end_of(name, path))

    for name in FITS:
        expected, path = end_of(name, None), os.path.join(folder, name)
        n_left, n_resumed, begun = n_kills, 0, time.perf_counter()
        pid = os.fork()
        if not pid:
            end_of(name, path + ".first")
            os._exit(0)
        os.waitpid(pid, 0)
        length = time.perf_counter() - begun
        while n_left:
            out, into = os.pipe()
            pid = os.fork()
            if not pid:
                killed(name, path, into)
                os._exit(0)
            os.close(into)
            time.sleep(drawn.uniform(0, 1.1 * length))
            os.kill(pid, signal.SIGKILL)
            died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            said = os.read(out, 10**6).split(b"\\n")[:-1]
            os.close(out)
            n_left -= 1
            if not os.path.exists(path):
                assert not said, "nothing was kept"
                continue
            found = archive.read(
                path, what=_checkpoint.WHAT, version=1, kinds=_checkpoint.KINDS)["reached"]
            n_resumed += found.run > 0 or found.loop is not None
            if said:
                assert where(found) >= tuple(map(int, said[-1].split())), (name, said[-1])
            if not died or drawn.random() < 0.2:
                assert end_of(name, path) == expected, name
                os.unlink(path)
        assert end_of(name, path) == expected, name
        print(name, n_kills, n_resumed)
"""


def test_processes_that_are_killed_at_any_moment_lose_one_iteration(tmp_path):
    """Of a whole file there is always one, and from it fits go on to the same bits."""
    n_kills = max(3, settings().max_examples // 3)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(n_kills)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    print(done.stdout)


@pytest.fixture
def disk(monkeypatch):
    """A function that lets files grow up to a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_model_that_finds_no_space_leaves_the_earlier_file(disk, tmp_path):
    path = tmp_path / "model.npz"
    skgmmot.save(em(), path)
    before = path.read_bytes()
    for size in np.linspace(0, len(before) - 1, settings().max_examples, dtype=int):
        disk(int(size))
        with pytest.raises(OSError, match=r"File too large: .*model\.npz"):
            skgmmot.save(em(TARGET), path)
        disk(resource.RLIM_INFINITY)
        assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == before


@pytest.mark.parametrize("name", ["em", "sliced", "student"])
def test_a_fit_that_finds_no_space_for_its_checkpoint_warns_once_and_ends_the_same(
    disk, name, tmp_path
):
    path = tmp_path / "fit.npz"
    estimator, *_ = FITS[name]
    expected = frozen(fit(copy.copy(estimator), X))
    estimator = copy.copy(estimator).set_params(checkpoint=path)
    disk(100)
    with pytest.warns(UserWarning, match="could not be written: File too large") as caught:
        fit(estimator, X)
    disk(resource.RLIM_INFINITY)
    assert len([w for w in caught if "could not" in str(w.message)]) == 1
    assert not os.listdir(tmp_path)
    assert frozen(estimator.set_params(checkpoint=None)) == expected


@pytest.mark.parametrize(
    "write",
    [lambda path: skgmmot.save(em(), path), lambda path: EM(2, checkpoint=str(path)).fit(X)],
)
def test_devices_and_pipes_are_not_replaced_by_files(write, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises((OSError, ValueError), match="it is no regular file"):
        write(path)
    assert path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


# --- broken files --------------------------------------------------------------------------------


def read_checkpoint(path):
    """Go on from a checkpoint."""
    FITS["em"][0].set_params(checkpoint=str(path))
    try:
        return copy.copy(FITS["em"][0]).fit(X)
    finally:
        FITS["em"][0].set_params(checkpoint=None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A saved model and a checkpoint: how each is read, and its bytes."""
    folder = tmp_path_factory.mktemp("files")
    read_checkpoint(folder / "checkpoint")
    found = {"checkpoint": (read_checkpoint, (folder / "checkpoint").read_bytes())}
    for name in models.RELEASED:
        found[name] = skgmmot.load, (models.DATA / f"{name}.npz").read_bytes()
    return folder / "broken", found


@pytest.mark.parametrize("name", ["checkpoint", *models.RELEASED])
def test_a_file_that_ends_anywhere_is_refused(files, name):
    path, found = files
    read, whole = found[name]
    step = 1 if settings().max_examples >= 1000 else len(whole) // settings().max_examples
    for length in range(0, len(whole), step):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="or a damaged one"):
            read(path)


@given(st.data())
def test_a_file_with_changed_bits_is_refused_or_reads_the_same(files, data):
    path, found = files
    read, whole = found[data.draw(st.sampled_from(sorted(found)))]
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    expected = frozen(read(path))
    path.write_bytes(changed)
    try:  # dates and attributes of members mean nothing
        assert frozen(read(path)) == expected
    except ValueError as error:
        assert "damaged" in str(error) or "must be" in str(error)


# --- hostile files -------------------------------------------------------------------------------

#: What a file must not bring about, as Python's audit hooks name it; what did, while it is watched.
FORBIDDEN = ("exec", "import", "os.", "subprocess", "socket", "ctypes.dlopen", "pickle", "shutil")
ALLOWED = ("os.scandir", "os.listdir")
CAUSED: list | None = None


def watch(event, args):
    """Note what is forbidden."""
    if CAUSED is not None and event.startswith(FORBIDDEN) and event not in ALLOWED:
        CAUSED.append((event, args))


sys.addaudithook(watch)


def load_watched(path):
    """Load a file while nothing forbidden may happen, in memory of some times its length."""
    global CAUSED
    tracemalloc.start()
    CAUSED = []
    try:
        return skgmmot.load(path)
    finally:
        caused, CAUSED = CAUSED, None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert not caused
        assert peak < 2**20 + 40 * os.path.getsize(path)


def parts(path):
    """The header and the arrays of a file."""
    with zipfile.ZipFile(path) as file:
        header = json.loads(file.read("header.json"))
        members = [file.read(f"{i}.npy") for i in range(len(file.namelist()) - 1)]
    return header, [np.lib.format.read_array(io.BytesIO(member)) for member in members]


def pack(path, header, arrays):
    """A file of a header and arrays."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", json.dumps(header))
        for i, array in enumerate(arrays):
            out = io.BytesIO()
            np.lib.format.write_array(out, np.array(array, order="C"), version=(1, 0))
            file.writestr(f"{i}.npy", out.getvalue())


def places(tree, at=()):
    """All places in a tree of JSON."""
    yield at
    items = tree.items() if isinstance(tree, dict) else ()
    for key, part in enumerate(tree) if isinstance(tree, list) else items:
        yield from places(part, (*at, key))


def part_at(tree, at):
    """What is at a place."""
    for key in at:
        tree = tree[key]
    return tree


def forged_trees(draw, tree, n_arrays):
    """Another value for a place in a tree."""
    index = draw(st.integers(-1, n_arrays + 1))
    other = part_at(tree, draw(st.sampled_from(list(places(tree)))))
    name = draw(st.sampled_from(["system", *(kind.cls.__name__ for kind in saving._kinds())]))
    plain = [None, True, -1, 10**30, 1e308, "os.system", "__class__", "means_", [], {}]
    tags = [{tag: index} for tag in ("array", "tensor", "scalar", "text")]
    tags += [{"dict": [["__class__", other]]}, {"float": "nan"}, {"strings": [[2], ["a", "b"]]}]
    return copy.deepcopy(draw(st.sampled_from([*plain, *tags, {"value": [name, other]}, other])))


def forged_arrays(draw, array):
    """Another array in place of one."""
    numbers = array.astype(np.float64)
    dtype = draw(st.sampled_from([np.int8, np.float16, np.float32, np.bool_, np.uint32]))
    with np.errstate(all="ignore"):
        others = [array.ravel(), array[..., None], array.T, array.astype(dtype), np.zeros(())]
    others += [array[:0] if array.ndim else array, numbers * np.nan, numbers + np.inf, -numbers]
    return draw(st.sampled_from(others))


#: Errors that say what came. Others stand for `AttributeError` and the like deep inside.
TOLD = (ValueError, TypeError)


@given(st.data())
def test_a_file_with_other_content_is_refused_or_its_model_answers_or_refuses(files, data):
    path, _ = files
    name = data.draw(st.sampled_from(sorted(models.RELEASED)))
    header, arrays = parts(models.DATA / f"{name}.npz")
    skgmmot.load(models.DATA / f"{name}.npz")  # what it imports is imported
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            i = data.draw(st.integers(0, len(arrays) - 1))
            with np.errstate(all="ignore"):
                arrays[i] = forged_arrays(data.draw, arrays[i])
        else:
            *at, last = data.draw(st.sampled_from(list(places(header["content"]))[1:]))
            part_at(header["content"], at)[last] = forged_trees(
                data.draw, header["content"], len(arrays)
            )
    pack(path, header, arrays)
    try:
        found = load_watched(path)
        model = found["model"]
    except (ArchiveError, KeyError, TypeError):  # refused, or the file holds something else
        return
    if type(model) is type(models.made(name)):
        with suppress(*TOLD):
            repr(model)
            models.RELEASED[name][1](model)


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("true",)


def hostile(path):
    """Files that would run code, fill the memory or reach other files, one after the other."""
    header, arrays = parts(models.DATA / "DifferentiableGaussianMixture.npz")
    text = json.dumps(header)

    def members(entries, **options):
        with zipfile.ZipFile(path, "w", **options) as file:
            for name, content in entries.items():
                file.writestr(name, content)

    def npy(array):
        out = io.BytesIO()
        np.lib.format.write_array(out, array, allow_pickle=True)
        return out.getvalue()

    objects, zeros = npy(np.array([Bomb()], dtype=object)), npy(np.zeros(2**20))
    members({"header.json": text, "0.npy": objects})
    yield
    members({"header.json": text, "0.npy": zeros}, compression=zipfile.ZIP_DEFLATED)
    yield
    for name in ("../0.npy", "/tmp/0.npy", "..\\0.npy", "0.npy/../../x", "C:\\0.npy", "0.npy\0x"):
        members({"header.json": text, name: npy(np.zeros(1))})
        yield
    many = dict.fromkeys(map("{}.npy".format, range(2000)), npy(np.zeros(0)))
    members({"header.json": '{"format": "", "version": 1, "content": 0}', **many})
    yield
    for shape in ("(10**9, 10**9)", "(1000000000000,)", "(2, -5)", "(" + "1, " * 5000 + ")"):
        described = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        magic = b"\x93NUMPY\x01\x00" + len(described).to_bytes(2, "little")
        members({"header.json": text, "0.npy": magic + described + bytes(16)})
        yield
    for name in ("system", "os.system", "builtins.eval", "__import__", "FunctionType", "Frame"):
        for tree in ("ls", ["ls"], {"dict": [["library", "os"], ["columns", {"dict": []}]]}):
            pack(path, header | {"content": {"value": [name, tree]}}, [])
            yield
    for deep in ("[" * 10**5 + "]" * 10**5, '{"tuple": [' * 10**5 + "]}" * 10**5):
        members({"header.json": f'{{"format": "{saving.WHAT}", "version": 1, "content": {deep}}}'})
        yield
    pack(path, header | {"version": 2}, arrays)
    yield
    path.write_bytes(b"\x80\x04\x95" + bytes(100))
    yield


def test_hostile_files_run_nothing_and_take_no_memory(files):
    path, _ = files
    skgmmot.load(models.DATA / "DifferentiableGaussianMixture.npz")
    for _ in hostile(path):
        with pytest.raises(ArchiveError):
            load_watched(path)
        with pytest.raises(ValueError, match="checkpoint must"):
            read_checkpoint(path)
