"""The benchmark of the association at a tiny grid, and its table."""

import argparse
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def association():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import association
    finally:
        sys.path.remove(str(ROOT))
    return association


def test_a_row_is_measured(association):
    options = argparse.Namespace(channels=3, similarity="cosine", batch=2, block=16, repeats=2, time=[(8, 9)])
    row = association.measure(association.grid("8x9"), options)
    assert row["grid"] == (8, 9) and row["pairs"] == 2
    assert row["matrix_mib"] == 2 * 72 * 72 * 4 / 2**20 and row["maps_mib"] == 2 * 72 * 3 * 4 / 2**20
    assert 0 < row["temporary_mib"]["blockwise"] < row["temporary_mib"]["dense"]
    assert all(0 < row["ms"][form]["low"] <= row["ms"][form]["high"] for form in ("dense", "blockwise"))


def test_table(association):
    row = {"grid": (9, 10), "matrix_mib": 12.3, "maps_mib": 4.5, "temporary_mib": {"dense": 80.0, "blockwise": 20.0}}
    spread = {"middle": 5.4, "low": 4.6, "high": 7.0}
    lines = association.table([{**row, "ms": None}, {**row, "ms": {"dense": spread, "blockwise": spread}}]).splitlines()
    assert lines[2] == "| 9x10 | 12 | 4 | 80 | 20 | 0.250 |  |  |"
    assert lines[3] == "| 9x10 | 12 | 4 | 80 | 20 | 0.250 | 5 [5, 7] | 5 [5, 7] |"
    assert len({line.count("|") for line in lines}) == 1
