"""Training step time on this CPU with glibc's own allocator settings and with those of the command line.

    python -m benchmarks.allocator

Methods alternate between the two settings, each in a fresh process, since settings cannot be taken back.
"""

import argparse
import statistics
import subprocess
import sys
import time

REFERENCES = ("source_only:streets", "advent:streets,minent", "advent:streets")
STEPS = 30


def main() -> None:
    """Prints one table: median milliseconds of a step, and the range over the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("CONFIG", "KEEP"), help="what a child process measures")
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure[0], keep=options.measure[1] == "keep"))
        return
    print("| config | glibc's settings, ms | keep_freed_memory, ms | ratio |\n| --- | ---: | ---: | ---: |")
    for reference in REFERENCES:
        times = {"plain": [], "keep": []}
        for _ in range(options.repeats):
            for setting, found in times.items():
                command = [sys.executable, "-m", "benchmarks.allocator", "--measure", reference, setting]
                found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        plain, keep = (
            f"{statistics.median(times[setting]):.0f} [{min(times[setting]):.0f}, {max(times[setting]):.0f}]"
            for setting in ("plain", "keep")
        )
        ratio = statistics.median(times["keep"]) / statistics.median(times["plain"])
        print(f"| {reference} | {plain} | {keep} | {ratio:.2f} |", flush=True)


def measure(reference: str, *, keep: bool) -> float:
    """Returns the median milliseconds of a compiled step on random 96x192 frames, batch 4 per domain."""
    if keep:
        from uda_jax.training import allocator

        if not allocator.keep_freed_memory():
            sys.exit("this C library has no mallopt; nothing to measure")
    import jax
    import numpy as np

    from uda_jax import config
    from uda_jax.runs import stages

    experiment = config.experiment(config.load(reference))
    (stage,) = stages.recipe(experiment, num_classes=19)
    random = np.random.default_rng(0)
    frames = {
        "image": random.integers(0, 256, (4, 96, 192, 3), np.uint8),
        "label": random.integers(0, 19, (4, 96, 192), np.uint8),
    }
    batch = {name: frames for name in experiment.data}
    state = jax.jit(lambda key: stage.method.init(key, batch))(jax.random.key(0))
    step = jax.jit(lambda state, batch: stage.method.train_step(state, batch), donate_argnums=0)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        state, _ = step(state, batch)
        jax.block_until_ready(state)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
