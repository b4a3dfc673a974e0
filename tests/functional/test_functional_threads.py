"""Sharing work among threads."""

import threading

import torch

from skgmmot.functional.threads import map_items, single_threaded_torch

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


def test_the_setting_is_restored_by_the_last_to_leave():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with single_threaded_torch as n_threads:
        assert n_threads == 2 and torch.get_num_threads() == 1
        with single_threaded_torch as inside:
            assert inside == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_work_is_done_without_gradients():
    x = torch.ones(2, requires_grad=True)
    assert not any(t.requires_grad for t in map_items(lambda i: 2 * x, range(2), CPU))
