"""What a run will take, told before it starts, and the same program then runs."""

import dataclasses
import math

import jax
import pytest

from uda_jax import config
from uda_jax.errors import UserError
from uda_jax.runs import admission, memory, plan, results, stages, states, train
from uda_jax.training import sharding
from uda_jax.training.initialisation import initialise
from uda_jax.training.logging import read_metrics
from uda_jax.training.programs import tree_bytes


@pytest.fixture(scope="module")
def planned(tiny_config):
    """The plan of the tiny experiment, its stage, and its step, which is compiled."""
    (stage,) = stages.recipe(config.experiment(config.load(tiny_config)), 3)
    return *plan.of_stage(stage, plan.batch_before_data(stage), sharding.data_mesh()), stage


def test_the_plan_is_what_the_state_is(planned):
    found, step, stage = planned
    state = initialise(stage.initialise, jax.random.key(0))
    assert found.parameters == {
        name: sum(map(jax.numpy.size, jax.tree.leaves(tree))) for name, tree in state.params.items()
    }
    assert found.state_bytes == found.device_state_bytes == found.checkpoint_bytes == tree_bytes(state)
    assert found.gradient_bytes == 4 * sum(found.parameters.values())
    assert (found.steps, found.platform, found.devices) == (6, "cpu", 1)
    assert found.batch == {"source": [8, 32, 64], "target": [8, 32, 64]}
    assert step.traces == 1 and step.compile_seconds > 0
    inputs = 8 * 32 * 64 * (3 + 1 + 3) + 2 * 8 * 4
    assert found.costs.memory.arguments == pytest.approx(found.state_bytes + inputs, abs=4096)
    assert 50e6 < found.process_bytes - found.costs.memory.peak < 1e11
    assert found.costs.memory.peak > found.costs.memory.arguments + found.costs.memory.temporaries > 1e6


def test_hours_follow_from_operations(planned):
    found = planned[0]
    assert found.hours(2.0) == pytest.approx(6 * found.costs.operations / 2e12 / 3600)
    assert dataclasses.replace(found, devices=4).hours(2.0) == pytest.approx(found.hours(2.0) / 4)
    plain = found.to_json(2.0)
    assert plain["hours"] == found.hours(2.0) and plain["memory"]["peak"] == found.costs.memory.peak
    assert plan.default_tflops("gpu", 8)[0] == plan.ACCELERATOR_TFLOPS
    assert plan.default_tflops("cpu", 2)[0] == plan.default_tflops("cpu", 1)[0] / 2


def test_the_lines_say_what_is_not_known(planned):
    found = planned[0]
    compiled = "\n".join(plan.lines(found, 1.0, "why"))
    assert "stage train: 6 steps of source 8x32x64, target 8x32x64 on 1 cpu device" in compiled
    assert "temporaries" in compiled and "none, there is one device" in compiled and "(why), an estimate" in compiled
    stage = planned[2]
    mesh = sharding.abstract_mesh(8)
    lowered, step = plan.of_stage(stage, plan.batch_before_data(stage), mesh, "tpu")
    assert lowered.costs.operations == pytest.approx(found.costs.operations, rel=0.3) and step.compile_seconds is None
    text = "\n".join(plan.lines(lowered, 1.0, "why"))
    assert "the process takes" in compiled and lowered.process_bytes is None
    assert "on 8 tpu devices" in text and text.count("only a compiler for tpu tells the rest") == 2
    exchanged = dataclasses.replace(
        found, devices=8, costs=dataclasses.replace(found.costs, communication={"all-reduce": 2e9})
    )
    assert "2.00 GB per step from each device: all-reduce 2.00 GB" in plan.lines(exchanged, 1.0, "why")[4]


def test_without_data(tiny_experiment):
    away = lambda domain, **more: dataclasses.replace(domain, root="/nowhere", **more)  # noqa: E731
    data = {name: away(domain) for name, domain in tiny_experiment.data.items()}
    evaluation = dataclasses.replace(tiny_experiment.evaluation, final=away(tiny_experiment.evaluation.final), dev=None)
    experiment = dataclasses.replace(tiny_experiment, data=data, evaluation=evaluation)
    assert plan.classes(tiny_experiment, None) == (3, False)
    assert plan.classes(experiment, None) == (19, True) and plan.classes(experiment, 5) == (5, False)
    (stage,) = stages.recipe(experiment, 5)
    assert plan.batch_before_data(stage)["source"]["image"].shape == (8, 32, 64, 3)
    # Its crop is gone, its size, too.
    data["target"] = away(data["target"], size=None)
    (stage,) = stages.recipe(dataclasses.replace(experiment, data=data), 5)
    assert plan.announced_batch(stage) is None
    with pytest.raises(
        UserError, match="^config.data.target.size: expected a size or a crop, .*'/nowhere' is not there"
    ):
        plan.batch_before_data(stage)


def test_published_settings_need_no_data():
    for reference, classes in {"advent:synthia_cityscapes": 16, "digits:mnist_usps": 10, "ass:blobs": 2}.items():
        experiment = config.experiment(config.load(reference))
        assert plan.classes(experiment, None) == (classes, False)
        for stage in stages.recipe(experiment, classes):
            if stage.kind.TRAINS:
                assert plan.announced_batch(stage) is not None


@pytest.fixture
def compiled(monkeypatch):
    """Counts the compilations of steps."""
    found, of_stage = [], plan.of_stage
    monkeypatch.setattr(plan, "of_stage", lambda stage, *rest: found.append(stage.name) or of_stage(stage, *rest))
    return found


def test_a_run_tells_its_plan_and_compiles_once(tiny_experiment, tmp_path, capsys, compiled):
    experiment = dataclasses.replace(tiny_experiment, train=dataclasses.replace(tiny_experiment.train, steps=1))
    train.run(experiment, tmp_path / "run", results.Invocation())
    told = capsys.readouterr().err
    assert told.index("temporaries") < told.index("1/1") and compiled == ["train"]
    assert read_metrics(tmp_path / "run" / "train" / "metrics.jsonl")[0]["speed/compile_seconds"] > 0


def test_a_step_that_does_not_fit_is_refused_before_anything_is_written(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "room", lambda: memory.Room(1000, "this machine"))
    with pytest.raises(UserError, match="^stage train: a training step takes 0.2 GB .*this machine has 0.0 GB left"):
        train.run(tiny_experiment, tmp_path / "run", results.Invocation())
    assert not (tmp_path / "run").exists()
    experiment = dataclasses.replace(tiny_experiment, train=dataclasses.replace(tiny_experiment.train, steps=1))
    assert train.run(experiment, tmp_path / "run", results.Invocation(), ignore_memory=True)


def test_a_second_run_of_a_config_takes_the_program_of_the_first(planned, tiny_config, monkeypatch):
    """The form for another platform is another program."""
    _, step, first = planned
    (stage,) = stages.recipe(config.experiment(config.load(tiny_config)), 3)
    calls, train_step = [], type(stage.method).train_step
    monkeypatch.setattr(type(stage.method), "train_step", lambda *of: calls.append(of) or train_step(*of))
    batch = plan.batch_before_data(stage)
    found, second = plan.of_stage(stage, batch, sharding.data_mesh())
    assert stage is not first and second is not step and second.traces == 1 and not calls
    assert found.costs == planned[0].costs
    second.trace(batch, "gpu")
    assert len(calls) == 1


def test_a_stage_of_other_batches_than_expected_compiles_anew(tiny_experiment, tmp_path, compiled):
    (stage,) = stages.recipe(tiny_experiment, 3)
    context = stages.Context(tiny_experiment, sharding.data_mesh(), stages.label_space(tiny_experiment), bool)
    other = plan.batch_of({"source": {"image": (8, 8, 3)}}, 8)
    context.steps["train"] = (other, None)
    step = admission.step_of(stage, stages.Workdir(tmp_path), context)
    assert compiled == ["train"] and not context.steps
    batch = plan.batch_from_data(stage, stages.Workdir(tmp_path))
    context.steps["train"] = (batch, step)
    assert admission.step_of(stage, stages.Workdir(tmp_path), context) is step and compiled == ["train"]
    state = states.initial(stage, stages.Workdir(tmp_path), 0, context.mesh)
    zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), batch)
    state, metrics = step(state, jax.device_put(zeros, sharding.split_over_batch(context.mesh)))
    assert step.traces == 1 and math.isfinite(metrics["loss/total"])
