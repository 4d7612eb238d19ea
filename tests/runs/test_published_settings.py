"""What `uda methods --settings` says: figures, files, steps and work."""

import json
from pathlib import Path

import pytest

from uda_jax.cli import main
from uda_jax.config import settings
from uda_jax.runs import published_settings

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "networks.json"


@pytest.mark.parametrize(
    ("reference", "miou", "steps", "pixels"),
    [
        ("advent:gta5_cityscapes", {"19": 43.8}, 120_000, 120_000 * (720 * 1280 + 512 * 1024)),
        ("ass:gta5_cityscapes,all", {"19": 69.1}, 150_000, 150_000 * (720 * 1280 + 2 * 512 * 1024)),
        ("dacs:synthia_cityscapes", {"16": 48.34, "13": 54.81}, 250_000, 250_000 * 2 * 2 * 512 * 512),
        (
            "intrada:gta5_cityscapes",
            {"19": 46.3},
            190_000,
            70_000 * (720 * 1280 + 512 * 1024) + 120_000 * 2 * 512 * 1024,
        ),
    ],
)
def test_a_setting_is_described(reference, miou, steps, pixels):
    found = published_settings.describe(reference)
    assert (found.printed.miou, found.steps) == (miou, steps)
    assert found.work == pytest.approx(3 * 1.425e6 * pixels)
    assert found.hours(1e12) == pytest.approx(found.work / 3.6e15)
    assert all(path.startswith("weights/") for path in found.weights) and len(found.weights) == 1


def test_rows_of_other_first_stages_and_what_is_unpublished_have_no_figure():
    assert published_settings.describe("intrada:gta5_cityscapes,dacs").printed is None
    assert published_settings.describe("dacs_plca:gta5_cityscapes").printed is None
    digits = published_settings.describe("digits:mnist_usps")
    assert digits.weights == () and digits.printed.miou == {"accuracy": 95.8}


def test_operations_are_the_measured_ones():
    """Per pixel of the image, of the largest input that was counted."""
    rows = json.loads(RESULTS.read_text())
    rows = next(value for value in rows.values() if isinstance(value, list))
    counted = {
        row["network"]: 1e9 * row["forward_gflop"] / (row["batch"] * row["height"] * row["width"]) for row in rows
    }
    for network, flop in published_settings.FORWARD_FLOP.items():
        assert flop == pytest.approx(counted[network], rel=1e-3), network


def test_every_published_setting_is_listed(capsys):
    assert main(["methods", "--settings", "--tflops", "20"]) == 0
    listed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in listed.splitlines() if ":" in line.split(" ")[0]}
    assert "estimate" in listed and "sustains 20 TFLOP/s" in listed
    assert set(lines) == set(settings.published())
    assert "43.8 mIoU (19 classes), ADVENT, CVPR 2019" in lines["advent:gta5_cityscapes"]
    assert lines["advent:gta5_cityscapes"].split()[1:3] == ["120000", "10"]
    assert lines["plca:gta5_cityscapes"].endswith("weights/resnet101-imagenet.pth")
    assert main(["methods", "--settings", "--tflops", "0"]) == 2
