"""Where a run stops, with the signals that ask for it."""

import signal
import threading

import pytest

from uda_jax.runs.signals import Stop, Stopped, chosen

FREE, PROTECTED, FREE_AGAIN = 0, 1, 2


@pytest.fixture(autouse=True)
def usual_handler():
    """A shell's background job has Ctrl-C switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def wait_for_the_handler():
    threading.Event().wait(20)
    raise AssertionError("nothing interrupted the wait")


@pytest.mark.parametrize(
    "positions, where",
    [
        ([(FREE, 3), (FREE, 5)], ("phase", FREE)),
        ([(FREE, 3), (PROTECTED, 5)], ("phase", FREE)),  # the second waits for the first in its first step
        ([(PROTECTED, 7), (PROTECTED, 9)], ("point", 10)),
        ([(PROTECTED, 9), (FREE_AGAIN, 9)], ("phase", FREE_AGAIN)),
    ],
)
def test_all_processes_leave_in_the_same_place(positions, where):
    assert chosen(positions) == where


def test_two_processes_leave_at_the_point_that_neither_has_passed():
    stops = [Stop(), Stop()]
    with pytest.raises(Stopped), stops[0].protected(), stops[1].protected():
        for stop, points in zip(stops, (4, 7), strict=True):
            assert not any(stop.point() for _ in range(points))
        decision = chosen([stop.position() for stop in stops])
        for stop in stops:
            stop.decide(signal.SIGTERM, *decision)
        assert [stop.point() for stop in stops] == [False, True]
        assert [stops[0].point() for _ in range(3)] == [False, False, True]
        assert all(stop.at_a_point for stop in stops)


def test_a_process_that_told_where_it_is_waits_for_the_decision():
    stop, found = Stop(), []
    with pytest.raises(Stopped), stop.protected():
        stop.position()
        passing = threading.Thread(target=lambda: found.append(stop.point()))
        passing.start()
        passing.join(0.05)
        assert passing.is_alive() and not found
        stop.decide(signal.SIGTERM, "point", 1)
        passing.join()
        assert found == [True]


@pytest.mark.parametrize("number, error", [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_free_run_leaves_at_once(number, error):
    stop = Stop()
    stop.doing = "while it waits"
    with pytest.raises(error, match="^stopped while it waits; the same command goes on from there$"), stop.handled():
        signal.raise_signal(number)
        wait_for_the_handler()


@pytest.mark.parametrize("number, error", [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_protected_run_leaves_at_a_point_or_while_it_waits_for_data(number, error):
    stop, asked = Stop(), threading.Event()
    decide = stop.decide
    stop.decide = lambda *where: (decide(*where), asked.set())
    with pytest.raises(error), stop.handled(), stop.protected():
        assert not stop.point()
        signal.raise_signal(number)
        assert asked.wait(20)
        with pytest.raises(error), stop.anywhere():
            raise AssertionError("it is asked to leave already")
        assert stop.point() and stop.at_a_point
        raise stop.leaving()


def test_a_wait_for_data_is_interrupted():
    stop = Stop()
    with pytest.raises(Stopped, match="^stopped before the first stage"), stop.handled(), stop.protected():
        with stop.anywhere():
            signal.raise_signal(signal.SIGTERM)
            wait_for_the_handler()


def test_a_run_whose_last_point_has_passed_leaves_when_all_is_saved():
    stop, saved = Stop(), []
    with pytest.raises(Stopped), stop.protected():
        stop.ask(signal.SIGTERM)
        saved.append(True)
    assert saved


def test_an_interrupt_that_was_swallowed_is_raised_at_the_next_look():
    """Python drops what is raised in the callbacks of garbage collection and of C libraries."""
    stop = Stop()
    with stop.handled():
        try:
            signal.raise_signal(signal.SIGINT)
            wait_for_the_handler()
        except KeyboardInterrupt:
            pass
        assert stop.point()


def test_a_main_thread_that_does_not_leave_is_ended(monkeypatch):
    monkeypatch.setattr("uda_jax.runs.signals.GRACE", 0.01)
    ended, done = [], threading.Event()
    stop = Stop(end=lambda status, line: (ended.append((status, line)), done.set()))
    stop.doing = "while it compiles"
    stop.ask(signal.SIGINT)
    assert done.wait(20)
    assert ended == [(130, "stopped while it compiles; the same command goes on from there")]
