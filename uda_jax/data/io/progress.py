"""One progress bar for everything that goes through a data set frame by frame."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress_bar(title: str, total: int, unit: str, items: Iterable | None = None, *, shown: bool = True) -> tqdm:
    """Returns a bar on stderr that says how far it is.

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
