"""Dilated convolutions on whatever device is here: XLA's own forms against those of `networks.kernels`.

    python -m benchmarks.dilated
    python -m benchmarks.dilated --precision bf16 --repeats 30 --output dilated.json

Convolution and both gradients of 3x3 kernels: XLA's, one with kernel gradients as matrix products, and one with those
of undilated phases. Then the sum of four dilated convolutions that ends a DeepLab network, as XLA's convolutions and as
one matrix product. Prints why `networks.convolution` chooses as it does; the forms alternate in one process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.provenance import provenance

# Batch, height, width, channels and dilation: stages 2 to 4 of a ResNet-101 at 128x256 to 256x512, those of the small
# network of `streets`, and stages 3 and 4 at 720x1280.
CASES = (
    (1, 33, 33, 128, 1),
    (1, 33, 33, 256, 2),
    (1, 33, 33, 512, 4),
    (1, 17, 33, 256, 2),
    (1, 33, 65, 256, 2),
    (1, 33, 65, 512, 4),
    (4, 12, 24, 48, 2),
    (4, 12, 24, 96, 4),
    (1, 91, 161, 256, 2),
    (1, 91, 161, 512, 4),
)
# Batch, height, width, channels and classes.
CLASSIFIERS = ((1, 33, 65, 2048, 19), (1, 91, 161, 2048, 19))
DILATIONS = (6, 12, 18, 24)
WARM_UP = 2


def forms(dilation: int) -> dict[str, Callable]:
    """Returns the forms of one convolution, name -> function of a map and a kernel."""
    from uda_jax.networks.kernels import dilated_conv, phase_gradient, plain_conv, product_gradient

    return {
        "XLA": lambda x, kernel: plain_conv(x, kernel, 1, dilation, dilation),
        "products": lambda x, kernel: dilated_conv(x, kernel, dilation, product_gradient),
        "phases": lambda x, kernel: dilated_conv(x, kernel, dilation, phase_gradient),
    }


def classifier_forms() -> dict[str, Callable]:
    """Returns the forms of a classifier, name -> function of a map and the kernels, which lie side by side."""
    import jax.numpy as jnp

    from uda_jax.networks.kernels import plain_conv, sum_of_dilated_convs

    def convolutions(x, kernels):
        parts = (plain_conv(x, kernel, 1, d, d) for kernel, d in zip(kernels, DILATIONS, strict=True))
        return sum(part.astype(jnp.float32) for part in parts)

    return {"XLA": convolutions, "one product": lambda x, kernels: sum_of_dilated_convs(x, list(kernels), DILATIONS)}


def measure(found: dict[str, Callable], shapes: Sequence[tuple[int, ...]], precision: str, repeats: int) -> dict:
    """Returns name -> milliseconds of a form and its gradients to both arguments, repeat by repeat."""
    import jax
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    arguments = [0.05 * jax.random.normal(jax.random.key(i), shape).astype(dtype) for i, shape in enumerate(shapes)]
    products = {"fp32": "float32", "tf32": "tensorfloat32", "bf16": "default"}[precision]

    def both(form: Callable) -> Callable:
        def results(*given):
            y, pullback = jax.vjp(form, *given)
            return y, pullback(y)

        with jax.default_matmul_precision(products):
            return jax.jit(results).lower(*arguments).compile()

    programs, times = {name: both(form) for name, form in found.items()}, {name: [] for name in found}
    for _ in range(repeats + WARM_UP):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(1000 * (time.perf_counter() - start))
    # The first ones hold the first use of memory.
    return {name: values[WARM_UP:] for name, values in times.items()}


def main() -> None:
    """Prints one line for each map: the median milliseconds of every form, and the range over the repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=13)
    parser.add_argument("--output", type=Path, help="JSON file to write, too")
    options = parser.parse_args()
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    rows = []
    for *shape, dilation in CASES:
        kernel = (3, 3, shape[-1], shape[-1])
        found = measure(forms(dilation), (tuple(shape), kernel), options.precision, options.repeats)
        rows.append({"map": shape, "dilation": dilation, "ms": found})
        print(line(rows[-1]), flush=True)
    for *shape, classes in CLASSIFIERS:
        kernels = (len(DILATIONS), 3, 3, shape[-1], classes)
        found = measure(classifier_forms(), (tuple(shape), kernels), options.precision, options.repeats)
        rows.append({"map": shape, "dilation": DILATIONS, "classes": classes, "ms": found})
        print(line(rows[-1]), flush=True)
    if options.output:
        about = provenance("benchmarks.dilated") | {"precision": options.precision, "rows": rows}
        options.output.write_text(json.dumps(about, indent=1) + "\n")


def line(row: dict) -> str:
    """Returns a row as a line of text."""
    cells = [f"{n} {statistics.median(x):.1f} [{min(x):.1f}, {max(x):.1f}]" for n, x in row["ms"].items()]
    return f"{'x'.join(map(str, row['map']))}, {row['dilation']}: {'; '.join(cells)}"


if __name__ == "__main__":
    main()
