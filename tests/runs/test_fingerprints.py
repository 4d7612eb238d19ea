"""Fingerprints of training frames: what changes them, and what does not."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from uda_jax.runs import fingerprints, stages


@pytest.fixture
def copied(tiny_experiment, tiny_folder, tmp_path):
    """The tiny experiment on a copy of its data, and the copy."""
    root = shutil.copytree(tiny_folder, tmp_path / "data", copy_function=shutil.copy)
    data = {name: dataclasses.replace(domain, root=str(root)) for name, domain in tiny_experiment.data.items()}
    return dataclasses.replace(tiny_experiment, data=data), root


def of(experiment):
    return fingerprints.of_domains(stages.recipe(experiment, num_classes=3))


def test_the_same_files_elsewhere_are_the_same(copied, tiny_experiment):
    found = of(copied[0])
    assert found == of(tiny_experiment) and set(found) == {"train.source", "train.target"}
    assert [each["frames"] for each in found.values()] == [8, 8]


@pytest.mark.parametrize("change", ["frame added", "frame renamed", "label drawn anew", "ids"])
def test_other_frames_labels_or_ids_are_others(copied, change):
    experiment, root = copied
    before, folder = of(experiment), root / "train"
    for kind in ("images", "labels"):
        if change == "frame added":
            shutil.copy(folder / kind / "000.png", folder / kind / "100.png")
        elif change == "frame renamed":
            (folder / kind / "000.png").rename(folder / kind / "100.png")
    if change == "label drawn anew":
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(folder / "labels" / "000.png")
    elif change == "ids":
        (root / "dataset.yaml").write_text("classes: [ground, wall, thing]\nids: [1, 0, 2]\n")
    after = of(experiment)
    assert after["train.source"] != before["train.source"]
    # The camera's frames are those of another split; the file with the ids is that of both.
    assert (after["train.target"] == before["train.target"]) == (change != "ids")
