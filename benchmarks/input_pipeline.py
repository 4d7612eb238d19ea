"""Images per second and core that the input pipeline delivers, raw and prepared, and where the time goes.

    python -m benchmarks.input_pipeline --gta5 data/gta5 --cityscapes data/cityscapes \
        --output benchmarks/results/input_pipeline.json

Two views of each case: the milliseconds that one thread spends on a frame and its label, step by step; and the frames
per second of the training stream itself, held to one core, and with 0, 1 and 2 loader processes on all of them.
Prepared copies are written to a temporary folder first. Files come from the page cache: this is no measure of a disk.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance

STEPS = ("read", "decode", "resize", "map", "augment", "batch")


@dataclasses.dataclass(frozen=True)
class Case:
    """How a method reads a data set.

    Attributes:
      methods: who reads it so.
      dataset: its name.
      prepared_size: (height, width) of the prepared copy; None keeps the size and recodes the pixels.
      domain: what the method's domain says, beside data set, root and split.
    """

    methods: str
    dataset: str
    prepared_size: tuple[int, int] | None
    domain: dict[str, Any]


_FIELDS = ("image", "label")
_PLAIN = "AdaptSegNet, ADVENT, IntraDA, ASS"
_MIXED = "DACS, CorDA"
_PLCA = {"short_side": (760, 988), "crop": (730, 730), "flip": True, "image_resampling": "bilinear"}
CASES = (
    Case(_PLAIN, "gta5", (720, 1280), {"size": (720, 1280)}),
    Case(_MIXED, "gta5", (720, 1280), {"size": (720, 1280), "crop": (512, 512)}),
    Case("PLCA", "gta5", None, _PLCA),
    Case(_PLAIN, "cityscapes", (512, 1024), {"size": (512, 1024)}),
    Case(_MIXED, "cityscapes", (512, 1024), {"size": (512, 1024), "crop": (512, 512), "image_resampling": "bilinear"}),
    Case("PLCA", "cityscapes", None, _PLCA),
)


def main() -> int:
    """Prepares what is missing, measures every case, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gta5", type=Path, help="root of GTA5; left out, its rows are")
    parser.add_argument("--cityscapes", type=Path, help="root of Cityscapes; left out, its rows are")
    parser.add_argument("--split", default="train", help="of Cityscapes")
    parser.add_argument("--frames", type=int, default=40, help="frames that one figure is measured on")
    parser.add_argument("--repeats", type=int, default=3, help="times that each figure is measured, in turns")
    parser.add_argument("--output", type=Path, help="JSON file to write, too")
    parser.add_argument("--stream", help=argparse.SUPPRESS)  # what a child process measures
    options = parser.parse_args()
    if options.stream:
        print(stream_rate(**json.loads(options.stream)))
        return 0
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    roots = {"gta5": options.gta5, "cityscapes": options.cityscapes}
    cases = [case for case in CASES if roots[case.dataset] is not None]
    if not cases:
        parser.error("name at least one of --gta5 and --cityscapes")
    rows = []
    with tempfile.TemporaryDirectory(prefix="uda-input-pipeline-") as folder:
        for case in cases:
            split = options.split if case.dataset == "cityscapes" else "train"
            prepared = _prepare(case, roots[case.dataset], split, Path(folder))
            for kind, root in (("raw", roots[case.dataset]), ("prepared", prepared)):
                print(f"{case.dataset}, {case.methods}, {kind}", file=sys.stderr, flush=True)
                rows.append(
                    {"dataset": case.dataset, "methods": case.methods, "kind": kind}
                    | measure(case, root, split, options)
                )
                if options.output:
                    _keep(options.output, rows)
    print(table(rows))
    return 0


def measure(case: Case, root: Path, split: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns one case's milliseconds per pair and step, and frames per second of its stream."""
    job = {"dataset": case.dataset, "root": str(root), "split": split, "domain": case.domain, "frames": options.frames}
    rates: dict[str, list[float]] = {"one core": [], "0 workers": [], "1 worker": [], "2 workers": []}
    steps: list[dict[str, float]] = []
    for _ in range(options.repeats):
        steps.append(step_times(case, root, split, options.frames))
        for name, found in rates.items():
            workers = int(name[0]) if name[0].isdigit() else 0
            words = [sys.executable, "-m", "benchmarks.input_pipeline", "--stream"]
            child = job | {"workers": workers, "one_core": name == "one core"}
            done = subprocess.run([*words, json.dumps(child)], capture_output=True, text=True, check=True)
            found.append(float(done.stdout))
    return {
        "milliseconds": {step: statistics.median(found[step] for found in steps) for step in STEPS},
        "pairs_per_second": {
            name: {"middle": statistics.median(found), "low": min(found), "high": max(found)}
            for name, found in rates.items()
        },
    }


def stream_rate(
    dataset: str, root: str, split: str, domain: dict[str, Any], frames: int, workers: int, one_core: bool
) -> float:
    """Returns how many frames with their labels a training stream gives per second, once it is under way."""
    if one_core and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from uda_jax.data.pipeline.streams import train_stream
    from uda_jax.training import allocator

    # As `uda train` does.
    allocator.keep_freed_memory()
    stream = train_stream({"source": _domain(dataset, root, split, domain)}, global_batch=1, seed=0, workers=workers)
    # What was read ahead while the stream started must not count.
    for _ in range(8):
        next(stream)
    start = time.perf_counter()
    for _ in range(frames):
        next(stream)
    rate = frames / (time.perf_counter() - start)
    stream.close()
    return rate


def step_times(case: Case, root: Path, split: str, frames: int) -> dict[str, float]:
    """Returns the milliseconds that one thread spends on a frame and its label, by step.

    Decoding is what reading and decoding take together, less the reading.
    """
    import numpy as np

    from uda_jax.data import get_dataset
    from uda_jax.data.pipeline.examples import augmentation
    from uda_jax.data.pipeline.transforms import resize

    domain = _domain(case.dataset, str(root), split, case.domain)
    dataset = get_dataset(case.dataset, root, split)
    read, augment, generator = _reader(dataset, root), augmentation(domain), np.random.default_rng(0)
    spent = dict.fromkeys(STEPS, 0.0)

    def timed(step: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        spent[step] += time.perf_counter() - start
        return result

    for number in range(frames + 1):
        if number == 1:  # The first frame opens files.
            spent = dict.fromkeys(STEPS, 0.0)
        place = number % len(dataset)
        timed("read", lambda place=place: read(place))
        example = timed("decode", lambda place=place: dataset.stored(place, _FIELDS))
        if domain.size is not None:
            example = timed(
                "resize", lambda frame=example: resize(frame, domain.size, resampling=domain.resampling, maps=_FIELDS)
            )
        label = timed("map", lambda frame=example: dataset.table.take(frame["label"]))
        example = timed("augment", lambda frame=example | {"label": label}: augment(frame, generator))
        timed("batch", lambda frame=example: {field: np.stack([frame[field]]) for field in _FIELDS})
    spent["decode"] -= spent["read"]
    return {step: 1000 * seconds / frames for step, seconds in spent.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    rates = list(rows[0]["pairs_per_second"])
    head = [
        "data set",
        "as read by",
        "form",
        *(f"{step}, ms" for step in STEPS),
        "sum, ms",
        *(f"{r}, /s" for r in rates),
    ]
    lines = [" | ".join(head), " | ".join(["---"] * 3 + ["---:"] * (len(head) - 3))]
    for row in rows:
        times = row["milliseconds"]
        cells = [row["dataset"], row["methods"], row["kind"], *(f"{times[step]:.1f}" for step in STEPS)]
        cells.append(f"{sum(times.values()):.1f}")
        for found in row["pairs_per_second"].values():
            cells.append(f"{found['middle']:.1f} [{found['low']:.1f}, {found['high']:.1f}]")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _prepare(case: Case, root: Path, split: str, folder: Path) -> Path:
    from uda_jax.data.prepare.command import prepare

    words = "x".join(map(str, case.prepared_size)) if case.prepared_size else "recoded"
    how: dict[str, Any] = {"recode": True}
    if case.prepared_size:
        how = {"size": case.prepared_size, "image_resampling": case.domain.get("image_resampling", "bicubic")}
    out = folder / f"{case.dataset}-{words}-{how.get('image_resampling', '')}"
    prepare(case.dataset, root, out, split=split, fields=_FIELDS, **how)
    return out


def _reader(dataset: Any, root: Path) -> Callable[[int], Any]:
    """Returns what reads the bytes of a frame and its label, and does no more."""
    from uda_jax.data.frames import FrameFiles

    if isinstance(dataset, FrameFiles):
        return lambda index: [dataset.frames[index].files[field].read_bytes() for field in _FIELDS]
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    records = ArrayRecordDataSource([str(path) for path in sorted(root.glob("*.array_record-*"))])
    return lambda index: records[index]


def _domain(dataset: str, root: str, split: str, fields: dict[str, Any]) -> Any:
    from uda_jax.data.pipeline.domains import Domain

    pairs = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Domain(dataset=dataset, root=root, split=split, **pairs)


def _keep(path: Path, rows: list[dict[str, Any]]) -> None:
    from uda_jax.data.io import atomic

    origin = provenance("benchmarks.input_pipeline")
    atomic.write(path, json.dumps(origin | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
