"""How good the stereo depth of streets is, against the renderer's, by distance and by condition.

    python -m benchmarks.stereo_depth
    python -m benchmarks.stereo_depth --frames 60 --baselines 0.22 0.3 0.4 0.5 0.6 0.75 0.9

The second is what the baseline was chosen by. Pixels of the sky have no distance; a value there is an error, too.
"""

import argparse
import time

import numpy as np

from uda_jax.data import rendering
from uda_jax.data.datasets import streets

BOUNDS = (0, 6, 12, 25, 50, 200)  # metres


def main() -> None:
    """Prints one table per baseline: share of pixels with a value, median error, share of errors above 10 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=250, help="the first so many of camera_dev")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--baselines", type=float, nargs="+", default=[streets.BASELINE], metavar="METRES")
    arguments = parser.parse_args()
    for baseline in arguments.baselines:
        exact, measured, conditions, seconds = measure(arguments.frames, tuple(arguments.size), baseline)
        each = 1000 * seconds / len(exact)
        print(f"\nbaseline {baseline} m, {len(exact)} frames, {each:.0f} ms of one core to match a pair\n")
        print("| pixels | with a value | median error | errors > 10 % |\n| --- | ---: | ---: | ---: |")
        seen = exact > 0
        rows = {"all": seen}
        rows |= {
            f"{low} to {high} m": seen & (exact > low) & (exact <= high)
            for low, high in zip(BOUNDS, BOUNDS[1:], strict=False)
        }
        rows |= {name: seen & (conditions == name)[:, None, None] for name in sorted(set(conditions))}
        for name, among in rows.items():
            print(f"| {name} | {row(exact, measured, among)} |")
        sky = measured[~seen]
        print(f"\nsky: {(sky > 0).mean():.0%} with a value, median {np.median(sky[sky > 0]):.0f} m", flush=True)


def measure(frames: int, size: tuple[int, int], baseline: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Returns exact and measured metres `[N, H, W]`, conditions, and the processor seconds spent on matching."""
    look, first, _ = streets.SPLITS["camera_dev"]
    exact, measured, conditions, seconds = [], [], [], 0.0
    for k in range(frames):
        left, right = rendering.render_stereo(look, first + k, size, baseline)
        start = time.process_time()
        measured.append(streets.stereo_depth(left.image, right.image, left.intrinsics[0, 0], baseline=baseline))
        seconds += time.process_time() - start
        exact.append(left.depth)
        conditions.append(left.condition)
    return np.stack(exact), np.stack(measured), np.array(conditions), seconds


def row(exact: np.ndarray, measured: np.ndarray, among: np.ndarray) -> str:
    """Returns the cells of one row of the table for the pixels `among`."""
    valid = among & (measured > 0)
    if not valid.any():
        return "0% | |"
    error = np.abs(measured[valid] / exact[valid] - 1)
    return f"{valid.sum() / among.sum():.0%} | {np.median(error):.1%} | {(error > 0.1).mean():.0%}"


if __name__ == "__main__":
    main()
