"""Draws a contact sheet of the streets data set: simulator frames, their labels and depth, camera frames by condition.

python benchmarks/contact_sheet.py docs/streets.png
"""

import argparse
import pathlib
import time

import numpy as np
from PIL import Image

from uda_jax.data.labels import label_spaces
from uda_jax.data.rendering import Frame, render

COLOURS = label_spaces.label_space("19").palette


def depth_colours(depth: np.ndarray) -> np.ndarray:
    """Returns near = bright, far = dark, invalid = black for metres `[H, W]`, as uint8 `[H, W, 3]`."""
    nearness = np.where(depth > 0, np.clip(4.0 / np.maximum(depth, 1e-3), 0, 1) ** 0.6, 0)
    return (255 * np.stack([nearness, nearness**1.6, 0.35 * nearness**0.5 * (depth > 0)], -1)).astype(np.uint8)


def sheet(size: tuple[int, int], columns: int, seed: int) -> np.ndarray:
    """Returns one image: rows of simulator, its labels and depth; camera by day, its labels; day, dusk, fog, night."""

    def row(look: str, condition: str | None, first: int) -> list[Frame]:
        return [render(look, first + k, size, condition=condition) for k in range(columns)]

    simulator, day = row("simulator", None, seed), row("camera", "day", seed)
    rows = [
        [f.image for f in simulator],
        [COLOURS[f.label] for f in simulator],
        [depth_colours(f.depth) for f in simulator],
    ]
    rows += [[f.image for f in day], [COLOURS[f.label] for f in day]]
    rows += [[f.image for f in row("camera", "day", seed + columns)]]
    rows += [
        [f.image for f in row("camera", name, seed + (k + 2) * columns)]
        for k, name in enumerate(("dusk", "fog", "night"))
    ]
    gap = 3
    padded = [[np.pad(image, ((0, gap), (0, gap), (0, 0)), constant_values=255) for image in line] for line in rows]
    return np.concatenate([np.concatenate(line, 1) for line in padded])[:-gap, :-gap]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=pathlib.Path, help="PNG to write")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    image = sheet(tuple(arguments.size), arguments.columns, arguments.seed)
    seconds = time.perf_counter() - start
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours keep the file small; the frames themselves are never quantised.
    Image.fromarray(image).quantize(256, dither=Image.Dither.NONE).save(arguments.path, optimize=True)
    size, each = arguments.path.stat().st_size // 1000, 1000 * seconds / (arguments.columns * 6)
    print(f"{arguments.path}: {size} kB, {each:.1f} ms per frame")


if __name__ == "__main__":
    main()
