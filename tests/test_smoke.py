"""Every config with `:smoke`: the steps of all variants can be traced, and every kind of stage runs end to end once."""

import importlib
import json

import jax
import pytest

from uda_jax import cli, config, stages, workdirs
from uda_jax.sections import to_dict


def references():
    """Returns the smoke setting of every variant of every packaged config, IntraDA's, made of others, last."""
    found = []
    for name in sorted(config.names(), key=lambda name: name == "intrada"):
        variants = importlib.import_module(f"uda_jax.configs.{name}").VARIANTS
        found += [f"{name}:smoke,{variant}" if variant else f"{name}:smoke" for variant in variants]
    return found


def form(value):
    """What is left of a section without its numbers, the choice of frames and what one data set alone has."""
    if isinstance(value, dict):
        return {name: form(entry) for name, entry in value.items() if name not in ("split", "options")}
    if isinstance(value, (list, tuple)):
        return [form(entry) for entry in value]
    return value if isinstance(value, (bool, str)) else None


def kinds(reference):
    """Returns what tells the stages of a config apart from others: methods, their networks and their domains."""
    recipe = stages.recipe(config.experiment(config.load(reference)), {}, num_classes=19)
    found = set()
    for stage in recipe:
        domains = {name: to_dict(domain) for name, domain in stage.streams.items()}
        # Ranking uses the method of an earlier stage.
        method = [type(stage.method).__name__, stage.method.segmenter.name] if stage.kind == "train" else []
        about = [stage.kind, method, domains]
        found.add(json.dumps(form(about), sort_keys=True))
    return found


def with_something_new():
    """Returns the references that have a kind of stage which none before them has."""
    chosen, known = [], set()
    for reference in references():
        if not (found := kinds(reference)) <= known:
            chosen.append(reference)
            known |= found
    return chosen


RUN = with_something_new()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One folder of rendered frames for all tests of this session."""
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def build(reference):
    """Returns the experiment of a config, its stages and the classes of its evaluation split."""
    experiment = config.experiment(config.load(reference))
    space = workdirs.label_space(experiment)
    return experiment, stages.recipe(experiment, {}, len(space.names)), space.names


def shapes(stage, network):
    state = jax.eval_shape(stage.initialise, jax.random.key(0))
    leaves = jax.tree.leaves_with_path((state.params[network], state.model_state[network]))
    return {(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves}


@pytest.mark.parametrize("reference", references())
def test_every_variant_builds(reference):
    experiment, recipe, classes = build(reference)
    assert recipe[-1].kind == "train" and recipe[-1].method.num_classes == len(classes)
    assert experiment.label and experiment.benchmark == "smoke"
    assert [stage.name for stage in recipe] == list(experiment.recipe or ["train"])
    for stage in recipe:
        if stage.kind != "train":
            continue
        for network, origin in stage.start_from.items():
            assert shapes(stage, network) <= shapes(origin.stage, origin.network)
        # The first stage of IntraDA is the one stage of another config.
        if reference not in RUN and stage.name != "inter":
            step = lambda key, stage=stage: stage.method.train_step(stage.initialise(key), stage.example())  # noqa: E731
            state, metrics = jax.eval_shape(step, jax.random.key(0))
            assert state == jax.eval_shape(stage.initialise, jax.random.key(0))
            assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize("reference", RUN)
def test_smoke(reference, tmp_path):
    workdir = tmp_path / "run"
    assert cli.main(["train", "--config", reference, "--workdir", str(workdir)]) == 0
    (row,) = json.loads((workdir / "result.json").read_text())
    experiment, recipe, classes = build(reference)
    assert row["config"] == reference and row["label"] == experiment.label and tuple(row["iou"]) == classes
    assert row["steps"] == sum(stage.train.steps for stage in recipe if stage.kind == "train")
    assert row["protocol"] == experiment.evaluation.protocol and 0 <= row["miou"][row["protocol"]] <= 1
    assert row["best_miou"] is not None
    assert len(list((workdir / "pictures").iterdir())) == experiment.evaluation.pictures
    assert all((stage.folder(workdir) / "finished.json").exists() for stage in recipe)


def test_what_runs_is_every_kind_but_no_number():
    chosen = set(RUN)
    assert {f"{name}:smoke" for name in config.names()} <= chosen
    assert {"source_only:smoke,oracle", "gio_ada:smoke,staged", "intrada:smoke,corda", "intrada:smoke,dada"} <= chosen
    assert not {"ass:smoke,10", "advent:smoke,minent", "corda:smoke,exact_depth", "intrada:smoke,minent"} & chosen
