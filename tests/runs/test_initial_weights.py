"""Checkpoint files become folders and first weights of a run, and go back to PyTorch's names; mistakes are one line."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import config, networks, weights
from uda_jax.cli import main
from uda_jax.config import InitFrom
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.source_only import SourceOnly
from uda_jax.runs import described_networks, initial_weights, stages, train
from uda_jax.runs.results import Invocation
from uda_jax.training.initialisation import initialise
from uda_jax.weights import files

ORIGIN = Invocation("tiny", (), "test")
TWO_HEADS = "--config.method.segmenter.multi_level=True"


def random_variables(name, num_classes, channels=3, **options):
    shapes = jax.eval_shape(
        networks.build(name, num_classes, **options).init, jax.random.key(0), jnp.zeros((1, 64, 64, channels))
    )
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def source(tmp_path):
    """A file of the network that the tiny experiment trains, under ADVENT's names."""
    variables = random_variables("deeplab_v2_resnet14", 3, width=4, multi_level=True)
    file = tmp_path / "tiny.safetensors"
    files.write_safetensors(file, weights.to_torch(variables, "advent"), {})
    return file, variables


@pytest.fixture
def tiny_experiment(tiny_config):
    """The tiny experiment with a second head."""
    return config.experiment(config.load(tiny_config, [TWO_HEADS]))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def uda(*words):
    """Runs a command and returns its exit status."""
    return main([str(word) for word in words])


def test_convert_there_and_back(source, tmp_path, capsys):
    file, variables = source
    assert uda("convert", "--from", file, "--to", tmp_path / "folder", "--branches", 4) == 0
    printed = capsys.readouterr().out
    assert "loaded: 101 arrays (encoder 85, aux_head 8, head 8)" in printed and "unused: none" in printed
    found = initial_weights.read(tmp_path / "folder")
    assert found.dialect == "advent"
    assert_equal(found.variables, variables)
    manifest = json.loads((tmp_path / "folder" / "manifest.json").read_text())
    assert manifest["source"] == file.name and manifest["input_norm"] == "caffe_bgr"
    assert manifest["network"] == {
        "name": "deeplab_v2_resnet14",
        "num_classes": 3,
        "options": {
            "width": 4,
            "encoder_style": "caffe",
            "multi_level": True,
            "aspp_branches": 4,
            "aspp_bias": True,
        },
    }
    assert uda("convert", "--to-torch", "--from", tmp_path / "folder", "--to", tmp_path / "back.safetensors") == 0
    back, first = files.read(tmp_path / "back.safetensors"), files.read(file)
    assert list(back) == list(first)
    assert_equal(dict(back), dict(first))


@pytest.mark.parametrize(
    ("dialect", "name", "channels", "options"),
    [
        ("plca", "deeplab_v2_resnet50", 3, {"width": 2, "aspp_bias": False}),
        ("corda", "corda_resnet14", 3, {"width": 2, "initial_head": "linear"}),
        ("corda", "corda_resnet14", 3, {"width": 2, "initial_head": "aspp"}),
        ("dada", "dada_resnet14", 3, {"width": 2}),
        ("vgg16", "deeplab_v2_vgg16", 3, {"width": 2, "aspp_branches": 2}),
        ("daformer", "daformer_mit_b0", 3, {"head_width": 4}),
        ("adaptsegnet_discriminator", "pixel_discriminator", 7, {"width": 4}),
        ("cyclegan_discriminator", "patch_discriminator", 5, {"width": 4}),
        ("cyclegan_generator", "translator", 8, {"width": 4, "blocks": 2}),
    ],
)
def test_every_family_names_its_network(tmp_path, dialect, name, channels, options):
    variables = random_variables(name, 5, channels, **options)
    assert initial_weights.export(variables, tmp_path / "x.safetensors", dialect) > 5
    initial_weights.convert(tmp_path / "x.safetensors", tmp_path / "folder")
    manifest = json.loads((tmp_path / "folder" / "manifest.json").read_text())
    assert manifest["dialect"] == dialect and manifest["network"]["name"] == name
    assert options.items() <= manifest["network"]["options"].items()
    assert_equal(initial_weights.read(tmp_path / "folder").variables, variables)


def test_heads_of_other_classes_are_left_out(tmp_path, capsys):
    """As the init files of the family, which end in a head of 21 classes."""
    variables = random_variables("deeplab_v2_resnet14", 21, width=4)
    state_dict = {f"Scale.{name}": array for name, array in weights.to_torch(variables, "dacs").items()}
    files.write_safetensors(tmp_path / "init.safetensors", state_dict, {})
    folder = tmp_path / "folder"
    assert uda("convert", "--from", tmp_path / "init.safetensors", "--to", folder, "--fresh", "head") == 0
    assert "though in the weights: 8 arrays (head 8)" in capsys.readouterr().out
    assert set(initial_weights.read(folder).variables["params"]) == {"encoder"}


def test_convert_refuses(source, tmp_path, capsys):
    file, _ = source
    (tmp_path / "there").mkdir()
    for words, message in [
        (["--from", file, "--to", tmp_path / "there"], "there: exists already; name a new folder"),
        (["--from", file, "--to", tmp_path / "new"], "say which with --branches 2 or --branches 4"),
        (["--from", file, "--to", tmp_path / "new", "--dialect", "advnt"], "did you mean 'advent'?"),
        (
            ["--from", file, "--to", tmp_path / "new", "--branches", 4, "--fresh", "hat"],
            "no part 'hat' to start afresh",
        ),
        (["--from", tmp_path / "none.pth", "--to", tmp_path / "new"], "none.pth: no such file"),
        (["--to-torch", "--from", tmp_path / "there", "--to", tmp_path / "x"], "a folder that 'uda convert' wrote"),
    ]:
        assert uda("convert", *words) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "tiny.safetensors"]


# Random states by their experiment: each is traced once for all tests.
RANDOM = {}


def started(experiment, **init):
    """Returns the state that a run of the tiny experiment starts with."""
    (stage,) = stages.recipe(experiment, num_classes=3)
    key = config.to_json(experiment)
    state = RANDOM[key] if key in RANDOM else RANDOM.setdefault(key, initialise(stage.initialise, jax.random.key(0)))
    return state, initial_weights.start(state, dataclasses.replace(stage, init_from={"segmenter": InitFrom(**init)}))


def test_a_network_that_never_learns_starts_from_a_file(source, tiny_experiment):
    """As the learning one does; its entry of the state stands elsewhere."""
    (stage,) = stages.recipe(caffe(tiny_experiment), num_classes=3)
    stage = dataclasses.replace(stage, init_from={"segmenter": InitFrom(path=str(source[0]))})
    learning = initialise(stage.initialise, jax.random.key(0))
    others = {name: tree for name, tree in learning.params.items() if name != "segmenter"}
    entry = {"params": learning.params["segmenter"], "model_state": learning.model_state["segmenter"]}
    frozen = initial_weights.start(learning.replace(params=others, frozen={"segmenter": entry}), stage)
    expected = initial_weights.start(learning, stage)
    assert_equal(frozen.frozen["segmenter"]["params"], expected.params["segmenter"])
    assert_equal(frozen.frozen["segmenter"]["model_state"], expected.model_state["segmenter"])
    assert frozen.params.keys() == others.keys()
    with pytest.raises(AssertionError):
        assert_equal(frozen.frozen["segmenter"]["params"], learning.params["segmenter"])


def with_segmenter(experiment, **fields):
    value = config.to_plain(experiment)
    value["method"]["segmenter"].update(fields)
    return config.experiment(value)


def caffe(experiment):
    """The tiny experiment with the images that the file's family needs."""
    return with_segmenter(experiment, input_norm="caffe_bgr")


def test_start_takes_everything(tiny_experiment, source):
    file, variables = source
    _, state = started(caffe(tiny_experiment), path=str(file))
    assert_equal(state.params["segmenter"], variables["params"])
    assert_equal(state.model_state["segmenter"]["batch_stats"], variables["batch_stats"])


def test_an_empty_path_starts_at_random(tiny_experiment):
    before, state = started(tiny_experiment, path="")
    assert_equal(state.params["segmenter"], before.params["segmenter"])


def test_start_keeps_fresh_parts(tiny_experiment, source):
    file, variables = source
    before, state = started(caffe(tiny_experiment), path=str(file), fresh=("head",))
    assert_equal(state.params["segmenter"]["head"], before.params["segmenter"]["head"])
    assert_equal(state.params["segmenter"]["aux_head"], variables["params"]["aux_head"])
    assert_equal(state.params["discriminator"], before.params["discriminator"])


@pytest.mark.parametrize(
    ("fields", "init", "message"),
    [
        ({}, {}, "need input_norm='caffe_bgr', the config has 'imagenet_rgb'"),
        ({"input_norm": "caffe_bgr", "encoder_style": "torchvision"}, {}, "need encoder_style='caffe'"),
        ({"input_norm": "caffe_bgr", "width": 8}, {}, "has shape .* check the network's name and options"),
        ({"input_norm": "caffe_bgr"}, {"dialect": "adaptsegnet"}, "need aspp_branches=2, the config has 4"),
        ({"input_norm": "caffe_bgr"}, {"fresh": ("hed",)}, "no part 'hed' to start afresh; did you mean 'head'"),
        (
            {"name": "deeplab_v2_resnet50"},
            {"path": "none.pth"},
            "no such file; published files .*resnet50.* they are not",
        ),
    ],
)
def test_start_refuses(tiny_experiment, source, fields, init, message):
    (stage,) = stages.recipe(with_segmenter(tiny_experiment, **fields), num_classes=3)
    init_from = {"segmenter": InitFrom(**{"path": str(source[0]), **init})}
    with pytest.raises(UserError, match=f"^config.init_from.segmenter.*{message}"):
        shapes = jax.eval_shape(stage.initialise, jax.random.key(0))
        initial_weights.start(shapes, dataclasses.replace(stage, init_from=init_from))


def test_unknown_network(tiny_experiment):
    (stage,) = stages.recipe(tiny_experiment, num_classes=3)
    stage = dataclasses.replace(stage, init_from={"translator": InitFrom(path="x")})
    with pytest.raises(UserError, match=r"config.init_from.translator: the method has no such network, only"):
        initial_weights.start(jax.eval_shape(stage.initialise, jax.random.key(0)), stage)


def init_file(folder, network, dialect, parts, prefix=""):
    """Writes the narrow form of a file that published runs start from: these parts, with a head of 21 classes."""
    variables = random_variables(network, 21, width=2)
    kept = {key: {part: tree[part] for part in parts if part in tree} for key, tree in variables.items()}
    kept["params"]["encoder"] = {k: v for k, v in kept["params"]["encoder"].items() if k not in ("fc6", "fc7")}
    state_dict = {f"{prefix}{name}": array for name, array in weights.to_torch(kept, dialect).items()}
    files.write_safetensors(folder / "init.safetensors", state_dict, {})
    return folder / "init.safetensors"


@pytest.mark.parametrize(
    "setting",
    [
        "source_only:gta5_cityscapes",
        "dada:synthia_cityscapes",
        "gio_ada:synthia_cityscapes",
        "intrada:synthia_cityscapes,gio_ada",
    ],
)
def test_published_settings_take_the_files_they_name(tmp_path, setting):
    """The encoder is the file's in every stage that does not go on from another, whatever classifiers the file has."""
    resnet = ("deeplab_v2_resnet101", "dacs", ("encoder", "head"), "Scale.")
    vgg = ("deeplab_v2_vgg16", "caffe_vgg16", ("encoder",), "")
    file = init_file(tmp_path, *(vgg if "gio_ada" in setting else resnet))
    experiment = config.experiment(config.load(setting))
    recipe = stages.recipe(experiment, num_classes=16)
    trained = [stage for stage in recipe if stage.kind.TRAINS]
    for stage in trained:
        init = dataclasses.replace(stage.init_from["segmenter"], path=str(file))
        segmenter = dataclasses.replace(stage.method.segmenter, width=2)
        stage = dataclasses.replace(
            stage, init_from={"segmenter": init}, method=dataclasses.replace(stage.method, segmenter=segmenter)
        )
        first = jax.eval_shape(stage.initialise, jax.random.key(0))
        shapes, state = first.params["segmenter"], initial_weights.start(first, stage)
        assert jax.tree.structure(state.params["segmenter"]) == jax.tree.structure(shapes)
        for part in ("conv1", "conv1_1"):
            if part in shapes["encoder"]:
                assert isinstance(state.params["segmenter"]["encoder"][part]["kernel"], np.ndarray)
        assert isinstance(state.params["segmenter"]["head"]["branch_0"]["kernel"], jax.ShapeDtypeStruct)
    assert len(trained) == (2 if "intrada" in setting else 1)


def test_a_run_starts_from_a_file(tiny_experiment, source, tmp_path, capsys):
    file, _ = source
    value = config.to_plain(caffe(tiny_experiment))
    value["init_from"]["segmenter"]["path"] = str(file)
    value["train"] |= {"steps": 2, "checkpoint_every": 1}
    value["method"]["optimiser"]["learning_rate"] = 0.0
    experiment = config.experiment(value)
    train.run(experiment, tmp_path / "run", ORIGIN)
    assert f"config.init_from.segmenter: {file} (advent)\nloaded: 101 arrays" in capsys.readouterr().err
    # Nothing was learnt at rate 0, so what comes back is what went in.
    back = tmp_path / "back.safetensors"
    assert uda("convert", "--to-torch", "--from", tmp_path / "run", "--to", back, "--dialect", "advent") == 0
    name = "layer3.0.conv2.weight"
    np.testing.assert_array_equal(files.read(back)[name], files.read(file)[name])


def test_a_broken_file_stops_a_run_before_it_writes(tiny_experiment, source, tmp_path):
    file, _ = source
    file.write_bytes(file.read_bytes()[:-100])
    value = config.to_plain(caffe(tiny_experiment))
    value["init_from"]["segmenter"]["path"] = str(file)
    with pytest.raises(UserError, match="tiny.safetensors.* damaged"):
        train.run(config.experiment(value), tmp_path / "run", ORIGIN)
    assert not (tmp_path / "run").exists()


def test_torch_is_not_needed(source, tmp_path):
    """The fixtures that PyTorch wrote are read in tests/weights; here the whole command runs without it."""
    code = "import sys; sys.modules['torch'] = None; from uda_jax import cli; sys.exit(cli.main(sys.argv[1:]))"
    words = ["convert", "--from", source[0], "--to", tmp_path / "folder", "--branches", "4"]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True)
    assert (tmp_path / "folder" / "manifest.json").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step whose images are normalised by imagenet_rgb and whose heads sum four branches."""
    from tests.conftest import TINY_CONFIG, write_tiny_folder

    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDA_JAX_TEST_DATA", str(write_tiny_folder(folder / "data")))
        (folder / "tiny.py").write_text(TINY_CONFIG)
        words = ["--config.train.steps=1", "--config.train.evaluate_every=0", TWO_HEADS]
        experiment = config.experiment(config.load(str(folder / "tiny.py"), words))
        train.run(experiment, folder / "run", ORIGIN)
    return folder / "run", experiment


def test_a_run_starts_from_a_run(run):
    folder, experiment = run
    trained = initial_weights.read(folder)
    assert trained.dialect is None and trained.facts["input_norm"] == "imagenet_rgb"
    before, state = started(experiment, path=str(folder))
    assert_equal(state.params["segmenter"], trained.variables["params"])
    assert_equal(state.model_state["segmenter"]["batch_stats"], trained.variables["batch_stats"])
    before, state = started(experiment, path=str(folder), fresh=("head", "aux_head"))
    assert_equal(state.params["segmenter"]["head"], before.params["segmenter"]["head"])
    assert_equal(state.params["segmenter"]["encoder"], trained.variables["params"]["encoder"])
    with pytest.raises(UserError, match="weights of this run need input_norm='imagenet_rgb', the config has 'caffe_bg"):
        started(caffe(experiment), path=str(folder))
    with pytest.raises(UserError, match="keeps no averaged teacher"):
        started(experiment, path=str(folder), which="teacher")


def test_the_step_of_a_run_is_chosen(run, source):
    folder, experiment = run
    for step in ("1", "best"):
        _, state = started(experiment, path=str(folder), step=step)
        assert_equal(state.params["segmenter"], initial_weights.read(folder).variables["params"])
    with pytest.raises(UserError, match="no checkpoint has step 7; ask for 'last' or one of the steps 1"):
        started(experiment, path=str(folder), step="7")
    with pytest.raises(UserError, match="step: expected last, since .* is no run of several steps, got 7"):
        started(experiment, path=str(source[0]), step="7")
    word = "--config.init_from.segmenter.step=first"
    with pytest.raises(UserError, match="init_from.segmenter.step: expected last, best or a step, got 'first'"):
        config.experiment(config.load("advent:smoke", [word]))
    chosen = config.experiment(config.load("advent:smoke", ["--config.init_from.segmenter.step=1"]))
    assert chosen.init_from["segmenter"].step == "1"


@pytest.mark.parametrize("part", ["train", "checkpoints", "train/checkpoints/1"])
def test_parts_of_a_run_are_read_by_its_name(run, part):
    folder, experiment = run
    with pytest.raises(UserError, match=f"name the run itself, {folder}, and choose a checkpoint by its step"):
        started(experiment, path=str(folder / part))


def test_classes_of_a_run_are_compared_by_name(run):
    folder, experiment = run
    (stage,) = stages.recipe(experiment, num_classes=3)
    stage = dataclasses.replace(stage, init_from={"segmenter": InitFrom(path=str(folder))})
    initial_weights.check_classes([stage], ("ground", "wall", "thing"))
    with pytest.raises(
        UserError, match=r"a run of the classes \['ground', 'wall', 'thing'\], expected \['wall', 'grou"
    ):
        initial_weights.check_classes([stage], ("wall", "ground", "thing"))
    fresh = dataclasses.replace(stage, init_from={"segmenter": InitFrom(path=str(folder), fresh=("head",))})
    initial_weights.check_classes([fresh], ("wall", "ground"))


def test_a_run_of_other_classes_starts_with_fresh_heads(run):
    folder, experiment = run
    (stage,) = stages.recipe(experiment, num_classes=2)
    before = jax.eval_shape(stage.initialise, jax.random.key(0))

    def started_from(*fresh):
        init_from = {"segmenter": InitFrom(path=str(folder), fresh=fresh)}
        return initial_weights.start(before, dataclasses.replace(stage, init_from=init_from)).params["segmenter"]

    found, trained = started_from("head", "aux_head"), initial_weights.read(folder).variables["params"]
    assert_equal(found["encoder"], trained["encoder"])
    assert {leaf.shape[-1] for leaf in jax.tree.leaves([found["head"], found["aux_head"]])} == {2}
    with pytest.raises(UserError, match="config.init_from.segmenter: .*head"):
        started_from("head")


def test_a_run_becomes_a_folder(run, tmp_path, capsys):
    folder, experiment = run
    assert uda("convert", "--from", folder, "--to", tmp_path / "folder") == 0
    assert "loaded: 101 arrays" in capsys.readouterr().out
    found, own = initial_weights.read(tmp_path / "folder"), initial_weights.read(folder)
    assert_equal(found.variables, own.variables)
    assert found.facts == own.facts
    with pytest.raises(UserError, match="input_norm='imagenet_rgb'"):
        started(caffe(experiment), path=str(tmp_path / "folder"))
    started(experiment, path=str(tmp_path / "folder"))
    out = tmp_path / "x.safetensors"
    assert uda("convert", "--to-torch", "--from", tmp_path / "folder", "--to", out) == 2
    assert "--dialect: say in which family's names" in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "dialect"), [("run", "adaptsegnet"), ("converted", "advent")])
def test_export_insists_on_what_import_insists_on(run, folder, dialect, tmp_path, capsys):
    workdir, experiment = run
    source, out = workdir, tmp_path / "x.safetensors"
    if folder == "converted":
        source = tmp_path / "folder"
        initial_weights.convert(workdir, source)
    words = ["convert", "--to-torch", "--from", source, "--to", out, "--dialect", dialect]
    capsys.readouterr()
    assert uda(*words) == 2 and not out.exists()
    error = capsys.readouterr().err
    assert "takes input_norm = 'caffe_bgr' for granted, the weights need 'imagenet_rgb'" in error and "--force" in error
    assert uda(*words, "--force") == 0
    # The file remembers, and so does a folder that it becomes.
    found = files.metadata(out)
    assert (found["dialect"], found["input_norm"], found["aspp_branches"]) == (dialect, "imagenet_rgb", "4")
    initial_weights.convert(out, tmp_path / "back")
    for path in (out, tmp_path / "back"):
        _, state = started(experiment, path=str(path))
        assert_equal(state.params["segmenter"], initial_weights.read(workdir).variables["params"])
        with pytest.raises(UserError, match="need input_norm='imagenet_rgb', the config has 'caffe_bgr'"):
            started(caffe(experiment), path=str(path))
    with pytest.raises(UserError, match="its classifiers sum 4 branches, got --branches 2; leave it out"):
        initial_weights.convert(out, tmp_path / "other", branches=2)


def test_branches_alone_are_compared(run, tmp_path):
    found = initial_weights.read(run[0])
    facts = found.facts | {"input_norm": "caffe_bgr"}
    with pytest.raises(UserError, match="takes aspp_branches = 2 for granted, the weights need 4"):
        initial_weights.export(found.variables, tmp_path / "x", "adaptsegnet", facts)
    with pytest.raises(UserError, match="takes encoder_style = 'caffe' for granted, the weights need 'torchvision'"):
        initial_weights.export(found.variables, tmp_path / "x", "advent", facts | {"encoder_style": "torchvision"})
    assert initial_weights.export(found.variables, tmp_path / "x", "advent", facts) > 100


def test_the_field_that_gave_branches_is_named(tiny_experiment, tmp_path):
    variables = random_variables("deeplab_v2_resnet14", 3, width=4)
    files.write_safetensors(tmp_path / "dacs.safetensors", weights.to_torch(variables, "dacs"), {})
    message = "config.method.segmenter.aspp_branches = 4; write config.method.segmenter.aspp_branches = 2"
    with pytest.raises(UserError, match=message):
        started(caffe(tiny_experiment), path=str(tmp_path / "dacs.safetensors"))


@pytest.mark.parametrize("metadata", [{"input_norm": "bgr"}, {"aspp_branches": "9" * 5000}, {"encoder_style": ""}])
def test_unknown_facts_in_a_file_are_refused(source, metadata, tmp_path):
    file, variables = source
    files.write_safetensors(file, weights.to_torch(variables, "advent"), {"dialect": "advent", **metadata})
    with pytest.raises(UserError, match=f"metadata '{next(iter(metadata))}': expected one of"):
        initial_weights.read(file)
    files.write_safetensors(file, weights.to_torch(variables, "advent"), {"dialect": "odd", **metadata})
    assert initial_weights.read(file, branches=4).dialect == "advent"


def test_a_licence_that_asks_for_more_is_named(tmp_path):
    assert weights.terms("dinov3_transformers").startswith(", under the DINOv3 License")
    assert weights.terms("dinov2") == weights.terms(None) == ""
    options = {"width": 8, "depth": 1, "heads": 2}
    variables = random_variables("linear_dinov3_vits16", 3, **options)
    encoder = {"params": {"encoder": variables["params"]["encoder"]}}
    file = tmp_path / "dinov3.safetensors"
    files.write_safetensors(file, weights.to_torch(encoder, "dinov3"), {})
    method = SourceOnly(
        num_classes=3, segmenter=Segmenter("linear_dinov3_vits16", input_norm="imagenet_rgb", **options)
    )
    state = method.init(jax.random.key(0), {"source": {"image": jnp.zeros((1, 32, 32, 3), jnp.uint8)}})
    stage = SimpleNamespace(
        init_from={"segmenter": InitFrom(path=str(file), fresh=("head", "head_norm"))}, start_from={}, method=method
    )
    told = []
    started = initial_weights.start(state, stage, told.append)
    assert len(told) == 1 and told[0].count("DINOv3 License") == 1
    assert_equal(started.params["segmenter"]["encoder"], variables["params"]["encoder"])


@pytest.mark.parametrize(
    ("name", "dialect", "options"),
    [
        ("linear_dinov2_vits14", "dinov2", {"registers": 4}),
        ("linear_dinov3_vits16plus", "dinov3_transformers", {}),
        ("light_dinov2_vits14", "vfm_uda", {"table": 16}),
        ("pyramid_dinov2_vits14", "vfm_uda_plusplus", {}),
    ],
)
def test_a_foundation_network_is_known_by_its_arrays(name, dialect, options):
    network = networks.build(name, 7, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    found = described_networks.describe(dialect, {}, shapes["params"])
    assert found["name"] == name and found["num_classes"] == 7
    assert networks.resolve(found["name"], **found["options"]) == networks.resolve(name, **options)
    with pytest.raises(UserError, match=f"{name.split('_')[1]} weights: 5 channels; known networks have"):
        described_networks.describe(
            dialect,
            {},
            {"encoder": shapes["params"]["encoder"] | {"cls_token": jax.ShapeDtypeStruct((1, 1, 5), jnp.float32)}},
        )
