"""Grouping over seeds, tables in Markdown and the checks of result rows."""

import json
import math

import pytest

from uda_jax.errors import UserError
from uda_jax.report import tables


def row(label, seed, value, **changes):
    return {
        "label": label,
        "benchmark": "streets",
        "method": label,
        "config": f"{label}:streets",
        "overrides": {"config.seed": seed},
        "seed": seed,
        "steps": 2000,
        "batch": 4,
        "head_classes": 10,
        "commit": "abc",
        "command": f"uda train --config {label}:streets --config.seed={seed}",
        "hardware": "2 CPU cores",
        "seconds": 100.0 + seed,
        "protocol": "10",
        "miou": {"10": value},
        "iou": {"road": 0.5, "car": 0.1, "wall": 0.9, "truck": None},
    } | changes


def three(label, *values, **changes):
    return [row(label, seed, value, **changes) for seed, value in enumerate(values)]


ROWS = [*three("oracle", 0.6, 0.62, 0.64), *three("advent", 0.45, 0.40, 0.50), *three("source_only", 0.42, 0.40, 0.38)]


def test_markdown_by_hand():
    lines = tables.markdown(ROWS).splitlines()
    assert lines[:7] == [
        "**streets**: 10 classes, 2000 steps, batch 4",
        "",
        "|  | mIoU (10 classes) | seed 0 | seed 1 | seed 2 | gap recovered | seconds per run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| source_only | 40.0 ± 2.0 | 42.0 | 40.0 | 38.0 | – | 101 |",
        "| advent | **45.0 ± 5.0** | 45.0 | 40.0 | 50.0 | 23 % | 101 |",
        "| oracle | 62.0 ± 2.0 | 60.0 | 62.0 | 64.0 | – | 101 |",
    ]
    assert "Hardware: 2 CPU cores. Commands (first seed of each row):" in lines
    assert lines.count("uda train --config advent:streets --config.seed=0") == 1


def test_rows_whose_step_was_chosen_by_target_labels_say_so_and_have_no_rivals_among_the_others():
    chosen = {"selection": "best_on_target_val", "selected_on": "cityscapes/val", "selected_step": 1500}
    rows = [*ROWS, *three("advent", 0.55, 0.50, 0.60, **chosen), *three("minent", 0.52, 0.52, 0.52, **chosen)]
    lines = tables.markdown(rows).splitlines()
    assert "| advent (best on labels of cityscapes/val) | **55.0 ± 5.0** | 55.0 | 50.0 | 60.0 | – | 101 |" in lines
    assert "| minent (best on labels of cityscapes/val) | 52.0 ± 0.0 | 52.0 | 52.0 | 52.0 | – | 101 |" in lines
    # The other rows are as if it were not there.
    assert "| advent | **45.0 ± 5.0** | 45.0 | 40.0 | 50.0 | 23 % | 101 |" in lines


def test_dice_heads_its_table_in_percent():
    changes = {"headline": "dice", "protocol": "own", "miou": {"own": 0.3}, "dice": {"background": None, "polyp": 0.5}}
    values = {"source_only": 0.5, "ass": 0.75, "oracle": 1.0}
    rows = [row(label, 0, 0.3, **changes, metrics={"miou": 0.3, "dice": v}) for label, v in values.items()]
    lines = tables.markdown(rows).splitlines()
    assert lines[2] == "|  | Dice | mIoU | seed 0 | gap recovered | seconds per run |"
    assert lines[5] == "| ass | **75.0** | 30.0 | 75.0 | 50 % | 100 |"
    rows[1] |= {"dice": {"polyp": 50.0}}
    with pytest.raises(UserError, match=r"row 2 \(ass\): key 'dice.polyp': expected a fraction"):
        tables.markdown(rows)


def test_lone_row_has_no_spread_no_gap_and_no_winner():
    lines = tables.markdown([row("advent", 3, 0.5, split="val")]).splitlines()
    assert lines[0] == "**streets**: 10 classes, 2000 steps, batch 4, evaluated on val"
    assert lines[2] == "|  | mIoU (10 classes) | seed 3 | seconds per run |"
    assert lines[4] == "| advent | 50.0 | 50.0 | 103 |"
    assert lines[6] == "Hardware: 2 CPU cores. Command: `uda train --config advent:streets --config.seed=3`"


def test_digits_compare_within_their_pair():
    changes = {"benchmark": "digits", "protocol": "accuracy", "iou": {}}
    values = {
        "mnist_usps/inter": 0.9,
        "svhn_mnist/oracle": 0.99,
        "mnist_usps/source_only": 0.8,
        "svhn_mnist/source_only": 0.6,
    }
    rows = [row(label, 0, value, **changes, miou={"accuracy": value}) for label, value in values.items()]
    rows.append(row("mnist_usps/oracle", 0, 1.0, **changes, miou={"accuracy": 1.0}))
    groups = tables.groups(rows)
    assert [group.label for group in groups] == [
        *("mnist_usps/source_only", "mnist_usps/inter", "mnist_usps/oracle"),
        *("svhn_mnist/source_only", "svhn_mnist/oracle"),
    ]
    assert tables.gap_recovered(groups[1], groups) == pytest.approx(0.5)
    assert [tables.is_best(group, groups) for group in groups] == [False, True, False, False, False]


def test_a_slash_in_a_label_is_no_family_without_a_source_only():
    groups = tables.groups([*three("gio_ada/input_only", 0.5), *ROWS])
    found = next(group for group in groups if group.label == "gio_ada/input_only")
    assert found.family == "" and tables.gap_recovered(found, groups) == pytest.approx(0.1 / 0.22)


def test_a_family_may_be_the_beginning_of_a_longer_label():
    labels = ("source_only", "pretrained/source_only", "pretrained/gio_ada/input_only", "pretrained/oracle")
    rows = [row for label, figure in zip(labels, (0.1, 0.2, 0.3, 0.6), strict=True) for row in three(label, figure)]
    groups = {group.label: group for group in tables.groups(rows)}
    found = groups["pretrained/gio_ada/input_only"]
    assert (found.family, found.kind) == ("pretrained", "gio_ada/input_only")
    assert tables.gap_recovered(found, groups.values()) == pytest.approx(0.25)


def test_settings_are_not_averaged_as_seeds():
    other = three("advent", 0.1, 0.2, overrides=["--config.method.weight=2", "--config.seed=1"])
    labels = {group.label: len(group.rows) for group in tables.groups([*ROWS, *other])}
    assert labels == {
        "source_only": 3,
        "advent (2000 steps, protocol 10)": 3,
        "advent (config.method.weight=2, 2000 steps, protocol 10)": 2,
        "oracle": 3,
    }


def test_several_protocols_headline_first():
    rows = [row("advent", 0, 0.4, protocol="16", miou={"13": 0.5, "16": 0.4})]
    assert "| mIoU (16 classes) | mIoU (13 classes) |" in tables.markdown(rows)
    assert "| advent | 40.0 | 50.0 | 40.0 |" in tables.markdown(rows)


def test_mean_over_all_classes_is_that_of_the_protocol():
    assert tables.all_classes_mean(row("advent", 0, 0.3)) == pytest.approx(0.3)  # wall is none of the 10
    assert tables.all_classes_mean(row("advent", 0, 0.3, protocol="19", miou={"19": 0.3})) == pytest.approx(0.5)
    assert tables.all_classes_mean(row("advent", 0, 0.3, iou={})) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda bad: bad.pop("seconds"), ["rows.json: row 2 (advent)", "key 'seconds' is missing"]),
        (lambda bad: bad.update(seed="0"), ["row 2", "key 'seed': expected int, got '0'"]),
        (lambda bad: bad.update(steps=True), ["row 2", "key 'steps'"]),
        (lambda bad: bad.update(protocol="19"), ["row 2", "no figure for protocol '19'"]),
        (lambda bad: bad.update(miou={"10": 45.0}), ["row 2", "miou.10", "fraction"]),
        (lambda bad: bad.update(miou={"10": math.nan}), ["row 2", "miou.10", "fraction"]),
        (lambda bad: bad.update(iou={"road": "x"}), ["row 2", "iou.road"]),
    ],
)
def test_malformed_rows_are_named(tmp_path, change, words):
    rows = [row("advent", 0, 0.4), row("advent", 1, 0.4)]
    change(rows[1])
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError) as caught:
        tables.read_rows(path)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_files_that_hold_no_rows(tmp_path):
    (tmp_path / "torn.json").write_text('[{"label": ')
    (tmp_path / "object.json").write_text("{}")
    for name in ("torn.json", "object.json", "absent.json"):
        with pytest.raises(UserError, match=name):
            tables.read_rows(tmp_path / name)


def test_a_seed_that_counts_twice_is_refused():
    with pytest.raises(UserError, match="advent has seed 1 more than once"):
        tables.markdown([*ROWS, row("advent", 1, 0.9)])


def depth_rows(label, *values):
    metrics = lambda value: {"abs_rel": value, "rmse": 10 * value, "delta1": 0.5}  # noqa: E731
    changes = {"headline": "abs_rel", "miou": {}, "iou": {}}
    return [row(label, seed, value, **changes, metrics=metrics(value)) for seed, value in enumerate(values)]


def test_a_headline_that_is_an_error_is_better_when_low_and_written_as_it_is():
    rows = [*depth_rows("source_only", 0.5), *depth_rows("advent", 0.3), *depth_rows("dacs", 0.2)]
    lines = tables.markdown([*rows, *depth_rows("oracle", 0.1)]).splitlines()
    assert lines[2:][:1] + lines[4:8] == [
        "|  | abs_rel | rmse (m) | delta1 | seed 0 | gap recovered | seconds per run |",
        "| source_only | 0.500 | 5.000 | 50.0 | 0.500 | – | 100 |",
        "| advent | 0.300 | 3.000 | 50.0 | 0.300 | 50 % | 100 |",
        "| dacs | **0.200** | 2.000 | 50.0 | 0.200 | 75 % | 100 |",
        "| oracle | 0.100 | 1.000 | 50.0 | 0.100 | – | 100 |",
    ]
    # An oracle that is worse has no gap to recover.
    worse = [*rows, *depth_rows("oracle", 0.6)]
    assert tables.gap_recovered(tables.groups(worse)[1], tables.groups(worse)) is None
    assert tables.points([0.1, 0.3], "rmse") == "0.200 ± 0.141"


def test_runs_that_are_scored_on_several_splits_have_a_table_each():
    rows = [
        row(label, 0, value, domain=name)
        for label, value in (("advent", 0.5), ("dacs", 0.4))
        for name in ("city", "bdd")
    ]
    lines = tables.markdown(rows).splitlines()
    heads = [line for line in lines if line.startswith("**")]
    assert heads == [f"**streets ({name})**: 10 classes, 2000 steps, batch 4" for name in ("city", "bdd")]
    assert sum(line.startswith("| advent | **50.0**") for line in lines) == 2
    assert [group.split for group in tables.groups(rows)] == ["city", "city", "bdd", "bdd"]
    assert not tables.repeated_seeds(tables.groups(rows)[0])


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, "key 'metrics': expected a figure for the headline 'rmse', got {}"),
        ({"abs_rel": 0.5}, "key 'metrics': expected a figure for the headline 'rmse'"),
        ({"rmse": 3.0, "abs_rel": math.inf}, "key 'metrics.abs_rel': expected a finite number, got inf"),
    ],
)
def test_rows_without_a_figure_for_their_headline_are_refused(metrics, words):
    with pytest.raises(UserError, match=words):
        tables.check_rows([row("advent", 0, 0.5, headline="rmse", metrics=metrics)], "rows.json")
