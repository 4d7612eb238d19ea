"""Every packaged config loads, is valid in all its settings, and builds its method."""

import dataclasses
import importlib
import itertools

import pytest
from uda_jax.configs.common import benchmarks

from uda_jax import config
from uda_jax.config import settings
from uda_jax.data.pipeline import streams
from uda_jax.errors import UserError
from uda_jax.runs import stages, train
from uda_jax.runs.results import Invocation


def offered(name):
    """Returns every setting of a packaged config with every variant, whether there is such a pair or not."""
    module = importlib.import_module(f"uda_jax.configs.{name}")
    pairs = itertools.product(getattr(module, "SETTINGS", benchmarks.SETTINGS), module.VARIANTS)
    return [f"{name}:{setting},{variant}".rstrip(",") for setting, variant in pairs]


REFERENCES = settings.packaged()
IMPOSSIBLE = sorted({reference for name in config.names() for reference in offered(name)} - set(REFERENCES))


@pytest.mark.parametrize("reference", REFERENCES)
def test_config_is_valid(reference):
    experiment = config.experiment(config.load(reference))
    assert experiment.label and experiment.benchmark
    for stage in stages.recipe(experiment, num_classes=19):
        # A method of depth alone has no classes.
        assert getattr(stage.method, "num_classes", 19) == 19 and hasattr(stage.method, "num_classes") == hasattr(
            stage.method, "segmenter"
        )
        assert hash(stage.method) == hash(dataclasses.replace(stage.method))  # jit can take it as static


@pytest.mark.parametrize("reference", IMPOSSIBLE)
def test_what_a_config_does_not_have_says_so(reference):
    """A first stage without the setting, or a variant of some benchmarks on another."""
    with pytest.raises(UserError, match="--config: (expected a? ?setting|unknown setting|variant '.*': expected a)"):
        config.load(reference)


def test_labels_are_hidden_from_adaptation():
    for setting in benchmarks.SETTINGS:
        experiment = config.experiment(config.load(f"advent:{setting}"))
        assert experiment.data["target"].fields == ("image",)


def test_published_settings_are_the_specification():
    experiment = config.experiment(config.load("advent:gta5_cityscapes"))
    (stage,) = stages.recipe(experiment, num_classes=19)
    method = stage.method
    assert (experiment.train.steps, experiment.train.batch_size) == (120_000, 1)
    assert (experiment.data["source"].size, experiment.data["target"].size) == ((720, 1280), (512, 1024))
    assert (method.optimiser.learning_rate, method.optimiser.head_multiplier) == (2.5e-4, 10.0)
    assert (method.optimiser.momentum, method.optimiser.weight_decay) == (0.9, 5e-4)
    assert method.optimiser.update_multiplicity == "reference" and not method.optimiser.train_norm_affine
    assert (method.schedule.name, method.schedule.horizon, method.schedule.power) == ("poly", 250_000, 0.9)
    assert (method.discriminator.width, method.discriminator.optimiser.learning_rate) == (64, 1e-4)
    assert (method.discriminator.optimiser.beta1, method.discriminator.optimiser.beta2) == (0.9, 0.99)
    assert (method.aux_weight, method.target_weight, method.target_aux_weight) == (0.1, 0.001, 0.0002)
    assert experiment.init_from["segmenter"].path == "weights/DeepLab_resnet_pretrained_imagenet.pth"
    assert experiment.init_from["segmenter"].fresh == ("head", "aux_head")
    synthia = config.experiment(config.load("advent:synthia_cityscapes"))
    assert synthia.train.steps == synthia.method["schedule"]["horizon"] == 90_000
    assert synthia.data["source"].size == (760, 1280) and synthia.data["target"].label_space == "16"


def test_heads_and_files_are_those_of_the_codes():
    """AdvEnt has one head on SYNTHIA, IntraDA two; source_only is AdaptSegNet's; VGG-16 has one rate and one head."""

    def found(reference):
        experiment = config.experiment(config.load(reference))
        first = stages.recipe(experiment, num_classes=19)[0]
        return first.method, first.train.steps, first.init_from["segmenter"].path.partition("pretrained_")[2]

    for reference, heads in (("advent", 1), ("advent,two_heads", 2), ("advent,minent", 1), ("intrada", 2)):
        name, _, variant = reference.partition(",")
        method, _, _ = found(f"{name}:synthia_cityscapes,{variant}".rstrip(","))
        assert method.segmenter.multi_level == (heads == 2), reference
    method, *others = found("source_only:gta5_cityscapes")
    assert (method.segmenter.aspp_branches, *others) == (2, 150_000, "init-f81d91e8.pth")
    method, *others = found("source_only:gta5_cityscapes,advent")
    assert (method.segmenter.aspp_branches, *others) == (4, 120_000, "imagenet.pth")
    for reference, branches in (("adaptsegnet", 2), ("advent", 4)):
        method, _, _ = found(f"{reference}:gta5_cityscapes,vgg16")
        assert (method.segmenter.name, method.segmenter.aspp_branches) == ("deeplab_v2_vgg16", branches)
        assert (method.optimiser.head_multiplier, method.optimiser.update_multiplicity) == (1.0, "off")
    assert found("advent:synthia_cityscapes,cp_vgg16")[0].prior_weight == 0.001


@pytest.mark.parametrize(
    ("reference", "form"),
    [
        ("adaptsegnet:gta5_cityscapes", "accumulating"),
        ("advent:gta5_cityscapes", "accumulating"),
        ("advent:synthia_cityscapes,minent", "accumulating"),
        ("intrada:gta5_cityscapes", "accumulating"),
        ("dada:synthia_cityscapes", "accumulating"),
        ("dacs:gta5_cityscapes", "fixed"),
        ("corda:synthia_cityscapes", "fixed"),
    ],
)
def test_repeated_decay_is_that_of_the_authors_pytorch(reference, form):
    for stage in stages.recipe(config.experiment(config.load(reference)), num_classes=19):
        if stage.kind.TRAINS:
            optimiser = stage.method.optimiser
            assert (optimiser.update_multiplicity, optimiser.repeated_decay) == ("reference", form)


def test_a_field_that_may_be_none_is_set_to_none_and_back():
    words = ["--config.evaluation.final.size=10,20", "--config.data.source.root=x", "--config.evaluation.dev=None"]
    found = config.load("advent:streets", words)
    config.override(found, ["--config.evaluation.final.size=None", "--config.data.source.root=None"])
    experiment = config.experiment(found)
    assert experiment.evaluation.final.size is None and experiment.data["source"].root is None
    assert experiment.evaluation.dev is None
    config.override(found, ["--config.evaluation.final.size=30,40"])
    assert config.experiment(found).evaluation.final.size == (30, 40)
    with pytest.raises(UserError, match="config.train.steps: expected an integer, got None"):
        config.experiment(config.load("advent:streets", ["--config.train.steps=None"]))
    with pytest.raises(UserError, match="config.train.stepps: unknown field; did you mean 'steps'"):
        config.load("advent:streets", ["--config.train.stepps=None"])


def test_overrides_and_json_round_trip():
    words = ["--config.train.steps=12", "--config.evaluation.final.size=10,20", "--config.data.source.root=x"]
    words += ["--config.init_from.segmenter.path=a.pth", "--config.init_from.segmenter.fresh=('head','aux_head')"]
    experiment = config.experiment(config.load("advent:streets", words))
    assert (experiment.init_from["segmenter"].path, experiment.init_from["segmenter"].fresh[1]) == ("a.pth", "aux_head")
    assert (experiment.train.steps, experiment.evaluation.final.size) == (12, (10, 20))
    again = config.experiment(config.to_plain(experiment))
    assert config.to_plain(again) == config.to_plain(experiment)  # JSON has lists for a method's tuples


def test_a_schedule_without_a_horizon_ends_with_the_stage():
    words = ["--config.train.steps=70", "--config.method.schedule.warmup=7"]
    (stage,) = stages.recipe(config.experiment(config.load("advent:streets", words)), num_classes=19)
    assert (stage.method.schedule.horizon, stage.method.schedule.warmup) == (70, 7)
    words = ["--config.method.schedule.horizon=90"]
    (stage,) = stages.recipe(config.experiment(config.load("advent:streets", words)), num_classes=19)
    assert stage.method.schedule.horizon == 90


def test_config_of_a_users_own_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from uda_jax.configs import advent\n\n\ndef get_config(setting='streets'):\n"
        "    config = advent.get_config(setting)\n    config.label = 'mine'\n    return config\n"
    )
    assert config.experiment(config.load(f"{path}:smoke")).label == "mine"


@pytest.mark.parametrize(
    ("reference", "words", "message"),
    [
        ("advnet:streets", [], "--config advnet: no packaged config of this name; did you mean 'advent'?"),
        ("advent:street", [], "--config: unknown setting 'street'; did you mean 'streets'?"),
        ("advent:virtual_kitti_kitti", [], "--config: unknown setting 'virtual_kitti_kitti'"),
        ("advent:streets,minnt", [], "--config: unknown variant 'minnt'; did you mean 'minent'?"),
        ("no/such.py:x", [], "--config no/such.py: no such file"),
        ("advent:streets", ["--config.train.stps=1"], "config.train.stps: unknown field; did you mean 'steps'?"),
        (
            "advent:streets",
            ["--config.data.sorce.flip=True"],
            "config.data.sorce: unknown field; did you mean 'source'?",
        ),
        ("advent:streets", ["--config.train.steps=3,000"], "config.train.steps: expected an integer, got '3,000'"),
        ("advent:streets", ["--config.train.steps=0"], "config.train.steps: expected an integer >= 1, got 0"),
        ("advent:streets", ["--config.train.accumulation=7"], "config.train.accumulation: expected a divisor of steps"),
        (
            "advent:streets",
            ["--config.method.name=advnet"],
            "config.method.name: unknown method 'advnet'; did you mean",
        ),
        (
            "advent:streets",
            ["--config.method.target_weight=-1.0"],
            "config.method.target_weight: expected a number >= 0",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(reference, words, message):
    with pytest.raises(UserError) as caught:
        experiment = config.experiment(config.load(reference, words))
        stages.recipe(experiment, num_classes=19)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_stage_can_only_start_from_an_earlier_one():
    experiment = config.experiment(config.load("advent:smoke"))
    plans = {"first": config.StageConfig(), "second": config.StageConfig(start_from={"segmenter": "third"})}
    with pytest.raises(UserError, match="config.stages.second.start_from.segmenter: expected an earlier stage"):
        stages.recipe(dataclasses.replace(experiment, stages=plans, recipe=tuple(plans)), num_classes=19)


def test_stages_that_do_not_fit_end_before_anything_is_written(tmp_path):
    experiment = config.experiment(config.load("gio_ada:smoke,staged", ["--config.method.translator.width=6"]))
    message = "config.stages.joint.start_from.translator: .* of stage joint are other ones in stage image, such as "
    with pytest.raises(UserError, match=message + r"block_0/conv1/bias: \(6,\) against \(4,\); give both") as caught:
        train.run(experiment, tmp_path / "run", Invocation("gio_ada:smoke,staged", (), "test"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    without = ["--config.method.input_level=none", "--config.method.train_on_untranslated=False"]
    experiment = config.experiment(config.load("gio_ada:smoke,staged", without))
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="start_from.*: stage joint has no network '.*', only"):
        train.run(experiment, tmp_path / "run", Invocation("gio_ada:smoke,staged", (), "test"))
    assert not list((tmp_path / "run").iterdir())


def test_fields_set_elsewhere_are_refused_in_the_method_section():
    section = {"name": "source_only", "num_classes": 3}
    with pytest.raises(UserError, match="num_classes: set by the data's label space; leave it out here"):
        stages.build_method(section, 19, config.Train(), "config.method")


def test_every_domain_field_is_described():
    for cls in (config.Experiment, config.Train, config.Evaluation, config.StageConfig, streams.Domain):
        assert all(field.metadata["text"] for field in dataclasses.fields(cls))
