"""Run folders as trainings leave them, without a training."""

import json

import numpy as np

from uda_jax.data.labels import label_spaces
from uda_jax.report.pictures import save_frame
from uda_jax.training.logging import MetricWriter


def make_run(folder, label, seed, value, finished=True):
    """Writes a run of 200 steps on streets: its log, and if it is finished its result and two frames' pictures."""
    writer = MetricWriter(folder, stage="train")
    for step in range(10, 210, 10):
        writer.write_scalars(step, {"loss/total": 3 / step + seed, "speed/images_per_second": 1.0})
        if step % 100 == 0:
            writer.write_scalars(step, {"evaluation/miou": value, "evaluation/iou/road": value})
    writer.write_scalars(200, {"evaluation/pixel_accuracy": 0.8})  # one point is no curve
    writer.close()
    if not finished:
        return folder
    iou = {name: value for name in label_spaces.CLASS_NAMES} | {"train": None, "car": value / 2}
    result = {
        "label": label, "benchmark": "streets", "method": label, "config": f"{label}:streets", "overrides": {},
        "seed": seed, "steps": 200, "batch": 2, "head_classes": 19, "commit": "0123456789abcdef",
        "command": f"uda train <{label}>",
        "hardware": "2 CPU cores", "seconds": 61.0, "protocol": "19", "miou": {"19": value}, "iou": iou,
        "pixel_accuracy": 0.8, "split": "val",
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps([result]))
    save_frames(folder, seed)
    return folder


def save_frames(folder, seed, names=("frame_1", "frame_2"), palette=label_spaces.PALETTE):
    """Saves pictures of noise in the colours of a palette."""
    generator = np.random.default_rng(seed)
    for name in names:
        label = generator.integers(0, len(palette), (32, 64)).astype(np.uint8)
        image = generator.integers(0, 256, (32, 64, 3), np.uint8)
        save_frame(folder / "pictures", name, image, label, label, generator.random((32, 64)), palette)


def change_rows(folder, **values):
    """Changes keys of a run's result rows."""
    rows = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps([row | values for row in rows]))
