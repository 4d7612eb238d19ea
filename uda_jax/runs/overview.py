"""What `uda inspect` tells of a run and of one of its checkpoints: as plain values, and as text."""

import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax

from uda_jax.errors import UserError, os_error_line
from uda_jax.report import tables
from uda_jax.runs import inspection, instruments, measures
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.inspection import Snapshot
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import StageFiles
from uda_jax.training.logging import read_metrics

WIDTH = 80
# What an optimiser keeps for each parameter -> its names in a config.
_KINDS = {frozenset({"momentum"}): ("sgd",), frozenset({"mu", "nu"}): ("adam", "adamw")}
_SUMS = "acc_grads"  # of the gradients of an update that is not complete; no moment


def gather(workdir: Workdir, stage: str | None = None, step: str | int = "last") -> dict[str, Any]:
    """Looks at a run and at one of its checkpoints, whose arrays are read part by part.

    Args:
      workdir: the run's; neither its data nor its method's module are needed.
      stage: whose checkpoint; None = the last stage that has one.
      step: "last", "best" on the dev domain, or a step.

    Returns:
      JSON's values: the run's names and "stages", each with "finished" and "checkpoints" [{"step", "score", "best"}];
      "checkpoint", None where there is none yet, see `text` for what it holds; "notes", what could not be told.

    Raises:
      UserError: no run, no such stage or checkpoint, one that is damaged, or one that another version wrote.
    """
    experiment, notes = workdir.experiment(), []
    names = inspection.stage_names(workdir)
    files = {name: workdir.stage(name) for name in names}
    snapshot = None
    if stage is not None or any(each.checkpoints.is_dir() for each in files.values()):
        snapshot = inspection.open_snapshot(workdir, stage, step)
    found = {
        "workdir": str(workdir.path),
        "label": experiment.label,
        "benchmark": experiment.benchmark,
        "config": _reference(workdir, notes),
        "seed": experiment.seed,
        "stages": {name: _stage(each) for name, each in files.items()},
        "checkpoint": None,
        "notes": notes,
    }
    if snapshot is not None:
        own = experiment.stages[snapshot.stage].method if experiment.stages else None
        found["checkpoint"] = _checkpoint(snapshot, own or experiment.method, notes)
    return found


def arrays(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Returns path -> {"shape", "type"} of every array of a checkpoint, from its metadata."""
    leaves = jax.tree.leaves_with_path(snapshot.shapes)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): {"shape": list(leaf.shape), "type": str(leaf.dtype)}
        for path, leaf in leaves
    }


def text(found: Mapping[str, Any]) -> str:
    """Returns what `gather` found as lines of at most 80 columns, but for names and paths that are longer.

    The header; every stage and the checkpoints that it keeps, with their scores; then of the checkpoint: each network's
    parameters, bytes and norm, the teacher and what never learns included; each player's optimiser; how far the
    teacher is from the student; the range of the running statistics; the key and what a method keeps besides.
    """
    about = f"{found['label']} on {found['benchmark']}, seed {found['seed']}"
    about += f", config {found['config']}" if found["config"] else ""
    lines = [found["workdir"], about]
    for name, stage in found["stages"].items():
        lines += textwrap.wrap(f"{name}: {_progress(stage)}", WIDTH, subsequent_indent="  ", break_long_words=False)
    if found["checkpoint"] is not None:
        lines += ["", *_checkpoint_lines(found["checkpoint"])]
    lines += [line for note in found["notes"] for line in textwrap.wrap(f"note: {note}", WIDTH, break_long_words=False)]
    return "\n".join(lines)


def parameters(snapshot: Snapshot) -> str:
    """Returns a table of every parameter of the networks that learn, from metadata."""
    return instruments.parameter_table(snapshot.shapes["params"])


def _reference(workdir: Workdir, notes: list[str]) -> str | None:
    """Returns the reference of the run's config; its result alone holds it."""
    if not workdir.result.exists():
        return None
    try:
        rows = tables.read_rows(workdir.result)
    except UserError as error:
        notes.append(str(error))
        return None
    return rows[-1]["config"] or None if rows else None


def _stage(files: StageFiles) -> dict[str, Any]:
    kept: list[dict[str, Any]] = []
    if files.checkpoints.is_dir():
        checkpoints = Checkpoints(files)
        try:
            best = checkpoints.best_step()
            kept = [
                {"step": step, "score": score, "best": step == best} for step, score in checkpoints.scores().items()
            ]
        finally:
            checkpoints.close()
    return {"finished": files.finished.exists(), "checkpoints": kept}


def _checkpoint(snapshot: Snapshot, method: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Returns what is told of a checkpoint; no more than a network and its average are in memory at once."""
    shapes = snapshot.shapes
    networks = {name: _network(snapshot, f"params/{name}", f"model_state/{name}") for name in snapshot.networks}
    frozen = shapes.get("frozen") or {}
    teacher = None
    if snapshot.has("teacher"):
        student, average = snapshot.read("params/segmenter"), snapshot.read("teacher/params")
        teacher = _network(snapshot, "teacher/params", "teacher/model_state")
        teacher["distance"] = _plain(measures.distance(student, average)._asdict())
    return {
        "stage": snapshot.stage,
        "step": snapshot.step,
        "score": snapshot.scores[snapshot.step],
        "best": snapshot.step == snapshot.best,
        "method": method["name"],
        "parameters": measures.size(shapes["params"]),
        "bytes": measures.byte_size(shapes),
        "networks": networks,
        "teacher": teacher,
        "frozen": {name: _network(snapshot, f"frozen/{name}/params", f"frozen/{name}/model_state") for name in frozen},
        "players": _players(snapshot, method, notes),
        "key": _layout(shapes["key"]),
        "extra": {
            jax.tree_util.keystr(path, simple=True, separator="/"): _layout(leaf)
            for path, leaf in jax.tree.leaves_with_path(shapes.get("extra") or {})
        },
    }


def _network(snapshot: Snapshot, params: str, model_state: str) -> dict[str, Any]:
    tree, state = snapshot.read(params), snapshot.read(model_state) if snapshot.has(model_state) else {}
    ranges = {kind: _plain({"least": low, "most": high}) for kind, (low, high) in measures.ranges(state).items()}
    return {
        "parameters": measures.size(tree),
        "bytes": measures.byte_size(tree),
        "norm": measures.norm(tree),
        "statistics": {"values": measures.size(state), "bytes": measures.byte_size(state), "ranges": ranges},
    }


def _players(snapshot: Snapshot, method: Mapping[str, Any], notes: list[str]) -> dict[str, dict[str, Any]]:
    """Returns player -> its optimiser, its bytes, the norm of each kind of moment, and its last logged base rate."""
    rates, configured = _rates(snapshot, notes), set(_optimisers(method))
    found = {}
    for player, shapes in (snapshot.shapes.get("opt_state") or {}).items():
        state = snapshot.read(f"opt_state/{player}")
        norms = measures.norms(measures.moments(state, snapshot.networks))
        # The state tells the kind; where two names share it, the config's.
        kinds = _KINDS.get(frozenset(norms) - {_SUMS}, ())
        named = [name for name in kinds if name in configured]
        found[player] = {
            "optimiser": " or ".join(named or kinds) or None,
            "bytes": measures.byte_size(shapes),
            "moments": norms,
            "learning_rate": rates.get(player),
        }
    return found


def _optimisers(section: Any) -> Iterator[str]:
    """Yields the names of all optimisers of a method's section."""
    if isinstance(section, Mapping):
        for name, entry in section.items():
            if name.endswith("optimiser") and isinstance(entry, Mapping) and "name" in entry:
                yield entry["name"]
            yield from _optimisers(entry)


def _rates(snapshot: Snapshot, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Returns player -> {"value", "step"} of the last base rate that was logged up to the checkpoint's step."""
    log, found = snapshot.workdir.stage(snapshot.stage).metrics, {}
    try:
        rows = read_metrics(log)
    except OSError as error:
        notes.append(f"no learning rates: {os_error_line(error, log)}")
        return {}
    for row in rows:
        if row["step"] <= snapshot.step:
            values = {name: value for name, value in row.items() if name.startswith("learning_rate/")}
            found |= {name.partition("/")[2]: {"value": value, "step": row["step"]} for name, value in values.items()}
    return found


def _layout(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "type": str(leaf.dtype), "bytes": measures.byte_size(leaf)}


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """Returns numbers as JSON can hold them: what is no number becomes None."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _progress(stage: Mapping[str, Any]) -> str:
    """Returns how far a stage is, and which steps it keeps with their scores."""
    done, kept = "finished" if stage["finished"] else "not finished", []
    for entry in stage["checkpoints"]:
        words = ([] if entry["score"] is None else [_number(entry["score"])]) + (["best"] if entry["best"] else [])
        kept.append(f"{entry['step']} ({', '.join(words)})" if words else str(entry["step"]))
    return f"{done}, checkpoints of steps {', '.join(kept)}" if kept else f"{done}, no checkpoint"


def _checkpoint_lines(found: Mapping[str, Any]) -> list[str]:
    score = "" if found["score"] is None else f", score {_number(found['score'])}{' (best)' if found['best'] else ''}"
    lines = [
        f"{found['stage']}, step {found['step']}: method {found['method']}{score}",
        f"{found['parameters']:,} parameters, {found['bytes']:,} bytes of state",
    ]
    networks = {**found["networks"], **{f"{name}, never learns": entry for name, entry in found["frozen"].items()}}
    if found["teacher"] is not None:
        networks["teacher"] = found["teacher"]
    rows = [
        (name, f"{entry['parameters']:,}", f"{entry['bytes']:,}", _number(entry["norm"]))
        for name, entry in networks.items()
    ]
    lines += ["", *aligned(("network", "parameters", "bytes", "norm"), rows, right={1, 2, 3})]
    rows = [_player_row(name, entry, found["step"]) for name, entry in found["players"].items()]
    if rows:
        headings = ("player", "optimiser", "bytes", "learning rate", "norms of moments")
        lines += ["", *aligned(headings, rows, right={2})]
    rows = [
        (f"{name} {kind}", *map(_number, entry.values()))
        for name, network in networks.items()
        for kind, entry in network["statistics"]["ranges"].items()
    ]
    if rows:
        lines += ["", *aligned(("running statistics", "least", "most"), rows, right={1, 2})]
    if found["teacher"] is not None:
        apart = found["teacher"]["distance"]
        share = "" if apart["relative"] is None else f", {100 * apart['relative']:.3g} % of the student's norm"
        lines += ["", f"teacher: {_number(apart['absolute'])} away from the student{share}"]
    others = {"key": found["key"], **{f"extra {name}": entry for name, entry in found["extra"].items()}}
    lines += ["", *(f"{name}: {entry['type']} {tuple(entry['shape'])}" for name, entry in others.items())]
    return lines


def _player_row(name: str, entry: Mapping[str, Any], step: int) -> tuple[str, ...]:
    rate = entry["learning_rate"]
    logged = "–" if rate is None or rate["value"] is None else _number(rate["value"])
    logged += f" (step {rate['step']})" if rate is not None and rate["step"] != step else ""
    moments = ", ".join(f"{kind} {_number(value)}" for kind, value in entry["moments"].items())
    return name, entry["optimiser"] or "–", f"{entry['bytes']:,}", logged, moments or "–"


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int]) -> list[str]:
    """Returns lines of columns two spaces apart, those of `right` aligned to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (headings, *rows)
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
