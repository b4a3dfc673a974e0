"""scikit-learn's callbacks (from version 1.9) on iterative fits; without effect before.

A fit is a tree of tasks: the fit, in it runs (one for each start), in them iterations. Each begins
and ends with a call of the callbacks, and the end of a task says whether the tasks at its level
stop there.
"""

from collections.abc import Callable
from contextlib import contextmanager

from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.runs import Log

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """There is nothing to support."""

    def with_callbacks(method):
        """The method as it is."""
        return method


@with_callbacks
def _tear_down(estimator) -> None:
    """Have the callbacks of an estimator take leave, which is what the decorator does."""


#: What a task has reached: the attributes of an estimator that is fitted as far as that.
Attributes = Callable[[], dict]


class Task:
    """A task of a fit that calls callbacks.

    Parameters
    ----------
    estimator : BaseEstimator
        Whose fit it is.
    context : sklearn.callback.CallbackContext
        scikit-learn's node of the task.
    data : dict
        What callbacks get beside: ``X``, ``y`` and ``metadata``.
    """

    def __init__(self, estimator, context, data: dict):
        self.estimator, self.context, self.data = estimator, context, data
        context.call_on_fit_task_begin(estimator=estimator, **data)

    def subtask(self, name: str, n_subtasks: int | None = 0) -> "Task":
        """Begin a task within, of so many tasks at most; None is any number."""
        context = self.context.subcontext(task_name=name, max_subtasks=n_subtasks)
        return Task(self.estimator, context, self.data)

    def end(self, attributes: Attributes | None = None) -> bool:
        """End the task; return whether the tasks at its level stop."""
        return self.context.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=attributes, **self.data
        )


@contextmanager
def fit_task(estimator, X, y=None, sample_weight=None):
    """Call the callbacks of an estimator at the beginning and the end of its fit.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator.
    X, y, sample_weight : object
        What it is fitted to.

    Yields
    ------
    Task or None
        The fit; None if there are no callbacks.
    """
    if not getattr(estimator, "_skl_callbacks", None):
        yield None
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    try:
        context = estimator._init_callback_context(max_subtasks=None)
        task = Task(estimator, context, {"X": X, "y": y, "metadata": metadata})
        yield task
        task.end(lambda: reached_by(estimator))
    finally:
        _tear_down(estimator)


def reached_by(estimator) -> dict:
    """The fitted attributes of an estimator."""
    parameters = estimator._get_param_names()
    return {
        name: value
        for name, value in vars(estimator).items()
        if name not in parameters and not name.startswith(("_skl", "_callback", "_parent"))
    }


def fitted_as_far(estimator, show: Callable, solution: Solution) -> dict:
    """Return the attributes of an estimator as a solution would set them, and do not set them.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator.
    show : callable
        ``show(estimator, solution)`` sets them.
    solution : Solution
        The solution.

    Returns
    -------
    dict
        The attributes by their names.
    """
    shown = estimator._shallow_copy()
    show(shown, solution)
    return reached_by(shown)


class CalledLog:
    """The log of runs that calls callbacks, beside another one.

    Parameters
    ----------
    log : Log or None
        The other log.
    fit : Task
        The task that runs belong to.
    n_steps : int or None
        Largest number of steps of a run, None is any number.
    attributes : callable
        ``attributes(solution) -> dict``: those of an estimator fitted as far as that.
    """

    def __init__(
        self,
        log: Log | None,
        fit: Task,
        n_steps: int | None,
        attributes: Callable[[Solution], dict],
    ):
        self.log, self.fit, self.n_steps, self.attributes = log, fit, n_steps, attributes
        self.run: Task | None = None

    def begin(self, run: int) -> None:
        """Begin a run."""
        if self.log is not None:
            self.log.begin(run)
        self.run = self.fit.subtask("run", self.n_steps)

    def step(self, solution: Solution) -> bool:
        """Show a step; return whether the run stops."""
        if self.log is not None:
            self.log.step(solution)
        if self.run is None:  # the only run, or one of starts that were all found before
            self.run = self.fit.subtask("run", self.n_steps)
        return self.run.subtask("iteration").end(lambda: self.attributes(solution))

    def end(self, solution: Solution) -> bool:
        """End a run; return whether no other begins."""
        if self.log is not None:
            self.log.end(solution)
        run, self.run = self.run, None
        return run is not None and run.end(lambda: self.attributes(solution))


def called_log(log: Log | None, fit: Task | None, n_steps: int | None, attributes) -> Log | None:
    """A log that calls callbacks, too, if there are any."""
    return log if fit is None else CalledLog(log, fit, n_steps, attributes)
