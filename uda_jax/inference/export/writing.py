"""Writing an exported folder: the model, its description, and what a comparison with the run has shown."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import uda_jax
from uda_jax.data.io import atomic
from uda_jax.data.labels.label_spaces import LabelSpace
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference import model
from uda_jax.inference.export import folder, forms, onnx, parity, stablehlo, tensors
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.teacher import without_teacher

# Packages that a description and a slip name, as far as they are installed.
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "flatbuffers", "onnx", "onnxruntime", "jax2onnx", "safetensors")


def write(
    path: Path,
    kind: str,
    source: forms.Source,
    form: forms.Form,
    space: LabelSpace,
    frames: Sequence[np.ndarray],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes an exported folder, completely or not at all.

    Args:
      path: the folder; must not exist.
      kind: one of `forms.FORMATS`.
      source: the network and how it is used.
      form: what the program takes and gives; of safetensors the default alone.
      space: the classes.
      frames: uint8 RGB [H, W, 3] of any size, which the exported model is compared with the run on.
      facts: entries of the description that say where the network comes from.

    Returns:
      What `parity.json` holds.

    Raises:
      UserError: the folder exists; a form that is impossible; or what writes the format is not installed.
    """
    require_new(path)
    method, state = adapted.merged(*without_teacher(source.method, source.state))
    source = dataclasses.replace(source, method=method, state=state)
    if kind != "safetensors":
        forms.check(form, source)
    content, found = _content(kind, source, form)
    description = _description(kind, source, form, space) | found | {"sha256": folder.sha256(content), "run": facts}
    versions = _versions()
    with atomic.folder(path) as temporary:
        atomic.write(temporary / folder.model_file(kind), content)
        atomic.write(temporary / folder.DESCRIPTION, _text(description | {"versions": versions}))
        slip = _slip(temporary, kind, source, form, space, frames, found["multiple_of"])
        atomic.write(temporary / folder.PARITY, _text(slip | {"versions": versions}))
    return slip


def require_new(path: Path) -> None:
    """Raises a UserError if there is something where an exported folder is to go."""
    if path.exists() or path.is_symlink():
        raise UserError(f"--output {path}: exists already; name a new folder")


def _content(kind: str, source: forms.Source, form: forms.Form) -> tuple[bytes, dict[str, Any]]:
    if kind == "safetensors":
        size = source.domain.size or ("h", "w")
        return tensors.write(source.method, source.state), {"shape": ["b", *map(str, size), "3"], "multiple_of": 1}
    return {"stablehlo": stablehlo, "onnx": onnx}[kind].write(forms.program(source, form), form)


def _description(kind: str, source: forms.Source, form: forms.Form, space: LabelSpace) -> dict[str, Any]:
    """Returns what `model.json` says of a model, but for its file."""
    arrays = kind == "safetensors"
    classes = zip(space.names, map(list, space.colours), strict=True)
    return {
        "description": folder.VERSION,
        "format": kind,
        "file": folder.model_file(kind),
        "classes": [{"id": i, "name": name, "colour": colour} for i, (name, colour) in enumerate(classes)],
        "ignore": space.ignore,
        "input": form.input,
        "layout": "batch, height, width, RGB",
        "normalisation": source.input_norm,
        "outputs": "scores" if arrays else form.outputs,
        "resizing": form.resize,
        "resize": folder.resizing(source.domain),
        "inside": ["network"] if arrays else forms.inside(form, source.domain),
        "platforms": {"stablehlo": list(form.platforms), "onnx": ["onnxruntime"]}.get(kind, []),
        "inference": dataclasses.asdict(source.section),
        "network": tensors.describe(source.method),
    }


def _slip(
    temporary: Path,
    kind: str,
    source: forms.Source,
    form: forms.Form,
    space: LabelSpace,
    frames: Sequence[np.ndarray],
    multiple: int,
) -> dict[str, Any]:
    """Returns the comparison with the run, of what has been written."""
    from uda_jax.inference.export import opening

    domain = source.domain if form.resize == "run" else Domain()
    segment = model.of_method(source.method, source.state, source.section, domain)
    run = model.Model.of(space, segment)
    fitting = [parity.fitting(frame, form, source.domain, multiple) for frame in frames]
    outputs = "scores" if kind == "safetensors" else form.outputs
    return parity.compare(run, opening.opened(temporary), fitting, outputs)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "uda_jax": uda_jax.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
