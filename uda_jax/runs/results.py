"""Result rows: what a finished run leaves for tables and reports."""

import dataclasses
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import uda_jax
from uda_jax.config import Evaluation, Experiment
from uda_jax.inference.figures import headline
from uda_jax.inference.options import JOINT


@dataclasses.dataclass(frozen=True)
class Invocation:
    """How a run was asked for.

    Attributes:
      config: the config's reference, such as "advent:streets".
      overrides: command-line words such as "--config.seed=1".
      command: the command line to repeat it.
    """

    config: str = ""
    overrides: tuple[str, ...] = ()
    command: str = ""


@dataclasses.dataclass(frozen=True)
class About:
    """What the rows of a run share.

    Attributes:
      stages: the stages' markers in order: "seconds", and "step" and "best" of those that train. Steps and seconds of a
        row are those of all its stages.
      invocation: how it was asked for.
      scored_step: the step of the last stage's checkpoint that was scored.
    """

    stages: Sequence[Mapping[str, Any]]
    invocation: Invocation
    scored_step: int


def row(experiment: Experiment, split: str, summary: Mapping[str, Any], about: About) -> dict[str, Any]:
    """Returns the result row of a run that is finished and scored; `report.rows.KEYS` says what each key means.

    Args:
      experiment: its config.
      split: the final split's name, see `Evaluation.splits`, or `JOINT` for all of them together.
      summary: the figures on it, from `Evaluator.summary` or `joint_summary`.
      about: what it shares with the others.
    """
    section, best, invocation = experiment.evaluation, about.stages[-1]["best"], about.invocation
    headline(summary, section, section.path("final", split))
    by_miou = section.headline == "miou"
    return {
        "label": experiment.label,
        "benchmark": experiment.benchmark,
        "method": experiment.method["name"],
        "config": invocation.config,
        "overrides": list(invocation.overrides),
        "seed": experiment.seed,
        "steps": sum(stage.get("step", 0) for stage in about.stages),
        "batch": experiment.train.batch_size,
        "head_classes": len(summary["iou"]),
        "commit": commit(),
        "command": invocation.command,
        "hardware": hardware(),
        "seconds": round(sum(stage["seconds"] for stage in about.stages), 1),
        "protocol": section.protocol,
        **({} if by_miou else {"headline": section.headline}),
        "split": _names(section, "final", split),
        **({"domain": split} if isinstance(section.final, Mapping) else {}),
        **_selection(section, about),
        "miou": summary["miou"],
        "best_miou": best if by_miou else None,
        **({} if by_miou else {"best": best}),
        "pixel_accuracy": summary["pixel_accuracy"],
        "metrics": summary["metrics"],
        "iou": summary["iou"],
        "dice": summary["dice"],
    }


def _names(section: Evaluation, which: str, name: str = JOINT) -> str:
    """Returns data set and split of one of the splits, or of all of them."""
    found = section.splits(which)
    return " + ".join(
        f"{domain.dataset}/{domain.split}" for domain in ([found[name]] if name in found else found.values())
    )


def _selection(section: Evaluation, about: About) -> dict[str, Any]:
    """Returns what a row says of its checkpoint unless that is the last one."""
    if section.selection == "last":
        return {}
    found = {"selection": section.selection, "selected_step": about.scored_step}
    if section.selection == "best_without_labels":
        return found | {"selected_by": section.best_by}
    return found | {"selected_on": _names(section, "dev")}


def commit() -> str:
    """Returns the checkout's commit, marked "+" if files differ from it, or the version of an installed package."""
    root = Path(uda_jax.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return uda_jax.__version__
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        # Results are written while rows are made; only the code decides whether the commit tells the truth.
        code = ["--", "uda_jax", "configs", "pyproject.toml"]
        dirty = subprocess.run([*git, "status", "--porcelain", *code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return uda_jax.__version__
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def hardware() -> str:
    """Returns what the run used: "2 cores of Intel(R) Xeon(R) ..." or "1 x NVIDIA H100 ..."."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        model = platform.processor() or platform.machine()
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            pass
        return f"{os.cpu_count()} cores of {model}, jax {jax.__version__}"
    return f"{jax.device_count()} x {device.device_kind}, jax {jax.__version__}"
