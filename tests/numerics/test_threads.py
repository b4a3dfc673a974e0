"""Sharing work among threads."""

import contextlib
import gc
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from skgmmot.numerics.threads import (
    InferenceMode,
    available_threads,
    map_items,
    single_threaded_torch,
    thread_pool,
)

CPU = torch.device("cpu")


def test_results_come_in_the_order_of_the_items():
    before = torch.get_num_threads()
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        assert map_items(lambda i: i * i, range(10), CPU) == [i * i for i in range(10)]
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)


def test_there_are_as_many_threads_as_torch_would_use_and_no_more_inside():
    before, names, inner = torch.get_num_threads(), set(), []
    barrier = threading.Barrier(2, timeout=10)

    def work(i):
        barrier.wait()  # both threads are here
        names.add(threading.current_thread().name)
        inner.append(torch.get_num_threads())
        return map_items(lambda j: threading.current_thread().name, range(3), CPU)

    torch.set_num_threads(2)
    found = map_items(work, range(2), CPU)
    torch.set_num_threads(before)
    assert len(names) == 2
    assert inner == [1, 1]
    assert all(len(set(part)) == 1 for part in found)


def test_the_setting_is_restored_by_the_outermost():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with single_threaded_torch() as n_threads:
        assert n_threads == 2 and torch.get_num_threads() == 1
        with single_threaded_torch() as inside:
            assert inside == available_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("first_out", ["main", "other"])
@pytest.mark.parametrize("other_set", [None, 3])
def test_threads_that_overlap_restore_each_their_own_setting(first_out, other_set):
    before, found = torch.get_num_threads(), {}
    entered, leave = threading.Event(), threading.Event()

    def work():
        if other_set is not None:
            torch.set_num_threads(other_set)
        with single_threaded_torch() as found["given"]:
            found["inside"] = torch.get_num_threads()
            entered.set()
            leave.wait(10)
            found["still inside"] = torch.get_num_threads()
        found["after"] = torch.get_num_threads()

    torch.set_num_threads(2)
    other = threading.Thread(target=work)
    with single_threaded_torch() as given:
        other.start()
        assert entered.wait(10)
        if first_out == "other":
            leave.set()
            other.join()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == given == 2
    leave.set()
    other.join()
    expected = other_set or 2
    assert found == {"given": expected, "inside": 1, "still inside": 1, "after": expected}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_threads_of_a_pool_stay_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def work():
        with single_threaded_torch() as n_threads:
            pass
        return n_threads, available_threads(), torch.get_num_threads()

    with single_threaded_torch():
        pool = thread_pool(1)
    with pool:  # its thread starts where others use torch's own threading again
        found = pool.submit(work).result()
    torch.set_num_threads(before)
    assert found == (1, 1, 1)


def test_work_is_done_without_gradients():
    x = torch.ones(2, requires_grad=True)
    assert not any(t.requires_grad for t in map_items(lambda i: 2 * x, range(2), CPU))


class Interrupted(BaseException):
    """What a signal raises."""


@contextlib.contextmanager
def no_grad_for_a_while():
    """A context whose exit can be interrupted."""
    with torch.no_grad(), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("error", [Interrupted, TimeoutError])
def test_what_an_interrupted_exit_has_not_restored_is_restored(error):
    """Where a signal arrives between the end of a block and the exit of its context."""
    before = torch.is_grad_enabled(), np.geterr(), warnings.filters, torch.get_num_threads()

    def interrupt(frame, event, _):
        if event == "call" and frame.f_code.co_name == "__exit__":
            sys.setprofile(None)
            raise error

    with pytest.raises(error), single_threaded_torch(), no_grad_for_a_while():
        assert not torch.is_grad_enabled()
        sys.setprofile(interrupt)
    after = torch.is_grad_enabled(), np.geterr(), warnings.filters, torch.get_num_threads()
    assert after == before and available_threads() == before[-1]


def modes_within_modes():
    """Torch's inference mode, and out of it and into it again."""
    with InferenceMode(), torch.inference_mode(False), torch.inference_mode():
        pass


def test_inference_mode_ends_wherever_it_is_interrupted():
    n, at = 0, None

    def interrupt(frame, event, _):
        nonlocal n
        n += event in ("call", "c_return")
        if n == at:
            sys.setprofile(None)
            raise Interrupted

    def interrupted():
        nonlocal n
        n = 0
        sys.setprofile(interrupt)
        try:
            modes_within_modes()
        except Interrupted:
            return True
        finally:
            sys.setprofile(None)
        return False

    assert not interrupted()
    n_moments = n
    n_interrupted = 0
    for at in range(1, n_moments + 1):
        n_interrupted += interrupted()
        gc.collect()
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled(), at
    assert n_interrupted > 20


def test_an_interruption_while_the_setting_is_restored_is_none_of_the_next_fit(monkeypatch):
    set_num_threads = torch.set_num_threads

    def interrupted(n_threads):
        set_num_threads(n_threads)
        if available_threads() == n_threads != 1:
            raise Interrupted

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(torch, "set_num_threads", interrupted)
    with pytest.raises(Interrupted), single_threaded_torch():
        pass
    monkeypatch.undo()
    with single_threaded_torch() as n_threads:
        assert (n_threads, torch.get_num_threads()) == (2, 1)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
