"""What `uda config` prints: every field once, its value, its default and its sentence."""

import dataclasses

import pytest

from uda_jax import config
from uda_jax.cli import main
from uda_jax.config import settings
from uda_jax.errors import UserError
from uda_jax.runs import config_listing


def rows(reference, *words):
    return config_listing.rows(config.experiment(config.load(reference, words)))


@pytest.mark.parametrize("reference", ["intrada:smoke", "gio_ada:smoke", "digits:smoke,long"])
def test_every_field_is_listed_once_and_described(reference):
    found = rows(reference)
    paths = [row.path for row in found]
    assert len(set(paths)) == len(paths)
    assert all(row.text.endswith((".", "...")) and row.allowed for row in found)
    assert {"seed", "train.steps", "method.segmenter.input_norm", "evaluation.final.split"} <= set(paths)


def test_every_setting_can_be_listed():
    for reference in settings.packaged()[::7]:
        assert config_listing.listing(rows(reference)).count("\n") > 100


def test_the_fields_are_those_that_can_be_overridden():
    """Sections whose fields depend on a name, and stages' own, among them."""
    experiment = config.load("intrada:smoke")
    for row in rows("intrada:smoke"):
        node = experiment
        for name in row.path.split("."):
            assert name in node, row.path
            node = node[name]


def test_what_differs_from_a_default_is_marked():
    (row,) = config_listing.chosen(rows("advent:smoke", "--config.train.steps=7"), "--config.train.steps")
    assert row.changed and (row.value, row.default) == (7, 1000)
    line, sentence = config_listing.listing([row]).splitlines()
    assert line == "* train.steps = 7  [integer >= 1; default 1000]" and sentence.strip() == row.text
    (same,) = config_listing.chosen(rows("advent:smoke", "--config.train.steps=1000"), "train.steps")
    assert config_listing.listing([same]).startswith("  train.steps = 1000  [integer >= 1]")


def test_a_methods_own_default_of_a_section_counts():
    """What PLCA's optimiser is by default is no deviation of its config from SGD's."""
    experiment = config.experiment(config.load("plca:smoke"))
    method = dict(experiment.method)
    del method["optimiser"]
    found = config_listing.rows(dataclasses.replace(experiment, method=method))
    assert not [row.path for row in found if row.path.startswith("method.optimiser.") and row.changed]


def test_an_unknown_prefix_is_named():
    with pytest.raises(UserError, match="trian: no such field or section of this config; did you mean 'train'"):
        config_listing.chosen(rows("advent:smoke"), "trian")


def test_command(capsys):
    assert main(["config", "advent:smoke", "train", "--changed"]) == 0
    assert all(line.startswith(("* train.", "      ")) for line in capsys.readouterr().out.splitlines())
    assert main(["config", "advent:smoke", "train", "--diff", "advent:streets"]) == 0
    printed = capsys.readouterr().out
    assert "train.steps\n    advent:smoke: " in printed and "method" not in printed
    # A section of one of the two alone.
    assert main(["config", "advent:smoke", "stages.rank.kind", "--diff", "intrada:smoke"]) == 0
    assert "stages.rank.kind.fraction\n    advent:smoke: –\n    intrada:smoke: " in capsys.readouterr().out
    assert main(["config", "advent:smoke", "--diff", "advent:smoke"]) == 0
    assert "set the same" in capsys.readouterr().out
    assert main(["config", "advent:smoke", "--changed", "--diff", "dacs:smoke"]) == 2
    assert "--changed: has no effect beside --diff" in capsys.readouterr().err
