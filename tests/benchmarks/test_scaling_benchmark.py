"""The predictions of docs/scaling.md: its tables are the files', and the formulas do what they say."""

import json
from pathlib import Path

import pytest

from benchmarks import plan, scaling
from uda_jax.config import settings

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("module", [plan, scaling])
def test_the_page_has_the_table_of_the_file(module):
    rows = json.loads(module.RESULTS.read_text())["rows"]
    assert rows and f"\n\n{module.table(rows)}\n\n" in PAGE.read_text()
    assert {row["reference"] for row in rows} <= set(settings.published())


def test_efficiencies_follow_from_the_counts():
    for row in json.loads(scaling.RESULTS.read_text())["rows"]:
        assert scaling.with_efficiency({key: row[key] for key in row if key != "efficiency"}) == row


def test_efficiency_bends_where_the_node_ends():
    entry = {"operations": 1e12, "gradient_bytes": 1e8, "sums": 100}
    device = scaling.Device(1e14, 1e11, 1e10, 8, 1e-6, 1e-5)
    compute = 1e12 / (1e14 * scaling.UTILISATION)
    assert scaling.efficiency(entry, device, 8) == pytest.approx(compute / (compute + 2 * 7 / 8 * 1e-3 + 1e-4))
    assert scaling.efficiency(entry, device, 9) == pytest.approx(compute / (compute + 2 * 8 / 9 * 1e-2 + 1e-3))
    assert scaling.efficiency(entry, device, 256) < scaling.efficiency(entry, device, 9)


def test_counts_of_a_small_setting():
    found = scaling.count("source_only:smoke")
    norms = 17
    assert found["batch"] == {"source": [2, 48, 96]} and found["sums"] == 4 * norms
    assert found["gradient_bytes"] == 4 * found["parameters"] and found["intensity"] > 0
