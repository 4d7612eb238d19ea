"""One way to do the same to many things at once: in processes, in threads, or one after the other."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from uda_jax.errors import UserError

# Below this many items, starting worker processes costs more than it saves.
FEW = 64


@contextlib.contextmanager
def parallel_map(
    function: Callable[..., Any],
    items: Sequence[tuple],
    workers: int | None,
    *,
    shared: tuple = (),
    ordered: bool = True,
    threads: bool = False,
    chunk: int = 8,
    few: int = FEW,
    title: str = "",
) -> Iterator[Iterator[Any]]:
    """Yields an iterator over `function(*shared, *item)` for each item; leaving the block ends the workers.

    Args:
      function: for processes, a function at the top of a module.
      items: tuples of further arguments.
      workers: how many at once; up to 1 works in this thread as the results are asked for. None takes one per core, or
        1 for fewer than `few` items.
      shared: first arguments of every call, which each process receives once, when it starts.
      ordered: whether results come in the order of the items, or as they are done.
      threads: threads of this process instead of processes, for work outside of the interpreter's lock.
      chunk: items that a worker takes at once: few, so that results come evenly, but enough to outweigh their sending.
      few: see `workers`.
      title: what is being done, for messages.

    Raises:
      UserError: a worker process died. What `function` raises comes out of the iterator.
    """
    if workers is None:
        workers = (os.cpu_count() or 1) if len(items) >= few else 1
    workers = min(workers, len(items))
    if workers <= 1:
        yield (function(*shared, *item) for item in items)
        return
    if threads:
        pool = concurrent.futures.ThreadPoolExecutor(workers)
        submit = lambda chunk: pool.submit(_each, function, shared, chunk)  # noqa: E731
    else:
        # Spawn, not fork: the caller may have started JAX's threads.
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (function, shared))
        submit = lambda chunk: pool.submit(_each_received, chunk)  # noqa: E731
    chunks = (items[start : start + chunk] for start in range(0, len(items), chunk))
    try:
        # A bounded number of tasks is under way, so that a slow reader of the results does not pile them up.
        yield _results(submit, chunks, 4 * workers, ordered)
    except concurrent.futures.BrokenExecutor:
        raise UserError(
            f"{title}: a worker process was killed, perhaps for lack of memory; run it again with fewer than {workers} "
            "workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(function: Callable[[Any], Any], items: Iterable[Any], workers: int, count: int) -> Iterator[Any]:
    """Yields `function(item)` of each item in order, worked out by threads up to `count` items before it is asked for.

    One thread takes the items one after the other. What `function` raises comes out here.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        yield from _results(lambda item: pool.submit(_each, function, (), [(item,)]), items, count, True)
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    submit: Callable[[Sequence[tuple]], concurrent.futures.Future], chunks: Iterable, ahead: int, ordered: bool
) -> Iterator[Any]:
    """Yields the results of chunks, of which a bounded number is under way."""
    chunks = iter(chunks)
    pending = collections.deque(submit(chunk) for chunk in itertools.islice(chunks, ahead))
    while pending:
        if not ordered:
            done, rest = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            pending = collections.deque([*done, *rest])
        results = pending.popleft().result()
        pending.extend(submit(chunk) for chunk in itertools.islice(chunks, 1))
        yield from results


def _each(function: Callable[..., Any], shared: tuple, items: Sequence[tuple]) -> list[Any]:
    return [function(*shared, *item) for item in items]


# What a worker process received when it started: the function and its shared arguments.
_received: tuple[Callable[..., Any], tuple] | None = None


def _begin(function: Callable[..., Any], shared: tuple) -> None:
    global _received
    _received = (function, shared)
    # Ctrl-C reaches every process; workers end at once and silently, and the one that started them reports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """Makes this process, a worker, end when the one that started it does, even if that was killed.

    It would wait for its next item for ever, or go on with what nobody reads.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _each_received(items: Sequence[tuple]) -> list[Any]:
    return _each(*_received, items)
