"""Memory and time of the cycle association, as whole matrices of similarities and tile by tile.

    python -m benchmarks.association
    python -m benchmarks.association --grids 92x92 --channels 19 --similarity kl --time 92x92

Each row is the loss of one batch of image pairs with both gradients, at one grid of the feature maps: 46x46, 92x92 and
183x183 are those of images of 365, 730 and 1460 pixels. Memory is what XLA reserves for the compiled program beside
its arguments and results, so a program needs not run, nor fit, to be measured. Only the grids of --time are run, both
forms in turns.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.provenance import provenance
from benchmarks.side_by_side import spread
from uda_jax import losses

FORMS = ("dense", "blockwise")
MIB = 2**20


def grid(text: str) -> tuple[int, int]:
    """Returns height and width of "92x92"."""
    height, width = (int(number) for number in text.split("x"))
    return height, width


def arguments(size: tuple[int, int], options: argparse.Namespace) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns source, target and labels of an abstract batch."""
    maps = jax.ShapeDtypeStruct((options.batch, *size, options.channels), jnp.float32)
    return maps, maps, jax.ShapeDtypeStruct((options.batch, *size), jnp.int32)


def compiled(size: tuple[int, int], block_size: int | None, options: argparse.Namespace) -> jax.stages.Compiled:
    """Returns the compiled loss and its gradients."""

    def loss(source, target, labels):
        return losses.cycle_association(source, target, labels, similarity=options.similarity, block_size=block_size)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments(size, options)).compile()


def timed(programs: Sequence[jax.stages.Compiled], size: tuple[int, int], options: argparse.Namespace) -> list[dict]:
    """Returns the spread of milliseconds of each program, which run in turns on random maps."""
    generator = np.random.default_rng(0)
    shapes = [x.shape for x in arguments(size, options)]
    maps = [np.maximum(generator.normal(size=shape), 0).astype(np.float32) for shape in shapes[:2]]
    if options.similarity == "kl":
        maps = [jax.nn.softmax(x) for x in maps]
    batch = jax.device_put((*maps, generator.integers(0, 19, shapes[2], dtype=np.int32)))
    times = [[] for _ in programs]
    for turn in range(options.repeats + 1):
        for program, found in zip(programs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*batch))
            # The first turn warms up.
            if turn:
                found.append(1000 * (time.perf_counter() - start))
    return [spread(found)._asdict() for found in times]


def measure(size: tuple[int, int], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of a grid."""
    programs = [compiled(size, block_size, options) for block_size in (None, options.block)]
    memory = [program.memory_analysis().temp_size_in_bytes / MIB for program in programs]
    row = {
        "grid": size,
        "pairs": options.batch,
        "matrix_mib": options.batch * (size[0] * size[1]) ** 2 * 4 / MIB,
        "maps_mib": options.batch * size[0] * size[1] * options.channels * 4 / MIB,
        "temporary_mib": dict(zip(FORMS, memory, strict=True)),
        "ms": None,
    }
    if size in options.time:
        row["ms"] = dict(zip(FORMS, timed(programs, size, options), strict=True))
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| grid | one matrix, MiB | one map, MiB | dense, MiB | blockwise, MiB | ratio | dense, ms | blockwise, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        dense, blockwise = (row["temporary_mib"][form] for form in FORMS)
        times = ["", ""]
        if row["ms"]:
            times = ["{middle:.0f} [{low:.0f}, {high:.0f}]".format(**row["ms"][form]) for form in FORMS]
        cells = [f"{row['matrix_mib']:.0f}", f"{row['maps_mib']:.0f}", f"{dense:.0f}", f"{blockwise:.0f}"]
        lines.append(f"| {' | '.join(['x'.join(map(str, row['grid'])), *cells, f'{blockwise / dense:.3f}', *times])} |")
    return "\n".join(lines)


def main() -> int:
    """Measures grid by grid, with progress on stderr, and prints the table."""
    grids = lambda text: [grid(part) for part in text.split(",") if part]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grids", type=grids, default="46x46,92x92,183x183", help="heights and widths of the maps")
    parser.add_argument("--time", type=grids, default="46x46", help="grids to run as well; '' = none")
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--similarity", choices=("cosine", "kl"), default="cosine")
    parser.add_argument("--batch", type=int, default=1, help="image pairs")
    parser.add_argument("--block", type=int, default=512, help="pixels per tile")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write, too")
    options = parser.parse_args()
    rows = []
    for size in options.grids:
        print(f"{size[0]}x{size[1]}", file=sys.stderr, flush=True)
        rows.append(measure(size, options))
    origin = provenance("benchmarks.association")
    if options.output:
        from uda_jax.data.io import atomic

        atomic.write(options.output, json.dumps({**origin, "rows": rows}, indent=1) + "\n")
    print(f"{origin['hardware']}, commit {origin['commit']}")
    print(
        f"Forward and both gradients, {options.similarity}, {options.channels} channels, {options.batch} pair(s), "
        f"{options.block} pixels per tile; median [min, max] of {options.repeats}.\n"
    )
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
