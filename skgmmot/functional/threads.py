"""One thread pool's manners: torch's own threading is off while Python's threads share the work.

Torch's threading gains nothing on matrices that fit a cache, and it collapses on a busy machine.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import torch


class _SingleThreadedTorch:
    """Torch's own threading is off while anybody is inside, and restored by the last to leave.

    The setting is the process's: callers that overlap in several threads must agree on it.
    """

    def __init__(self):
        self._lock, self._inside, self._n_threads = Lock(), 0, 1

    def __enter__(self) -> int:
        """Enter, and return the number of threads that the caller had set."""
        with self._lock:
            if not self._inside:
                self._n_threads = torch.get_num_threads()
                torch.set_num_threads(1)
            self._inside += 1
            return self._n_threads

    def __exit__(self, *error) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.set_num_threads(self._n_threads)


#: The one of this process.
single_threaded_torch = _SingleThreadedTorch()


def map_items(function: Callable, items: Sequence, device: torch.device) -> list:
    """Return ``[function(item) for item in items]``, by as many threads as torch would use.

    Parameters
    ----------
    function : callable
        A function of one item that spends its time inside torch, without gradients.
    items : sequence
        Items of some milliseconds of work each.
    device : torch.device
        Where the work is; threads share it only on a CPU.

    Returns
    -------
    list
        The results, in the order of the items: the same for any number of threads.
    """
    n_threads = min(torch.get_num_threads(), len(items)) if device.type == "cpu" else 1

    def run(item):
        with torch.no_grad():
            return function(item)

    if n_threads < 2:
        return [run(item) for item in items]
    with single_threaded_torch, ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(run, items))
