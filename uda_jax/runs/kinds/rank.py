"""Ranking the target's frames by entropy, the second of IntraDA's three stages (Pan et al., CVPR 2020).

A network of an earlier stage, or of a file of weights that the stage's `init_from` names, predicts every frame of the
domain "target". Frames whose prediction has little entropy are easy: what is predicted there serves the next stage as
labels. The stage's folder then holds

    ranking.json          checkpoint, settings, and every frame with its score, from easy to hard
    easy.txt, hard.txt    the names of the easy and of the hard frames, in that order
    pseudo_labels/        <frame name>.png of every frame: classes, in the palette's colours
    easiest/, hardest/    pictures of a few frames, for the report

A run that is interrupted goes on after the last batch whose frames were all written.
"""

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax import losses, ops
from uda_jax.data.io import atomic, json_lines
from uda_jax.data.io.names import require_safe
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.methods.parts.forward import update_statistics
from uda_jax.report import pictures
from uda_jax.runs import states
from uda_jax.runs.kinds.base import Kind, wait_for_all
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir
from uda_jax.schema import config_field
from uda_jax.training import sharding
from uda_jax.training.layout import StageFiles
from uda_jax.training.precision import at_precision

# Training classes 3, 4, 5, 6, 7, 9, 12, 14, 15, 16 and 17 of the released code.
RARE_CLASSES = (
    *("wall", "fence", "pole", "traffic light", "traffic sign", "terrain"),
    *("rider", "truck", "bus", "train", "motorcycle"),
)


@dataclasses.dataclass(frozen=True)
class Rank(Kind):
    """How a stage that ranks splits the target into easy and hard frames."""

    READS: ClassVar[tuple[str, ...] | None] = ("target",)

    fraction: float = config_field(0.67, "lambda, the share of easy frames; 1 = all, which is self-training.", high=1.0)
    normalise: bool = config_field(False, "Multiply the score by the rare-class factor of IntraDA's released code.")
    rare_classes: tuple[str, ...] | None = config_field(
        None, "Names of the rare classes; None = IntraDA's eleven, as far as the label space has them."
    )
    # Not in the paper: batch norm's running averages hold both domains, which a network trained from scratch pays for.
    statistics: str = config_field(
        "training",
        "Batch statistics that the ranked predictions are normalised by: the running averages of training, as the "
        "released code, or averages over the target's frames alone.",
        choices=("training", "target"),
    )
    batch_size: int = config_field(8, "Frames that are scored at once.", low=1)
    pictures: int = config_field(3, "Easiest and hardest frames that are kept for the report, of each so many.", low=0)

    def check(self, path: str) -> None:
        if not self.fraction > 0:
            raise UserError(
                f"{path}.fraction: expected a share above 0, since without easy frames nothing can be learnt, got "
                f"{self.fraction!r}"
            )

    def rare_labels(self, classes: Sequence[str]) -> tuple[int, ...]:
        """Returns the rare classes' label values among the names of all classes."""
        names = self.rare_classes
        if names is None:
            names = [name for name in RARE_CLASSES if name in classes]
        return tuple(classes.index(name) for name in names)

    def empty_lists(self) -> tuple[str, ...]:
        """Returns the list of hard frames if there are none: what is left of the adaptation is self-training."""
        return (StageFiles("").hard.name,) if self.fraction == 1 else ()

    def validate(self, stage: Stage, context: Context) -> None:
        """Raises a UserError for classes, settings and frames that cannot be ranked."""
        path, classes = f"config.stages.{stage.name}.kind", context.space.names
        if unknown := set(self.rare_classes or ()) - set(classes):
            raise UserError(f"{path}.rare_classes: expected classes of {list(classes)}, got {unknown}")
        if self.normalise and not self.rare_labels(classes):
            raise UserError(
                f"{path}.normalise: expected False, since the label space has none of IntraDA's rare classes, got "
                f"True; name its own in {path}.rare_classes"
            )
        sharding.check_batch_size(self.batch_size, f"{path}.batch_size")
        file = stage.init_from.get("segmenter")
        if "segmenter" not in stage.start_from and not (file and file.path and "head" not in file.fresh):
            raise UserError(
                f"config.stages.{stage.name}.start_from.segmenter: expected an earlier stage, whose network ranks the "
                f"frames, or in its place config.stages.{stage.name}.init_from.segmenter.path, the file or the run of "
                "a trained network, head included, got neither"
            )
        where = _path(stage, context)
        if "target" not in stage.domains:
            raise UserError(f"{where}: expected the frames to rank in stage {stage.name}, got no such domain")
        if stage.domains["target"].fit == "pad":
            raise UserError(f"{where}.fit: expected 'stretch', since padding would be ranked and labelled, got 'pad'")
        dataset = streams.open_domain(frames_only(stage.domains["target"]), where)
        # Labels are written under the names of frames, which anybody may have chosen.
        require_safe(dataset.names(), where)
        count = len(dataset)
        if int(count * self.fraction) == 0:
            raise UserError(
                f"{path}.fraction: expected at least {1 / count:.3g}, one of the {count} target frames, got "
                f"{self.fraction}"
            )

    def run(self, stage: Stage, workdir: Workdir, context: Context) -> dict[str, Any]:
        """Ranks; returns {"seconds", "easy": frames, "hard": frames} for the stage's marker.

        Raises:
          Stopped: SIGTERM arrived between two batches.
        """
        began = time.monotonic()
        context.guard.doing = f"while ranking in stage {stage.name}"
        easy, hard = _Ranking(self, stage, workdir, context).run()
        return {"seconds": time.monotonic() - began, "easy": easy, "hard": hard}


KIND = Rank


class _Ranking:
    """One ranking under way."""

    def __init__(self, section: Rank, stage: Stage, workdir: Workdir, context: Context):
        self.section, self.stage, self.context = section, stage, context
        self.files, self.space, self.mesh = workdir.stage(stage.name), context.space, context.mesh
        self.rare = section.rare_labels(self.space.names)
        identity = context.identity
        if start_from := stage.start_from.get("segmenter"):
            earlier = start_from.stage
            self.method, self.origin = earlier.method, earlier.name
            self.state = states.load(earlier, workdir, self.mesh, start_from.step, identity)
        else:
            self.method, self.origin = stage.method, str(stage.init_from["segmenter"].path)
            self.state = states.initial(stage, workdir, context.experiment.seed, self.mesh, identity=identity)
        self.domain = frames_only(stage.domains_in(workdir)["target"])

    def run(self) -> tuple[int, int]:
        """Ranks every frame, writes all files, and returns the numbers of easy and of hard frames."""
        batches = self._batches(self.domain, self.section.batch_size)
        if self.section.statistics == "target":
            self.state = self._with_target_statistics(batches)
        size = batches.dataset.label_size
        for batch, scored in self._predictions(self._unfinished(batches), size):
            self._write_frames(batches.dataset, batch, scored)
            if self.context.stop():
                raise self.context.guard.leaving()
        # Nobody reads the labels before every process has written its own.
        wait_for_all("ranked", self.files.path)
        frames = _records(self.files)
        easy, hard = ops.split_by_score(np.array([frame["score"] for frame in frames]), self.section.fraction)
        if self.context.first_process:
            self._write_ranking(frames, easy, hard)
        for folder, chosen in ((self.files.easiest, easy), (self.files.hardest, hard[::-1])):
            self._write_pictures(folder, [frames[k]["name"] for k in chosen[: self.section.pictures]])
        return len(easy), len(hard)

    def _batches(self, domain: streams.Domain, batch_size: int) -> streams.EvaluationBatches:
        path = _path(self.stage, self.context)
        return streams.evaluation_batches(
            domain, batch_size, path=path, process_index=jax.process_index(), process_count=jax.process_count()
        )

    def _with_target_statistics(self, batches: streams.EvaluationBatches) -> Any:
        """Returns the state with running averages over the target's frames, from one pass over them."""
        update = at_precision(self.method, functools.partial(update_statistics, self.method))
        places, split = jax.tree.map(lambda x: x.sharding, self.state), sharding.split_over_batch(self.mesh)
        step = sharding.Compiled(update, self.mesh, places)
        # The last batch may be padded with frames that are none.
        state = self.state
        for batch in itertools.islice(batches, max(1, len(batches.dataset) // self.section.batch_size)):
            state = step(state, sharding.to_global(batch["image"], split))
        return state

    def _predictions(
        self, batches: streams.EvaluationBatches, size: tuple[int, int] | None
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Yields this process's block of each batch, and what the network makes of the whole batch."""
        method, rare = self.method, self.rare

        def score(state, images):
            scores = method.predict(state, images, size or images.shape[1:3])["scores"]
            probabilities = jax.nn.softmax(scores.astype(jnp.float32))
            prediction = jnp.argmax(scores, axis=-1)
            return {
                "score": ops.entropy_score(probabilities),
                "rare_classes": ops.rare_class_count(prediction, rare, len(self.space.names)),
                "prediction": prediction.astype(jnp.uint8),
                "entropy": jnp.sum(losses.self_information(probabilities), axis=-1),
            }

        replicated, split = sharding.replicated(self.mesh), sharding.split_over_batch(self.mesh)
        score = sharding.Compiled(at_precision(method, score), self.mesh)
        for batch in batches:
            found = score(self.state, sharding.to_global(batch["image"], split))
            indices = sharding.to_global(batch["index"], split)
            yield batch, jax.device_get({**found, "index": jax.device_put(indices, replicated)})

    def _unfinished(self, batches: streams.EvaluationBatches) -> streams.EvaluationBatches:
        """Returns the batches that an earlier, interrupted attempt has not finished, and drops what it half did."""
        done = 0
        for frame in _records(self.files):
            if not _label_file(self.files, frame["name"]).exists():
                break
            done += 1
        # The last batch is padded: it is complete with fewer frames, and then nothing is left to do.
        first = len(batches) if done == len(batches.dataset) else done // self.section.batch_size
        wait_for_all("counted")  # Each process counts before any goes on writing.
        if jax.process_index() == 0:
            json_lines.write(self.files.scores, _records(self.files)[: first * self.section.batch_size])
        return batches.since(first)

    def _write_frames(self, dataset: Sequence, batch: dict[str, np.ndarray], scored: dict[str, np.ndarray]) -> None:
        """Writes the pseudo-labels of this process's frames, and then the first process every frame's score."""
        labels = dict(zip(scored["index"].tolist(), scored["prediction"], strict=True))
        for index in (index for index in batch["index"].tolist() if index >= 0):
            picture = pictures.label_picture(labels[index], self.space.palette)
            atomic.write(_label_file(self.files, dataset.name(index)), pictures.png(picture))
        if jax.process_index():
            return
        rows = [
            {"name": dataset.name(int(scored["index"][k]))} | self._scores(scored, k)
            for k in np.flatnonzero(scored["index"] >= 0)
        ]
        json_lines.append(self.files.scores, rows)

    def _scores(self, scored: dict[str, np.ndarray], position: int) -> dict[str, Any]:
        """Returns a frame's entries of the ranking: its score holds the factor if that is asked for."""
        entropy, rare = float(scored["score"][position]), int(scored["rare_classes"][position])
        factor = float(ops.rare_class_normaliser(rare, len(self.rare))) if self.section.normalise else 1.0
        return {"score": entropy * factor, "rare_classes": rare, "normaliser": factor}

    def _write_ranking(self, frames: list[dict], easy: np.ndarray, hard: np.ndarray) -> None:
        for file, chosen in ((self.files.easy, easy), (self.files.hard, hard)):
            atomic.write(file, "".join(f"{frames[k]['name']}\n" for k in chosen))
        about = {
            "stage": self.origin,
            "step": int(self.state.step),
            "rare_classes": [self.space.names[k] for k in self.rare],
        }
        about |= {name: getattr(self.section, name) for name in ("fraction", "statistics", "normalise")}
        ranked = [frames[k] for k in (*easy, *hard)]
        atomic.write(self.files.ranking, json.dumps(about | {"frames": ranked}, indent=1) + "\n")

    def _write_pictures(self, folder: Path, names: list[str]) -> None:
        """Saves what the network makes of some frames, for the report."""
        if not names:
            return
        wait_for_all("listed")
        if jax.process_index() == 0:
            atomic.write(folder / "names.txt", "".join(f"{name}\n" for name in names))
        wait_for_all("names written", self.files.path)
        few = dataclasses.replace(self.domain, names_file=str(folder / "names.txt"), count=None)
        batches = self._batches(few, jax.device_count())
        for batch, found in self._predictions(batches, None):
            positions = {index: position for position, index in enumerate(found["index"].tolist())}
            for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
                if index >= 0:
                    maps = {name: found[name][positions[index]] for name in ("prediction", "entropy")}
                    name = batches.dataset.name(index)
                    pictures.save_frame(folder, name, image, None, **maps, palette=self.space.palette)


def _path(stage: Stage, context: Context) -> str:
    """Returns the dotted name of the section of the frames that a stage ranks."""
    own = context.experiment.stages[stage.name].data is not None
    return f"config.stages.{stage.name}.data.target" if own else "config.data.target"


def frames_only(domain: streams.Domain) -> streams.Domain:
    """Returns a training domain as one pass over its images sees it: without labels and chance."""
    changes = {"fields": ("image",), "labels_from": None, "disparity_from": None, "resize_label": True}
    return dataclasses.replace(domain, **changes, scale=None, short_side=None, crop=None, flip=False, rare_classes=None)


def _records(files: StageFiles) -> list[dict[str, Any]]:
    """Reads the scores that are complete: a process that is killed may leave half a line."""
    return json_lines.read(files.scores) if files.scores.exists() else []


def _label_file(files: StageFiles, name: str) -> Path:
    return files.pseudo_labels / f"{name}.png"
