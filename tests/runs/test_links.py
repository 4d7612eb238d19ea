"""The line between the processes of a run, without JAX: several ends of it in this one."""

import concurrent.futures
import signal
import socket
import threading

import pytest

from uda_jax.errors import UserError
from uda_jax.runs import processes
from uda_jax.runs.processes import Link
from uda_jax.runs.rendezvous import Address, Place, free_port
from uda_jax.runs.signals import Stop


class Ends:
    """What `processes.end` was asked for, in place of the end of this process."""

    def __init__(self):
        self.lines, self._came = [], threading.Semaphore(0)

    def __call__(self, status, line):
        self.lines.append((status, line))
        self._came.release()

    def wait(self, count):
        for _ in range(count):
            assert self._came.acquire(timeout=20)
        return sorted(self.lines)


OPEN: list[Link] = []


@pytest.fixture(autouse=True)
def ends(monkeypatch):
    """What the links end, in place of this process; they are silent after the test."""
    monkeypatch.setattr(processes, "_NOTE", 0.5)
    monkeypatch.setattr(processes, "_OWN_FAILURE", 0.01)
    monkeypatch.setattr(processes, "end", Ends())
    yield processes.end
    while OPEN:
        loop = OPEN.pop()._loop
        loop.call_soon_threadsafe(loop.stop)
        while loop.is_running():
            threading.Event().wait(0.001)


def connected(*places):
    """Returns the links of processes that come at once, and the stops that they share."""
    stops = [Stop() for _ in places]
    for stop in stops:
        stop.saved = lambda: "step 7 is saved"
    links = [Link(place, stop) for place, stop in zip(places, stops, strict=True)]
    OPEN.extend(links)
    for link, stop in zip(links, stops, strict=True):
        stop.share(link.ask, link.leave)
    with concurrent.futures.ThreadPoolExecutor(len(links)) as pool:
        errors = [connecting.exception() for connecting in [pool.submit(link.connect) for link in links]]
    return links, stops, errors


def places(count, indices=None, counts=None, timeout=20):
    address = Address("localhost", free_port())
    indices = range(count) if indices is None else indices
    return [Place(address, (counts or {}).get(k, count), k, timeout) for k in indices]


def test_one_that_is_asked_stops_all_at_one_point(ends):
    links, stops, _ = connected(*places(3))
    with pytest.raises(Exception), stops[0].protected(), stops[1].protected(), stops[2].protected():  # noqa: B017
        for stop, points in zip(stops, (3, 5, 4), strict=True):
            assert not any(stop.point() for _ in range(points))
        links[2].ask(signal.SIGTERM)
        while not all(stop.at_a_point for stop in stops):
            threading.Event().wait(0.001)
        assert [[stop.point() for _ in range(6 - points)] for stop, points in zip(stops, (3, 5, 4), strict=True)] == [
            [False, False, True],
            [True],
            [False, True],
        ]
    for link in links:
        link.say_bye()
    assert not ends.lines


def test_the_others_follow_one_that_fails(ends):
    links, _, _ = connected(*places(3))
    links[1].say_failed("a.png: damaged")
    line = "process 1 of 3 has failed (a.png: damaged); step 7 is saved; rerun the same command"
    assert ends.wait(2) == [(1, line)] * 2 and links[0].is_failing(0) and links[2].is_failing(0)


@pytest.mark.parametrize("gone", [0, 1])
def test_the_others_end_when_one_is_gone(ends, gone):
    links, _, _ = connected(*places(3))
    links[gone]._loop.call_soon_threadsafe(lambda: [writer.close() for writer in links[gone]._others.values()])
    line = f"process {gone} of 3 is gone (killed, out of memory, or its machine or network is lost); step 7 is saved"
    # The one that is gone sees no more of the others either, since all are in this process.
    while ends.lines.count((1, f"{line}; rerun the same command")) < 2:
        ends.wait(1)


def test_different_ideas_of_how_many_there_are_end_both():
    *_, errors = connected(*places(2, counts={1: 3}))
    for error in errors:
        assert isinstance(error, UserError) and "process 1 says --num-processes 3, process 0 says 2" in str(error)


def test_a_number_that_is_taken_ends_all():
    *_, errors = connected(*places(3, indices=[0, 1, 1], timeout=1))
    assert all(isinstance(error, UserError) for error in errors)
    assert any("--process-id 1 is taken" in str(error) for error in errors[1:])


def test_one_that_does_not_come_is_named():
    *_, errors = connected(*places(3, indices=[0, 1], timeout=1))
    assert all("--start-timeout 1: process 2 of 3 at localhost:" in str(error) for error in errors[:1])
    assert isinstance(errors[1], UserError)


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = Address("localhost", taken.getsockname()[1])
        _, _, (error,) = connected(Place(address, 2, 0, 1))
    assert "cannot listen there (Address already in use); name a free port" in str(error)
