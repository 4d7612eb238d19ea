"""An exported folder: the model's file, its description `model.json`, and the slip `parity.json`."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.data.io.files import read_file
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError, os_error_line
from uda_jax.inference.export.forms import FORMATS, INPUTS, OUTPUTS, RESIZES
from uda_jax.inference.options import Inference
from uda_jax.schema import from_mapping

DESCRIPTION = "model.json"
PARITY = "parity.json"
VERSION = 1

_REMEDY = "copy the folder again, or export it again"
# Bytes of a description; a larger file is none.
_LONGEST = 2**22
_RULES = ("size", "fit", "image_resampling")


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported folder that has been read and checked.

    Attributes:
      path: the folder.
      description: what `model.json` holds.
      content: of the model's file; its checksum is the description's.
      classes, palette: as `Model` has them.
      domain: how images are resized, inside or outside.
      section: how scores are made of the network's.
    """

    path: Path
    description: Mapping[str, Any]
    content: bytes
    classes: tuple[str, ...]
    palette: np.ndarray
    domain: Domain
    section: Inference

    @property
    def file(self) -> Path:
        """The model's file."""
        return self.path / model_file(self.description["format"])


def is_exported(path: Path) -> bool:
    """Returns whether a folder holds an exported model."""
    return (path / DESCRIPTION).exists()


def model_file(kind: str) -> str:
    """Returns the name of the model's file of a format; it is never read from a description."""
    return f"model.{kind}"


def resizing(domain: Domain) -> dict[str, Any]:
    """Returns how a split resizes, as the description has it."""
    return {name: getattr(domain, name) for name in _RULES}


def sha256(content: bytes) -> str:
    """Returns the checksum that a description has of a file's content."""
    return hashlib.sha256(content).hexdigest()


def read(path: str | os.PathLike) -> Exported:
    """Reads an exported folder.

    Raises:
      UserError: a file is missing, cut, damaged, not the one that was exported, or no such file at all.
    """
    path = Path(path)
    found = _description(path / DESCRIPTION)
    file = path / model_file(found["format"])
    content = _content(file)
    if sha256(content) != found["sha256"]:
        raise UserError(f"{file}: is cut or changed, its sha256 is not that of {DESCRIPTION}; {_REMEDY}")
    classes, palette = _classes(found, path / DESCRIPTION)
    domain = from_mapping(Domain, found["resize"], f"{path / DESCRIPTION}: resize")
    section = from_mapping(Inference, found["inference"], f"{path / DESCRIPTION}: inference")
    return Exported(path, found, content, classes, palette, domain, section)


def _description(file: Path) -> dict[str, Any]:
    """Returns what a description holds, checked as far as the program is chosen by it."""
    try:
        if file.exists() and file.stat().st_size > _LONGEST:
            raise UserError(f"{file}: expected the description of an exported model, found a large file; {_REMEDY}")
        found = json.loads(_content(file))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{file}: cannot be read as JSON ({reason}), it may be cut; {_REMEDY}") from None
    wrong = f"{file}: expected what 'uda export' writes"
    if not isinstance(found, dict) or found.get("description") != VERSION:
        version = found.get("description") if isinstance(found, dict) else None
        raise UserError(f"{wrong}, of version {VERSION}, found version {str(version)[:20]}; {_REMEDY}")
    choices = {"format": FORMATS, "outputs": OUTPUTS, "input": INPUTS, "resizing": RESIZES}
    for name, allowed in choices.items():
        if found.get(name) not in allowed:
            raise UserError(
                f"{wrong}, {name} one of {', '.join(allowed)}, found {str(found.get(name))[:40]}; {_REMEDY}"
            )
    shapes = {"sha256": str, "shape": list, "multiple_of": int, "resize": dict, "inference": dict, "network": dict}
    for name, kind in shapes.items():
        if not isinstance(found.get(name), kind):
            raise UserError(f"{wrong}, {name} a {kind.__name__}, found another thing; {_REMEDY}")
    lengths = found["shape"]
    shaped = len(lengths) == 4 and all(isinstance(length, str) and len(length) < 20 for length in lengths)
    if found["resize"].keys() != set(_RULES) or not shaped or found["multiple_of"] < 1:
        raise UserError(f"{wrong}, shape of four lengths and resize of {', '.join(_RULES)}; {_REMEDY}")
    return found


def _classes(found: Mapping[str, Any], file: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names and the colours of the classes."""
    try:
        names = tuple(str(entry["name"]) for entry in found["classes"])
        palette = np.array([entry["colour"] for entry in found["classes"]])
        sound = palette.shape == (len(names), 3) and palette.dtype.kind == "i" and 0 <= palette.min()
        if not sound or palette.max() > 255 or [entry["id"] for entry in found["classes"]] != list(range(len(names))):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: expected classes with id, name and colour, found other things; {_REMEDY}") from None
    return names, palette.astype(np.uint8)


def _content(file: Path) -> bytes:
    try:
        return read_file(file)
    except OSError as error:
        raise UserError(os_error_line(error, file)) from None
