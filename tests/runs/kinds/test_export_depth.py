"""Depth maps of a data set: what is written, that nothing is written twice, who reads them, mistakes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from uda_jax import config
from uda_jax.cli import main
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError
from uda_jax.runs import depth_maps, stages, states
from uda_jax.runs.depth_maps import Shard
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding

REFERENCE = "corda:smoke,self_supervised"


class Grey:
    """A method whose disparity is the green of the image, which is 0 to 1."""

    precision = "fp32"

    def disparities(self, state, images, size):
        assert images.shape[1:3] == size
        return state * images[..., 1].astype(np.float32) / 255


@pytest.fixture
def domain(tiny_folder):
    """Eight frames of 32x64, drawn at half the size; what is random in it is none of the maps' business."""
    own = {"dataset": "folder", "root": str(tiny_folder), "split": "train", "label_space": "own", "size": (16, 32)}
    return Domain(crop=(8, 8), flip=True, **own)


def draw(domain, folder, **options):
    seen = depth_maps.as_seen(domain)
    mesh = sharding.data_mesh()
    # As many as there may be devices.
    return depth_maps.draw(Grey(), np.float32(1), seen, folder, mesh, path="config", batch_size=8, **options)


def counts(folder):
    return {file.name: np.array(Image.open(file)) for file in sorted(folder.iterdir())}


def test_every_frame_gets_its_map_of_16_bits_and_reads_back_as_relative_disparity(domain, tmp_path):
    assert draw(domain, tmp_path / "maps") == (8, 8)
    dataset = open_domain(depth_maps.as_seen(domain))
    found = counts(tmp_path / "maps")
    assert list(found) == [f"{name}.png" for name in dataset.names()]
    read = open_domain(
        dataclasses.replace(
            depth_maps.as_seen(domain), fields=("image", "disparity"), disparity_from=str(tmp_path / "maps")
        )
    )
    assert "disparity" in read.maps and read.missing("disparity") == []
    for k in (0, 7):
        image = np.array(Image.fromarray(dataset[k]["image"]).resize((32, 16), Image.Resampling.BICUBIC))
        array = found[f"{dataset.name(k)}.png"]
        assert array.dtype == np.uint16 and array.shape == (16, 32)
        expected = image[..., 1].astype(np.float64) / 255 * 65535
        # Rounded down, in float32.
        assert np.abs(array - expected).max() <= 1.01 and array.max() > 10_000
        np.testing.assert_array_equal(read.read(k, ("disparity",))["disparity"], (array / 256).astype(np.float32))


def test_what_is_there_stays_and_shards_share_the_rest(domain, tmp_path):
    folder = tmp_path / "maps"
    draw(domain, folder)
    before = counts(folder)
    (folder / "003.png").write_bytes(b"kept")
    (folder / "005.png").unlink()
    assert draw(domain, folder, shard=Shard(1, 2)) == (8, 0)
    assert draw(domain, folder, shard=Shard(0, 2)) == (8, 1)
    assert (folder / "003.png").read_bytes() == b"kept"
    np.testing.assert_array_equal(np.array(Image.open(folder / "005.png")), before["005.png"])
    assert draw(domain, folder) == (8, 0)


def test_an_interruption_leaves_whole_maps_alone(domain, tmp_path):
    class Ended(Exception):
        pass

    def after_batch():
        raise Ended

    with pytest.raises(Ended):
        draw(domain, tmp_path / "maps", after_batch=after_batch)
    assert len(counts(tmp_path / "maps")) == 8


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The experiment of the whole recipe, and its stages, whose frames are rendered for this session once."""
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path / "cache"))
    experiment = config.experiment(config.load(REFERENCE))
    return experiment, stages.recipe(experiment, 19)


def test_the_stages_maps_are_what_corda_learns(recipe, tmp_path, monkeypatch):
    """With a network that has learnt nothing; the stages before and after are tried by a run of their own."""
    experiment, found = recipe
    by_name = {stage.name: stage for stage in found}
    assert list(by_name) == ["source_depth", "target_depth", "source_maps", "target_maps", "adapt"]
    stage, workdir = by_name["target_maps"], Workdir(tmp_path / "run")
    first = jax.jit(by_name["target_depth"].initialise)(jax.random.key(0))
    monkeypatch.setattr(states, "load", lambda *arguments: first)
    context = stages.Context(experiment, sharding.data_mesh(), stages.label_space(experiment), stop=lambda: False)
    stage.kind.validate(stage, context)
    assert stage.kind.run(stage, workdir, context)["frames"] == 8
    written = counts(workdir.stage("target_maps").disparity)
    assert len(written) == 8 and np.ptp(written["camera_train_00003.png"]) > 0
    learnt = open_domain(by_name["adapt"].domains_in(workdir)["target"])
    np.testing.assert_array_equal(learnt[3]["disparity"], (written["camera_train_00003.png"] / 256).astype(np.float32))
    # A stage on the way to classes, which predicts none, is not scored.
    assert by_name["target_depth"].method.PREDICTS == "depth"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": None}, "target_maps.start_from.disparity: expected an earlier stage, whose network draws"),
        ({"data": "both"}, r"stages.target_maps.data: expected the one domain .* got \['source', 'target'\]"),
        ({"data": "mixture"}, "stages.target_maps.data.target.mix: expected None, since one data set is drawn"),
    ],
)
def test_mistakes(changes, message, recipe):
    experiment, _ = recipe
    data = {name: depth_maps.as_seen(domain) for name, domain in experiment.data.items()}
    mixed = {"target": dataclasses.replace(data["target"], mix={"more": data["source"]})}
    if "data" in changes:
        changes = {"data": {"both": data, "mixture": mixed}[changes["data"]]}
    wrong = {**experiment.stages, "target_maps": dataclasses.replace(experiment.stages["target_maps"], **changes)}
    experiment = dataclasses.replace(experiment, stages=wrong)
    stage = stages.recipe(experiment, 19)[3]
    context = stages.Context(experiment, sharding.data_mesh(), stages.label_space(experiment), stop=lambda: False)
    with pytest.raises(UserError, match=message):
        stage.kind.validate(stage, context)


def test_methods_without_disparity_are_refused(domain):
    with pytest.raises(UserError, match="^runs/x: expected a method that predicts disparity, such as self_superv.*int"):
        depth_maps.check(3, domain, "runs/x", "config.data.target")


def test_the_command_needs_a_run_and_a_shard(tmp_path, capsys):
    words = ["export-depth", str(tmp_path), "--output", str(tmp_path / "maps")]
    assert main(words) == 2 and not (tmp_path / "maps").exists()
    assert main([*words, "--shard", "2/2"]) == 2
    assert "expected i/N with i from 0 to N - 1, such as 0/4, got '2/2'" in capsys.readouterr().err
