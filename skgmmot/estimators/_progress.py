"""What fits show of their progress: a bar, or scikit-learn's lines."""

import time
from collections.abc import Callable

from tqdm import tqdm

from skgmmot.numerics.fixed_point import Solution


class ProgressBar:
    """A bar over the steps of the present run, with a number beside it; closed by ``with``.

    Parameters
    ----------
    verbose : int
        0 shows nothing.
    total : int
        Largest number of steps.
    what : str
        What is going on.
    shown : callable, default=None
        Returns the numbers to show after a step, by name: ``shown(solution) -> dict``.
    """

    def __init__(
        self,
        verbose: int,
        total: int,
        what: str,
        shown: Callable[[Solution], dict[str, float]] | None = None,
    ):
        # tqdm starts a thread, which stays, also for a bar that shows nothing
        self._bar = tqdm(total=total, desc=what, unit="step") if verbose else None
        self._shown = shown

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def begin(self, run: int) -> None:
        """Start counting from zero."""
        if self._bar is not None:
            self._bar.reset()

    def step(self, solution: Solution) -> None:
        """Show a step."""
        if self._bar is not None:
            self.at(solution.n_iter, **self._shown(solution))

    def at(self, n: int, **numbers: float) -> None:
        """Show that n steps are done, and numbers."""
        if self._bar is None:
            return
        self._bar.set_postfix({k: f"{v:.5g}" for k, v in numbers.items()}, refresh=False)
        self._bar.update(n - self._bar.n)

    def end(self, solution: Solution) -> None:
        """Leave the bar as it is."""


class VerboseLog:
    """scikit-learn's verbose output."""

    def __init__(self, verbose, interval):
        self.verbose, self.interval = int(verbose), interval

    def begin(self, run):
        if self.verbose:
            print(f"Initialization {run}")
            self.began = self.last = time.time()

    def step(self, solution):
        if not self.verbose or solution.n_iter % self.interval:
            return
        if self.verbose == 1:
            print(f"  Iteration {solution.n_iter}")
        else:
            now = time.time()
            print(
                f"  Iteration {solution.n_iter}\t time lapse {now - self.last:.5f}s"
                f"\t ll change {solution.change:.5f}"
            )
            self.last = now

    def end(self, solution):
        if not self.verbose or not solution.n_iter:
            return
        message = "converged." if solution.converged else "did not converge."
        if self.verbose == 1:
            print(f"Initialization {message}")
        else:
            print(
                f"Initialization {message} time lapse {time.time() - self.began:.5f}s"
                f"\t lower bound {solution.objective:.5f}."
            )
