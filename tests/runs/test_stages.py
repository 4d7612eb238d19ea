"""Recipes: what the stages of a config are, and which mistakes in them are named."""

import dataclasses
import json
import sys

import pytest

from uda_jax import config
from uda_jax.config import StageConfig
from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.runs import kinds, late_files, stages
from uda_jax.runs.kinds.base import Kind
from uda_jax.runs.kinds.rank import Rank
from uda_jax.runs.workdir import Workdir
from uda_jax.training.layout import RunFiles

RANK = RunFiles(late_files.WORKDIR).stage("rank")


def with_stages(experiment, **found):
    return dataclasses.replace(experiment, stages=found, recipe=tuple(found))


def ranking(**fields):
    """Returns the section of a stage that ranks by the stage "first"."""
    return StageConfig(kind=config.named("rank", Rank(**fields)).to_dict(), start_from={"segmenter": "first"})


def test_kinds_are_found_by_file():
    assert kinds.names() == ["export_depth", "rank", "train", "translate"]
    assert kinds.get("rank", "config") is Rank and not Rank.TRAINS and kinds.get("train", "config").TRAINS


COUNT_FRAMES = """
import dataclasses

from uda_jax.data.pipeline.domains import open_domain
from uda_jax.errors import UserError
from uda_jax.runs.kinds.base import Kind
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class CountFrames(Kind):
    limit: int = config_field(100, "Frames that there may be.", low=1)

    def validate(self, stage, context):
        if len(context.space.names) != 3:
            raise UserError(f"stage {stage.name}: expected three classes")

    def run(self, stage, workdir, context):
        count = sum(len(open_domain(domain)) for domain in stage.domains_in(workdir).values())
        return {"seconds": 0.0, "frames": min(self.limit, count)}


KIND = CountFrames
"""


def test_a_kind_is_one_file(tiny_experiment, tmp_path, monkeypatch):
    (tmp_path / "count_frames.py").write_text(COUNT_FRAMES)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "uda_jax.runs.kinds.count_frames", raising=False)
    section = {"name": "count_frames", "limit": 10}
    count, _ = stages.recipe(
        with_stages(tiny_experiment, count=StageConfig(kind=section), last=StageConfig()), num_classes=3
    )
    context = stages.Context(tiny_experiment, None, label_spaces.label_space("7"), lambda: False)
    with pytest.raises(UserError, match="stage count: expected three classes"):
        count.kind.validate(count, context)
    workdir = Workdir(tmp_path / "run")
    found = {"count": {"seconds": 0.0, "frames": 10}}
    assert stages.run_recipe([count], workdir, context) == found
    assert json.loads(workdir.stage("count").finished.read_text()) == found["count"]
    # What is finished is not done again.
    assert stages.run_recipe([dataclasses.replace(count, kind=Kind())], workdir, context) == found


def test_a_config_without_stages_has_one(tiny_experiment):
    (stage,) = stages.recipe(tiny_experiment, num_classes=3)
    assert stage.name == "train" and stage.kind.TRAINS and stage.method.num_classes == 3
    assert stage.domains == tiny_experiment.data and stage.train == tiny_experiment.train


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"name": "rnk"}, r"config.stages.second.kind.name: unknown kind of stage 'rnk'; did you mean 'rank'\?"),
        (
            {"name": "rank", "fracton": 1.0},
            r"config.stages.second.kind.fracton: unknown field; did you mean 'fraction'",
        ),
        ({"name": "rank", "fraction": 2.0}, r"config.stages.second.kind.fraction: expected a number <= 1.0, got 2.0"),
        ({"name": "train", "fraction": 0.5}, r"config.stages.second.kind.fraction: unknown field"),
        ({"name": "rank"}, r"config.stages.second.kind.name: expected 'train' in the last stage, got 'rank'"),
    ],
)
def test_mistakes_in_a_kind_are_named(tiny_experiment, kind, message):
    second = StageConfig(kind=kind, start_from={"segmenter": "first"})
    with pytest.raises(UserError, match=message):
        stages.recipe(with_stages(tiny_experiment, first=StageConfig(), second=second), num_classes=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first", ("segmenter", "last")),
        ("first@best", ("segmenter", "best")),
        ("first.discriminator@12", ("discriminator", 12)),
        ("first.discriminator@last", ("discriminator", "last")),
    ],
)
def test_an_earlier_stages_network_and_step(tiny_experiment, text, expected):
    second = StageConfig(start_from={"segmenter": text})
    first, second = stages.recipe(with_stages(tiny_experiment, first=StageConfig(), second=second), num_classes=3)
    assert second.start_from == {"segmenter": (first, *expected)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frist", r"start_from.segmenter: expected an earlier stage that trains, of \['first'\], got 'frist'"),
        ("rank", r"start_from.segmenter: expected an earlier stage that trains, of \['first'\], got 'rank'"),
        ("first@bset", r"start_from.segmenter: expected last, best or a step after '@', got 'first@bset'"),
        ("first@", r"start_from.segmenter: expected last, best or a step after '@', got 'first@'"),
        ("first@-3", r"start_from.segmenter: expected last, best or a step after '@', got 'first@-3'"),
    ],
)
def test_mistakes_in_what_a_stage_starts_from_are_named(tiny_experiment, text, message):
    last = StageConfig(start_from={"segmenter": text})
    with pytest.raises(UserError, match=f"config.stages.last.{message}"):
        stages.recipe(with_stages(tiny_experiment, first=StageConfig(), rank=ranking(), last=last), num_classes=3)


def test_without_a_dev_split_no_checkpoint_is_the_best(tiny_experiment):
    experiment = dataclasses.replace(
        tiny_experiment, evaluation=dataclasses.replace(tiny_experiment.evaluation, dev=None)
    )
    second = StageConfig(start_from={"segmenter": "first@best"})
    with pytest.raises(UserError, match="start_from.segmenter: the best checkpoint is chosen on config.evaluation.dev"):
        stages.recipe(with_stages(experiment, first=StageConfig(), second=second), num_classes=3)


def test_later_stages_start_from_the_checkpoint_that_the_run_reports(tiny_experiment):
    chosen = dataclasses.replace(tiny_experiment.evaluation, selection="best_on_target_val")
    for evaluation, step in ((tiny_experiment.evaluation, "last"), (chosen, "best")):
        plans = {
            "first": StageConfig(),
            "second": StageConfig(start_from={"segmenter": "first"}),
            "third": StageConfig(start_from={"segmenter": "first@last"}),
        }
        experiment = with_stages(dataclasses.replace(tiny_experiment, evaluation=evaluation), **plans)
        _, second, third = stages.recipe(experiment, num_classes=3)
        assert (second.start_from["segmenter"].step, third.start_from["segmenter"].step) == (step, "last")


@pytest.mark.parametrize(
    ("fraction", "file", "left"),
    [
        (1.0, RANK.hard, ["source"]),
        (0.5, RANK.hard, ["source", "target"]),
        (1.0, RANK.easy, ["source", "target"]),
        # Another stage's list of the same name.
        (1.0, RunFiles(late_files.WORKDIR).stage("other").hard, ["source", "target"]),
    ],
)
def test_domains_of_lists_that_will_be_empty_are_left_out(tiny_experiment, fraction, file, left):
    target = dataclasses.replace(tiny_experiment.data["target"], names_file=str(file))
    last = StageConfig(method={"name": "intrada"}, data=tiny_experiment.data | {"target": target})
    experiment = with_stages(tiny_experiment, first=StageConfig(), rank=ranking(fraction=fraction), last=last)
    *_, last = stages.recipe(experiment, num_classes=3)
    assert sorted(last.domains) == left


def test_files_of_earlier_stages_are_found_in_the_workdir(tiny_experiment, tmp_path):
    named = {"names_file": str(RANK.easy), "labels_from": str(RANK.pseudo_labels), "images_from": str(RANK.translated)}
    easy = dataclasses.replace(tiny_experiment.data["target"], **named)
    last = StageConfig(method={"name": "intrada"}, data={"source": easy})
    *_, last = stages.recipe(
        with_stages(tiny_experiment, first=StageConfig(), rank=ranking(), last=last), num_classes=3
    )
    found, files = last.domains_in(Workdir(tmp_path))["source"], Workdir(tmp_path).stage("rank")
    assert (found.names_file, found.labels_from) == (str(files.easy), str(files.pseudo_labels))
    assert found.images_from == str(files.translated) and late_files.needs_workdir(easy)


def test_files_of_earlier_stages_are_found_in_every_part_of_a_mixture(tiny_experiment, tmp_path):
    part = dataclasses.replace(tiny_experiment.data["target"], names_file=str(RANK.hard))
    other = dataclasses.replace(part, names_file=str(RunFiles(late_files.WORKDIR).stage("first").hard))
    mixed = dataclasses.replace(part, mix={"other": other})
    assert late_files.needs_workdir(mixed) and late_files.needs_workdir(dataclasses.replace(mixed, names_file=None))
    section = StageConfig(method={"name": "intrada"}, data=tiny_experiment.data | {"target": mixed})
    plain = with_stages(tiny_experiment, first=StageConfig(), rank=ranking(), last=section)
    found = stages.recipe(plain, num_classes=3)[-1].domains_in(Workdir(tmp_path))["target"]
    assert found.names_file == str(tmp_path / "rank" / "hard.txt")
    assert found.mix["other"].names_file == str(tmp_path / "first" / "hard.txt")
    assert stages.label_space(plain).names == stages.label_space(tiny_experiment).names
    # Of two lists, one will be empty: only its part is left out.
    *_, last = stages.recipe(
        with_stages(tiny_experiment, first=StageConfig(), rank=ranking(fraction=1.0), last=section), num_classes=3
    )
    assert last.domains["target"] == other
