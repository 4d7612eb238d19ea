"""Depthwise convolutions on whatever device is here: XLA's grouped form against that of `networks.depthwise`.

    python -m benchmarks.depthwise --output benchmarks/results/depthwise.json

Convolution and both gradients of the kinds of block that EfficientNet-Lite0 has, at 4 x 96 x 192: XLA's grouped
convolution, sums of shifted maps whose gradients JAX derives, and those with gradients of our own. Prints why
`networks.convolution` chooses as it does; the forms alternate in one process.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.dilated import measure
from benchmarks.provenance import provenance

# Map, kernel, stride, and how many blocks of the network are of this kind.
CASES = (
    ((4, 48, 96, 32), 3, 1, 1),
    ((4, 48, 96, 96), 3, 2, 1),
    ((4, 24, 48, 144), 3, 1, 1),
    ((4, 24, 48, 144), 5, 2, 1),
    ((4, 12, 24, 240), 5, 1, 1),
    ((4, 12, 24, 240), 3, 2, 1),
    ((4, 6, 12, 480), 3, 1, 2),
    ((4, 6, 12, 480), 5, 1, 1),
    ((4, 6, 12, 672), 5, 1, 2),
    ((4, 6, 12, 672), 5, 2, 1),
    ((4, 3, 6, 1152), 5, 1, 3),
    ((4, 3, 6, 1152), 3, 1, 1),
)


def forms(shape: tuple[int, ...], size: int, stride: int) -> dict[str, Callable]:
    """Returns the forms of one convolution, name -> function of a map and a kernel."""
    from uda_jax.networks.convolution import depthwise_convolve, same_padding
    from uda_jax.networks.depthwise import shifted_products, sum_of_shifted_maps
    from uda_jax.ops.platform import made_for

    padding = same_padding(shape[1:3], size, stride)

    def grouped(x, kernel):
        with made_for("gpu"):
            return depthwise_convolve(x, kernel, stride)

    return {
        "XLA": grouped,
        "shifted": lambda x, kernel: sum_of_shifted_maps(x, kernel, stride, 1, padding),
        "own gradients": lambda x, kernel: shifted_products(x, kernel, stride, 1, padding),
    }


def main() -> None:
    """Prints one line for each kind of block, the median milliseconds of every form, and their sum over all blocks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, help="JSON file to write, too")
    options = parser.parse_args()
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    rows, sums = [], {}
    for shape, size, stride, blocks in CASES:
        kernel = (size, size, 1, shape[-1])
        found = measure(forms(shape, size, stride), (shape, kernel), "fp32", options.repeats)
        medians = {name: round(statistics.median(times), 3) for name, times in found.items()}
        rows.append({"map": shape, "kernel": size, "stride": stride, "blocks": blocks, "ms": medians})
        sums = {name: sums.get(name, 0) + blocks * median for name, median in medians.items()}
        print(line(rows[-1]), flush=True)
    print("all 16 blocks: " + "; ".join(f"{name} {value:.1f}" for name, value in sums.items()))
    if options.output:
        sums = {name: round(value, 1) for name, value in sums.items()}
        about = provenance("benchmarks.depthwise") | {"rows": rows, "sum_ms": sums}
        options.output.write_text(json.dumps(about, indent=1) + "\n")


def line(row: dict) -> str:
    """Returns a row as a line of text."""
    cells = "; ".join(f"{name} {median:.2f}" for name, median in row["ms"].items())
    return f"{'x'.join(map(str, row['map']))}, kernel {row['kernel']}, stride {row['stride']}: {cells}"


if __name__ == "__main__":
    main()
