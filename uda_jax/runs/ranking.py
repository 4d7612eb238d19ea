"""Ranking the target's frames by entropy, the second of IntraDA's three stages (Pan et al., CVPR 2020).

A network of an earlier stage predicts every frame of the domain "target". Frames whose prediction has little entropy
are easy: what is predicted there serves the next stage as labels. The stage's folder then holds

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from uda_jax import losses, ops
from uda_jax.config import Rank
from uda_jax.data.io import atomic, json_lines
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.report import pictures
from uda_jax.runs import workdir as workdirs
from uda_jax.runs.stages import HARD_LIST, Stage, Stopped
from uda_jax.training import sharding

# Training classes 3, 4, 5, 6, 7, 9, 12, 14, 15, 16 and 17 of the released code.
RARE_CLASSES = (
    *("wall", "fence", "pole", "traffic light", "traffic sign", "terrain"),
    *("rider", "truck", "bus", "train", "motorcycle"),
)
EASY_LIST, PSEUDO_LABELS, SCORES = "easy.txt", "pseudo_labels", "scores.jsonl"
PATH = "config.data.target"


@dataclasses.dataclass(frozen=True)
class Ranker:
    """Runs the stages of a recipe that rank.

    Attributes:
      section: the experiment's rank section; None where no stage ranks.
      space: the label space of the pseudo-labels.
      mesh: the device mesh, over which each batch is split.
      stop: whether the run was asked to stop.
    """

    section: Rank | None
    space: label_spaces.LabelSpace
    mesh: jax.sharding.Mesh
    stop: Callable[[], bool]

    @property
    def rare(self) -> tuple[int, ...]:
        """The rare classes' label values."""
        names = self.section.rare_classes
        if names is None:
            names = [name for name in RARE_CLASSES if name in self.space.names]
        return tuple(self.space.names.index(name) for name in names)

    def check(self, stage: Stage) -> None:
        """Raises a UserError for a stage that ranks if it cannot: before anything is written or computed."""
        if stage.kind != "rank":
            return
        if unknown := set(self.section.rare_classes or ()) - set(self.space.names):
            raise UserError(f"config.rank.rare_classes: expected classes of {list(self.space.names)}, got {unknown}")
        if self.section.normalise and not self.rare:
            raise UserError(
                "config.rank.normalise: expected False, since the label space has none of IntraDA's rare classes, got "
                "True; name its own in config.rank.rare_classes"
            )
        sharding.check_batch_size(self.section.batch_size, "config.rank.batch_size")
        if "target" not in stage.streams:
            raise UserError(f"{PATH}: expected the frames to rank in stage {stage.name}, got no such domain")
        if stage.streams["target"].fit == "pad":
            raise UserError(f"{PATH}.fit: expected 'stretch', since padding would be ranked and labelled, got 'pad'")
        count = len(streams.open_domain(_frames_only(stage.streams["target"]), PATH))
        if int(count * self.section.fraction) == 0:
            raise UserError(
                f"config.rank.fraction: expected at least {1 / count:.3g}, one of the {count} target frames, got "
                f"{self.section.fraction}"
            )

    def run(self, stage: Stage, workdir: Path) -> dict[str, Any]:
        """Ranks; returns {"seconds", "easy": frames, "hard": frames} for the stage's marker.

        Raises:
          Stopped: SIGTERM arrived between two batches.
        """
        began, folder = time.monotonic(), stage.folder(workdir)
        origin = stage.start_from["segmenter"].stage
        state = workdirs.last_state(origin, workdir, self.mesh)
        domain = _frames_only(stage.domains(workdir)["target"])
        batches = streams.evaluation_batches(
            domain,
            self.section.batch_size,
            path=PATH,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        if self.section.statistics == "target":
            state = self._with_target_statistics(origin.method, state, batches)
        size = batches.dataset.label_size
        for batch, scored in self._predictions(origin.method, state, self._unfinished(batches, folder), size):
            self._write_frames(folder, batches.dataset, batch, scored)
            if self.stop():
                raise Stopped(f"stopped while ranking in stage {stage.name}; the same command goes on from there")
        # Nobody reads the labels before every process has written its own.
        _wait_for_everyone("ranked")
        frames = _records(folder)
        easy, hard = ops.split_by_score(np.array([frame["score"] for frame in frames]), self.section.fraction)
        if jax.process_index() == 0:
            self._write_ranking(folder, frames, easy, hard, origin)
        for name, chosen in (("easiest", easy), ("hardest", hard[::-1])):
            names = [frames[k]["name"] for k in chosen[: self.section.pictures]]
            self._write_pictures(folder / name, origin.method, state, domain, names)
        return {"seconds": time.monotonic() - began, "easy": len(easy), "hard": len(hard)}

    def _with_target_statistics(self, method: Any, state: Any, batches: streams.EvaluationBatches) -> Any:
        """Returns the state with running averages over the target's frames, from one pass over them."""
        everywhere, split = sharding.replicated(self.mesh), sharding.split_over_batch(self.mesh)
        step = jax.jit(
            functools.partial(base.update_statistics, method),
            in_shardings=(everywhere, split),
            out_shardings=everywhere,
        )
        # The last batch may be padded with frames that are none.
        for batch in itertools.islice(batches, max(1, len(batches.dataset) // self.section.batch_size)):
            state = step(state, sharding.to_global(batch["image"], split))
        return state

    def _predictions(
        self, method: Any, state: Any, batches: streams.EvaluationBatches, size: tuple[int, int] | None
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Yields this process's block of each batch, and what the network makes of the whole batch."""
        rare = self.rare

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

        everywhere, split = sharding.replicated(self.mesh), sharding.split_over_batch(self.mesh)
        score = jax.jit(score, in_shardings=(everywhere, split), out_shardings=everywhere)
        for batch in batches:
            found = score(state, sharding.to_global(batch["image"], split))
            indices = sharding.to_global(batch["index"], split)
            yield batch, jax.device_get({**found, "index": jax.device_put(indices, everywhere)})

    def _unfinished(self, batches: streams.EvaluationBatches, folder: Path) -> streams.EvaluationBatches:
        """Returns the batches that an earlier, interrupted attempt has not finished, and drops what it half did."""
        done = 0
        for frame in _records(folder):
            if not _label_file(folder, frame["name"]).exists():
                break
            done += 1
        # The last batch is padded: it is complete with fewer frames, and then nothing is left to do.
        first = len(batches) if done == len(batches.dataset) else done // self.section.batch_size
        _wait_for_everyone("counted")  # Each process counts before any goes on writing.
        if jax.process_index() == 0:
            json_lines.write(folder / SCORES, _records(folder)[: first * self.section.batch_size])
        return batches.since(first)

    def _write_frames(
        self, folder: Path, dataset: Sequence, batch: dict[str, np.ndarray], scored: dict[str, np.ndarray]
    ) -> None:
        """Writes the pseudo-labels of this process's frames, and then the first process every frame's score."""
        labels = dict(zip(scored["index"].tolist(), scored["prediction"], strict=True))
        for index in (index for index in batch["index"].tolist() if index >= 0):
            picture = pictures.label_picture(labels[index], self.space.palette)
            atomic.write(_label_file(folder, dataset.name(index)), pictures.png(picture))
        if jax.process_index():
            return
        rows = [
            {"name": dataset.name(int(scored["index"][k]))} | self._scores(scored, k)
            for k in np.flatnonzero(scored["index"] >= 0)
        ]
        json_lines.append(folder / SCORES, rows)

    def _scores(self, scored: dict[str, np.ndarray], place: int) -> dict[str, Any]:
        """Returns a frame's entries of the ranking: its score holds the factor if that is asked for."""
        entropy, rare = float(scored["score"][place]), int(scored["rare_classes"][place])
        factor = float(ops.rare_class_normaliser(rare, len(self.rare))) if self.section.normalise else 1.0
        return {"score": entropy * factor, "rare_classes": rare, "normaliser": factor}

    def _write_ranking(
        self, folder: Path, frames: list[dict], easy: np.ndarray, hard: np.ndarray, origin: Stage
    ) -> None:
        for file, chosen in ((EASY_LIST, easy), (HARD_LIST, hard)):
            atomic.write(folder / file, "".join(f"{frames[k]['name']}\n" for k in chosen))
        about = {
            "stage": origin.name,
            "step": origin.train.steps,
            "rare_classes": [self.space.names[k] for k in self.rare],
        }
        about |= {name: getattr(self.section, name) for name in ("fraction", "statistics", "normalise")}
        ranked = [frames[k] for k in (*easy, *hard)]
        atomic.write(folder / "ranking.json", json.dumps(about | {"frames": ranked}, indent=1) + "\n")

    def _write_pictures(self, folder: Path, method: Any, state: Any, domain: streams.Domain, names: list[str]) -> None:
        """Saves what the network makes of some frames, for the report."""
        if not names:
            return
        _wait_for_everyone("listed")
        if jax.process_index() == 0:
            atomic.write(folder / "names.txt", "".join(f"{name}\n" for name in names))
        _wait_for_everyone("names written")
        few = dataclasses.replace(domain, names_file=str(folder / "names.txt"), count=None)
        batches = streams.evaluation_batches(
            few, jax.device_count(), path=PATH, process_index=jax.process_index(), process_count=jax.process_count()
        )
        for batch, found in self._predictions(method, state, batches, None):
            places = {index: place for place, index in enumerate(found["index"].tolist())}
            for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
                if index >= 0:
                    maps = {name: found[name][places[index]] for name in ("prediction", "entropy")}
                    name = batches.dataset.name(index)
                    pictures.save_frame(folder, name, image, None, **maps, palette=self.space.palette)


def _frames_only(domain: streams.Domain) -> streams.Domain:
    """Returns a training domain as one pass over its images sees it: without labels and chance."""
    changes = {"fields": ("image",), "labels_from": None, "resize_label": True}
    return dataclasses.replace(domain, **changes, scale=None, short_side=None, crop=None, flip=False, rare_classes=None)


def _records(folder: Path) -> list[dict[str, Any]]:
    """Reads the scores that are complete: a process that is killed may leave half a line."""
    return json_lines.read(folder / SCORES) if (folder / SCORES).exists() else []


def _label_file(folder: Path, name: str) -> Path:
    return folder / PSEUDO_LABELS / f"{name}.png"


def _wait_for_everyone(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
