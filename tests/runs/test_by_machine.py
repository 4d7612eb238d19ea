"""Configs whose network depends on the machine."""

from uda_jax import config
from uda_jax.config import machine
from uda_jax.runs import by_machine
from uda_jax.runs.workdir import Workdir


def test_a_folders_network_is_the_machines_unless_the_run_has_one(tmp_path):
    names = {}
    for accelerator in (False, True):
        with machine.assumed(accelerator):
            found, (note,) = by_machine.load("advent:folder", (), tmp_path / "new")
            names[accelerator] = found.method["segmenter"]["name"]
            assert names[accelerator] in note and ("neither GPU" in note) != accelerator
    assert names == {False: "deeplab_v2_resnet14", True: "deeplab_v2_resnet50"}
    run = Workdir(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(config.to_json(found))
    with machine.assumed(False):
        again, (note,) = by_machine.load("advent:folder", ("--config.train.log_every=7",), run.path)
        assert again.method == found.method and "goes on with deeplab_v2_resnet50, which it began with" in note
        assert by_machine.load("advent:folder", ("--config.method.segmenter.name=deeplab_v2_resnet101",), run.path)
        assert by_machine.load("advent:streets", (), run.path)[1] == []
