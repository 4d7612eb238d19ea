"""Choosing without labels, measured: how well each criterion orders finished runs, and what its choice costs.

    python -m benchmarks.selection runs/table/streets runs/table/camvid_day2dusk runs/table/digits
    python -m benchmarks.selection runs/table/streets --checkpoints

Of each folder of a benchmark, as `benchmarks.adaptation` lays them out, all finished runs are candidates whose training
saw no label of the target; those of one target are a group. Each is measured as `uda select` does it, and what is
measured is kept beside the run, so that this can be interrupted and run again. The true score is the headline of the
final split: that of the result row, and with --checkpoints of every kept step, scored as `uda evaluate` does. Per
criterion and group there are Spearman's correlation with the true score, positive where the criterion orders as the
labels do, and the regret, the best true score minus that of the choice. "lowest_loss" takes the last step of the run
whose loss was lowest at its end. Everything goes to benchmarks/results/selection.json.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.provenance import provenance
from uda_jax.data.io import atomic
from uda_jax.errors import UserError
from uda_jax.inference.criteria import CRITERIA, DEFAULT
from uda_jax.runs import choice, selection, stages, target_frames
from uda_jax.runs.choice import COMBINED, Candidate
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import RunFiles
from uda_jax.training.logging import losses, read_metrics

RESULTS = Path(__file__).parent / "results" / "selection.json"
LOWEST_LOSS = "lowest_loss"
# Share of the logged losses, the last ones, whose mean is a run's loss at its end.
LAST = 0.2


class Scored(NamedTuple):
    """A candidate together with its true score.

    Attributes:
      candidate: what was measured without labels.
      truth: the headline on the final split, a fraction; higher is better.
      loss: the run's loss at its end; None for a checkpoint before it, or without a log.
    """

    candidate: Candidate
    truth: float
    loss: float | None


def main() -> int:
    """Measures what is missing, writes the file and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmarks", type=Path, nargs="+", help="folders of <label>/seed<k> runs")
    parser.add_argument("--frames", type=int, default=target_frames.COUNT)
    parser.add_argument("--checkpoints", action="store_true", help="every kept checkpoint is a candidate")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    found, rows = {}, []
    for folder in options.benchmarks:
        for name, group in groups(folder, tell).items():
            try:
                scored = measured(group, options.frames, checkpoints=options.checkpoints, tell=tell)
            except UserError as error:
                tell(f"{name}: left out: {error}")
                continue
            found[name] = figures(scored)
            rows += [row(name, each) for each in scored]
    if not found:
        parser.error("none of the folders holds two finished runs of one target; see 'python -m benchmarks.adaptation'")
    content = {"about": provenance("benchmarks.selection"), "default": list(DEFAULT), "groups": found}
    content |= {"over_groups": over_groups(found), "candidates": rows}
    atomic.write(options.output, json.dumps(content, indent=1) + "\n")
    print(markdown(content))
    return 0


def groups(folder: Path, tell: Callable[[str], None]) -> dict[str, list[Path]]:
    """Returns the finished runs below a folder of a benchmark that saw no label of their target, by target."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("result.json")):
        workdir = Workdir(file.parent)
        try:
            experiment = workdir.experiment()
            recipe = stages.recipe(experiment, len(workdir.classes().names))
        except UserError as error:
            tell(f"{file.parent}: left out: {error}")
            continue
        final = next(iter(experiment.evaluation.splits("final").values()))
        if saw_labels(recipe):
            tell(f"{file.parent}: left out, since it was trained on labels of the target")
            continue
        name = f"{experiment.benchmark}: {final.dataset}/{final.split} {_which(final)}".strip()
        found.setdefault(name, []).append(file.parent)
    return {name: folders for name, folders in found.items() if len(folders) > 1}


def saw_labels(recipe: Sequence[stages.Stage]) -> bool:
    """Returns whether any stage reads labels of the target: a labelled target, or a source of the target's own set."""
    target = target_frames.target(recipe)
    place = lambda domain: (domain.dataset, domain.split, _which(domain))  # noqa: E731
    for name, domain in (item for stage in recipe for item in stage.domains.items()):
        if name.startswith("labelled_target"):
            return True
        own = target is not None and place(domain) == place(target.domain)
        if own and name.startswith("source") and "label" in domain.fields and domain.labels_from is None:
            return True
    return False


def _which(domain: Any) -> str:
    """Returns which of several sets under one name a domain is of, as digits'."""
    return (domain.options or {}).get("which", "")


def measured(folders: Sequence[Path], frames: int, *, checkpoints: bool, tell: Callable[[str], None]) -> list[Scored]:
    """Returns the candidates of a group with their true scores."""
    named = [(str(folder), folder) for folder in folders]
    candidates = selection.measure_all(named, frames, checkpoints=checkpoints, tell=tell).candidates
    scored = []
    for candidate in candidates:
        row = json.loads(RunFiles(candidate.run).result.read_text())[0]
        last = candidate.step == scored_step(Path(candidate.run), row)
        truth = headline(row) if last else true_score(Path(candidate.run), candidate.step)
        scored.append(Scored(candidate, truth, final_loss(Path(candidate.run)) if last else None))
    return scored


def figures(scored: Sequence[Scored]) -> dict[str, Any]:
    """Returns of a group its size, its best and mean true score, and of each way of choosing what it is worth."""
    truths = [each.truth for each in scored]
    found: dict[str, Any] = {"candidates": len(scored), "best": max(truths), "mean": statistics.fmean(truths)}
    for by in (COMBINED, *CRITERIA, LOWEST_LOSS):
        ordered = goodness(scored, by)
        if ordered is None:
            continue
        known = [(value, truth) for value, truth in zip(ordered, truths, strict=True) if value is not None]
        chosen = max(known)[0]
        taken = [truth for value, truth in known if value == chosen]
        # Of several best ones any may be taken: what that costs on average.
        regret = max(truths) - statistics.fmean(taken)
        found[by] = {"spearman": spearman(*zip(*known, strict=True)), "regret": regret, "compared": len(known)}
    return found


def goodness(scored: Sequence[Scored], by: str) -> list[float | None] | None:
    """Returns what is higher for a better candidate; None for one that is no choice, or if nothing can be chosen."""
    values = [each.candidate.measured.values for each in scored]
    if by == LOWEST_LOSS:
        found = [None if each.loss is None else -each.loss for each in scored]
    elif by == COMBINED:
        chosen = choice.choose([each.candidate for each in scored], _classes(scored))
        found = [None if figure is None else -figure for figure in chosen.figures]
    else:
        sign = 1 if CRITERIA[by].higher_is_better else -1
        found = [None if each[by] is None else sign * each[by] for each in values]
    return found if sum(value is not None for value in found) > 1 else None


def _classes(scored: Sequence[Scored]) -> list[str]:
    return [str(k) for k in range(len(scored[0].candidate.measured.shares))]


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Returns Spearman's correlation, Pearson's of the ranks; None where either is constant."""
    ranked = [choice.ranks(values, higher_is_better=True) for values in (one, other)]
    if any(len(set(each)) < 2 for each in ranked):
        return None
    return statistics.correlation(*ranked)


def over_groups(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns for each way of choosing the mean and the sample deviation over the groups of both figures."""
    summary = {}
    for by in (COMBINED, *CRITERIA, LOWEST_LOSS):
        entries = [group[by] for group in found.values() if by in group]
        if entries:
            summary[by] = {"groups": len(entries)} | {key: _spread(entries, key) for key in ("spearman", "regret")}
    return summary


def _spread(entries: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | None]:
    values = [entry[key] for entry in entries if entry[key] is not None]
    mean = statistics.fmean(values) if values else None
    return {"mean": mean, "deviation": statistics.stdev(values) if len(values) > 1 else None}


def headline(row: Mapping[str, Any]) -> float:
    """Returns the figure that heads a result row."""
    return row["metrics"][row["headline"]] if "headline" in row else row["miou"][row["protocol"]]


def scored_step(run: Path, row: Mapping[str, Any]) -> int:
    """Returns the step of the last stage's checkpoint that a result row is of."""
    if "selected_step" in row:
        return row["selected_step"]
    workdir = Workdir(run)
    recipe = stages.recipe(workdir.experiment(), len(workdir.classes().names))
    return recipe[-1].train.steps


def true_score(run: Path, step: int) -> float:
    """Returns the headline of a checkpoint on the final split, of several splits the first."""
    from uda_jax.inference.evaluate import Evaluator, evaluation_step
    from uda_jax.inference.figures import headline as of_summary
    from uda_jax.inference.figures import protocols
    from uda_jax.runs import scoring, states
    from uda_jax.training import sharding

    workdir, mesh = Workdir(run), sharding.data_mesh()
    method, state, space = states.restore(run, step=step)
    section = scoring.with_protocol(workdir.experiment(), protocols(space)).evaluation
    name, domain = next(iter(section.splits("final").items()))
    path = section.path("final", name)
    evaluator = Evaluator(domain, section, evaluation_step(method, section, mesh), mesh, path=path, space=space)
    return of_summary(evaluator.evaluate(state)[0], section, path)


def final_loss(run: Path) -> float | None:
    """Returns the mean of the last logged losses of the last stage: the total, or the sum of all."""
    workdir = Workdir(run)
    recipe = stages.recipe(workdir.experiment(), len(workdir.classes().names))
    try:
        found = [losses(entry) for entry in read_metrics(workdir.stage(recipe[-1].name).metrics)]
    except OSError:
        return None
    totals = [entry["total"] if "total" in entry else sum(entry.values()) for entry in found if entry]
    return statistics.fmean(totals[-max(1, round(LAST * len(totals))) :]) if totals else None


def row(group: str, scored: Scored) -> dict[str, Any]:
    """Returns what is stored of a candidate."""
    run, step, found = scored.candidate
    about = {"group": group, "run": run, "step": step, "truth": scored.truth, "loss": scored.loss}
    return about | {"values": found.values, "shares": found.shares}


def markdown(content: Mapping[str, Any]) -> str:
    """Returns the table of all ways of choosing: correlation and regret, the latter in percentage points."""
    names = list(content["groups"])
    sizes = "; ".join(f"{name}: {content['groups'][name]['candidates']} candidates" for name in names)
    lines = [sizes, "", "| choice by | Spearman | regret | " + " | ".join(f"{name}: regret" for name in names) + " |"]
    lines.append("| --- |" + " ---: |" * (2 + len(names)))
    for by, entry in content["over_groups"].items():
        each = [_points(content["groups"][name].get(by, {}).get("regret")) for name in names]
        cells = [_pair(entry["spearman"], 1), _pair(entry["regret"], 100), *each]
        lines.append(f"| {by} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _pair(entry: Mapping[str, float | None], scale: float) -> str:
    if entry["mean"] is None:
        return "–"
    spread = "" if entry["deviation"] is None else f" ± {scale * entry['deviation']:.2f}"
    return f"{scale * entry['mean']:.2f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
