"""Progress on stderr, all of it through tqdm: bars over what can be counted, and lines of a caller's own text."""

import shutil
import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm


def progress_bar(title: str, total: int, unit: str, items: Iterable | None = None, *, shown: bool = True) -> tqdm:
    """Returns a bar on stderr that shows how far it is.

    Args:
      title: what is being done.
      total: how many units there are.
      unit: their name, such as "frames".
      items: what to iterate over; None if the caller calls `update`.
      shown: False makes it silent.
    """
    # Where stderr is a log file, a line now and then is enough.
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(items, title, total, unit=f" {unit}", file=sys.stderr, disable=not shown, mininterval=interval)


class StatusLine:
    """A line of text that rewrites itself on a terminal; elsewhere, as in a log file, each text is a line of its own.

    Args:
      stream: where to write; None: stderr.
      shown: False makes it silent.
    """

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True):
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown
        self._bar: tqdm | None = None

    @property
    def columns(self) -> int:
        """How long a text may be: the terminal's width, or that of a usual one."""
        # Its last column may hold the cursor.
        return shutil.get_terminal_size((80, 24)).columns - 1 if self._stream.isatty() else 80

    def show(self, text: str) -> None:
        """Writes the text over the last one, cut to the terminal's width because a wrapped line cannot be rewritten."""
        if not self._shown:
            return
        if not self._stream.isatty():
            print(text, file=self._stream, flush=True)
        elif self._bar is None:
            # Without a total the bar is blank: it only makes tqdm fill the line up to the terminal's width, or cut it.
            self._bar = tqdm(desc=text, bar_format="{desc}{bar}", file=self._stream, dynamic_ncols=True)
        else:
            self._bar.set_description_str(text)

    def close(self) -> None:
        """Ends a rewritten line, so that what follows starts on its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
