"""The benchmark of the input pipeline measures what it says, on a data set of a few pixels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import input_pipeline


@pytest.fixture
def gta5(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    for folder, shape in (("images", (8, 12, 3)), ("labels", (8, 12))):
        (tmp_path / "gta5" / folder).mkdir(parents=True)
        for number in (1, 2, 3):
            picture = generator.integers(0, 30, shape, dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "gta5" / folder / f"{number:05}.png")
    return tmp_path / "gta5"


@pytest.mark.parametrize("form", ["raw", "prepared"])
def test_steps_and_rate(gta5, tmp_path, form):
    sized = dataclasses.replace(input_pipeline.CASES[1], prepared_size=(6, 8), domain={"size": (6, 8), "crop": (4, 4)})
    root = gta5 if form == "raw" else input_pipeline._prepare(sized, gta5, "train", tmp_path)
    times = input_pipeline.step_times(sized, root, "train", frames=4)
    assert list(times) == list(input_pipeline.STEPS) and times["read"] > 0 and times["augment"] > 0
    job = {"dataset": "gta5", "root": str(root), "split": "train", "domain": sized.domain, "frames": 4, "workers": 0}
    assert input_pipeline.stream_rate(**job, one_core=False) > 0


def test_every_method_of_the_table_can_be_a_domain():
    for case in input_pipeline.CASES:
        domain = input_pipeline._domain(case.dataset, "nowhere", "train", case.domain)
        domain.check("domain")
        assert domain.size == case.prepared_size


def test_table():
    rate = {"middle": 50.0, "low": 40.0, "high": 60.0}
    times = dict(zip(input_pipeline.STEPS, (1.0, 2.0, 3.0, 0.5, 0.25, 0.25), strict=True))
    row = {"dataset": "gta5", "methods": "DACS", "kind": "raw", "milliseconds": times}
    text = input_pipeline.table([row | {"pairs_per_second": {"one core": rate}}])
    assert text.splitlines()[-1] == (
        "| gta5 | DACS | raw | 1.0 | 2.0 | 3.0 | 0.5 | 0.2 | 0.2 | 7.0 | 50.0 [40.0, 60.0] |"
    )
