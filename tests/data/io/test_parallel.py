"""The one parallel map: order, chunks, shared arguments, errors and dying workers."""

import os
import signal
import threading
import time

import pytest

from uda_jax.data.io.parallel import ahead, parallel_map
from uda_jax.errors import UserError

ITEMS = [(k,) for k in range(21)]


def scaled(factor, number):
    return factor * number, os.getpid()


def failing(number):
    if number == 11:
        raise UserError("number 11")
    return number


def killing(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize(("workers", "threads"), [(None, False), (0, False), (1, False), (3, True), (2, False)])
def test_results_come_in_order(workers, threads):
    with parallel_map(scaled, ITEMS, workers, shared=(10,), threads=threads, chunk=4) as results:
        found = list(results)
    assert [value for value, _ in found] == [10 * k for k in range(21)]
    processes = {process for _, process in found}
    assert (processes == {os.getpid()}) == (workers != 2 or threads)


def test_results_may_come_as_they_are_done():
    first_is_slow = threading.Event()

    def waiting(number):
        if number == 0:
            first_is_slow.wait(20)
        if number == 20:
            first_is_slow.set()
        return number

    with parallel_map(waiting, ITEMS, 2, threads=True, ordered=False, chunk=1) as results:
        found = list(results)
    assert sorted(found) == list(range(21)) and found[0] != 0


def test_few_items_need_no_workers():
    with parallel_map(scaled, ITEMS, None, shared=(1,), few=22) as results:
        assert {process for _, process in results} == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_out_where_its_item_is(workers):
    seen = []
    with pytest.raises(UserError, match="number 11"), parallel_map(failing, ITEMS, workers, chunk=1) as results:
        for result in results:
            seen.append(result)
    assert seen == list(range(11))


def test_a_worker_that_was_killed_is_named():
    with (
        pytest.raises(UserError, match="counting: a worker process was killed.*fewer than 2 workers"),
        parallel_map(killing, ITEMS, 2, chunk=1, title="counting") as results,
    ):
        list(results)


def test_only_some_tasks_are_under_way():
    started = []
    with parallel_map(started.append, [(k,) for k in range(100)], 2, threads=True, chunk=1) as results:
        next(results)
        time.sleep(0.2)
        assert len(started) <= 10


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_asked_for_later_is_worked_out_ahead_in_order(workers):
    started = []
    results = ahead(lambda number: started.append(number) or -number, range(20), workers, 4)
    assert next(results) == 0 and max(started) <= 4
    assert list(results) == [-number for number in range(1, 20)] and sorted(started) == list(range(20))
    with pytest.raises(UserError, match="number 11"):
        list(ahead(lambda number: failing(number), range(20), workers, 4))
