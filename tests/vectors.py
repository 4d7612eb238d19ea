"""The golden vectors: inputs, outputs and gradients of the official code, one folder per family of methods.

    UDA_GOLDEN=/another/set pytest tests        the same tests on other vectors of the same layout

Arrays of the files are NCHW, as PyTorch's; `nhwc` turns them round.
"""

import json
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np

_OWN = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("UDA_GOLDEN", _OWN))

# How the stand-in weights of the networks' files are made, from names and shapes alone.
stand_in_state_dict = runpy.run_path(str(_OWN / "torch_weights.py"))["stand_in_state_dict"]


def load(name: str, *, elsewhere: Path | None = None) -> Any:
    """Opens one file of vectors, such as "dacs-corda/classmix.npz".

    Args:
      name: its path within the folder.
      elsewhere: another such folder, for what this one lacks: files with crops of real frames may not be passed on.
    """
    return np.load(FOLDER / name if elsewhere is None or (FOLDER / name).exists() else elsewhere / name)


def manifest(path: str | Path) -> dict[str, list[int]]:
    """Returns the names and shapes of a network's weights, in the order of its state dict.

    Args:
      path: of the manifest, within the folder or in full.
    """
    return json.loads((FOLDER / path).read_text())


def stand_in(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the state dict that the vectors of a network were made with; `path` as in `manifest`."""
    return stand_in_state_dict(manifest(path))


def nhwc(array: Any) -> np.ndarray:
    """Returns an array with its second axis, the channels, as the last."""
    return np.moveaxis(np.asarray(array), 1, -1)


def nchw(array: Any) -> np.ndarray:
    """Returns an array with its last axis, the channels, as the second."""
    return np.moveaxis(np.asarray(array), -1, 1)


def assert_map_close(value: Any, expected: Any, **tolerance: float) -> None:
    """Compares a map `[N, H, W, C]` with one of the files, `[N, C, H, W]`."""
    np.testing.assert_allclose(nchw(value), expected, **tolerance)


def relative_error(value: Any, expected: Any) -> float:
    """Returns the largest difference over the largest expected magnitude; 0 where both are 0 everywhere."""
    return np.abs(np.asarray(value) - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny)
