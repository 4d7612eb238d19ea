"""The parts of the page: headline, legends, rows of frames, bands of seeds, configs, what is passed over."""

import base64
import hashlib
import json
import re

import pytest
from run_folders import change_rows, make_run, save_frames

from uda_jax.cli import main
from uda_jax.errors import UserError
from uda_jax.report import collect, curves, headline_page, repeats, tables, write

OWN = {"names": ["road", "moss"], "colours": [[1, 2, 3], [250, 240, 230]], "ignore": 255}


@pytest.fixture
def folders(tmp_path):
    runs = [("source_only", 0, 0.3), ("source_only", 1, 0.32), ("advent", 0, 0.4), ("advent", 1, 0.31)]
    runs += [("dacs", 0, 0.2), ("dacs", 1, 0.25), ("oracle", 0, 0.6)]
    return [make_run(tmp_path / "runs" / f"{label}-{seed}", label, seed, value) for label, seed, value in runs]


def texts(row):
    return [cell[0] for cell in row]


def configured(folder, **fields):
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_headline_gives_the_difference_to_source_only_and_flags_what_is_worse(folders, tmp_path, read_page):
    text = write(folders, tmp_path / "report.html").read_text()
    page = read_page(text)
    assert texts(page.row("source_only", 6)) == ["source_only", "31.0 ± 1.4", "–", "", "the baseline", "2"]
    better = ["advent", "35.5 ± 6.4", "+4.5", "", "▲ better, worse in 1 of 2 seeds", "2"]
    assert texts(page.row("advent", 6)) == better
    assert texts(page.row("dacs", 6)) == ["dacs", "22.5 ± 3.5", "−8.5", "", "▼ worse", "2"]
    assert texts(page.row("oracle", 6)) == ["oracle", "60.0", "+29.0", "", "▲ better; saw target labels", "1"]
    assert "<b>Worse than source_only:</b> dacs.</p>" in text


def test_without_source_only_the_headline_says_that_nothing_can_be_told(tmp_path):
    text = write([make_run(tmp_path / "run", "advent", 0, 0.4)], tmp_path / "report.html").read_text()
    assert "There is no source_only run" in text and "Worse than" not in text and "nothing to compare with" in text


def test_of_errors_less_is_better(folders):
    for folder, error in zip(folders[:4], (0.2, 0.2, 0.3, 0.3), strict=True):
        change_rows(folder, headline="abs_rel", metrics={"abs_rel": error})
    groups = tables.groups([row for run in collect(folders[:4]) for row in run.rows])
    shown = headline_page.section("streets", groups, {group.label: curves.stroke(0) for group in groups})
    assert shown["worse"] == ["advent"] and shown["columns"] == "abs_rel, lower is better"
    assert shown["rows"][1]["difference"] == "+0.100" and shown["rows"][1]["verdict"] == "worse"


def test_of_several_source_only_rows_that_of_the_same_steps_counts(folders):
    change_rows(folders[1], steps=100)
    change_rows(folders[2], steps=100)
    groups = tables.groups([row for run in collect(folders[:4]) for row in run.rows])
    found = {group.rows[0]["steps"]: headline_page.baseline(group, groups) for group in groups[2:]}
    assert found[100].rows[0]["seed"] == 1 and found[200].rows[0]["seed"] == 0


def test_the_legend_has_the_colours_of_the_run(folders, tmp_path):
    plain = write(folders, tmp_path / "report.html").read_text()
    assert plain.count('rgb(128, 64, 128)"></i>road') == 1 and "moss" not in plain
    # The same name has another colour in a run with classes of its own.
    (folders[0] / "label_space.json").write_text(json.dumps(OWN))
    save_frames(folders[0], 0, palette=OWN["colours"])
    text = write(folders, tmp_path / "report.html").read_text()
    assert 'rgb(1, 2, 3)"></i>road' in text and 'rgb(250, 240, 230)"></i>moss' in text
    assert text.count('rgb(128, 64, 128)"></i>road') == 1 and "Classes and colours of source_only, seed 0:" in text


@pytest.mark.parametrize(
    "change",
    [{"colours": [[1, 2, 3]]}, {"colours": [[1, 2, 3], "red"]}, {"colours": [[1, 2, 3], [0, 0, 256]]}, {"names": None}],
    ids=str,
)
def test_damaged_colours_are_noted(change, tmp_path):
    folder = make_run(tmp_path / "run", "advent", 0, 0.4)
    (folder / "label_space.json").write_text(json.dumps(OWN | change))
    assert "label_space.json: expected as many names as colours" in write([folder], tmp_path / "r.html").read_text()


def test_each_frame_has_one_row_of_pictures(folders, tmp_path, read_page):
    text = write(folders, tmp_path / "report.html").read_text()
    strips = text.split('<div class="strip pairs">')[1:]
    assert len(strips) == 2 and [strip.count("<figure>") for strip in strips] == [1 + 7] * 2
    words = [image["alt"] for image in read_page(text).images]
    assert words[:4] == ["image of frame_1", "label of frame_1"] + [
        f"{kind} of source_only, seed 0" for kind in ("prediction", "entropy")
    ]


def test_many_runs_show_their_first_seed_and_few_frames(tmp_path, read_page):
    folders = []
    for label in range(13):
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{label:02}-{seed}"
            folders.append(configured(make_run(folder, f"m{label:02}", seed, 0.3), method=label, seed=seed))
    save_frames(folders[0], 0, names=[f"frame_{i}" for i in range(1, 12)])
    text = write(folders, tmp_path / "report.html").read_text()
    assert "13 runs are left out, as there are many" in text and "3 more frames are left out" in text
    # Eight frames of one run, two of thirteen, each picture twice; and the image and label of each frame.
    assert len(read_page(text).images) == 2 * (8 + 12 * 1) + 2 * 8


def test_runs_that_differ_in_the_seed_alone_are_one_band(folders, tmp_path, read_page):
    for folder in folders[:2]:
        configured(folder, label="source_only", method={"name": "source_only"}, seed=int(folder.name[-1]))
    for rate, folder in zip((0.1, 0.2), folders[2:4], strict=True):
        configured(folder, label="advent", method={"rate": rate}, seed=int(folder.name[-1]))
    page = read_page(write(folders[:4], tmp_path / "report.html").read_text())
    assert sum(line.get("class") == "band" for line in page.lines) == 2  # of loss/total and evaluation/miou
    text = "".join(page.text)
    assert "source_only (2 runs)" in text and "advent (advent-0)" in text and "advent (advent-1)" in text


def test_runs_come_in_the_order_of_the_tables_benchmark_by_benchmark(folders, tmp_path):
    change_rows(folders[2], benchmark="camvid")
    change_rows(folders[0], benchmark="camvid")
    runs = collect([folders[i] for i in (2, 5, 4, 0, 1)])
    found = repeats.gather(runs, tables.groups([row for run in runs for row in run.rows]))
    titles = {name: [each.title for each in members] for name, members in repeats.by_benchmark(found).items()}
    assert titles == {"camvid": ["source_only", "advent"], "streets": ["source_only", "dacs"]}


def test_a_band_reaches_from_the_least_to_the_largest_and_its_line_is_the_mean(read_page):
    drawn = curves.chart("loss", [curves.Series("a", 0, [0, 10], [[1.0, 2.0], [3.0, float("nan")]])])
    band, line = read_page(drawn).lines
    numbers = lambda path: [tuple(map(float, point.split())) for point in re.split("[MLZ]", path) if point]  # noqa: E731
    (x0, y1), (x1, y2), (_, y_last), (_, y3) = numbers(band["d"])
    assert (x0, y2) == (54, y_last) and x1 == 480 - 22 and y1 > y2 > y3  # 1 lies below 2, and that below 3
    assert numbers(line["d"]) == [(54, pytest.approx((y1 + y3) / 2, abs=0.1)), (x1, y2)]


def test_only_fields_that_differ_are_listed(folders, tmp_path, read_page):
    base = {"train": {"steps": 200, "batch": 2}, "seed": 0, "format": 2}
    configured(folders[0], **base, method={"name": "source_only"})
    configured(folders[2], **base, method={"name": "advent", "weight": 0.1, "groups": []})
    configured(folders[4], **base | {"train": {"steps": 300, "batch": 2}}, method={"name": "advent", "weight": 0.2})
    page = read_page(write([folders[i] for i in (0, 2, 4)], tmp_path / "report.html").read_text())
    assert texts(page.row("field", 4)) == ["field", "source_only", "advent", "dacs"]
    assert texts(page.row("train.steps")) == ["train.steps", "200", "200", "300"]
    assert texts(page.row("method.weight")) == ["method.weight", "–", "0.1", "0.2"]
    assert texts(page.row("method.groups")) == ["method.groups", "–", "[]", "–"]
    assert "1 fields that only some of them have" in "".join(page.text)
    fields = {row[0][0] for row in page.cells if row}
    assert not fields & {"train.batch", "seed", "format", "label"}


@pytest.mark.parametrize("text", ["[]", "{", '{"a":' * 60 + "1" + "}" * 60], ids=["list", "cut", "deep"])
def test_a_damaged_config_is_noted(text, tmp_path):
    folder = make_run(tmp_path / "run", "advent", 0, 0.4)
    (folder / "config.json").write_text(text)
    page = write([folder], tmp_path / "report.html").read_text()
    assert "config.json: " in page and "&#39;uda train&#39; writes it again" in page and ">40.0<" in page


def test_what_is_no_run_is_passed_over_with_a_note(folders, tmp_path, capsys):
    (tmp_path / "runs" / "old.json").write_text("[]")
    (tmp_path / "runs" / "<b>notes").mkdir()
    output = tmp_path / "report.html"
    assert main(["report", *map(str, sorted((tmp_path / "runs").iterdir())), "--output", str(output)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "old.json: a file, no run folder" in told[1] and "passed over" in told[1]
    text = output.read_text()
    assert "2 paths that are no runs were passed over" in text and "old.json: a file, no run folder" in text
    assert "&lt;b&gt;notes: no run (it has none of result.json" in text
    with pytest.raises(UserError, match="absent: expected a run folder, got nothing"):
        collect([folders[0], tmp_path / "absent"])


def test_only_the_script_of_the_page_may_run_and_nothing_may_be_fetched(folders, tmp_path):
    text = write(folders, tmp_path / "report.html").read_text()
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
