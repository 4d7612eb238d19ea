"""The papers' rows: figures that agree with their classes, checks of the file, lookups, and where they are shown."""

import collections
import copy
import json
import statistics

import pytest

from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.report import published, published_page, tables, write
from uda_jax.report.elements import render

ROWS = published.read()
PROTOCOLS = ("19", "16", "13", "10")


def result_row(label, value, benchmark="gta5_cityscapes", protocol="19", **changes):
    return {
        "label": label, "benchmark": benchmark, "method": label, "config": f"{label}:{benchmark}", "overrides": [],
        "seed": 0, "steps": 120_000, "batch": 1, "head_classes": 19, "commit": "abc", "command": f"uda train {label}",
        "hardware": "1 GPU", "seconds": 60.0, "protocol": protocol, "miou": {protocol: value},
        "iou": {"road": 0.5, "train": None},
    } | changes  # fmt: skip


def means(row):
    """The means of a row's classes, by protocol, where all of them are printed."""
    for protocol in PROTOCOLS:
        values = [row.iou.get(name) for name in label_spaces.label_space(protocol).names]
        if None not in values:
            yield protocol, statistics.fmean(values)


def test_every_mean_follows_from_its_classes():
    checked, remarked = 0, []
    for row in ROWS:
        for protocol, mean in means(row):
            if protocol not in row.miou:
                continue
            checked += 1
            if abs(mean - row.miou[protocol]) > 0.1:
                remarked.append((row.label, protocol))
                assert f"{mean:.1f}" in row.note, row  # the remark gives the mean that its classes have
    assert checked == 71 and remarked == [
        ("IntraDA, other row in circulation", "19"),
        ("self-training + class balancing", "13"),
    ]


def test_rows_are_there_once_and_the_main_network_comes_first():
    places = [(row.benchmark, row.label, row.network) for row in ROWS]
    assert len(places) == len(set(places))
    counts = collections.Counter(row.benchmark for row in ROWS)
    assert counts == {
        "gta5_cityscapes": 81,
        "synthia_cityscapes": 64,
        "synscapes_cityscapes": 4,
        "gta5_cityscapes_mapillary_bdd": 1,
        "virtual_kitti_kitti": 2,
        "digits": 12,
    }
    first = {row.benchmark: row.network for row in reversed(ROWS)}
    assert first.pop("virtual_kitti_kitti") == "vgg16" and set(first.values()) == {"resnet101", "lenet"}
    assert published.FILE.stat().st_size < 100_000


# Figures as the papers print them, copied a second time.
@pytest.mark.parametrize(
    ("benchmark", "label", "network", "miou"),
    [
        ("gta5_cityscapes", "source_only", "resnet101", {"19": 36.6}),
        ("gta5_cityscapes", "adaptsegnet", "resnet101", {"19": 42.4}),
        ("gta5_cityscapes", "minent", "resnet101", {"19": 42.3}),
        ("gta5_cityscapes", "advent", "resnet101", {"19": 43.8}),
        ("gta5_cityscapes", "intrada", "resnet101", {"19": 46.3}),
        ("gta5_cityscapes", "intrada/no_pseudo_labels", "resnet101", {"19": 45.1}),
        ("gta5_cityscapes", "oracle", "resnet101", {"19": 65.1}),
        ("gta5_cityscapes", "ass_100", "resnet101", {"19": 54.2}),
        ("gta5_cityscapes", "ass_1000", "resnet101", {"19": 64.5}),
        ("gta5_cityscapes", "ass_all", "resnet101", {"19": 69.1}),
        ("gta5_cityscapes", "labelled_only_200", "resnet101", {"19": 47.7}),
        ("gta5_cityscapes", "advent", "vgg16", {"19": 36.1}),
        ("synthia_cityscapes", "advent", "resnet101", {"16": 40.8, "13": 47.6}),
        ("synthia_cityscapes", "intrada", "resnet101", {"16": 41.7, "13": 48.9}),
        ("synthia_cityscapes", "adaptsegnet", "resnet101", {"13": 46.7}),
        ("synthia_cityscapes", "ass_all", "resnet101", {"13": 77.1}),
        ("synscapes_cityscapes", "intrada", "resnet101", {"19": 54.2}),
        ("gta5_cityscapes", "plca", "resnet101", {"19": 47.7}),
        ("synthia_cityscapes", "plca", "resnet101", {"16": 46.8, "13": 54.0}),
        ("gta5_cityscapes", "dacs", "resnet101", {"19": 52.14}),
        ("synthia_cityscapes", "dacs", "resnet101", {"16": 48.34, "13": 54.81}),
        ("gta5_cityscapes", "corda", "resnet101", {"19": 56.6}),
        ("synthia_cityscapes", "corda", "resnet101", {"16": 55.0, "13": 62.8}),
        ("gta5_cityscapes", "daformer", "mit_b5", {"19": 68.3}),
        ("gta5_cityscapes", "hrda", "mit_b5", {"19": 73.8}),
        ("gta5_cityscapes", "mic", "mit_b5", {"19": 75.9}),
        ("synthia_cityscapes", "daformer", "mit_b5", {"16": 60.9, "13": 67.4}),
        ("synthia_cityscapes", "hrda", "mit_b5", {"16": 65.8, "13": 72.4}),
        ("synthia_cityscapes", "mic", "mit_b5", {"16": 67.3, "13": 74.0}),
        ("synthia_cityscapes", "dada", "resnet101", {"16": 42.6, "13": 49.8}),
        ("synthia_cityscapes", "gio_ada", "vgg16", {"16": 37.3, "13": 43.0}),
        ("digits", "svhn_mnist/intra", "lenet", {"accuracy": 95.1}),
        ("digits", "usps_mnist/inter", "lenet", {"accuracy": 90.1}),
    ],
)
def test_headlines(benchmark, label, network, miou):
    (row,) = published.find(benchmark, label=label, network=network)
    assert row.miou == miou


def test_lookups():
    assert published.find("streets") == ()
    assert [row.network for row in published.find("gta5_cityscapes", label="minent")] == ["resnet101", "vgg16"]
    (digits,) = published.find("digits", label="mnist_usps/intra")
    assert digits.figure("accuracy") == "95.8 ± 0.1" and digits.figure("19") == "–"


def test_variants_find_their_rows():
    """A row of ours is named after its variant, and after the network where that is not the method's own."""
    for label, miou in [
        ("adaptsegnet/single_level", {"19": 41.4}),
        ("adaptsegnet/least_squares", {"19": 44.1}),
        ("adaptsegnet/vgg16", {"19": 35.0}),
        ("minent/vgg16", {"19": 32.8}),
        ("ass_all", {"19": 69.1}),
    ]:
        assert published.counterpart(result_row(label, 0.4)).miou == miou
    synthia = result_row("advent_cp/vgg16", 0.3, "synthia_cityscapes", "16")
    assert published.counterpart(synthia).miou == {"16": 31.4, "13": 36.6}
    assert published.counterpart(result_row("advent_cp", 0.3, "synthia_cityscapes", "16")).network == "vgg16"
    assert published.counterpart(result_row("adaptsegnet/resnet50", 0.4)) is None


def test_counterpart_has_the_network_that_the_run_was_given():
    assert published.counterpart(result_row("advent", 0.4)).network == "resnet101"
    for overrides in (
        ["--config.method.segmenter.name=deeplab_v2_vgg16", "--config.seed=1"],
        {"config.method.segmenter.name": "deeplab_v2_vgg16"},
    ):
        assert published.counterpart(result_row("advent", 0.4, overrides=overrides)).miou == {"19": 36.1}
    other = ["--config.method.segmenter.name=deeplab_v2_resnet50"]
    assert published.counterpart(result_row("advent", 0.4, overrides=other)) is None
    assert published.counterpart(result_row("advent", 0.4, benchmark="streets")) is None
    assert published.counterpart(result_row("gio_ada", 0.4, benchmark="synthia_cityscapes")).network == "vgg16"
    overrides = ["--config.method.segmenter.name=corda_resnet101"]
    assert published.counterpart(result_row("corda", 0.4, overrides=overrides)).miou == {"19": 56.6}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("paper"), "key 'paper' is missing"),
        (lambda row: row.update(miuo={}), "key 'miuo' is unknown"),
        (lambda row: row.update(network=""), "key 'network': expected a text"),
        (lambda row: row.update(note=7), "key 'note': expected a text, got 7"),
        (lambda row: row.update(mark="paper*; guess"), "'guess'"),
        (lambda row: row.update(miou=[43.8]), "key 'miou': expected an object"),
        (lambda row: row.update(miou={}), "key 'miou': expected at least one figure"),
        (lambda row: row.update(miou={"19": 143.8}), "key 'miou.19': expected a percentage"),
        (lambda row: row.update(miou={"19": None}), "key 'miou.19': expected a percentage"),
        (lambda row: row.update(miou={"18": 43.8}), "key 'miou': expected 19 or 16 or 13 or 10, got '18'"),
        (lambda row: row.update(spread={"16": 0.1}), "key 'spread': expected 19, got '16'"),
        (lambda row: row["iou"].update(road="89.9"), "key 'iou.road': expected a percentage"),
        (lambda row: row["iou"].pop("train"), "key 'iou': expected the classes of protocol 19 or 16 or 13 or 10"),
    ],
)
def test_malformed_rows_are_named(tmp_path, change, words):
    rows = json.loads(published.FILE.read_text())
    rows = [copy.deepcopy(next(row for row in rows if row["label"] == "advent")) for _ in range(2)]
    change(rows[1])
    path = tmp_path / "published.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError) as caught:
        published.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: row 2 (advent): ") and words in message and "\n" not in message


def test_files_that_hold_no_rows(tmp_path):
    (tmp_path / "torn.json").write_text('[{"label": ')
    (tmp_path / "object.json").write_text("{}")
    for name in ("torn.json", "object.json", "absent.json"):
        with pytest.raises(UserError, match=name):
            published.read(tmp_path / name)


def test_markdown_has_a_column_only_where_something_was_published():
    rows = [result_row("source_only", 0.35), result_row("advent", 0.42), result_row("dacs_plca", 0.4)]
    lines = tables.markdown(rows).splitlines()
    assert lines[2:7] == [
        "|  | mIoU (19 classes) | published | seed 0 | seconds per run |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| source_only | 35.0 | 36.6 | 35.0 | 60 |",
        "| advent | **42.0** | 43.8 | 42.0 | 60 |",
        "| dacs_plca | 40.0 | – | 40.0 | 60 |",
    ]
    assert "published" not in tables.markdown([result_row("advent", 0.42, benchmark="streets")])
    assert "published" not in tables.markdown([result_row("dacs_plca", 0.4)])


def test_markdown_follows_the_protocols_and_spreads():
    miou = {"16": 0.40, "13": 0.46}
    rows = [result_row(label, 0.40, "synthia_cityscapes", "16", miou=miou) for label in ("adaptsegnet", "advent")]
    text = tables.markdown(rows)
    assert "| mIoU (16 classes) | mIoU (13 classes) | published | seed 0 |" in text
    assert "| adaptsegnet | **40.0** | 46.0 | – / 46.7 |" in text and "| 46.0 | 40.8 / 47.6 |" in text
    digits = result_row("usps_mnist/source_only", 0.7, "digits", "accuracy", iou={})
    assert "| usps_mnist/source_only | 70.0 | 69.6 ± 3.8 | 70.0 |" in tables.markdown([digits])


def section(benchmark, rows):
    return render("published.html", published=published_page.section(benchmark, tables.groups(rows)))


def test_page_sets_ours_above_the_papers_rows(read_page):
    rows = [result_row("advent", 0.41), result_row("advent", 0.43, seed=1), result_row("dacs_plca", 0.4)]
    page = read_page(section("gta5_cityscapes", rows))
    shown = [[cell[0] for cell in row] for row in page.cells]
    names = list(label_spaces.CLASS_NAMES)
    assert shown[0] == ["", "paper or config", "network", "mark", "mIoU (19 classes)", *names]
    ours, resnet, vgg = shown[1:4]
    assert ours[:6] == ["advent, ours", "advent:gta5_cityscapes", "–", "–", "42.0 ± 1.4", "50.0"]
    assert ours[5 + names.index("train")] == "–"
    assert resnet[:6] == ["advent", "ADVENT, CVPR 2019", "resnet101", "paper*; 2nd source", "43.8", "89.9"]
    assert vgg[:6] == ["advent", "ADVENT, CVPR 2019", "vgg16", "tables", "36.1", "86.9"]
    assert shown[4][0] == "" and len(shown[5:]) == 79  # the others fold out
    text = "".join(page.text)
    assert "79 published rows without a run of ours" in text and "2nd source: printed in" in text
    assert "CDA (vgg16), CyCADA, feature (vgg16), CyCADA, pixel (vgg16): its own oracle: 60.3" in text
    assert all(len(row) == len(shown[0]) for row in shown)


def test_a_variant_on_another_network_stands_above_its_row_alone(read_page):
    page = read_page(section("gta5_cityscapes", [result_row("advent/vgg16", 0.35)]))
    shown = [[cell[0] for cell in row] for row in page.cells]
    assert [row[0] for row in shown[1:3]] == ["advent/vgg16, ours", "advent"] and shown[2][2] == "vgg16"
    assert shown[3][0] == ""


def test_page_without_a_counterpart_and_without_anything_published(read_page):
    page = read_page(section("digits", [result_row("dacs_plca", 0.4, "digits", "accuracy")]))
    assert [cell[0] for cell in page.cells[0]] == ["", "paper or config", "network", "mark", "accuracy"]
    assert len(page.cells) == 1 + 12 and page.row("svhn_mnist/intra")[4][0] == "95.1 ± 0.3"
    assert "ours" not in [cell[0] for row in page.cells for cell in row]
    assert published_page.section("streets", tables.groups([result_row("advent", 0.4, benchmark="streets")])) is None


@pytest.mark.parametrize(("benchmark", "shown"), [("gta5_cityscapes", 1), ("streets", 0)])
def test_reports_of_runs_have_the_section(tmp_path, benchmark, shown):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(json.dumps([result_row("advent", 0.42, benchmark)]))
    page = write([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert page.count("As published") == page.count("advent, ours") == shown
