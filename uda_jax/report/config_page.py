"""The config fields in which runs differ, for the report page."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from uda_jax.report.elements import Cell, Table
from uda_jax.report.repeats import Repeats

# What tables say anyway, and the number of the file's format.
_SAID = ("seed", "label", "benchmark", "format")


class Differences(NamedTuple):
    """Tables of fields, each with its value in every config.

    Attributes:
      changed: fields that at least two configs have with values that differ.
      own: fields that only some configs have, such as those of one method.
    """

    changed: Table
    own: Table


def section(repeats: Sequence[Repeats]) -> Differences | None:
    """Returns what `configs.html` shows of a benchmark, None where no two configs differ.

    Args:
      repeats: its runs; one column each, those without a config left out.
    """
    known = [each for each in repeats if each.runs[0].config]
    columns = [flat(each.runs[0].config) for each in known]
    names = sorted({name for fields in columns for name in fields} - set(_SAID))
    changed, own = [], []
    for name in names:
        values = [_text(fields[name]) if name in fields else None for fields in columns]
        given = [value for value in values if value is not None]
        cells = [Cell(name), *(Cell("–") if value is None else Cell(value, code=True) for value in values)]
        if len(set(given)) > 1:
            changed.append(cells)
        elif len(given) < len(values):
            own.append(cells)
    if not changed and not own:
        return None
    head = ["field", *(each.title for each in known)]
    return Differences(Table(head, changed, "sources"), Table(head, own, "sources"))


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted name of a field: value} of nested objects."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            leaves |= {f"{name}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            leaves[name] = value
    return leaves


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
