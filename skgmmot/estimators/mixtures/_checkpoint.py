"""Checkpoints: the state of a fit in a file, from which a later fit goes on bit for bit."""

import dataclasses
import functools
import hashlib
import math
import os
import signal
import threading
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from skgmmot._inputs.stored import KINDS
from skgmmot.fitting.samples import Samples
from skgmmot.numerics import archive
from skgmmot.numerics.runs import Reached

WHAT, VERSION = "skgmmot checkpoint", 1
#: Parameters that do not change where the runs of a fit go, nor on which data.
IRRELEVANT = {
    *("checkpoint", "checkpoint_every", "verbose", "verbose_interval", "device", "warm_start"),
    *("gradient", "gradient_tol", "partial_fit_decay", "certify"),
}


def of_fit(estimator, samples: Samples, warm: bool, *, longer: bool = False) -> "Checkpoint | None":
    """The checkpoint of a fit, if its estimator names a file; None keeps nothing.

    Parameters
    ----------
    estimator : FittedMixture
        Its parameters, and where it goes on from its own last fit, that.
    samples : Samples
        What it is fitted to.
    warm : bool
        Whether it goes on from its last fit.
    longer : bool, default=False
        Whether it may go on with another ``max_iter``, on which its path does not depend.
    """
    if estimator.checkpoint is None:
        return None
    fingerprint = samples.fingerprint()
    fit = {
        "estimator": type(estimator).__name__,
        "parameters": {
            name: _described(value)
            for name, value in estimator.get_params(deep=False).items()
            if name not in IRRELEVANT
        },
        "samples": fingerprint,
        "start": _described(np.concatenate(_flat(estimator))) if warm else None,
    }
    path, every = os.fspath(estimator.checkpoint), estimator.checkpoint_every
    return Checkpoint(path, every, fit, samples.device, longer)


class Checkpoint:
    """The state of a fit in a file: kept after some steps, and found again.

    Parameters
    ----------
    path : str
        The file.
    every : int
        Steps from one writing to the next; a new start or the end of a run is written at once.
    fit : dict
        What tells the fit from others.
    device : device
        Where tensors go.
    longer : bool, default=False
        Whether fits of another ``max_iter`` go on from the file.

    Attributes
    ----------
    reached : Reached
        What the file holds; None where there is none.
    """

    def __init__(self, path: str, every: int, fit: dict, device, longer: bool = False):
        self.path, self.every, self.fit, self.longer = path, every, fit, longer
        self._pending: Reached | None = None
        self._n_steps, self._failed = 0, False
        try:
            archive.check_place(path)
            self.reached = self._found(device) if os.path.lexists(path) else None
        except OSError as error:
            raise ValueError(
                f"checkpoint must be a file in a folder that can be written, got {path!r}: "
                f"{_reason(error)}. Make the folder, or choose another path."
            ) from error

    def _found(self, device) -> Reached:
        """The state in the file, if it is of this fit."""
        options = {"what": WHAT, "version": VERSION, "kinds": KINDS, "device": device}
        try:
            content = archive.read(self.path, **options)
            fit, reached = content["fit"], content["reached"]
            differences = list(_differences(fit, self.fit, self.longer))
            if not isinstance(reached, Reached):
                raise archive.ArchiveError(f"{self.path!r} holds no state.")
            if self.longer and not differences:
                reached = self._reopened(reached)
        except (archive.ArchiveError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"checkpoint must name a file of this package or none, got {self.path!r}: {error} "
                "Delete the file, or choose another path."
            ) from error
        if differences:
            raise ValueError(
                "checkpoint must be that of a fit of the same parameters and samples, got "
                f"{self.path!r} with {'; '.join(differences)}. Delete the file, or choose another "
                "path. To continue with other parameters, let this fit end, then fit again with "
                "warm_start=True and checkpoint=None."
            )
        return reached

    def _reopened(self, reached: Reached) -> Reached:
        """The best run once more, if all have ended and it stopped at a smaller ``max_iter``."""
        parameters, loop = self.fit["parameters"], reached.best_loop
        n_runs = parameters["n_init"] if self.fit["start"] is None else 1
        if reached.run < n_runs or loop is None or loop.solution.n_iter >= parameters["max_iter"]:
            return reached
        again: dict[str, Any] = {"run": reached.run - 1, "start": reached.best_start, "loop": loop}
        ended: dict[str, Any] = dict.fromkeys(("best", "best_start", "best_loop"))
        return dataclasses.replace(reached, **again, **ended)

    def keep(self, reached: Reached) -> None:
        """Keep a state; write it if it is due."""
        self._pending = reached
        self._n_steps += 1
        if reached.loop is None or self._n_steps >= self.every:
            self.write()

    def write(self) -> None:
        """Write the last state, unless it has been; warn, once, where that fails."""
        reached = self._pending
        if reached is None:
            return
        content = {"fit": self.fit, "reached": reached}
        try:
            archive.write(self.path, content, what=WHAT, version=VERSION, kinds=KINDS)
        except OSError as error:
            self._n_steps = 0
            if not self._failed:
                self._failed = True
                warnings.warn(
                    f"The checkpoint {self.path!r} could not be written: {_reason(error)}. The fit "
                    "continues, and tries again; the file holds an earlier state. Free some space.",
                    stacklevel=2,
                )
        else:
            self._n_steps = 0
            if self._pending is reached:
                self._pending = None

    @contextmanager
    def guarded(self):
        """Have what is reached written also when the fit within fails, or is told to end."""
        with _before_termination(self.write):
            try:
                yield
            finally:
                self.write()


@contextmanager
def _before_termination(save):
    """Call a function on SIGTERM, and then let the signal have the effect that it had before.

    Only in the main thread, where signals are handled, and only where that effect is not to be
    ignored, nor that of a handler which Python cannot put back.
    """
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGTERM)
    if before is None or before is signal.SIG_IGN:
        yield
        return

    def handler(number, frame):
        save()
        if callable(before):
            before(number, frame)
            return
        signal.signal(number, before)
        os.kill(os.getpid(), number)

    try:
        signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handler:
            signal.signal(signal.SIGTERM, before)


# --- what tells fits apart -----------------------------------------------------------------------


def _flat(estimator):
    """The numbers of a fitted mixture, one after the other."""
    theta = estimator._params(dtype=torch.float64).detach()
    return [tensor.cpu().numpy().ravel() for tensor in theta]


def _described(value):
    """A parameter in plain values; numbers of arrays by a digest."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return "nan"  # the other spelling of missing_values, and equal to itself
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.random.RandomState):
        key = value.get_state(legacy=False)
        return f"RandomState {_digest(repr(_plain(key)).encode())}"
    if isinstance(value, Mapping):
        return {repr(name): _described(part) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _described(getattr(value, name)) for name in vars(value)}
    if callable(value):
        function = value.func if isinstance(value, functools.partial) else value
        named = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{getattr(function, '__module__', '')}.{named}"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    array = np.ascontiguousarray(np.asarray(value, dtype=np.float64))
    return f"array of shape {array.shape}, {_digest(array.tobytes())}"


def _plain(value):
    """A generator's state without arrays."""
    if isinstance(value, dict):
        return [(name, _plain(part)) for name, part in value.items()]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _digest(numbers: bytes) -> str:
    return hashlib.sha256(numbers).hexdigest()[:16]


def _differences(found: dict, fit: dict, longer: bool):
    """In what two fits differ, in words: what was found first."""
    if found["estimator"] != fit["estimator"]:
        yield f"a {found['estimator']}, not a {fit['estimator']}"
    there, here = found["parameters"], fit["parameters"]
    for name in sorted({*there, *here}):
        if longer and name == "max_iter" and there[name] and here[name]:
            continue  # of no iterations the weights are others
        if (name in there) != (name in here) or there[name] != here[name]:
            yield f"{name}={there.get(name, '?')!r}, not {here.get(name, '?')!r}"
    there, here = found["samples"], fit["samples"]
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            short = name in ("shape", "dtype")
            yield (
                f"samples of {name} {there.get(name)}, not {here.get(name)}"
                if short
                else (f"other numbers in {name}")
            )
    if found["start"] != fit["start"]:
        yield "another fit to start from (warm_start)"


def _reason(error: OSError) -> str:
    return str(error.strerror or error)
