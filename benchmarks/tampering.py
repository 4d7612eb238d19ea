"""Copies of a tiny run in each of which one thing was changed, and untouched ones: what `uda verify` says of them.

    python -m benchmarks.tampering --workdir /tmp/tampering --output benchmarks/results/tampering.json

The run trains source_only on generated frames in folders. Of each copy, with its data, one thing is changed: a pixel of
a label, a weight of a checkpoint (with or without its checksums made anew), a field of the config, a library's version
in a receipt (likewise), the order of frames (renamed, exchanged or left out). What is named has to be that very thing.
Copies without a change, of which other numbers of steps are replayed, must raise no alarm. All happens in one process,
which compiles the step once.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from uda_jax import config
from uda_jax.data.contents import file_digest
from uda_jax.runs import checksums, receipts, results, train, verification
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Workdir, flat

CLASSES, SIZE, FRAMES, STEPS = 3, (32, 64), 8, 6
WORDS = (
    "--config.method.segmenter.width=4",
    f"--config.train.steps={STEPS}",
    "--config.method.schedule.warmup=0",
    "--config.train.accumulation=1",
    "--config.train.checkpoint_every=2",
    "--config.train.evaluate_every=0",
    "--config.train.log_every=1",
    "--config.evaluation.pictures=0",
    f"--config.data.source.size={SIZE[0]},{SIZE[1]}",
    f"--config.evaluation.final.size={SIZE[0]},{SIZE[1]}",
)


def main() -> None:
    """Writes one JSON file and prints how many were named and how many passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="is made; what an earlier call left is deleted")
    parser.add_argument("--count", type=int, default=100, help="tampered copies, and as many untouched ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="the JSON file")
    options = parser.parse_args()
    output = options.output and options.output.resolve()
    experiment = config.experiment(config.load("source_only:folder", WORDS))
    found = trial(experiment, options.workdir, options.count, options.count, options.seed)
    found |= {"seed": options.seed, "hardware": results.hardware(), "versions": receipts.versions()}
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: found[name] for name in ("tampered", "named", "honest", "passed", "seconds")}))


def trial(experiment: Any, workdir: Path, tampered: int, honest: int, seed: int) -> dict[str, Any]:
    """Trains, copies, tampers and verifies.

    Args:
      experiment: on `folder` data below data/, see `write_data`.
      workdir: made anew.
      tampered, honest: numbers of copies.
      seed: of all choices.

    Returns:
      {"tampered", "named", "honest", "passed", "seconds", "cases"}.
    """
    generator, programs, cases, began = random.Random(seed), {}, [], time.monotonic()
    shutil.rmtree(workdir, ignore_errors=True)
    original, copy = workdir / "original", workdir / "copy"
    write_data(original / "data", seed)
    with contextlib.chdir(original):
        train.run(experiment, "run", results.Invocation())
    kinds = list(TAMPERING)
    for number in range(tampered + honest):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        with contextlib.chdir(copy):
            kind = kinds[number % len(kinds)] if number < tampered else "none"
            expected = TAMPERING[kind](generator) if kind != "none" else None
            steps = generator.choice((None, 1, 2, 3, 4, experiment.train.steps))
            replaying = verification.Replaying(steps=steps, programs=programs)
            first = verification.verify(Workdir("run"), replaying).first
        said = None if first is None else f"{first.what}: {first.message}"
        right = first is None if expected is None else first is not None and all(word in said for word in expected)
        cases.append({"change": kind, "expected": expected, "steps": steps, "said": said, "right": right})
    shutil.rmtree(copy, ignore_errors=True)
    return {
        "tampered": tampered,
        "named": sum(case["right"] for case in cases[:tampered]),
        "honest": honest,
        "passed": sum(case["right"] for case in cases[tampered:]),
        "seconds": round(time.monotonic() - began),
        "cases": cases,
    }


def write_data(folder: Path, seed: int) -> None:
    """Writes `<folder>/source` and `<folder>/target`, each with splits train and val."""
    generator = np.random.default_rng(seed)
    for name in ("source", "target"):
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                (folder / name / split / kind).mkdir(parents=True)
            for k in range(FRAMES):
                label = np.repeat(np.repeat(generator.integers(0, CLASSES, (4, 8)), 8, axis=0), 8, axis=1)
                image = 80 * label[..., None] + generator.normal(40, 20, (*SIZE, 3))
                Image.fromarray(label.astype(np.uint8)).save(folder / name / split / "labels" / f"{k:03}.png")
                image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
                image.save(folder / name / split / "images" / f"{k:03}.png")
        (folder / name / "dataset.yaml").write_text("classes: [ground, wall, thing]\n")


def label_pixel(generator: random.Random) -> list[str]:
    """Changes one pixel of a label that the run was trained or scored on, and gives the file its old time again."""
    folder = generator.choice(("data/source/train", "data/target/val"))
    file = Path(folder, "labels", f"{generator.randrange(FRAMES):03}.png")
    before, label = file.stat(), np.array(Image.open(file))
    y, x = generator.randrange(SIZE[0]), generator.randrange(SIZE[1])
    label[y, x] = (label[y, x] + generator.randrange(1, CLASSES)) % CLASSES
    Image.fromarray(label).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return [verification.DATA, str(file)]


def weight(generator: random.Random) -> list[str]:
    """Changes one number of one array of a checkpoint, of half of them its checksums, too."""
    files = Workdir("run").stage("train")
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        step = generator.choice(checkpoints.all_steps())
        about = checkpoints.stored(step)
        tree = checkpoints.read(step, {k: v for k, v in checkpoints.shapes(step).items() if k != "frozen"})
    leaves = jax.tree.leaves_with_path(tree)
    path, leaf = generator.choice([pair for pair in leaves if np.issubdtype(pair[1].dtype, np.floating)])
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    leaf.reshape(-1)[generator.randrange(leaf.size)] += generator.choice((-1, 1)) * 10.0 ** generator.randint(-6, 0)
    folder = (files.checkpoints / str(step)).resolve()
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "state", tree, force=True)
    if generator.random() < 0.5:
        about["arrays"][name][2] = checksums.table(tree)[name][2]
        del about["checksum"]
        (folder / "config" / "metadata").write_text(json.dumps(checksums.sealed(about)))
        checksums.seal_files(folder)
    return [verification.WEIGHTS, name, str(step)]


def config_field(generator: random.Random) -> list[str]:
    """Changes one field of config.json that holds a number, a word or a truth value."""
    file = Path("run/config.json")
    plain = json.loads(file.read_text())
    format_number = plain.pop("format")
    path, value = generator.choice(
        [pair for pair in flat(plain).items() if isinstance(pair[1], (bool, int, float, str))]
    )
    other = not value if isinstance(value, bool) else value + "x" if isinstance(value, str) else value + 1
    node = plain
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = other
    file.write_text(json.dumps({"format": format_number} | plain))
    return [verification.CONFIG, ".".join(("config", *path)) + " "]


def library_version(generator: random.Random) -> list[str]:
    """Changes the version of a package in a receipt, of half of them the checksum, too."""
    file = Path(generator.choice(("run/receipt.json", "run/train/receipt.json")))
    receipt = json.loads(file.read_text())
    package = generator.choice(list(receipt["versions"]))
    receipt["versions"][package] += ".1"
    if generator.random() < 0.5:
        del receipt["checksum"]
        receipt = checksums.sealed(receipt)
    file.write_text(json.dumps(receipt))
    return [verification.VERSIONS, f"{package} is"]


def order(generator: random.Random) -> list[str]:
    """Renames a frame, exchanges two or leaves the last one out."""
    folder, how = Path("data/source/train"), generator.choice(("renamed", "exchanged", "left out"))
    one, other = (f"{k:03}.png" for k in generator.sample(range(FRAMES), 2))
    before = file_digest(folder / "images" / one)
    for kind in ("images", "labels"):
        if how == "renamed":
            (folder / kind / one).rename(folder / kind / f"9{one}")
        elif how == "exchanged":
            (folder / kind / one).rename(folder / kind / "between")
            (folder / kind / other).rename(folder / kind / one)
            (folder / kind / "between").rename(folder / kind / other)
        else:
            (folder / kind / f"{FRAMES - 1:03}.png").unlink()
    assert how != "exchanged" or before == file_digest(folder / "images" / other)
    named = f"{FRAMES - 1:03}" if how == "left out" else min(one, other)[:3] if how == "exchanged" else one[:3]
    return [verification.ORDER, repr(named)]


TAMPERING: dict[str, Callable[[random.Random], list[str]]] = {
    "label pixel": label_pixel,
    "weight": weight,
    "config field": config_field,
    "library version": library_version,
    "order of files": order,
}


if __name__ == "__main__":
    main()
