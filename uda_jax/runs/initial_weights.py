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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import networks, weights
from uda_jax.config import InitFrom
from uda_jax.data.io import atomic
from uda_jax.errors import UserError
from uda_jax.methods.parts.segmenter import Segmenter
from uda_jax.runs import checkpoints
from uda_jax.weights import files

MANIFEST = "manifest.json"
_ARRAYS = "arrays"
_RESNETS = {23: "resnet101", 6: "resnet50", 1: "resnet14"}


class Pretrained(NamedTuple):
    """Weights that were read.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays, possibly views of the file.
      dialect: the family of checkpoints that they come from.
    """

    variables: dict[str, Any]
    dialect: str


def read(
    path: Path,
    *,
    dialect: str | None = None,
    branches: int | None = None,
    which: str = "student",
    domain: str | None = None,
    cast: bool = False,
    heads: bool = True,
) -> Pretrained:
    """Reads a PyTorch checkpoint, a safetensors file or a folder that `convert` wrote.

    Args:
      path: the file or folder.
      dialect: its family; None tells it from the names.
      branches: convolutions that its classifiers sum, where names do not tell.
      which: "student" or "teacher", where the file holds both.
      domain: "source" or "target", where it holds batch norms of each.
      cast: whether tensors of other floating-point types become float32 instead of an error.
      heads: whether its classifiers are wanted; otherwise they may sum another number than `branches`.

    Raises:
      UserError: whatever is wrong with the file, in one line that names it.
    """
    path = Path(path)
    if path.is_dir():
        manifest = _manifest(path)
        return Pretrained(checkpoints.read_arrays(path / _ARRAYS), manifest["dialect"])
    state_dict = weights.unwrap(files.read(path), which=which, where=str(path))
    if domain:
        state_dict = weights.select_domain(state_dict, domain, str(path))
    if cast:
        state_dict = weights.cast(state_dict)
    dialect = dialect or weights.detect(state_dict, branches, str(path), heads=heads)
    try:
        return Pretrained(weights.from_torch(state_dict, dialect), dialect)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def convert(
    source: Path, folder: Path, *, fresh: tuple[str, ...] = (), branches: int | None = None, **choices: Any
) -> weights.Report:
    """Converts a checkpoint file to a folder, completely or not at all.

    Args:
      source: the file.
      folder: made by this call; must not exist.
      fresh: parts of the network that are left out, such as a "head" of other classes.
      branches, **choices: see `read`.

    Returns:
      What became of every array of the file and of the network that it fits.

    Raises:
      UserError: see `read`; or a folder that exists, or arrays that do not fit a network of the file's family.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise UserError(f"--to {folder}: exists already; name a new folder")
    found = read(source, branches=branches, **choices)
    network = describe(found, branches)
    module = networks.build(network["name"], network["num_classes"], **network["options"])
    expected = jax.eval_shape(module.init, jax.random.key(0), _example(network, found.variables["params"]))
    merged, report = weights.fit(found.variables, expected, fresh=fresh, where=str(source))
    loaded = set(report.loaded)
    kept = weights.nest({path: np.ascontiguousarray(x) for path, x in weights.flatten(merged) if path in loaded})
    manifest = {
        "dialect": found.dialect,
        "source": source.name,
        "sha256": _sha256(source),
        "network": network,
        "input_norm": weights.checkpoint_info(found.dialect).input_norm,
        "left_out": sorted(fresh),
        "missing": list(report.missing),
        "unused": list(report.unused),
        "shapes": {path: list(array.shape) for path, array in weights.flatten(kept)},
    }
    with atomic.folder(folder) as temporary:
        checkpoints.write_arrays(temporary / _ARRAYS, kept)
        atomic.write(temporary / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return report


def export(variables: Mapping[str, Any], file: Path, dialect: str) -> int:
    """Writes a network as a safetensors file with the names and layouts of a dialect.

    Returns:
      The number of tensors.

    Raises:
      UserError: variables that are no network of the dialect, or a disk that does not take the file.
    """
    state_dict = weights.to_torch(jax.tree.map(np.asarray, variables), dialect)
    files.write_safetensors(file, state_dict, {"format": "pt", "dialect": dialect})
    return len(state_dict)


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
        expected = {"params": old, **collections}
        merged = jax.tree.map(_like, _read_for(stage.method, network, init, expected, where, log), expected)
        params, model_state = merged["params"], {k: v for k, v in merged.items() if k != "params"}
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
    path, heads = Path(init.path), "head" not in init.fresh
    if not path.exists():
        raise UserError(f"{where}.path: {path}: no such file; {_fitting(settings.get('name'))}")
    choices = {"dialect": init.dialect, "which": init.which, "domain": init.domain}
    found = read(path, branches=settings.get("aspp_branches"), heads=heads, **choices)
    _check_facts(found.dialect, settings, where, heads=heads)
    merged, report = weights.fit(found.variables, expected, fresh=init.fresh, where=f"{where}: {path}")
    if log:
        log(f"{where}: {path} ({found.dialect})\n{report}")
    return merged


def _settings(method: Any, network: str) -> dict[str, Any]:
    """Returns the fields of the method's section of a network, and a segmenter's options; {} if it has no section."""
    sections = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    section = sections.get(network)
    if not dataclasses.is_dataclass(section):
        return {}
    options = dataclasses.asdict(section.options) if isinstance(section, Segmenter) else {}
    return dataclasses.asdict(section) | options


def describe(found: Pretrained, branches: int | None = None) -> dict[str, Any]:
    """Returns {"name", "num_classes", "options"} for `networks.build`, read off the arrays and the dialect."""
    info, params = weights.checkpoint_info(found.dialect), found.variables["params"]
    name, options, classes = info.network, {}, 1
    encoder = params.get("encoder", {})
    if "layer3_0" in encoder:
        blocks = sum(part.startswith("layer3_") for part in encoder)
        if blocks not in _RESNETS:
            raise UserError(f"{found.dialect} weights: layer3 has {blocks} blocks; known networks have 23, 6 or 1")
        name = f"{name.rpartition('_')[0]}_{_RESNETS[blocks]}"
        options |= {"width": _outputs(encoder["conv1"]), "encoder_style": info.encoder_style}
        if name.startswith("deeplab"):
            options["multi_level"] = "aux_head" in params
        if name.startswith("corda"):
            options["initial_head"] = "linear" if "kernel" in params["aux_head"] else "aspp"
    elif "conv1_1" in encoder:
        options["width"] = _outputs(encoder["conv1_1"])
    elif "fc3" in params:
        classes, options = _outputs(params["fc3"]) // 2, {"hidden": _outputs(params["fc1"])}
    else:
        options["width"] = _outputs(params["conv1"])
        if name == "translator":
            options["blocks"] = sum(part.startswith("block_") for part in params)
    if "head" in params:
        branch = params["head"]["branch_0"]
        classes = _outputs(branch)
        options |= {"aspp_branches": branches or info.aspp_branches, "aspp_bias": "bias" in branch}
    return {"name": name, "num_classes": classes, "options": options}


def _example(network: Mapping[str, Any], params: Mapping[str, Any]) -> jax.Array:
    """Returns the shape of an input that the network takes: images, or class means."""
    if "encoder" in params:
        shape = (1, 64, 64, 3)
    elif "fc1" in params:
        shape = (1, network["num_classes"], params["fc1"]["kernel"].shape[0])
    else:
        shape = (1, 64, 64, params["conv1"]["kernel"].shape[-2])
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _outputs(module: Mapping[str, Any]) -> int:
    return module["kernel"].shape[-1]


def _check_facts(dialect: str, settings: Mapping[str, Any], where: str, *, heads: bool) -> None:
    """Raises a UserError if the weights were trained with another structure or another kind of image."""
    info = weights.checkpoint_info(dialect)
    known = {"input_norm": info.input_norm, "encoder_style": info.encoder_style}
    if heads:
        known["aspp_branches"] = info.aspp_branches
    for field, expected in known.items():
        value = settings.get(field)
        if None not in (value, expected) and value != expected:
            raise UserError(
                f"{where}: weights of family '{dialect}' need {field}={expected!r}, the config has {value!r}; they "
                "would load and predict badly, so change the field or the file"
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
            f"{folder}: expected a folder that 'uda convert' wrote, found no readable {MANIFEST}"
        ) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
