"""Weights from outside a run: reads checkpoint files, starts networks from them, converts them both ways.

    uda convert --from GTA2Cityscapes_multi-ed35151c.pth --to weights/adaptsegnet --branches 2
    uda train --config advent:gta5_cityscapes --workdir runs/advent --config.init_from.segmenter.path=weights/...
    uda convert --to-torch --from runs/advent --to advent.safetensors --dialect advent

A converted folder holds the arrays (Orbax) and manifest.json: the dialect, the network that reads them, and what a
state dict does not say (branches, the encoder's style, the images' normalisation).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uda_jax import networks, weights
from uda_jax.config import InitFrom
from uda_jax.data.io import atomic, mirrors, places
from uda_jax.errors import UserError
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.runs import checkpoints, described_networks, run_weights
from uda_jax.runs.workdir import check_path
from uda_jax.weights import fetch, files

MANIFEST = "manifest.json"
_ARRAYS = "arrays"


class Pretrained(NamedTuple):
    """Weights that were read.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays, possibly views of the file.
      dialect: the family of checkpoints that they come from; None of a run's own.
      facts: what they need beside, see `weights.facts`.
      network: {"name", "num_classes", "options"} where it is known and need not be read off the arrays.
    """

    variables: dict[str, Any]
    dialect: str | None
    facts: dict[str, Any]
    network: dict[str, Any] | None = None


def read(
    path: Path,
    *,
    dialect: str | None = None,
    branches: int | None = None,
    which: str = "student",
    domain: str | None = None,
    cast: bool = False,
    heads: bool = True,
    network: str = "segmenter",
    step: str | int = "last",
    asked: str = "--branches",
) -> Pretrained:
    """Reads a PyTorch checkpoint, a safetensors file, a folder that `convert` wrote, or a run.

    Args:
      path: the file or folder, or its address in a bucket.
      dialect: its family; None tells it from the file's metadata, or from the names.
      branches: convolutions that its classifiers sum, where names do not tell.
      which: "student" or "teacher", where the file holds both.
      domain: "source" or "target", where it holds batch norms of each.
      cast: whether tensors of other floating-point types become float32 instead of an error.
      heads: whether its classifiers are wanted; otherwise they may sum another number than `branches`.
      network: which network of a run.
      step: which checkpoint of a run.
      asked: the option or the field that gave `branches`, for messages.

    Raises:
      UserError: whatever is wrong with the file, in one line that names it.
    """
    with mirrors.opened(path) as path:
        if path.is_dir():
            return _read_run(path, network, which, step) if run_weights.is_run(path) else _read_folder(path)
        metadata = files.metadata(path)
        state_dict = weights.unwrap(files.read(path), which=which, where=str(path))
        if domain:
            state_dict = weights.select_domain(state_dict, domain, str(path))
        if cast:
            state_dict = weights.cast(state_dict)
        # What `export` wrote says what it is.
        own = metadata.get("dialect") if metadata.get("dialect") in weights.dialects() else None
        dialect = dialect or own or weights.detect(state_dict, branches, str(path), heads=heads, asked=asked)
        facts = weights.facts.of_dialect(weights.checkpoint_info(dialect))
        if own == dialect:
            facts |= weights.facts.from_metadata(metadata, str(path))
        try:
            return Pretrained(weights.from_torch(state_dict, dialect), dialect, facts)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _read_folder(folder: Path) -> Pretrained:
    """Reads a folder that `convert` wrote."""
    manifest = _manifest(folder)
    mirrors.fetch(folder)
    try:
        network, norm = manifest["network"], manifest["input_norm"]
        facts = weights.facts.of_settings({**network["options"], "input_norm": norm})
        return Pretrained(checkpoints.read_arrays(folder / _ARRAYS), manifest["dialect"], facts, network)
    except (KeyError, TypeError):
        raise UserError(f"{folder}: {MANIFEST} lacks what 'uda convert' writes; convert the file again") from None


def _read_run(folder: Path, network: str, which: str, step: str | int) -> Pretrained:
    """Reads a network of a run."""
    found = run_weights.read(folder, network, which=which, step=step)
    settings = _settings(found.method, network)
    section = getattr(found.method, network, None)
    options = dataclasses.asdict(section.options) if isinstance(section, Segmenter) else {}
    # The type that it computes in is no property of the weights.
    options = {name: value for name, value in options.items() if name != "dtype"}
    described = {"name": settings.get("name", network), "num_classes": len(found.classes), "options": options}
    return Pretrained(found.variables, None, weights.facts.of_settings(settings), described)


def convert(
    source: Path, folder: Path, *, fresh: tuple[str, ...] = (), branches: int | None = None, **choices: Any
) -> weights.Report:
    """Converts a checkpoint file, or the segmenter of a run, to a folder, completely or not at all.

    Args:
      source: the file, or the run's workdir.
      folder: made by this call; must not exist.
      fresh: parts of the network that are left out, such as a "head" of other classes.
      branches, **choices: see `read`.

    Returns:
      What became of every array of the file and of the network that it fits.

    Raises:
      UserError: see `read`; or a folder that exists, or arrays that do not fit a network of the file's family.
    """
    source, folder = places.local(source, "--from"), Path(folder)
    if folder.exists():
        raise UserError(f"--to {folder}: exists already; name a new folder")
    check_path(folder, "--to")
    found = read(source, branches=branches, **choices)
    if branches and found.facts.get("aspp_branches") not in (None, branches):
        raise UserError(
            f"{source}: its classifiers sum {found.facts['aspp_branches']} branches, got --branches {branches}; leave "
            "it out"
        )
    network = found.network or described_networks.describe(found.dialect, found.facts, found.variables["params"])
    if found.dialect is None:
        # A run's network has all of its arrays.
        expected = found.variables
    else:
        module = networks.build(network["name"], network["num_classes"], **network["options"])
        expected = jax.eval_shape(
            module.init, jax.random.key(0), described_networks.example(network, found.variables["params"])
        )
    merged, report = weights.fit(found.variables, expected, fresh=fresh, where=str(source))
    loaded = set(report.loaded)
    kept = weights.nest({path: np.ascontiguousarray(x) for path, x in weights.flatten(merged) if path in loaded})
    manifest = {
        "dialect": found.dialect,
        "source": source.name,
        "sha256": None if source.is_dir() else _sha256(source),
        "network": network,
        "input_norm": found.facts.get("input_norm"),
        "left_out": sorted(fresh),
        "missing": list(report.missing),
        "unused": list(report.unused),
        "shapes": {path: list(array.shape) for path, array in weights.flatten(kept)},
    }
    with atomic.folder(folder) as temporary:
        checkpoints.write_arrays(temporary / _ARRAYS, kept)
        atomic.write(temporary / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return report


def export(
    variables: Mapping[str, Any],
    file: Path,
    dialect: str,
    facts: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> int:
    """Writes a network as a safetensors file with the names and layouts of a dialect.

    Args:
      variables: {"params": ..., "batch_stats": ...}.
      file: the file.
      dialect: whose names they get.
      facts: what the weights need beside, see `weights.facts`; None = what the dialect says. They go into the file's
        metadata, where `read` finds them.
      force: whether facts may differ from what code of the dialect's family takes for granted.

    Returns:
      The number of tensors.

    Raises:
      UserError: variables that are no network of the dialect, other facts than its, or a disk that does not take the
        file.
    """
    family = weights.facts.of_dialect(weights.checkpoint_info(dialect))
    facts = family | dict(facts or {})
    if not force and (found := weights.facts.difference(facts, family)):
        fact, ours, theirs = found
        raise UserError(
            f"--dialect {dialect}: code of this family takes {fact} = {theirs!r} for granted, the weights need "
            f"{ours!r} and would predict badly there; choose another dialect, or --force, which notes it in the file"
        )
    state_dict = weights.to_torch(jax.tree.map(np.asarray, variables), dialect)
    files.write_safetensors(file, state_dict, {"format": "pt", "dialect": dialect, **weights.facts.to_metadata(facts)})
    return len(state_dict)


def check_classes(stages: Sequence[Any], classes: Sequence[str]) -> None:
    """Raises a UserError if a run whose segmenter a stage starts from, head included, has other classes.

    Args:
      stages: each gives `init_from`.
      classes: names of the classes of the run that starts.
    """
    for network, init in ((network, init) for stage in stages for network, init in stage.init_from.items()):
        if not init.path or "head" in init.fresh:
            continue
        with mirrors.opened(init.path) as path:
            found = run_weights.classes(path) if run_weights.is_run(path) else tuple(classes)
        if found != tuple(classes):
            raise UserError(
                f"config.init_from.{network}.path: {init.path} is a run of the classes {list(found)}, expected "
                f"{list(classes)}; add 'head' to fresh, and 'aux_head' if it has one"
            )


def start(state: Any, stage: Any, log: Callable[[str], None] | None = None) -> Any:
    """Replaces networks of a fresh state by those of the files that a config names.

    Args:
      state: the stage's TrainState, or its shapes, in which case only the check matters.
      stage: gives `init_from`, network -> file; `start_from`, whose networks are left alone; and the method, whose
        section of the network's name says what the images look like.
      log: called with one text per network, if given.

    Returns:
      The state, its new leaves placed like the old ones.

    Raises:
      UserError: an unknown network, or a file that is missing, broken or made for another network.
    """
    for network, init in stage.init_from.items():
        where = f"config.init_from.{network}"
        if network not in (known := state.params.keys() | state.frozen.keys()):
            raise UserError(f"{where}: the method has no such network, only {sorted(known)}")
        if not init.path or network in stage.start_from:
            continue
        frozen = network not in state.params
        old = state.frozen[network]["params"] if frozen else state.params[network]
        collections = state.frozen[network]["model_state"] if frozen else state.model_state[network]
        variables = {"params": old, **collections}
        expected = adapted.loadable(variables)
        found = jax.tree.map(_like, _read_for(stage.method, network, init, expected, where, log), expected)
        model_state = adapted.loaded(variables, found)
        params = model_state.pop("params")
        if frozen:
            state = state.replace(frozen={**state.frozen, network: {"params": params, "model_state": model_state}})
        else:
            state = state.replace(
                params={**state.params, network: params}, model_state={**state.model_state, network: model_state}
            )
    return state


def _read_for(
    method: Any, network: str, init: InitFrom, expected: Mapping[str, Any], where: str, log: Callable | None
) -> dict[str, Any]:
    """Reads a file's variables for a network of a method, in place of the `expected` ones."""
    settings = _settings(method, network)
    heads, asked = "head" not in init.fresh, f"config.method.{network}.aspp_branches ="
    choices = {"dialect": init.dialect, "which": init.which, "domain": init.domain, "network": network}
    choices["step"] = int(init.step) if init.step.isdecimal() else init.step
    with mirrors.opened(fetch.resolved(init.path)) as path:
        if not path.exists():
            cure = run_weights.run_above(path) or _fitting(settings.get("name"))
            raise UserError(f"{where}.path: {path}: no such file; {cure}")
        if init.step != "last" and not run_weights.is_run(path):
            raise UserError(f"{where}.step: expected last, since {path} is no run of several steps, got {init.step}")
        found = read(path, branches=settings.get("aspp_branches"), heads=heads, asked=asked, **choices)
        _check_facts(found, settings, where, heads=heads)
        variables = weights.for_several_images(found.variables, expected)
        fresh = (*init.fresh, *adapted.fresh_parts(expected, variables))
        merged, report = weights.fit(variables, expected, fresh=fresh, where=f"{where}: {path}")
    if log:
        log(f"{where}: {init.path} ({found.dialect or 'run'}){weights.terms(found.dialect)}\n{report}")
    return merged


def _settings(method: Any, network: str) -> dict[str, Any]:
    """Returns the fields of the method's section of a network, and a segmenter's options; {} if it has no section."""
    sections = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    section = sections.get(network)
    if not dataclasses.is_dataclass(section):
        return {}
    options = dataclasses.asdict(section.options) if isinstance(section, Segmenter) else {}
    return dataclasses.asdict(section) | options


def _check_facts(found: Pretrained, settings: Mapping[str, Any], where: str, *, heads: bool) -> None:
    """Raises a UserError if the weights were trained with another structure or another kind of image."""
    if differs := weights.facts.difference(found.facts, settings, heads=heads):
        field, expected, value = differs
        family = f"family '{found.dialect}'" if found.dialect else "this run"
        raise UserError(
            f"{where}: weights of {family} need {field}={expected!r}, the config has {value!r}; they would load and "
            "predict badly, so change the field or the file"
        )


def _fitting(network: str | None) -> str:
    """Says which published files fit a network."""
    families = map(weights.checkpoint_info, weights.dialects())
    listed = sorted({file for family in families if family.network == network for file in family.files})
    known = f"published files that fit {network}: {', '.join(listed)}; they are" if listed else "weights are"
    return f"{known} not distributed with uda_jax, get them from their authors"


def _like(new: Any, old: Any) -> Any:
    """Returns a leaf with the placement of the one that it replaces; its memory is no longer the file's."""
    if new is old or isinstance(old, jax.ShapeDtypeStruct):
        return new
    return jax.device_put(np.array(new, old.dtype), old.sharding)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder}: expected a run, or a folder that 'uda convert' wrote, found no readable {MANIFEST}; "
            f"{run_weights.run_above(folder) or 'check the path'}"
        ) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
