"""One training stage with a method of milliseconds: what it keeps, goes on from, and hands on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from throwaway import Counting

from uda_jax import config
from uda_jax.config import StageConfig
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline.examples import DomainFrames
from uda_jax.errors import UserError
from uda_jax.runs import inspection, overview, results, scoring, stages, states, train
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.kinds.rank import Rank
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding
from uda_jax.training.guard import NonFiniteLoss
from uda_jax.training.logging import read_metrics

MESH = sharding.data_mesh()
SPACE = label_spaces.LabelSpace(("ground", "wall", "thing"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), 255)


@pytest.fixture
def workdir(tmp_path, tiny_experiment):
    workdir = Workdir(tmp_path / "run")
    workdir.prepare(tiny_experiment, SPACE)
    return workdir


@pytest.fixture
def experiment(tiny_experiment):
    return with_train(tiny_experiment, steps=6, evaluate_every=2, checkpoint_every=2, keep_latest=1, log_every=2)


def with_train(experiment, **changes):
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **changes))


def recipe(experiment):
    return [dataclasses.replace(stage, method=Counting()) for stage in stages.recipe(experiment, num_classes=3)]


def context(experiment, stop_after=None):
    """Returns the context of a run that is asked to stop after so many steps of this process."""
    asked = iter(range(1, 1000))
    return stages.Context(experiment, MESH, SPACE, lambda: next(asked) == stop_after)


def run(experiment, workdir, stop_after=None):
    """Trains the only stage, and returns what its marker would say."""
    (stage,) = recipe(experiment)
    return train.train_stage(stage, workdir, context(experiment, stop_after))


def load(experiment, workdir, step="last"):
    return states.load(recipe(experiment)[0], workdir, MESH, step)


def weights(network):
    return np.asarray(network["weights"] if "weights" in network else network["params"]["weights"])


def scores_of(monkeypatch, *values):
    """Makes the evaluations on dev score these values in turn."""
    values = iter(values)
    monkeypatch.setattr(scoring, "headline", lambda *_: next(values))


def test_a_network_that_never_learns_outlives_a_stop(experiment, workdir):
    with pytest.raises(stages.Stopped, match="stopped at step 3 of stage train; the same command goes on from there"):
        run(experiment, workdir, stop_after=3)
    assert workdir.stage("train").frozen.is_dir()
    run(experiment, workdir)
    undisturbed = Workdir(workdir.path / "undisturbed")
    run(experiment, undisturbed)
    state, other = load(experiment, workdir), load(experiment, undisturbed)
    first = states.initial(recipe(experiment)[0], workdir, 0, MESH)
    anchor = weights(first.frozen["anchor"])
    np.testing.assert_array_equal(weights(state.frozen["anchor"]), anchor)
    np.testing.assert_array_equal(weights(state.params["segmenter"]), weights(other.params["segmenter"]))
    expected = weights(first.params["segmenter"]) + 6 * 0.1 * anchor
    np.testing.assert_allclose(weights(state.params["segmenter"]), expected, rtol=1e-5)


def test_the_best_checkpoint_can_be_asked_for(experiment, workdir, monkeypatch):
    scores_of(monkeypatch, 0.3, 0.9, 0.5)
    assert run(experiment, workdir)["best"] == 0.9
    assert [int(load(experiment, workdir, step).step) for step in ("last", "best", 4, 6)] == [6, 4, 4, 6]
    with pytest.raises(UserError, match="run/train: no checkpoint has step 2; ask for 'last' or one of the steps 4, 6"):
        load(experiment, workdir, 2)
    with pytest.raises(UserError, match="--stage inter: the run has no such stage, only train"):
        inspection.open_snapshot(workdir, "inter")
    found = overview.gather(workdir)["stages"]["train"]["checkpoints"]
    assert found == [{"step": 4, "score": 0.9, "best": True}, {"step": 6, "score": 0.5, "best": False}]


def test_the_row_of_a_resumed_run_keeps_seconds_and_the_best_score(experiment, workdir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train.StageRun, "notes", lambda self: {"seconds": 1e6, "best": 0.987})
        with pytest.raises(stages.Stopped):
            run(experiment, workdir, stop_after=3)
    (stage,), shared = recipe(experiment), context(experiment)
    result = train.train_stage(stage, workdir, shared)
    assert result["step"] == 6 and result["seconds"] > 1e6 and result["best"] == 0.987
    # The state is the one that was trained: it is not read back.
    monkeypatch.setattr(states, "load", None)
    how = results.Invocation("tiny", ("--config.seed=0",), "uda")
    (row,) = scoring.score_final(stage, workdir, shared, [result], how)
    assert row["seconds"] > 1e6 and row["best_miou"] == 0.987 and row["steps"] == 6
    assert json.loads(workdir.result.read_text()) == [row]
    assert set(shared.evaluators) == {("train", "dev"), ("train", "final")} and set(shared.evaluation_steps) == {
        "train"
    }


def test_the_seed_decides_the_order_of_the_data(experiment, workdir):
    batches = []
    for seed in (0, 0, 1):
        seeded = dataclasses.replace(experiment, seed=seed)
        stage_run = train.StageRun(recipe(seeded)[0], Workdir(workdir.path / str(len(batches))), context(seeded))
        batches.append(np.concatenate([next(stage_run.iterator)["source"]["index"] for _ in range(2)]))
        stage_run.close()
    np.testing.assert_array_equal(batches[0], batches[1])
    assert np.any(batches[0] != batches[2])


def test_images_per_second_count_every_domain(experiment, workdir, monkeypatch):
    counted = []
    monkeypatch.setattr(
        train, "ProgressLine", lambda steps, images, **options: counted.append((steps, images)) or Silent()
    )
    train.StageRun(recipe(experiment)[0], workdir, context(experiment)).close()
    assert counted == [(6, 16)]


class Silent:
    """A progress line that shows nothing."""

    def close(self):
        pass


def test_the_first_row_says_what_is_trained_and_how_long_compiling_took(experiment, workdir):
    with pytest.raises(stages.Stopped):
        run(experiment, workdir, stop_after=3)
    run(experiment, workdir)
    files = workdir.stage("train")
    rows = [row for row in read_metrics(files.metrics) if "loss/total" in row]
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    assert [row.get("parameters/total") for row in rows] == [9, None, None, None]
    # The run that went on compiled again.
    assert [row.get("speed/compile_seconds", 0) > 0 for row in rows] == [True, False, True, False]
    assert "| weights | (3, 3) | float32 | 9    |" in files.parameters.read_text()


def test_a_trace_of_some_steps(experiment, workdir):
    run(with_train(experiment, profile="2:3"), workdir)
    assert list(workdir.stage("train").profile.rglob("*.xplane.pb"))


@pytest.mark.parametrize("profile", ["0:2", "3:2", "5:7", "2", "a:b", ":3"])
def test_a_trace_of_no_steps_is_refused(tiny_experiment, profile):
    plain = config.to_plain(tiny_experiment)
    plain["train"]["profile"] = profile
    with pytest.raises(
        UserError, match="config.train.profile: expected the first and the last step of a trace within 1:6"
    ):
        config.experiment(plain)


@dataclasses.dataclass(frozen=True)
class Diverging(Counting):
    """Its last update makes one value infinite, and no metric says so."""

    part: str = "params"

    def init(self, key, example_batch):
        state = super().init(key, example_batch)
        more = {name: {"segmenter": jnp.ones(3)} for name in ("model_state", "opt_state", "teacher", "extra")}
        return state.replace(**more)

    def train_step(self, state, batch):
        state, metrics = super().train_step(state, batch)
        bad = jnp.where(state.step == 6, jnp.inf, 1.0)
        part = jax.tree.map(lambda x: x.at[0].multiply(bad), getattr(state, self.part))
        return state.replace(**{self.part: part}), metrics


@pytest.mark.parametrize("part", ["params", "model_state", "opt_state", "teacher", "extra"])
def test_what_the_last_update_made_infinite_is_neither_scored_nor_saved(experiment, workdir, part, monkeypatch):
    (stage,) = stages.recipe(experiment, num_classes=3)
    stage = dataclasses.replace(stage, method=Diverging(part=part))
    scored, score = [], scoring.score
    monkeypatch.setattr(scoring, "score", lambda *words: scored.append(1) or score(*words))
    for _ in range(2):  # the same command again says the same, and is not stuck on what was saved
        with pytest.raises(NonFiniteLoss, match=f"step 6: {part}/segmenter\\S* is -?inf; .* in another workdir"):
            train.train_stage(stage, workdir, context(experiment))
    folder = Checkpoints(workdir.stage("train"))
    assert folder.all_steps()[-1] == 4 and len(scored) == 2
    folder.close()


def test_batches_without_a_label_end_the_stage_once_each_frame_had_its_turn(experiment, workdir, monkeypatch):
    (stage,) = recipe(with_train(experiment, log_every=1))
    read = DomainFrames._read

    def without_labels(frames, index):
        found = read(frames, index)
        return found | ({"label": np.full_like(found["label"], 255)} if "label" in found else {})

    monkeypatch.setattr(DomainFrames, "_read", without_labels)
    with pytest.raises(UserError, match="config.data.source: no pixel of the last 1 batches had a label, though each"):
        train.train_stage(stage, workdir, context(experiment))


@dataclasses.dataclass(frozen=True)
class Growing(Counting):
    """Its state changes its shape in every step."""

    def init(self, key, example_batch):
        return super().init(key, example_batch).replace(extra={"seen": jnp.zeros((1,))})

    def train_step(self, state, batch):
        state, metrics = super().train_step(state, batch)
        return state.replace(extra={"seen": jnp.concatenate([state.extra["seen"], jnp.zeros((1,))])}), metrics


def test_a_step_that_is_compiled_twice_is_a_mistake(experiment, workdir):
    (stage,) = stages.recipe(with_train(experiment, steps=3), num_classes=3)
    with pytest.raises(AssertionError, match=r"another state than it takes, .*compiled twice: .*shape=\([12],\)"):
        train.train_stage(dataclasses.replace(stage, method=Growing()), workdir, context(experiment))


def test_stages_hand_on_networks_that_learn_and_that_do_not(experiment, workdir, monkeypatch):
    later = {"anchor": "first.segmenter@best", "segmenter": "first.anchor"}
    found = {"first": StageConfig(), "second": StageConfig(start_from=later)}
    experiment = dataclasses.replace(experiment, stages=found, recipe=tuple(found))
    first, second = recipe(experiment)
    second = dataclasses.replace(
        second, start_from={name: start._replace(stage=first) for name, start in second.start_from.items()}
    )
    states.check_initial([first, second])
    scores_of(monkeypatch, 0.3, 0.9, 0.5)
    train.train_stage(first, workdir, context(experiment))
    started = states.initial(second, workdir, 0, MESH)
    best, last = (states.load(first, workdir, MESH, step) for step in ("best", "last"))
    np.testing.assert_array_equal(weights(started.frozen["anchor"]), weights(best.params["segmenter"]))
    assert np.any(weights(best.params["segmenter"]) != weights(last.params["segmenter"]))
    np.testing.assert_array_equal(weights(started.params["segmenter"]), weights(last.frozen["anchor"]))
    wrong = dataclasses.replace(second, start_from={"anchor": second.start_from["anchor"]._replace(network="anchr")})
    with pytest.raises(UserError, match=r"stage first has no network 'anchr', only \['anchor', 'segmenter'\]"):
        states.check_initial([first, wrong])


def test_frames_are_ranked_by_the_best_checkpoint_if_that_is_asked_for(experiment, workdir, monkeypatch):
    rank = StageConfig(kind=config.named("rank", Rank(fraction=0.5)).to_dict(), start_from={"segmenter": "first@best"})
    found = {"first": StageConfig(), "rank": rank, "last": StageConfig()}
    experiment = dataclasses.replace(experiment, stages=found, recipe=tuple(found))
    first, rank, _ = recipe(experiment)
    start = rank.start_from["segmenter"]._replace(stage=first)
    scores_of(monkeypatch, 0.3, 0.9, 0.5)
    train.train_stage(first, workdir, context(experiment))
    result = rank.kind.run(dataclasses.replace(rank, start_from={"segmenter": start}), workdir, context(experiment))
    assert (result["easy"], result["hard"]) == (4, 4)
    assert json.loads(workdir.stage("rank").ranking.read_text())["step"] == 4


def test_checkpoints_hold_the_config_that_they_were_trained_with(experiment, workdir):
    run(experiment, workdir)
    stored = json.loads((workdir.stage("train").checkpoints / "6" / "config" / "metadata").read_text())
    assert stored["format"] == config.FORMAT and stored["experiment"] == config.to_plain(experiment)
    folder = Checkpoints(workdir.stage("train"))
    assert folder.notes(6).keys() == {"seconds", "best"}
    folder.close()
    assert jax.tree.leaves(load(experiment, workdir).extra) == []
