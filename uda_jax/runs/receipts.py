"""Receipts: what a stage, and a run, was made of and what came of it, so that `uda verify` can tell whether both hold.

A stage's `receipt.json` has its config, the contents of its data, versions and hardware, and the SHA-256 of every array
of its last state; that of the run has besides the data that it was scored on, and digests of its results and of its
stages' receipts. The files of data are read when a stage ends, in their order and whole, except for large maps, of
which `data.contents` reads a part.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax

import uda_jax
from uda_jax import config
from uda_jax.data.contents import Contents, file_digest
from uda_jax.data.io import atomic
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.runs import checksums, results, stored_arrays
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import RunFiles, StageFiles
from uda_jax.training.logging import read_metrics

FORMAT = 1
# What the numbers of a run may depend on: networks, optimisers, and what decodes, resizes and shuffles frames.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "grain", "uda_jax")
# Rows of the log, the last ones, whose losses a receipt has.
_ROWS = 20


def write_stage(stage: Stage, workdir: Workdir, context: Context) -> None:
    """Writes the receipt of a stage that has just ended; every process has to call it.

    Args:
      stage: whose last state, if it trains, lies in `context.trained`.
      workdir: the run's.
      context: the run's.
    """
    files = workdir.stage(stage.name)
    if stage.kind.TRAINS:
        made = _trained(files, context.trained[stage.name], first_process=context.first_process)
    if not context.first_process:
        return
    if not stage.kind.TRAINS:
        made = {"files": {name: file_digest(path) for name, path in written_files(files).items()}}
    known = {path: found for path, found in workdir.fingerprints().items() if path.startswith(f"{stage.name}.")}
    read = {name: domain for name, domain in stage.domains_in(workdir).items() if name in domains_read(stage)}
    data = {"fingerprints": known, "data": {name: of_domain(domain, context.contents) for name, domain in read.items()}}
    _write(files.receipt, about(workdir, context) | {"stage": stage.name} | data | made)


def write_run(workdir: Workdir, context: Context, stages: list[str]) -> None:
    """Writes the receipt of a run that is scored; for the first process.

    Args:
      workdir: the run's.
      context: the run's.
      stages: their names, in order.
    """
    section = context.experiment.evaluation
    splits = {f"{which}.{name}": split for which in ("final", "dev") for name, split in section.splits(which).items()}
    receipts = {name: workdir.stage(name).receipt for name in stages}
    made = {
        "evaluation": {name: of_domain(domain, context.contents) for name, domain in splits.items()},
        "stages": {name: file_digest(path) for name, path in receipts.items() if path.exists()},
        "results": {path.name: file_digest(path) for path in result_files(workdir)},
    }
    _write(workdir.receipt, about(workdir, context) | made)


def about(workdir: Workdir, context: Context) -> dict[str, Any]:
    """Returns what all receipts of a run say: config, classes, versions, hardware."""
    plain = config.to_plain(context.experiment)
    return {
        "format": FORMAT,
        "config": plain,
        "config_hash": plain_digest(plain),
        "classes": list(workdir.classes().names),
        "seed": context.experiment.seed,
        "versions": versions(),
        "commit": results.commit(),
        "hardware": machine(context.mesh.size),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that the numbers of a run may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"uda_jax": uda_jax.__version__}


def machine(devices: int) -> dict[str, Any]:
    """Returns what has to be the same for the same bits: devices, processes, cores and XLA's flags.

    Args:
      devices: of the mesh.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": results.hardware(),
        "platform": jax.default_backend(),
        "devices": devices,
        "processes": jax.process_count(),
        "cores": cores,
        "xla_flags": sorted(os.environ.get("XLA_FLAGS", "").split()),
    }


def domains_read(stage: Stage) -> Collection[str]:
    """Returns the names of the domains that a stage reads."""
    return stage.kind.READS or stage.domains


def of_domain(domain: Domain, reader: Contents) -> dict[str, Any]:
    """Returns the contents of each data set of a domain, by its name in the mixture; see `Contents.of`."""
    found = {}
    for name, (where, member) in domains.members(domain).items():
        read = less_labels(member, where)
        found[name] = reader.of(domains.open_domain(read, where), read.fields)
    return found


def less_labels(domain: Domain, where: str) -> Domain:
    """Returns a domain without labels where no frame has one: as of a final split that is shown and not scored."""
    bare = dataclasses.replace(domain, fields=tuple(field for field in domain.fields if field != "label"))
    return domain if domains.open_domain(bare, where).has("label") else bare


def written_files(files: StageFiles) -> dict[str, Path]:
    """Returns what a stage that does not train has written, by the names relative to its folder."""
    own = (files.receipt, files.finished)
    found = sorted(path for path in files.path.rglob("*") if path.is_file() and path not in own)
    # Whatever begins with a dot is on its way to its name.
    return {path.relative_to(files.path).as_posix(): path for path in found if not path.name.startswith(".")}


def result_files(files: RunFiles) -> list[Path]:
    """Returns those of the files of results that are there."""
    return [path for path in (files.result, files.confusion) if path.exists()]


def plain_digest(plain: Any) -> str:
    """Returns the SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _trained(files: StageFiles, state: Any, *, first_process: bool) -> dict[str, Any]:
    """Returns what a receipt says of a state, of the checkpoints that are kept and of the last losses.

    Every process has to call it, since arrays may be split over them; only the first one gets anything.
    """
    arrays = checksums.digests(state)
    if not first_process:
        return {}
    rows = [losses(row) | {"step": row["step"]} for row in read_metrics(files.metrics) if losses(row)]
    return {
        "state": {"step": int(state.step), "digest": checksums.digest_of_all(arrays), "arrays": arrays},
        "checkpoints": {str(step): table for step, table in stored_arrays.tables(files.checkpoints).items()},
        "losses": rows[-_ROWS:],
    }


def losses(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the losses of a row of the log."""
    return {name: value for name, value in row.items() if name.startswith("loss/")}


def _write(path: Path, receipt: dict[str, Any]) -> None:
    atomic.write(path, json.dumps(checksums.sealed(receipt)) + "\n")
