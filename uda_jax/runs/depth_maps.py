"""Depth maps of a whole data set, as a network of self-supervised depth draws them and `corda` reads them.

    uda export-depth runs/depth --output maps
    uda train --config corda:streets --workdir runs/corda --config.data.target.disparity_from=maps ...

Each frame gets a `<frame name>.png` of 16 bits: the network's output in [0, 1] times 65535, rounded down, as the
released code of CorDA's depth networks writes it. Read again it is divided by 256 ("relative disparity").
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from uda_jax import config
from uda_jax.data.io import atomic
from uda_jax.data.io.names import require_safe
from uda_jax.data.pipeline import streams
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.runs import stages, states
from uda_jax.runs.kinds.base import wait_for_all
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding
from uda_jax.training.precision import at_precision

# What the network's 1 becomes.
COUNTS = 65535


class Drawn(NamedTuple):
    """What became of a data set: its frames, and how many of them this process wrote anew."""

    frames: int
    written: int


class Shard(NamedTuple):
    """Of so many programs that share the work without knowing of each other, this one takes every count-th batch."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


def as_seen(domain: Domain) -> Domain:
    """Returns a training domain as one pass over its images sees it: without labels, other views and chance."""
    off = {"labels_from": None, "disparity_from": None, "margins": None, "distrust": None, "rare_classes": None}
    chance = {"scale": None, "short_side": None, "crop": None, "crop_max_share": 1.0, "flip": False}
    fit = "stretch" if domain.fit == "inside" else domain.fit
    return dataclasses.replace(domain, fields=("image",), resize_label=True, fit=fit, **off, **chance)


def check(method: Any, domain: Domain, where: str, path: str) -> None:
    """Raises a UserError for a method that draws no disparity, and for frames that cannot be named or drawn.

    Args:
      method: of the network.
      domain: the frames, as `as_seen` gives them.
      where: what names the method, for messages.
      path: dotted name of the domain's section.
    """
    if not hasattr(method, "disparities"):
        raise UserError(
            f"{where}: expected a method that predicts disparity, such as self_supervised_depth, got "
            f"{type(method).__name__}"
        )
    if domain.mix:
        raise UserError(f"{path}.mix: expected None, since one data set is drawn at a time, got a mixture")
    if domain.fit == "pad":
        raise UserError(f"{path}.fit: expected 'stretch', since padding would be drawn, too, got 'pad'")
    # Maps are written under the names of frames, which anybody may have chosen.
    require_safe(streams.open_domain(domain, path).names(), path)


def draw(
    method: Any,
    state: Any,
    domain: Domain,
    folder: Path,
    mesh: jax.sharding.Mesh,
    *,
    path: str,
    batch_size: int,
    shard: Shard = WHOLE,
    after_batch: Callable[[], None] = lambda: None,
) -> Drawn:
    """Writes the maps of a domain that are not there yet, each completely or not at all.

    Every process of a run has to call it; each writes the frames of its block of a batch.

    Args:
      method, state: of the network; the method's `disparities`.
      domain: the frames, as `as_seen` gives them.
      folder: of the maps.
      mesh: the device mesh.
      path: dotted name of the domain's section, for messages.
      batch_size: frames at once, over all processes.
      shard: which batches are this program's.
      after_batch: called after every batch; what it raises ends the work, which goes on there another time.
    """
    batches = streams.evaluation_batches(
        domain, batch_size, path=path, process_index=jax.process_index(), process_count=jax.process_count()
    )
    names = batches.dataset.names()
    absent = [not _file(folder, name).exists() for name in names]
    wait_for_all("depth maps counted")  # Each process counts before any goes on writing.
    wanted = [
        number
        for number in range(shard.index, len(batches), shard.count)
        if any(absent[number * batch_size : (number + 1) * batch_size])
    ]

    def counts(state: Any, images: jax.Array) -> jax.Array:
        return jnp.floor(COUNTS * method.disparities(state, images, images.shape[1:3])).astype(jnp.uint16)

    split, replicated = sharding.split_over_batch(mesh), sharding.replicated(mesh)
    compiled, written = sharding.Compiled(at_precision(method, counts), mesh), 0
    for batch in (batches[number] for number in wanted):
        maps = compiled(state, sharding.to_global(batch["image"], split))
        indices = jax.device_put(sharding.to_global(batch["index"], split), replicated)
        drawn = dict(zip(np.asarray(indices).tolist(), jax.device_get(maps), strict=True))
        for index in (index for index in batch["index"].tolist() if index >= 0 and absent[index]):
            atomic.write(_file(folder, names[index]), _png(drawn[index]))
            written += 1
        after_batch()
    return Drawn(len(names), written)


def export(
    path: Path,
    output: Path,
    *,
    name: str | None = None,
    overrides: Sequence[str] = (),
    step: str | int | None = None,
    batch_size: int = 8,
    shard: Shard = WHOLE,
) -> Drawn:
    """Writes the maps of a data set with the network of a run, or those that are not there yet.

    Args:
      path: the run's folder.
      output: folder of the maps; made if absent.
      name: which training domain of the run is drawn; None = its only one.
      overrides: words such as "--config.data.target.split=val", which name other frames.
      step: which checkpoint of the last stage; None = the one that the run's result row is of.
      batch_size: frames at once.
      shard: which batches are this program's.

    Raises:
      UserError: no run of such a method, no such domain, and whatever is wrong with the frames.
    """
    experiment = Workdir(path).experiment()
    if name is None and len(experiment.data) > 1:
        raise UserError(f"--on: expected one of the run's domains {sorted(experiment.data)}, since it has several")
    name = next(iter(experiment.data)) if name is None else name
    if name not in experiment.data:
        raise UserError(f"--on {name}: expected one of the run's domains {sorted(experiment.data)}")
    experiment = config.with_overrides(experiment, overrides, (f"data.{name}",), "the exported depth")
    where = f"config.data.{name}"
    domain = as_seen(experiment.data[name])
    sharding.check_batch_size(batch_size, "--batch-size")
    check(stages.recipe(experiment, 2)[-1].method, domain, str(path), where)
    method, state, _ = states.restore(path, step=step)
    mesh = sharding.data_mesh()
    return draw(method, state, domain, output, mesh, path=where, batch_size=batch_size, shard=shard)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.png"


def _png(counts: np.ndarray) -> bytes:
    """Returns the bytes of a PNG of 16 bits for counts `[H, W]`."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(counts)).save(data, "PNG")
    return data.getvalue()
