"""Whether the arrays of a stage's checkpoints are those that its receipt lists."""

import contextlib
from collections.abc import Mapping
from typing import Any

from uda_jax.errors import UserError
from uda_jax.runs import checksums
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.training.layout import StageFiles


def compare(files: StageFiles, receipt: Mapping[str, Any]) -> tuple[bool, str]:
    """Reads every array of every checkpoint that was kept when the stage ended.

    Args:
      files: of the stage.
      receipt: its receipt.

    Returns:
      Whether all are as recorded, and a line: how many there are, or the first one that is not.
    """
    name, end = files.path.name, receipt["state"]["step"]
    if not files.checkpoints.is_dir():
        return False, f"{name}: its checkpoints are gone"
    # The last one first: it is what the run is about.
    steps = sorted(map(int, receipt["checkpoints"]), reverse=True)
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        kept = checkpoints.all_steps()
        for step in steps:
            if step not in kept:
                return False, f"{name}: checkpoint {step} is gone"
            try:
                if (wrong := _first_other(checkpoints, step, receipt, step == end)) is not None:
                    return False, f"{name}: checkpoint {step}: {wrong} is not what the training wrote"
            except UserError as error:
                return False, str(error)
    arrays = len(receipt["state"]["arrays"])
    return True, f"{name}: {arrays} arrays of checkpoint{'s' * (len(steps) > 1)} {', '.join(map(str, steps[::-1]))}"


def _first_other(checkpoints: Checkpoints, step: int, receipt: Mapping[str, Any], last: bool) -> str | None:
    """Returns the path of the first array that is not as recorded, or is not there; None if all are."""
    tree = checkpoints.shapes(step)
    stored = checkpoints.read(step, tree if last else {name: part for name, part in tree.items() if name != "frozen"})
    if last:
        found, recorded = checksums.digests(stored), receipt["state"]["arrays"]
    else:
        # Of these the receipt has what the checkpoint itself had: the checksum, whose type and shape are not NumPy's.
        found = {path: entry[2] for path, entry in checksums.table(stored).items()}
        recorded = {path: entry[2] for path, entry in receipt["checkpoints"][str(step)].items()}
    return next((path for path in sorted(found | recorded) if found.get(path) != recorded.get(path)), None)
