"""Gradients of dilated 3x3 convolutions on this CPU: XLA's own against the products of `networks.convolution`.

    python -m benchmarks.dilated

Prints why dilated convolutions have the latter. The two forms alternate in one process.
"""

import statistics
import time

REPEATS = 15
# Batch, height, width, channels and dilation: stages 2 to 4 of a ResNet-101 at 256x256 and 256x512, and those of the
# small network of `streets`.
CASES = (
    (1, 33, 33, 128, 1),
    (1, 33, 33, 256, 2),
    (1, 33, 33, 512, 4),
    (1, 17, 33, 256, 2),
    (1, 33, 65, 256, 2),
    (1, 33, 65, 512, 4),
    (4, 12, 24, 48, 2),
    (4, 12, 24, 96, 4),
)


def main() -> None:
    """Prints one table: median milliseconds of both gradients, and the range over the repeats."""
    from uda_jax.training import allocator

    allocator.keep_freed_memory()
    print("| map, dilation | XLA, ms | products, ms | ratio |\n| --- | ---: | ---: | ---: |")
    for case in CASES:
        plain, own = measure(*case)
        cells = (f"{statistics.median(x):.1f} [{min(x):.1f}, {max(x):.1f}]" for x in (plain, own))
        shape = "x".join(str(n) for n in case[:4])
        ratio = statistics.median(own) / statistics.median(plain)
        print(f"| {shape}, {case[4]} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


def measure(batch: int, height: int, width: int, channels: int, dilation: int) -> tuple[list[float], list[float]]:
    """Returns the milliseconds of (XLA's, the products') gradients to map and kernel."""
    import jax

    from uda_jax.networks.kernels import dilated_conv, plain_conv, product_gradient

    x = jax.random.normal(jax.random.key(0), (batch, height, width, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))

    def gradients(convolution):
        return jax.jit(lambda x, kernel: jax.vjp(convolution, x, kernel)[1](x))

    forms = [
        gradients(lambda x, kernel: plain_conv(x, kernel, 1, dilation, dilation)),
        gradients(lambda x, kernel: dilated_conv(x, kernel, dilation, product_gradient)),
    ]
    times = ([], [])
    for _ in range(REPEATS):
        for form, found in zip(forms, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(form(x, kernel))
            found.append(1000 * (time.perf_counter() - start))
    # The first two hold compilation and the first use of memory.
    return times[0][2:], times[1][2:]


if __name__ == "__main__":
    main()
