"""SIGTERM and Ctrl-C: when a run stops, and that it stops in the same place in every process.

A run is either *free*, with everything that it did on disk, or *protected*, between the first step of a training stage
and its last checkpoint. Asked to stop while it is free, it leaves at once; while it is protected, at the next of its
points: one after each step, one once the data of the next step are there, one after each batch that is scored. Every
process comes through the same points in the same order, so a point's number is the same place in all of them, and the
first process chooses one that none has passed yet. To pass a point costs one look at two numbers.

A signal is noticed in a thread, whatever the main thread does: while XLA compiles, Python's own handlers have to wait.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

GRACE = 3.0  # seconds for the main thread to begin to leave: longer than any call but a compilation
TIDYING = 20.0  # seconds for it to leave
_MESSAGE = "stopped {}; the same command goes on from there"


class Stopped(Exception):
    """The run was asked to stop (SIGTERM), and what it did is saved."""


class Leave(KeyboardInterrupt):
    """What ends the main thread's work where it may end anywhere; `Stop.leaving` says what for."""


class Stop:
    """Whether a run is to stop, and where; call it after every step.

    Args:
      polled: asked once after each step besides, where something else than a signal may stop the run.
      end: ends the process with a status and a last line, for a main thread that does not leave, such as one that
        compiles; None waits for it.
      stopped_status: exit status of a process that SIGTERM stopped.

    Attributes:
      doing: what the run does, for the line that it leaves with, such as "in stage rank".
      saved: returns what is known to be saved, for the line of a process whose others are gone.
    """

    def __init__(
        self,
        *,
        polled: Callable[[], bool] = lambda: False,
        end: Callable[[int, str], None] | None = None,
        stopped_status: int = 0,
    ):
        self.stopped_status = stopped_status
        self.doing, self.saved = "before the first stage", lambda: "nothing is saved yet"
        self._polled, self._end = polled, end
        self._agree: Callable[[int], None] | None = None
        self._asked: int | None = None  # the signal that asked first
        self._phase, self._point = 0, 0  # an odd phase is protected; the points that were passed
        self._target: int | None = None  # the point to leave at
        self._leave = False  # whether to leave where the main thread is
        self._raised = False  # whether it was made to: once, since what follows is its way out
        self._anywhere = True  # whether the main thread may be made to leave where it is
        self._main: int | None = None  # the thread that handles signals
        self._held = False  # between the question of the first process and its decision
        self._changed = threading.Condition()

    def __call__(self) -> bool:
        """Passes the point after a step and returns whether the run is to stop here."""
        return self.point() or self._polled()

    def point(self) -> bool:
        """Passes a point and returns whether the run is to stop here."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            self._point += 1
            if self._leave and self._phase % 2 and self._target is None:
                raise self.leaving()  # Others have not taken their part in this phase, and leave: nothing can be saved.
            return self._leave or (self._target is not None and self._point >= self._target)

    def share(self, agree: Callable[[int], None], end: Callable[[int, str], None]) -> None:
        """Makes several processes stop together.

        Args:
          agree: tells the first one that this process was asked, by the signal of that number; its decision comes by
            `decide`.
          end: as that of the constructor.
        """
        self._agree, self._end = agree, end

    @property
    def shared(self) -> bool:
        """Whether several processes stop together by it."""
        return self._agree is not None

    @property
    def at_a_point(self) -> bool:
        """Whether all processes leave at the same point of a protected block, where they can save their state."""
        return self._target is not None

    @property
    def agreed(self) -> bool:
        """Whether it is decided where to leave."""
        return self._asked is not None

    @property
    def unfinished(self) -> bool:
        """Whether the run is in a protected block."""
        return self._phase % 2 == 1

    def leaving(self, where: str = "") -> BaseException:
        """Returns what to raise in order to stop: Stopped, or KeyboardInterrupt for Ctrl-C, with the line to print."""
        return (KeyboardInterrupt if self._asked == signal.SIGINT else Stopped)(_MESSAGE.format(where or self.doing))

    @contextlib.contextmanager
    def protected(self) -> Iterator[None]:
        """A block of the main thread that is left at points alone; what it did is on disk once it ends."""
        self._leave_if_asked()
        self._enter(1, anywhere=False)
        try:
            yield
        finally:
            self._enter(1, anywhere=True)
        self._leave_if_asked()

    @contextlib.contextmanager
    def anywhere(self) -> Iterator[None]:
        """A part of a protected block that may be left anywhere for its next point, such as a wait for data.

        It is left by what `leaving` returns.
        """
        self._enter(0, anywhere=True)
        try:
            self._leave_if_asked()
            yield
        except Leave:
            raise self.leaving() from None
        finally:
            self._enter(0, anywhere=self._phase % 2 == 0)

    def _enter(self, phases: int, *, anywhere: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            self._phase += phases
            self._anywhere = anywhere
            if phases and anywhere and self._asked is not None:
                self._leave = True  # The phase itself was chosen, or the chosen point lay beyond the last one.

    def _leave_if_asked(self) -> None:
        if self._leave or self._reached():
            raise self.leaving()

    def _reached(self) -> bool:
        """Whether the next point is the one to leave at."""
        return self._target is not None and self._point + 1 >= self._target

    def position(self) -> tuple[int, int]:
        """Returns the phase and the points passed, and keeps the main thread here until `decide`."""
        with self._changed:
            self._held = True
            return self._phase, self._point

    def decide(self, number: int, what: str, value: int) -> None:
        """Sets where to leave.

        Args:
          number: of the signal that asked.
          what: "phase", to leave as soon as that one has come, or "point", to leave at that one.
          value: the phase or the point.
        """
        with self._changed:
            self._held, self._asked = False, number
            if what == "phase":
                self._leave = self._phase >= value
            else:
                self._target = value
            leave = self._leave or (self._anywhere and self._reached())
            self._changed.notify_all()
        if leave:
            self._interrupt()
        if self._end is None:
            return
        if self._leave:
            threading.Thread(target=self._end_if_stuck, daemon=True).start()
        elif number == signal.SIGINT:
            print("uda: stops after this step; Ctrl-C again loses what is not saved", file=sys.stderr, flush=True)

    def ask(self, number: int) -> None:
        """Asks the run to stop, as a signal does."""
        if self._asked is not None:
            if number == signal.SIGINT and self._end is not None:
                self._end(*self._last_words())
            return
        if self._agree is not None:
            self._agree(number)
        else:
            self.decide(number, *chosen([self.position()]))

    def _interrupt(self) -> None:
        """Makes the main thread run the handler."""
        if self._main is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self._main, signal.SIGTERM)

    def _end_if_stuck(self) -> None:
        time.sleep(GRACE)
        if self._raised:
            time.sleep(TIDYING)
        self._end(*self._last_words())

    def _last_words(self) -> tuple[int, str]:
        return (130 if self._asked == signal.SIGINT else self.stopped_status), _MESSAGE.format(self.doing)

    def _handle(self, number: int, frame: Any) -> None:
        """The handler of both signals, in the main thread; the thread of `handled` decides."""
        del number, frame
        if self._anywhere and not self._raised and (self._leave or self._reached()):
            self._raised = True
            raise Leave

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals while the block runs, which leaves with Stopped or with KeyboardInterrupt.

        Only the main thread may; others, and programs with a handler of their own for Ctrl-C, keep theirs.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGTERM]
        # A shell's background job has it switched off, and a program around this one may have its own.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            numbers.append(signal.SIGINT)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._main = threading.get_ident()
        before = {number: signal.signal(number, self._handle) for number in numbers}
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader, numbers), daemon=True).start()
        try:
            yield
        except Leave:
            raise self.leaving() from None
        finally:
            self._main = None
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(writer)

    def _watch(self, reader: int, numbers: list[int]) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while arrived := pipe.read(1):
                if arrived[0] in numbers:
                    self.ask(arrived[0])


def chosen(positions: list[tuple[int, int]]) -> tuple[str, int]:
    """Returns where all processes leave, given the phase and the points passed of each: arguments of `Stop.decide`.

    A process that is still free has not taken its part in any step of the phase that follows, so that no other has
    finished one. If the last ones are protected, they go on to a point that none has passed, or to the end.
    """
    phase = min(phase for phase, _ in positions)
    if phase % 2 == 0:
        return "phase", phase
    if all(other == phase for other, _ in positions):
        return "point", max(point for _, point in positions) + 1
    return "phase", phase + 1
