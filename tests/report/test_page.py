"""The report of made-up run folders: what is collected, what the page shows, what lies beside it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from run_folders import change_rows, make_run

from uda_jax.data.io import atomic
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.report import collect, curves, markdown, read_rows, write
from uda_jax.report.pictures import png
from uda_jax.training.logging import MetricWriter


@pytest.fixture
def workdirs(tmp_path):
    runs = [
        ("source_only", 0, 0.30),
        ("source_only", 1, 0.32),
        ("advent", 0, 0.40),
        ("advent", 1, 0.44),
        ("oracle", 0, 0.6),
    ]
    folders = [make_run(tmp_path / f"{label}-{seed}", label, seed, value) for label, seed, value in runs]
    return [*folders, make_run(tmp_path / "killed", "dacs", 0, 0.1, finished=False)]


def test_page_and_rows(workdirs, tmp_path, read_page):
    path = write(workdirs, tmp_path / "out" / "report.html")
    text = path.read_text()
    page = read_page(text)
    assert "http://" not in text and "https://" not in text  # self-contained
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]
    rows = read_rows(path.with_suffix(".json"))
    assert rows == [json.loads((folder / "result.json").read_text())[0] for folder in workdirs[:5]]
    advent = page.row("advent", 9)
    assert [cell[0] for cell in advent] == [
        *("advent", "42.0 ± 2.8", "40.0 – 44.0", "40.0, 44.0", "40.8 ± 2.7"),
        *("80.0 ± 0.0", "38 %", "200", "0:01:01"),
    ]
    assert advent[1][1] and not page.row("oracle", 9)[1][1] and not page.row("source_only", 9)[1][1]
    assert "| advent | **42.0 ± 2.8** |" in markdown(rows)  # README says the same


def test_class_table_has_the_names_and_dashes(workdirs, tmp_path, read_page):
    page = read_page(write(workdirs, tmp_path / "report.html").read_text())
    head = next(row for row in page.cells if [cell[0] for cell in row[1:]] == list(label_spaces.CLASS_NAMES))
    rows = [row for row in page.cells if len(row) == 20 and row is not head]
    classes = {row[0][0]: dict(zip(label_spaces.CLASS_NAMES, row[1:], strict=True)) for row in rows}
    assert set(classes) == {"source_only", "advent", "oracle"}
    assert classes["advent"]["road"] == ["42.0", True] and classes["advent"]["car"] == ["21.0", True]
    assert classes["advent"]["train"] == ["–", False] and classes["oracle"]["road"] == ["60.0", False]


def test_a_row_headed_by_dice_shows_that_of_each_class_before_its_iou(tmp_path, read_page):
    folder = make_run(tmp_path / "run", "ass", 0, 0.3)
    (row,) = json.loads((folder / "result.json").read_text())
    row |= {"headline": "dice", "metrics": {"dice": 0.8}, "iou": {"background": 0.9, "polyp": 0.7}}
    row["dice"] = {"background": 0.95, "polyp": 0.8}
    (folder / "result.json").write_text(json.dumps([row]))
    page = read_page(write([folder], tmp_path / "report.html").read_text())
    text = "".join(page.text)
    assert text.index("Dice of each class") < text.index("IoU of each class")
    values = [[cell[0] for cell in row] for row in page.cells if len(row) == 3 and row[0][0] == "ass"]
    assert values == [["ass", "95.0", "80.0"], ["ass", "90.0", "70.0"]]


def test_pictures_curves_and_unfinished_runs(workdirs, tmp_path, read_page):
    page = read_page(write(workdirs, tmp_path / "report.html").read_text())
    assert len(page.images) == 2 * (2 + 5 * 2)  # per frame: image, label, prediction and entropy of five runs
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert page.charts == 2  # loss/total, evaluation/miou; neither speeds nor single classes
    text = "".join(page.text)
    assert "5 of 6 runs finished" in text and "last logged step 200 of stage train" in text
    colours = list(dict.fromkeys(line["stroke"] for line in page.lines))
    of_killed = [line for line in page.lines if line["stroke"] == colours[3]]
    assert len(of_killed) == 2 * 2  # raw and smooth, in either chart


def test_illustrations_are_shown_by_stage_and_name(workdirs, tmp_path):
    folder = pathlib.Path(workdirs[0]) / "train" / "illustrations" / "translated"
    for i in range(2):
        atomic.write(folder / f"{i}.png", png(np.full((8, 100, 3), 50 * i, np.uint8)))
    text = write(workdirs, tmp_path / "r.html").read_text()
    assert (
        "What a method made of its last batch" in text
        and "<h3>train: translated</h3>" in text
        and text.count("of source_only, seed 0") == 2 * (2 + 2 * 2)
    )
    shutil.rmtree(folder)
    assert "What a method made" not in write(workdirs, tmp_path / "r.html").read_text()


def test_an_earlier_report_among_the_folders_is_passed_over(workdirs, tmp_path):
    output = tmp_path / "report.html"
    write(workdirs, output)
    assert len(read_rows(write(sorted(tmp_path.iterdir()), output).with_suffix(".json"))) == 5


def test_repeated_seed_is_told(tmp_path):
    folders = [make_run(tmp_path / name, "advent", 0, 0.4) for name in ("a", "b")]
    assert "The same seed more than once" in write(folders, tmp_path / "report.html").read_text()


def test_any_text_is_shown_and_none_is_markup(tmp_path, read_page):
    hostile = """<script>alert('1')</script> "quoted" & ünï {{ 7 * 7 }} </style>"""
    folder = make_run(tmp_path / "run <b>&'", hostile, 0, 0.4)
    make_run(tmp_path / "<i>unfinished", "x", 0, 0.1, finished=False)
    rows = json.loads((folder / "result.json").read_text())
    texts = ("benchmark", "config", "commit", "command", "hardware", "note", "split")
    rows[0] |= {key: f"{key[:4]} {hostile}" for key in texts} | {"iou": {f"class {hostile}": 0.5}}
    (folder / "result.json").write_text(json.dumps(rows))
    picture = png(np.zeros((8, 16, 3), np.uint8))
    for name in ("image.png", "prediction.png"):
        atomic.write(folder / "pictures" / "frame <u>" / name, picture)
    atomic.write(folder / "train" / "illustrations" / "<s>" / "0 'x'.png", picture)
    text = write([folder, tmp_path / "<i>unfinished"], tmp_path / "report.html").read_text()
    page = read_page(text)
    tags = set(re.findall(r"<([a-z0-9]+)", text.partition("<body>")[2]))
    assert not tags & {"script", "u", "s"} and text.count("</style>") == 1 and text.count("<script>") == 1
    shown = "".join(page.text)
    assert "<i>unfinished" in shown and "frame <u>" in shown and "train: <s>" in shown
    for key in texts:
        if key != "commit":  # shortened
            assert f"{key[:4]} {hostile}" in shown, key
    assert any(cell[0] == f"class {hostile}" for row in page.cells for cell in row)
    assert any(image["alt"] == f"0 'x' of {hostile}, seed 0" for image in page.images)


def test_what_is_no_run(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("empty", "file", "absent"):
        with pytest.raises(UserError, match=name):
            collect([tmp_path / name])
    with pytest.raises(UserError, match="at least one"):
        collect([])
    (tmp_path / "empty" / "result.json").write_text('[{"label": "x"}]')
    with pytest.raises(UserError, match=".html"):
        write([tmp_path / "empty"], tmp_path / "report.txt")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(**values):
    return lambda path: change_rows(path.parent, **values)


BROKEN = {
    "a cut result": ("result.json", cut, "result.json: no JSON"),
    "an empty result": ("result.json", lambda path: path.write_text(""), "result.json: no JSON"),
    "a result of other bytes": ("result.json", lambda path: path.write_bytes(b"\xff\xfe"), "result.json: no JSON"),
    "a deep result": ("result.json", lambda path: path.write_text("[" * 100_000), "result.json: no JSON"),
    "an endless time": ("result.json", rewritten(seconds=float("inf")), "key 'seconds': expected a finite number"),
    "another row": ("result.json", lambda path: path.write_text('[{"label": "x"}]'), "row 1 (x)"),
    "no fraction": ("result.json", rewritten(miou={"19": "0.5"}), "expected a fraction"),
    "a folder for a result": ("result.json", lambda path: (path.unlink(), path.mkdir()), "result.json"),
    "a pipe for a result": ("result.json", lambda path: (path.unlink(), os.mkfifo(path)), "pipe, socket or device"),
    "odd metrics": ("metrics.jsonl", lambda path: path.write_text('{"step": 1, "stage": [3]}\n'), "1 rows hold other"),
    "an endless step": ("metrics.jsonl", lambda path: path.write_text('{"step": 1' + "0" * 400 + "}\n"), "1 rows hold"),
    "a pipe for metrics": ("metrics.jsonl", lambda path: (path.unlink(), os.mkfifo(path)), "pipe, socket or device"),
    "a cut picture": ("pictures/frame_1/prediction.png", cut, "prediction.png: cannot be read as a picture"),
    "PostScript": (
        "pictures/frame_1/prediction.png",
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "cannot be read as a picture",
    ),
    "a folder for a picture": (
        "pictures/frame_2/prediction.png",
        lambda path: (path.unlink(), path.mkdir()),
        "cannot be read as a picture",
    ),
    "a cut ranking": ("rank/ranking.json", lambda path: atomic.write(path, "{"), "ranking.json: cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_in_one_run_is_noted_and_the_others_are_shown(case, tmp_path, read_page):
    name, damage, note = BROKEN[case]
    folders = [make_run(tmp_path / label, label, 0, 0.4) for label in ("source_only", "advent")]
    damage(folders[1] / name)
    text = write(folders, tmp_path / "report.html").read_text()
    page = read_page(text)
    shown = "".join(page.text)
    assert note in shown, [line for line in page.text if "cannot" in line or "rows" in line]
    assert page.row("source_only") and len(page.images) >= 6


def test_stages_in_folders_of_their_own(tmp_path):
    for stage in ("warm_up", "adapt"):
        writer = MetricWriter(tmp_path / "run" / stage, stage=stage)
        for step in (1, 5):
            writer.write_scalars(step, {"loss/total": 1.0})
        writer.close()
    (run,) = collect([tmp_path / "run"])
    assert list(run.metrics) == ["warm_up", "adapt"] and run.last_step == ("adapt", 5) and not run.finished
    assert "loss/total (warm_up)" in write([tmp_path / "run"], tmp_path / "report.html").read_text()


def test_ticks_are_round_and_enclose():
    assert curves.ticks(0, 2000).tolist() == [0, 500, 1000, 1500, 2000]
    assert curves.ticks(0.13, 0.87) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    flat = curves.ticks(3.0, 3.0)
    assert flat[0] < 3 < flat[-1]


def test_smoothing_keeps_constants_and_gaps():
    values = np.full(100, 2.0)
    values[40] = np.nan
    np.testing.assert_allclose(curves.smooth(values), values)
    noise = np.random.default_rng(0).normal(size=400)
    assert curves.smooth(noise)[50:].std() < 0.4


def test_lines_break_at_missing_values_and_stay_inside(read_page):
    values = [1.0, 2.0, float("nan"), 1.5, 1e9, 1.0] + [1.0] * 200
    drawn = curves.chart("loss <x>", [curves.Series("a", 11, range(len(values)), values)])
    page = read_page(drawn)
    assert ["opacity" in line for line in page.lines] == [True, False]  # raw behind smooth
    assert all("stroke-dasharray" in line for line in page.lines)
    assert page.lines[0]["d"].count("M") == 2 and "loss &lt;x&gt;" in drawn
    points = page.lines[0]["d"].replace("h0", "").replace("L", "M").split("M")[1:]
    heights = [float(point.split()[1]) for point in points]
    assert 34 <= min(heights) and max(heights) <= 270 - 38
    lone = read_page(curves.chart("lone", [curves.Series("a", 0, [7], [0.5])])).lines
    assert lone[0]["d"].startswith("M") and lone[0]["d"].endswith("h0")  # a dot, by the line's round cap
    assert curves.chart("nothing", [curves.Series("a", 0, [1, 2], [float("nan")] * 2)]) == ""


def test_importing_the_report_needs_no_jax():
    command = "import sys, uda_jax.report; sys.exit('jax' in sys.modules)"
    root = pathlib.Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", command], cwd=root, check=False).returncode == 0
