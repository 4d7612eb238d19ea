"""Several processes of one run: how they find each other, stop together, and end when one of them is gone.

JAX notices after minutes that a process is gone, and then aborts the others with its own stack traces. So the processes
keep a line of their own: every one a connection to the first, over which they agree where to stop, say goodbye or why
they failed, and notice at once when one ends without either. The first listens at the address of `--coordinator`; JAX's
own service gets another port, which the others reach through a relay of their own that outlives it.
"""

import asyncio
import contextlib
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import jax

from uda_jax.errors import UserError, printable
from uda_jax.runs.relay import Relay, dial
from uda_jax.runs.rendezvous import Place, free_port
from uda_jax.runs.signals import Leave, Stop, Stopped, chosen

FAILED = 1  # exit status of a process whose others failed or are gone

_BEAT = 5.0  # seconds between two signs of life
_SILENCE = 45.0  # seconds without one after which a process is gone: its machine or the network, as ends are noticed
_NOTE = 10.0  # seconds of waiting for others at the start after which it says so
_SOON = 0.3  # seconds for the end of another process to be noticed
_OWN_FAILURE = 3.0  # seconds in which this process may find by itself what another one failed of
_SERVICE = 60  # seconds for JAX to connect processes that are all there
_HEARTBEAT = 100  # seconds after which JAX's own service gives up a process, when this module has long ended the run


@contextlib.contextmanager
def joined(place: Place, stop: Stop, line_of: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Runs the block in one of several processes; they all end when one of them fails.

    Unless the block ends normally, the process ends here, with one line, also if the others do not come or do not fit:
    JAX would wait for them at its exit.

    Args:
      place: which process this is.
      stop: of this process, from now on of all of them.
      line_of: returns the line for an error that needs no traceback, or None.
    """
    link = Link(place, stop)
    stop.share(link.ask, link.leave)
    try:
        link.connect()
        _initialise(place, link)
        yield
        link.say_bye()
    except (Stopped, KeyboardInterrupt) as stopped:
        why = stop.leaving() if isinstance(stopped, Leave) else stopped
        link.leave(stop.stopped_status if isinstance(why, Stopped) else 130, str(why) or "interrupted")
    except BaseException as error:
        line = line_of(error)
        # What another one's end does here looks like an error; the link says what it was, and ends this process.
        if link.is_failing(_SOON if line else _OWN_FAILURE) and line is None:
            threading.Event().wait()
        link.say_failed(line or f"{type(error).__name__}: {error}")
        if line is None:
            sys.excepthook(type(error), error, error.__traceback__)
        end(FAILED if line is None else 2, line and f"error: {line}")


def end(status: int, line: str | None) -> None:
    """Ends this process at once, from any thread, with a last line on stderr unless it is None."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if line is not None:
            # Below a line that is rewritten in place.
            start = "\n" if sys.stderr.isatty() else ""
            os.write(sys.stderr.fileno(), f"{start}uda: {printable(line)}\n".encode(errors="backslashreplace"))
    os._exit(status)


class Link:
    """This process's line to the others.

    Args:
      place: which process it is.
      stop: what is told where all of them stop.
    """

    def __init__(self, place: Place, stop: Stop):
        self._place, self._stop = place, stop
        self._loop = asyncio.new_event_loop()
        self._others: dict[int, asyncio.StreamWriter] = {}  # by process: in the first all, else the first alone
        self._heard: dict[int, float] = {}
        self._done: set[int] = set()  # who said goodbye or failed, and whose end is known
        self._positions: dict[int, tuple[int, int]] = {}
        self._asked: int | None = None
        self._all_here, self._failing = asyncio.Event(), threading.Event()
        self._refused: str | None = None
        self._service: asyncio.Future[int] = self._loop.create_future()
        self._kept: list[Any] = []  # servers and tasks, which asyncio itself does not keep
        self._relay = Relay()

    def connect(self) -> None:
        """Returns once all processes are there; `service` then says where JAX's service is to be or is.

        Raises:
          UserError: some do not come in time, or have other ideas of how many there are.
        """
        threading.Thread(target=self._loop.run_forever, name="processes", daemon=True).start()
        self._call(self._first() if self._place.index == 0 else self._other())

    def service(self) -> str:
        """Returns the address at which this process reaches JAX's service."""
        port = self._service.result()
        if self._place.index:
            port = self._call(self._relay.listen(self._place.address.host, port))
        return f"localhost:{port}"

    def ask(self, number: int) -> None:
        """Tells the first process that this one was asked to stop, by the signal of that number."""
        self._loop.call_soon_threadsafe(self._ask, number)

    def say_bye(self) -> None:
        """Tells the others that this process's part is done."""
        self._say(bye=True)

    def say_failed(self, line: str) -> None:
        """Tells the others why this process ends."""
        self._say(failed=line)

    def leave(self, status: int, line: str) -> None:
        """Ends the process; the first one prints the line, which is the same in all.

        The others are told goodbye, or, if this one does not wait for the place that all leave at, that it is gone.
        """
        if not self._stop.agreed or (self._stop.at_a_point and self._stop.unfinished):
            self._say(failed="ended at once by Ctrl-C")
        else:
            self._say(bye=True)
        end(status, None if self._place.index else line)

    def is_failing(self, seconds: float) -> bool:
        """Returns, within so many seconds, whether another process is known to be gone or to have failed."""
        return self._failing.wait(seconds)

    # What follows runs in the thread of the loop.

    async def _first(self) -> None:
        address, missing = self._place.address, self._place.count - 1
        try:
            server = await asyncio.start_server(self._welcome, None, address.port)
        except OSError as error:
            raise UserError(
                f"--coordinator {address}: cannot listen there ({os.strerror(error.errno)}); name a free port, the "
                "same for all processes"
            ) from None
        self._kept.append(server)
        if missing:
            await self._wait(self._all_here.wait(), self._who_is_missing)
        if self._refused:
            raise UserError(self._refused)
        service = free_port()
        self._service.set_result(service)
        self._send(service=service)
        self._keep(self._beat())

    def _who_is_missing(self) -> str:
        missing = [k for k in range(1, self._place.count) if k not in self._others]
        return f"process {', '.join(map(str, missing))} of {self._place.count} at {self._place.address}"

    async def _wait(self, awaitable: Coroutine, what: Callable[[], str]) -> Any:
        """Awaits something with a note after a while; raises a UserError after the time that the user allows."""
        task = asyncio.ensure_future(awaitable)
        done, _ = await asyncio.wait([task], timeout=min(_NOTE, self._place.timeout))
        left = self._place.timeout - _NOTE
        if not done and left > 0:
            print(f"uda: waiting for {what()}, for up to {left:.0f} s more", file=sys.stderr, flush=True)
            done, _ = await asyncio.wait([task], timeout=left)
        if not done:
            task.cancel()
            raise UserError(
                f"--start-timeout {self._place.timeout}: {what()} has not come; start as many processes as "
                "--num-processes says, all with one --coordinator, or give them more time"
            )
        return task.result()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes in a process that comes to the first one."""
        try:
            hello = json.loads(await asyncio.wait_for(reader.readline(), _NOTE))
            index, count = hello["process"], hello["count"]
        except (ValueError, KeyError, TypeError, OSError, TimeoutError):
            writer.close()  # A stranger.
            return
        if count != self._place.count or not 0 < index < count or index in self._others:
            same = f"--process-id {index} is taken" if count == self._place.count else ""
            wrong = same or f"process {index} says --num-processes {count}, process 0 says {self._place.count}"
            wrong += "; start all with the same --num-processes and each with its own --process-id"
            writer.write(_line(refused=wrong))
            if not self._service.done():
                self._refused = wrong
                self._all_here.set()
            return
        self._others[index] = writer
        self._keep(self._listen(index, reader))
        if len(self._others) == self._place.count - 1:
            self._all_here.set()

    async def _other(self) -> None:
        address = self._place.address
        reader, writer = await self._wait(dial(*address), lambda: f"process 0 of {self._place.count} at {address}")
        writer.write(_line(process=self._place.index, count=self._place.count))
        # The first one says itself who is missing, and then hangs up.
        waiting = asyncio.wait_for(reader.readline(), self._place.timeout + _NOTE)
        try:
            answer = await waiting
            found = json.loads(answer) if answer else {"refused": "process 0 has ended before all had come"}
        except (ValueError, OSError, TimeoutError):
            found = {"refused": f"--coordinator {address}: something else than process 0 of this run listens there"}
        if "service" not in found:
            why = found.get("refused") or f"process 0 has failed ({found.get('failed', 'stopped')})"
            raise UserError(why)
        self._others[0] = writer
        self._service.set_result(found["service"])
        self._keep(self._listen(0, reader))
        self._keep(self._beat())

    async def _listen(self, other: int, reader: asyncio.StreamReader) -> None:
        """Hears another process until it says no more."""
        self._heard[other] = time.monotonic()
        try:
            while line := await reader.readline():
                self._heard[other] = time.monotonic()
                self._take(other, json.loads(line))
        except (OSError, ValueError):
            pass
        self._lost(other)

    def _take(self, other: int, message: dict[str, Any]) -> None:
        """Acts upon a message."""
        if "stop" in message:
            self._ask(message["stop"])
        elif "where" in message:
            self._send(at=self._stop.position())
        elif "at" in message:
            self._positions[other] = tuple(message["at"])
            self._decide()
        elif "leave" in message:
            self._stop.decide(*message["leave"])
        elif "bye" in message:
            self._done.add(other)
        elif "failed" in message and message.get("who") != self._place.index:
            self._failed(message.get("who", other), message["failed"])

    def _ask(self, number: int) -> None:
        if not self._service.done():  # Not all have come yet, and none has begun.
            self._stop.decide(number, *chosen([self._stop.position()]))
        elif self._place.index:
            self._send(stop=number)
        elif self._asked is None:
            self._asked = number
            self._positions = {0: self._stop.position()}
            self._send(where=True)
            self._decide()

    def _decide(self) -> None:
        """Tells all where they leave, once it is known where they are; who has not come yet is nowhere."""
        if self._positions.keys() >= {0, *self._others} - self._done:
            decision = (self._asked, *chosen(list(self._positions.values())))
            self._send(leave=decision)
            self._stop.decide(*decision)

    def _lost(self, other: int) -> None:
        if other in self._done:
            return
        count = self._place.count
        what = f"process {other} of {count} is gone (killed, out of memory, or its machine or network is lost)"
        if self._place.index == 0:
            self._done.add(other)
            self._send(who=other, failed=None)
        self._end(f"{what}; {self._stop.saved()}; rerun the same command")

    def _failed(self, who: int, line: str | None) -> None:
        self._done |= {who, *({0} if self._place.index else ())}  # The first one ends, too.
        if self._place.index == 0:
            self._send(who=who, failed=line)
        if line is None:
            self._done.discard(who)
            self._lost(who)
            return
        self._failing.set()
        what = f"process {who} of {self._place.count} has failed ({line})"
        self._loop.call_later(_OWN_FAILURE, self._end, f"{what}; {self._stop.saved()}; rerun the same command")

    def _end(self, line: str) -> None:
        self._failing.set()
        end(FAILED, line)

    async def _beat(self) -> None:
        """Sends signs of life, and misses those of others."""
        while True:
            self._send(alive=True)
            await asyncio.sleep(_BEAT)
            for other, when in list(self._heard.items()):
                if time.monotonic() - when > _SILENCE:
                    self._lost(other)

    def _send(self, **message: Any) -> None:
        for writer in self._others.values():
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(_line(**message))

    def _keep(self, work: Coroutine) -> None:
        self._kept.append(self._loop.create_task(work))

    # What follows runs in other threads.

    def _call(self, work: Coroutine) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _say(self, **message: Any) -> None:
        async def say() -> None:
            self._send(**message)
            for writer in self._others.values():
                await writer.drain()

        with contextlib.suppress(TimeoutError, OSError):
            asyncio.run_coroutine_threadsafe(say(), self._loop).result(timeout=2)


def _line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _initialise(place: Place, link: Link) -> None:
    """Starts JAX's own service, whose handler of SIGTERM and quick timeouts would be in the way."""
    with contextlib.suppress(AttributeError):  # as long as there is one
        jax.config.update("jax_enable_preemption_service", False)
    known = inspect.signature(jax.distributed.initialize).parameters
    times = {"initialization_timeout": _SERVICE, "heartbeat_timeout_seconds": _HEARTBEAT}
    try:
        jax.distributed.initialize(
            link.service(),
            place.count,
            place.index,
            local_device_ids=place.local_device_ids,
            **{name: seconds for name, seconds in times.items() if name in known},
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--coordinator {place.address}: JAX cannot connect ({' '.join(str(error).split())})") from None
