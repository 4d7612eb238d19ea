"""Result rows, which say how runs ended: reading, checking, grouping over seeds, and tables in Markdown."""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uda_jax.data.io.files import read_file
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError, os_error_line
from uda_jax.report.published import counterpart
from uda_jax.report.rows import KEYS
from uda_jax.training.metrics import METRICS


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one table row: same benchmark, label and settings, one run per seed.

    Attributes:
      benchmark: name of the benchmark, followed by that of the split where a run is scored on several.
      label: name of the row, followed by the overrides where one label has several settings.
      family: what the label is compared within: "mnist_usps" of "mnist_usps/inter", else "".
      rows: result rows by rising seed.
    """

    benchmark: str
    label: str
    family: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def kind(self) -> str:
        """The rows' label without the family: "source_only", "oracle", "advent"."""
        return self.rows[0]["label"].removeprefix(f"{self.family}/")

    @property
    def headline(self) -> list[float]:
        """The headline figure of each seed."""
        return [figure(row, self.column) for row in self.rows]

    @property
    def column(self) -> str:
        """The name of the headline: a protocol, whose mean IoU it is, or a metric."""
        return headline_column(self.rows[0])

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher headline is better; only errors are better when they are low."""
        return not _is_error(self.column)

    @property
    def split(self) -> str | None:
        """The name of the split where a run is scored on several."""
        return self.rows[0].get("domain")

    @property
    def mean(self) -> float:
        """Mean of the headline over the seeds."""
        return statistics.fmean(self.headline)

    def over_seeds(self, figure: Any) -> list[float]:
        """Returns `figure(row)` of each row that has it (is not None)."""
        values = (figure(row) for row in self.rows)
        return [value for value in values if value is not None]


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads and checks the result rows of a JSON file (result.json, report.json, benchmarks/results/*.json).

    Raises:
      UserError: no such file, no JSON, or a row that lacks a key or holds something else than expected.
    """
    path = pathlib.Path(path)
    try:
        rows = json.loads(read_file(path).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{os_error_line(error, path)}; expected a JSON list of result rows") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: no JSON ({error}); expected a list of result rows as 'uda report' writes it"
        ) from None
    check_rows(rows, str(path))
    return rows


def check_rows(rows: Any, source: str) -> None:
    """Raises a UserError that names `source`, the row and the key unless `rows` are result rows."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{source}: expected a list of result rows (objects), got {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        where = f"{source}: row {number} ({row.get('label', 'no label')})"
        for key, (types, _, required) in KEYS.items():
            if key not in row:
                if not required:
                    continue
                raise UserError(f"{where}: key '{key}' is missing; evaluate the run again or add it")
            if not isinstance(row[key], types) or isinstance(row[key], bool):
                expected = " or ".join(kind.__name__ for kind in types)
                raise UserError(f"{where}: key '{key}': expected {expected}, got {row[key]!r}")
            if isinstance(row[key], (int, float)) and not abs(row[key]) < 1e15:
                raise UserError(f"{where}: key '{key}': expected a finite number, got {str(row[key])[:40]}")
        if "headline" in row:
            _check_metrics(row, where)
        elif row["protocol"] not in row["miou"]:
            raise UserError(
                f"{where}: key 'miou': no figure for protocol '{row['protocol']}', only {sorted(row['miou'])}"
            )
        for key in ("miou", "iou", "dice"):
            for name, value in row.get(key, {}).items():
                if not (_is_fraction(value) or (key != "miou" and value is None)):
                    raise UserError(f"{where}: key '{key}.{name}': expected a fraction in [0, 1], got {value!r}")


def _check_metrics(row: Mapping[str, Any], where: str) -> None:
    """Raises a UserError unless a row whose headline is no mean IoU has that metric, and finite ones alone."""
    values = row.get("metrics")
    if not isinstance(values, dict) or values.get(row["headline"]) is None:
        raise UserError(
            f"{where}: key 'metrics': expected a figure for the headline '{row['headline']}', got {values!r}"
        )
    for name, value in values.items():
        known = isinstance(value, (int, float)) and math.isfinite(value)
        if value is not None and (isinstance(value, bool) or not known):
            raise UserError(f"{where}: key 'metrics.{name}': expected a finite number, got {value!r}")


def groups(rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Gathers the runs that differ in nothing but the seed.

    Args:
      rows: checked result rows.

    Returns:
      Groups by benchmark and family in order of appearance; within one, source_only comes first, what saw
      target labels last.
    """
    gathered: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        benchmark = f"{row['benchmark']} ({row['domain']})" if "domain" in row else row["benchmark"]
        key = (benchmark, row["label"] + selection_note(row), headline_column(row), row["steps"], _settings(row))
        gathered.setdefault(key, []).append(row)
    labels = [key[:2] for key in gathered]
    known = {row["label"] for row in rows}
    found = []
    for (benchmark, label, column, steps, settings), members in gathered.items():
        above = itertools.accumulate(members[0]["label"].split("/")[:-1], "{}/{}".format)
        family = next((family for family in reversed([*above]) if f"{family}/source_only" in known), "")
        name = label
        if labels.count((benchmark, label)) > 1:
            kind = "headline" if "headline" in members[0] else "protocol"
            name += f" ({', '.join([*settings, f'{steps} steps', f'{kind} {column}'])})"
        found.append(Group(benchmark, name, family, tuple(sorted(members, key=lambda row: row["seed"]))))
    order = {key: i for i, key in enumerate(dict.fromkeys((group.benchmark, group.family) for group in found))}
    benchmarks = list(dict.fromkeys(group.benchmark for group in found))
    return sorted(found, key=lambda g: (benchmarks.index(g.benchmark), order[g.benchmark, g.family], _rank(g.kind)))


def selection_note(row: Mapping[str, Any]) -> str:
    """Returns what follows a row's label if labels of the target, or a criterion without any, chose its step."""
    by, on = row.get("selected_by"), row.get("selected_on", "the target")
    return f" (best {f'by {by}, without labels' if by else f'on labels of {on}'})" if "selection" in row else ""


def comparable(one: Group, other: Group) -> bool:
    """Whether two rows may be compared: of one benchmark, family, headline and way of choosing the step."""
    key = lambda group: (group.benchmark, group.family, group.column, group.rows[0].get("selection"))  # noqa: E731
    return key(one) == key(other)


def gap_recovered(group: Group, others: Iterable[Group]) -> float | None:
    """Returns (group - source_only) / (oracle - source_only), of means, or None where a row is missing.

    Only comparable rows count; the two ends have no gap, nor has any where an end has several settings.
    """
    alike = [other for other in others if comparable(group, other)]
    lows, highs = ([other.mean for other in alike if other.kind == kind] for kind in ("source_only", "oracle"))
    if group.kind in ("source_only", "oracle") or len(lows) != 1 or len(highs) != 1:
        return None
    if highs[0] == lows[0] or (highs[0] > lows[0]) != group.higher_is_better:
        return None
    return (group.mean - lows[0]) / (highs[0] - lows[0])


def is_best(group: Group, others: Iterable[Group]) -> bool:
    """Whether no comparable group but an oracle, which adapts nothing, has a better mean; False for a lone row."""
    rivals = [other for other in others if other.kind != "oracle" and comparable(group, other)]
    best = max if group.higher_is_better else min
    return group.kind != "oracle" and len(rivals) > 1 and group.mean == best(other.mean for other in rivals)


def repeated_seeds(group: Group) -> list[int]:
    """Returns the seeds that occur more than once: their runs are no independent evidence."""
    seeds = [row["seed"] for row in group.rows]
    return sorted({seed for seed in seeds if seeds.count(seed) > 1})


def all_classes_mean(row: Mapping[str, Any]) -> float | None:
    """Mean IoU over the protocol's classes that were labelled or predicted, or None without any.

    Classes that are predicted but nowhere labelled count here with 0; the headline figure leaves them out.
    """
    protocol = row["protocol"]
    names = label_spaces.label_space(protocol).names if protocol in label_spaces.PROTOCOLS else tuple(row["iou"])
    values = [row["iou"][name] for name in names if row["iou"].get(name) is not None]
    return statistics.fmean(values) if values else None


def heading(column: str) -> str:
    """Returns the heading of a column: "mIoU (19 classes)", "Dice", "accuracy", "rmse (m)"."""
    unit = METRICS[column].unit if column in METRICS else ""
    written = {"dice": "Dice", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"}.get(column, column)
    return f"mIoU ({column} classes)" if column.isdigit() else f"{column} (m)" if unit == "m" else written


def points(values: Sequence[float], column: str = "") -> str:
    """Writes fractions as percentage points with one decimal: "41.2 ± 0.5" (sample deviation), "41.2", "–".

    Metrics that are no fractions (`column` names them) are written as they are, with three decimals.
    """
    if not values:
        return "–"
    scale, decimals = (100, 1) if column not in METRICS or METRICS[column].unit == "fraction" else (1, 3)
    spread = f" ± {scale * statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.{decimals}f}{spread}"


def headline_column(row: Mapping[str, Any]) -> str:
    """Returns the name of a row's headline: its protocol, or the metric that it says."""
    return row.get("headline", row["protocol"])


def figure(row: Mapping[str, Any], column: str) -> float | None:
    """Returns a row's figure of a column: the mean IoU of a protocol, or a metric; None if it has none."""
    return row["metrics"].get(column) if "headline" in row else row["miou"].get(column)


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the columns of the rows, protocols or metrics, the headlines first."""
    rows = list(rows)
    others = (name for row in rows for name in (row["metrics"] if "headline" in row else row["miou"]))
    return list(dict.fromkeys([*map(headline_column, rows), *others]))


def caption(rows: Iterable[Mapping[str, Any]]) -> str:
    """Writes what the rows share, or the values they have: "10 classes, 2000 steps, batch 4, evaluated on val"."""
    rows = list(rows)
    parts = [
        f"{_values(rows, 'head_classes')} classes",
        f"{_values(rows, 'steps')} steps",
        f"batch {_values(rows, 'batch')}",
    ]
    if split := _values(rows, "split"):
        parts.append(f"evaluated on {split}")
    return ", ".join(parts)


def markdown(rows: Sequence[Mapping[str, Any]], source: str = "result rows") -> str:
    """Writes tables in Markdown, one per benchmark.

    Args:
      rows: result rows.
      source: where they come from, for messages.

    Returns:
      Markdown: per benchmark a caption, the table (means over seeds in percentage points, best in bold, beside them
      what was published under the same labels) and the commands and hardware below it.

    Raises:
      UserError: malformed rows, or two rows of the same label, settings and seed.
    """
    check_rows(rows, source)
    everything = groups(rows)
    for group in everything:
        if seeds := repeated_seeds(group):
            raise UserError(
                f"{source}: {group.benchmark}: {group.label} has seed {seeds[0]} more than once; keep one row of it"
            )
    names = dict.fromkeys(group.benchmark for group in everything)
    return "\n".join(
        _markdown_table(name, [group for group in everything if group.benchmark == name]) for name in names
    )


def _markdown_table(benchmark: str, members: list[Group]) -> str:
    rows = [row for group in members for row in group.rows]
    seeds = sorted({row["seed"] for row in rows})
    names = columns(rows)
    printed = [counterpart(group.rows[0]) if group.split is None else None for group in members]
    head = ["", *map(heading, names), *["published"] * any(printed), *(f"seed {seed}" for seed in seeds)]
    head += ["gap recovered", "seconds per run"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for group, paper in zip(members, printed, strict=True):
        figures = [points(group.over_seeds(lambda row, name=name: figure(row, name)), name) for name in names]
        headline = names.index(group.column)
        if is_best(group, members):
            figures[headline] = f"**{figures[headline]}**"
        if any(printed):
            figures.append(" / ".join(paper.figure(name) for name in names) if paper else "–")
        values = zip(group.rows, group.headline, strict=True)
        by_seed = {row["seed"]: points([value], group.column) for row, value in values}
        gap = gap_recovered(group, members)
        seconds = statistics.fmean(row["seconds"] for row in group.rows)
        tail = ["–" if gap is None else f"{100 * gap:.0f} %", f"{seconds:.0f}"]
        lines.append([group.label, *figures, *(by_seed.get(seed, "–") for seed in seeds), *tail])
    if all(line[-2] == "–" for line in lines[2:]):
        lines = [[*line[:-2], line[-1]] for line in lines]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{benchmark}**: {caption(rows)}\n\n{table}\n\n{_provenance(members)}"


def _provenance(members: list[Group]) -> str:
    """The hardware, and for each table row the command of its first seed and its note."""
    rows = [row for group in members for row in group.rows]
    notes = dict.fromkeys(f"{group.label}: {row['note']}" for group in members for row in group.rows if row.get("note"))
    commands = dict.fromkeys(group.rows[0]["command"] for group in members)
    text = "".join(f"{note}\n\n" for note in notes) + f"Hardware: {_values(rows, 'hardware')}. "
    if len(commands) == 1:
        return text + f"Command: `{next(iter(commands))}`\n"
    listing = "\n".join(commands)
    return text + f"Commands (first seed of each row):\n\n```\n{listing}\n```\n"


def _values(rows: Iterable[Mapping[str, Any]], key: str) -> str:
    return " / ".join(dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None))


def _settings(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The overrides but for the seed, as sorted "name=value"."""
    overrides = row["overrides"]
    texts = (
        [f"{name}={value}" for name, value in overrides.items()] if isinstance(overrides, dict) else map(str, overrides)
    )
    return tuple(sorted(text.lstrip("-") for text in texts if not text.partition("=")[0].endswith("seed")))


def _is_error(column: str) -> bool:
    return column in METRICS and not METRICS[column].higher_is_better


def _rank(kind: str) -> int:
    return {"source_only": 0, "labelled_only": 2, "source_plus_labelled": 3, "oracle": 4}.get(kind, 1)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
