"""Runs in use: a model of a run or of an exported folder, and the export of a run."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uda_jax.data.io import mirrors
from uda_jax.data.io.images import IMAGE_ENDINGS, read_image
from uda_jax.data.pipeline import domains
from uda_jax.errors import UserError, os_error_line
from uda_jax.inference import model
from uda_jax.inference.export import folder, forms, opening, writing
from uda_jax.methods.parts import adapted
from uda_jax.methods.parts.teacher import without_teacher
from uda_jax.runs import states
from uda_jax.runs.workdir import Workdir

# Frames that an exported model is compared with its run on.
FRAMES = 20


def load(path: str | os.PathLike, step: str | int = "last") -> model.Model:
    """Opens a trained run, or a folder that `uda export` wrote, as a function of images.

        model = uda_jax.load("runs/advent")
        result = model(image)                     # uint8 RGB [H, W, 3] or [B, H, W, 3]
        result.labels, result.confidence, result.colours, result.scores

    Images are resized and padded as the run's final split is, scores are made as its config says, and results have the
    image's own size. The network is the one that `uda predict` uses: with a teacher, `config.method.predict_with`. None
    of the run's data is needed, and of an exported folder no run.

    Args:
      path: the run's folder, a local path or an address in a bucket; or an exported folder.
      step: of a run, which checkpoint of the last stage: "last", "best" on the dev domain, or a step.

    Returns:
      The model, see `inference.model.Model`.

    Raises:
      UserError: neither a run nor an exported folder, no such checkpoint, or files that are cut or damaged.
    """
    with mirrors.opened(path) as local:
        if folder.is_exported(local):
            if step != "last":
                raise UserError(f"step: an exported folder holds one network, got {step!r}; leave it out")
            mirrors.fetch(local)
            return opening.opened(local)
        workdir = Workdir(local)
        evaluation = workdir.experiment().evaluation
        method, state, space = states.restore(local, step=step)
    method, state = adapted.merged(*without_teacher(method, state))
    domain = next(iter(evaluation.splits("final").values()))
    return model.Model.of(space, model.of_method(method, state, evaluation.inference, domain))


def export(
    path: str | os.PathLike,
    output: Path,
    kind: str,
    form: forms.Form,
    *,
    step: str | int | None = None,
    overrides: Sequence[str] = (),
    frames: Path | None = None,
) -> dict[str, Any]:
    """Exports a run's network for programs without this library, and compares what was written with the run.

    Args:
      path: the run's folder, a local path or an address in a bucket.
      output: the folder that is written; must not exist.
      kind: one of `forms.FORMATS`.
      form: what the program takes and gives.
      step: which checkpoint of the last stage; None = the one that the run's result row is of.
      overrides: of fields that act in predictions alone, see `states.restore`.
      frames: a folder of images to compare on; None = those of the run's final split.

    Returns:
      What `parity.json` holds, see `parity.compare`.

    Raises:
      UserError: as `states.restore` and `writing.write`; or no frames to compare on.
    """
    writing.require_new(output)
    with mirrors.opened(path) as local:
        experiment = Workdir(local).experiment()
        evaluation = experiment.evaluation
        method, state, space = states.restore(local, overrides, step)
    name, domain = next(iter(evaluation.splits("final").items()))
    if not hasattr(method, "segmenter"):
        raise UserError(f"{path}: expected a method with a segmenter to export, got {type(method).__name__}")
    facts = {
        "label": experiment.label,
        "benchmark": experiment.benchmark,
        "method": type(method).__name__,
        "step": int(state.step),
    }
    found = images_of(frames) if frames else split_frames(domain, evaluation.path("final", name))
    whole = lambda tree: jax.tree.map(lambda leaf: jax.numpy.asarray(np.asarray(leaf)), tree)  # noqa: E731
    state = state.replace(
        params=whole(state.params), model_state=whole(state.model_state), teacher=whole(state.teacher)
    )
    source = forms.Source(method, state, evaluation.inference, domain)
    return writing.write(output, kind, source, form, space, found, facts)


def evaluation_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """Returns the size (height, width) that a run's final split is resized to, None for frames of their own size."""
    with mirrors.opened(path) as local:
        splits = Workdir(local).experiment().evaluation.splits("final")
    return next(iter(splits.values())).size


def split_frames(domain: domains.Domain, path: str) -> list[np.ndarray]:
    """Returns frames of a split, evenly chosen, as its data set has them."""
    try:
        dataset = domains.open_domain(dataclasses.replace(domain, fields=("image",)), path)
    except UserError as error:
        raise UserError(f"{error}; or give images to compare on, with --frames FOLDER") from None
    chosen = np.unique(np.linspace(0, len(dataset) - 1, FRAMES).round().astype(int))
    return [dataset.read(int(i), ("image",))["image"] for i in chosen]


def images_of(source: Path) -> list[np.ndarray]:
    """Returns the first images of a folder, by their names."""
    try:
        files = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    except OSError as error:
        raise UserError(f"--frames {os_error_line(error, source)}") from None
    if not files:
        raise UserError(f"--frames {source}: no image there; expected files such as {', '.join(IMAGE_ENDINGS)}")
    return [read_image(file) for file in files[:FRAMES]]
