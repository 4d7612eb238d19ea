"""The papers' own result rows, to be read beside ours.

`published.json` holds them in percent, as printed. A row's label is ours (`intrada`, `ass_100`, `mnist_usps/intra`)
where we have such a row, else the paper's words; its mark says how far its figures can be trusted.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError

FILE = pathlib.Path(__file__).with_name("published.json")

# What the parts of a mark mean; what follows a colon says where.
MARKS = {
    "paper": "in the paper's abstract, or a table image by its authors",
    "figure": "a table image by the paper's authors",
    "code": "in the released code",
    "tables": "reprinted in later papers or a public leaderboard",
    "2nd source": "printed in an independent later article",
    "secondary": "printed in a later paper, which the row names",
    "notes": "in a third party's reading notes of the whole paper",
    "paper*": "quoted from the publication without its text at hand",
    "paper, unverified": "known of the paper, whose text could not be opened",
}

_PROTOCOLS = ("19", "16", "13", "10")
_TEXTS = ("benchmark", "label", "network", "paper", "mark")


@dataclasses.dataclass(frozen=True)
class Published:
    """One row that a paper printed.

    Attributes:
      benchmark: gta5_cityscapes, synthia_cityscapes, synscapes_cityscapes, gta5_cityscapes_mapillary_bdd,
        virtual_kitti_kitti or digits.
      label: our name of the row where there is one, else the paper's words.
      network: "resnet101", "vgg16", "lenet", or "not stated".
      paper: where it is printed, with conference and year.
      mark: how the figures were obtained: parts of `MARKS`, separated by "; ".
      miou: protocol ("19", "16", "13", "10", "accuracy") to the printed figure, percent.
      iou: class name to percent, None for a class that the row leaves out; empty where only means are known.
      spread: protocol to the printed spread, percentage points.
      note: a remark, such as how a figure contradicts its row.
    """

    benchmark: str
    label: str
    network: str
    paper: str
    mark: str
    miou: Mapping[str, float]
    iou: Mapping[str, float | None]
    spread: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def labels(self) -> tuple[str, str]:
        """The labels of our rows that it stands beside: its own, and that with its network, such as advent/vgg16."""
        return self.label, f"{self.label}/{self.network}"

    def figure(self, protocol: str) -> str:
        """Writes the mean of a protocol as tables show it: "43.8", "95.8 ± 0.1", "–" where none is printed."""
        if protocol not in self.miou:
            return "–"
        spread = f" ± {self.spread[protocol]:.1f}" if protocol in self.spread else ""
        return f"{self.miou[protocol]:.1f}{spread}"


def read(path: str | os.PathLike = FILE) -> tuple[Published, ...]:
    """Reads and checks a file of published rows.

    Raises:
      UserError: no such file, no JSON, or a row with a missing, unknown or malformed key.
    """
    path = pathlib.Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a JSON list of published rows") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of published rows (objects), got {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        _check(row, f"{path}: row {number} ({row.get('label', 'no label')})")
    return tuple(Published(**row) for row in rows)


def find(benchmark: str, *, label: str | None = None, network: str | None = None) -> tuple[Published, ...]:
    """Returns the published rows of a benchmark, in the file's order, which puts the main network first.

    Args:
      benchmark: the benchmark's name in tables.
      label: only rows that stand beside ours of this label.
      network: only rows of this network.
    """
    return tuple(
        row
        for row in _packaged()
        if row.benchmark == benchmark and label in (None, *row.labels) and network in (None, row.network)
    )


def counterpart(row: Mapping[str, Any]) -> Published | None:
    """Returns what was published under a result row's benchmark and label, or None.

    The network is the one that the row's overrides name (`--config.method.segmenter.name=...`), without such an
    override that of the method's presets, which comes first in the file.
    """
    found = find(row["benchmark"], label=row["label"], network=_network(row["overrides"]))
    return found[0] if found else None


@functools.cache
def _packaged() -> tuple[Published, ...]:
    return read()


def _network(overrides: Mapping[str, Any] | list) -> str | None:
    pairs = (
        overrides.items() if isinstance(overrides, Mapping) else (str(text).partition("=")[::2] for text in overrides)
    )
    named = [value for name, value in pairs if name.endswith("segmenter.name")]
    return str(named[-1]).rpartition("_")[2] if named else None


def _check(row: Mapping[str, Any], where: str) -> None:
    fields = [field.name for field in dataclasses.fields(Published)]
    for key in row:
        if key not in fields:
            raise UserError(f"{where}: key '{key}' is unknown; expected only {', '.join(fields)}")
    for key in (*_TEXTS, "miou", "iou"):
        if key not in row:
            raise UserError(f"{where}: key '{key}' is missing; add it")
    for key in (*_TEXTS, "note"):
        if not isinstance(row.get(key, "-"), str) or not row.get(key, "-"):
            raise UserError(f"{where}: key '{key}': expected a text, got {row[key]!r}")
    for part in row["mark"].split("; "):
        if part.partition(":")[0] not in MARKS:
            raise UserError(f"{where}: key 'mark': expected parts of {', '.join(MARKS)}, got {part!r}")
    _check_figures(row, where)


def _check_figures(row: Mapping[str, Any], where: str) -> None:
    for key in ("miou", "iou", "spread"):
        if not isinstance(row.get(key, {}), dict):
            raise UserError(f"{where}: key '{key}': expected an object, got {row[key]!r}")
        for name, value in row.get(key, {}).items():
            if not (_is_percentage(value) or (key == "iou" and value is None)):
                raise UserError(f"{where}: key '{key}.{name}': expected a percentage in [0, 100], got {value!r}")
    protocols = ("accuracy",) if row["benchmark"] == "digits" else _PROTOCOLS
    for key, allowed in (("miou", protocols), ("spread", tuple(row["miou"]))):
        if unknown := [name for name in row.get(key, {}) if name not in allowed]:
            raise UserError(f"{where}: key '{key}': expected {' or '.join(allowed)}, got {unknown[0]!r}")
    if not row["miou"]:
        raise UserError(f"{where}: key 'miou': expected at least one figure, got none; add the printed mean")
    if row["iou"] and tuple(row["iou"]) not in [label_spaces.label_space(name).names for name in _PROTOCOLS]:
        raise UserError(
            f"{where}: key 'iou': expected the classes of protocol {' or '.join(_PROTOCOLS)} in their order, "
            f"got {', '.join(row['iou'])}"
        )


def _is_percentage(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 100
    )
