"""Confusion matrices: what is stored, what is refused, what the page shows."""

import json

import numpy as np
import pytest
from run_folders import make_run

from uda_jax.errors import UserError
from uda_jax.report import confusion, write
from uda_jax.report.confusion import Confusion

COUNTS = np.array([[90, 10, 0], [30, 170, 0], [0, 0, 0]])
MATRIX = Confusion(("road", "<b>car", "sky"), COUNTS)


def test_stored_matrices_come_back(tmp_path):
    (tmp_path / "confusion.json").write_text(confusion.to_json({"final": MATRIX}))
    found = confusion.read(tmp_path / "confusion.json")
    assert list(found) == ["final"] and found["final"].classes == MATRIX.classes
    np.testing.assert_array_equal(found["final"].counts, COUNTS)


def test_sums_leave_out_other_classes():
    other = Confusion(("a",), np.array([[5]]))
    np.testing.assert_array_equal(confusion.added([MATRIX, other, MATRIX]).counts, 2 * COUNTS)
    assert confusion.added([]) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "expected an object of splits, got list"),
        ('{"final": 3}', "split 'final': key 'classes'"),
        ('{"final": {"classes": ["a", "a"], "counts": [[1, 2], [3, 4]]}}', "1 to 256 names that differ"),
        ('{"final": {"classes": ["a", "b"], "counts": [[1, 2], [3]]}}', "expected 2 rows of 2 numbers of pixels"),
        ('{"final": {"classes": ["a"], "counts": [[-1]]}}', "numbers of pixels"),
        ('{"final": {"classes": ["a"], "counts": [[1.5]]}}', "numbers of pixels"),
        ('{"final": {"classes": ["a"], "counts": [[1e400]]}}', "numbers of pixels"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, words):
    path = tmp_path / "confusion.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        confusion.read(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_the_page_shows_percent_of_each_label_with_seeds_added_up(tmp_path, read_page):
    folders = [make_run(tmp_path / f"run-{seed}", "advent", seed, 0.4) for seed in (0, 1)]
    folders.append(make_run(tmp_path / "old", "dacs", 0, 0.4))
    (folders[0] / "confusion.json").write_text(confusion.to_json({"final": MATRIX}))
    more = Confusion(MATRIX.classes, np.array([[100, 0, 0], [0, 0, 200], [0, 0, 0]]))
    (folders[1] / "confusion.json").write_text(confusion.to_json({"final": more}))
    page = read_page(write(folders, tmp_path / "report.html").read_text())
    rows = [[cell[0] for cell in row] for row in page.cells if len(row) == 5]
    assert rows[rows.index(["label ↓ prediction →", "road", "<b>car", "sky", "pixels"]) + 1 :][:2] == [
        ["road", "95", "5", "", "200"],
        ["<b>car", "8", "42", "50", "400"],
    ]
    text = "".join(page.text)
    assert "50 % of <b>car as sky; 8 % of <b>car as road; 5 % of road as <b>car" in text
    assert "No matrix is stored of dacs" in text


def test_a_split_of_several_has_its_own_matrix(tmp_path, read_page):
    folder = make_run(tmp_path / "run", "advent", 0, 0.4)
    (row,) = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps([row | {"domain": name} for name in ("dusk", "dawn", "joint")]))
    dawn = Confusion(("road", "car"), np.array([[1, 3], [0, 4]]))
    (folder / "confusion.json").write_text(confusion.to_json({"dusk": MATRIX, "dawn": dawn}))
    page = read_page(write([folder], tmp_path / "report.html").read_text())
    matrices = [row for row in page.cells if row and row[0][0] == "label ↓ prediction →"]
    assert [len(row) for row in matrices] == [5, 4]


def test_a_damaged_matrix_does_not_cost_the_page(tmp_path):
    folder = make_run(tmp_path / "run", "advent", 0, 0.4)
    (folder / "confusion.json").write_text("{")
    text = write([folder], tmp_path / "report.html").read_text()
    assert "confusion.json: cannot be read" in text and "Confusion matrices" not in text and ">40.0<" in text
