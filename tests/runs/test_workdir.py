"""Workdirs: every field that matters is compared, and what another version wrote is refused by every command."""

import copy
import dataclasses
import json

import pytest

from uda_jax import config
from uda_jax.cli import main
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.runs.workdir import Workdir, check_space, difference

RECIPE = config.to_plain(config.experiment(config.load("intrada:smoke")))
# What a resumed run may be given otherwise.
FREE = {("train", name) for name in ("log_every", "workers", "keep_latest", "profile", "sharding", "split_from")}
FREE |= {("method", "segmenter", "remat"), ("evaluation", "pictures")}
FREE |= {("stages", "inter", *field) for field in FREE if field[0] != "evaluation"}


def leaves(value, path=()):
    """Returns the paths of all leaves of nested dicts, lists being leaves."""
    if not isinstance(value, dict):
        return [path]
    return [leaf for name, entry in value.items() for leaf in leaves(entry, (*path, name))]


def changed(plain, path):
    """Returns plain values with one leaf replaced."""
    plain = copy.deepcopy(plain)
    node = plain
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = "another value"
    return plain


@pytest.mark.parametrize("field", leaves(RECIPE), ids=".".join)
def test_every_field_but_the_free_ones_has_to_stay(field):
    found = difference(RECIPE, changed(RECIPE, field))
    if field in FREE:
        assert found is None
    else:
        name, _, new = found
        assert name == ".".join(("config", *field)) and new == "another value"


@pytest.mark.parametrize("field", leaves(RECIPE), ids=".".join)
def test_until_there_is_a_result_how_a_run_is_scored_may_change(field):
    found = difference(RECIPE, changed(RECIPE, field), scoring_may_change=True)
    scoring = field[0] == "evaluation" and field[1] not in ("dev", "headline", "selection", "best_by")
    assert (found is None) == (field in FREE or scoring)


@pytest.mark.parametrize("field", [leaf for leaf in leaves(RECIPE) if leaf[0] == "evaluation"], ids=".".join)
def test_what_chooses_the_checkpoint_that_is_reported_may_not_change(field):
    best = changed(RECIPE, ("evaluation", "selection"))
    found = difference(best, changed(best, field) if field[1] != "selection" else RECIPE, scoring_may_change=True)
    fixed = ("best_by", "dev", "final", "headline", "inference", "protocol", "selection")
    assert (found is not None) == (field[1] in fixed)


def test_frames_that_choose_the_checkpoint_may_not_change():
    frames = ("evaluation", "criteria_frames")
    by_criterion = changed(RECIPE, ("evaluation", "best_by"))
    assert difference(RECIPE, changed(RECIPE, frames), scoring_may_change=True) is None
    found = difference(by_criterion, changed(by_criterion, frames), scoring_may_change=True)
    assert found[0] == "config.evaluation.criteria_frames"


def test_of_a_stage_only_its_own_fields_are_compared():
    other = changed(RECIPE, ("stages", "inter", "train", "steps"))
    assert difference(RECIPE, other, stage="intra") is None
    assert difference(RECIPE, other, stage="inter")[0] == "config.stages.inter.train.steps"
    assert difference(RECIPE, changed(RECIPE, ("seed",)), stage="intra")[0] == "config.seed"


@pytest.mark.parametrize("shorter", ["digits:smoke,long,cycada", "digits:smoke,long,easy"])
def test_stages_that_two_recipes_begin_with_are_the_same(shorter):
    plain, other = (config.to_plain(config.experiment(config.load(name))) for name in ("digits:smoke,long", shorter))
    assert plain["label"] != other["label"] and plain["recipe"] != other["recipe"]
    for stage in ("pixel", "source", "inter"):
        assert difference(plain, other, stage=stage) is None
    assert difference(plain, other)[0] in ("config.label", "config.data.source.images_from")
    assert difference(plain, changed(other, ("stages", "inter", "train", "steps")), stage="inter") is not None


def test_a_cure_of_the_scoring_is_taken_until_there_is_a_result(tiny_experiment, tmp_path):
    workdir, space = Workdir(tmp_path / "run"), label_spaces.label_space("7")
    workdir.prepare(tiny_experiment, space)
    section = tiny_experiment.evaluation
    final = dataclasses.replace(section.final, count=2)
    other = dataclasses.replace(tiny_experiment, evaluation=dataclasses.replace(section, final=final))
    workdir.check(other, space.names)
    workdir.result.write_text("[]")
    with pytest.raises(UserError, match="holds a run with config.evaluation.final.count = None, asked for 2"):
        workdir.check(other, space.names)


@pytest.mark.parametrize("change", ["added", "reordered", "renamed"])
def test_a_run_of_other_classes_is_refused_before_anything_is_written(change, tiny_experiment, tmp_path):
    workdir, space = Workdir(tmp_path / "run"), label_spaces.label_space("7")
    workdir.prepare(tiny_experiment, space)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {
        "added": (*space.names, "tram"),
        "reordered": space.names[::-1],
        "renamed": ("ground", *space.names[1:]),
    }[change]
    with pytest.raises(
        UserError, match=r"holds a run with classes \['flat', .*\], asked for \[.*\]; use another workdir"
    ):
        workdir.check(tiny_experiment, names)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"names": 3}', '{"names": ["a"], "colours": [], "ignore": 255}']
)
def test_damaged_classes_are_one_line(text, tiny_experiment, tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.prepare(tiny_experiment, label_spaces.label_space("7"))
    workdir.label_space.write_text(text)
    with pytest.raises(UserError, match="label_space.json: .*; delete it and rerun the same 'uda train'") as caught:
        workdir.classes()
    assert "\n" not in str(caught.value)


def test_fields_that_come_or_go_differ():
    shorter = {name: value for name, value in RECIPE.items() if name != "seed"}
    assert difference(RECIPE, shorter) == ("config.seed", RECIPE["seed"], None)
    assert difference(shorter, RECIPE) == ("config.seed", None, RECIPE["seed"])
    assert difference(RECIPE, RECIPE) is None


def test_a_run_is_opened_with_what_it_was_prepared_with(tiny_experiment, tmp_path):
    workdir, space = Workdir(tmp_path / "run"), label_spaces.label_space("7")
    workdir.check(tiny_experiment, space.names)
    workdir.prepare(tiny_experiment, space)
    assert config.to_plain(workdir.experiment()) == config.to_plain(tiny_experiment)
    assert workdir.classes() == space
    workdir.check(tiny_experiment, space.names)
    other = dataclasses.replace(tiny_experiment, train=dataclasses.replace(tiny_experiment.train, batch_size=4))
    with pytest.raises(UserError, match="holds a run with config.train.batch_size = 8, asked for 4; use the same"):
        workdir.check(other, space.names)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: expected a folder, found a file"):
        Workdir(tmp_path / "file").check(tiny_experiment, space.names)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "{config}", "--workdir", "{run}"],
        ["evaluate", "--workdir", "{run}"],
        ["predict", "--workdir", "{run}", "--input", "{images}", "--output", "{run}/out"],
        ["convert", "--to-torch", "--dialect", "advent", "--from", "{run}", "--to", "{run}/x.safetensors"],
        ["inspect", "{run}"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("found", [None, 1, 3])
def test_every_command_refuses_a_run_of_another_version(
    words, found, tiny_config, tiny_experiment, tiny_folder, tmp_path, capsys
):
    workdir = Workdir(tmp_path / "run")
    workdir.prepare(tiny_experiment, label_spaces.label_space("7"))
    stored = json.loads(workdir.config.read_text())
    assert stored.pop("format") == config.FORMAT
    stored["optimizer"] = {"learning_rate": 0.1}  # A field of another name alone would read as a typing mistake.
    workdir.config.write_text(json.dumps(stored | ({} if found is None else {"format": found})))
    before = sorted(workdir.path.rglob("*"))
    images = tiny_folder / "val" / "images"
    assert main([word.format(config=tiny_config, run=workdir.path, images=images) for word in words]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert f"{workdir.config}: expected format {config.FORMAT}, got {found or 1}, of another version" in error
    assert "train anew in another workdir, or use the version that wrote it" in error
    assert sorted(workdir.path.rglob("*")) == before


@pytest.mark.parametrize("text", ["[]", "no JSON", "{"])
def test_a_config_that_is_none_is_named(text, tmp_path):
    workdir = Workdir(tmp_path)
    workdir.config.write_text(text)
    with pytest.raises(
        UserError, match="config.json: expected the config of a run, found .*; is this a workdir"
    ) as caught:
        workdir.experiment()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_does_not_fit_the_disk_is_refused(tmp_path):
    check_space(tmp_path, 0)
    with pytest.raises(UserError, match="the disk is full: expected .* MB for a checkpoint, found .* MB"):
        check_space(tmp_path, 10**18)
