"""The catalogue agrees with the library: families, settings, and what `uda weights check` says of files."""

import numpy as np
import pytest

from uda_jax import config, weights
from uda_jax.cli import main
from uda_jax.weights import catalogue, files


@pytest.mark.parametrize("name", catalogue.CATALOGUE)
def test_an_entry(name):
    found = catalogue.find(name)
    if found.dialect:
        known = {file for dialect in weights.dialects() for file in weights.checkpoint_info(dialect).files}
        assert found.dialect in weights.dialects() and (found.file in known or name == "caffe_vgg16")
    if found.sha256:
        assert len(found.sha256) == 64 and found.size
    assert not found.package or (found.sha256 and found.package.member.endswith(found.file))
    if found.wanted_by:
        experiment = config.experiment(config.load(found.wanted_by))
        sections = [experiment.init_from, *(stage.init_from for stage in (experiment.stages or {}).values())]
        paths = {init.path for section in sections for init in (section or {}).values()}
        assert name in paths or any(str(path).endswith(f"/{found.file}") for path in paths)


def test_names_are_no_others():
    """A name of the catalogue stands for a file alone, and each file once."""
    published = [found.file for found in catalogue.CATALOGUE.values()]
    assert len(set(published)) == len(published)
    assert all("/" not in name and "." not in name for name in catalogue.CATALOGUE)


def test_check_of_a_file(tmp_path, capsys):
    file = tmp_path / "resnet101-imagenet.pth"
    files.write_safetensors(file, {"conv1.weight": np.zeros((2, 3, 7, 7), np.float32)}, {})
    assert main(["weights", "check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert (
        "1 tensors, " in printed and "called as 'plca_init' of the catalogue, of which no checksum is known" in printed
    )
    assert "no network here takes its names (" in printed
    wrong = file.rename(tmp_path / "efficientnet-lite0-57934424.pth")
    assert main(["weights", "check", str(wrong)]) == 2
    assert "expected sha256 579344248a93" in capsys.readouterr().err


ESPNET = [name for name in catalogue.CATALOGUE if name.startswith("espnet")]


@pytest.mark.parametrize("name", ESPNET)
def test_published_espnets_are_read(name, shared, capsys):
    """Real files of PyTorch's older form: every tensor, none of it odd."""
    found = catalogue.find(name)
    file = shared / "data" / "weights" / "espnet" / found.file
    tensors = files.read(file)
    kinds = {array.dtype.name for array in tensors.values()}
    assert kinds <= {"float32", "int64"} and all(np.all(np.isfinite(array)) for array in tensors.values())
    parameters = sum(a.size for key, a in tensors.items() if "running" not in key and "num_batches" not in key)
    assert len(tensors) > 90 and 4 * parameters < found.size < 6 * parameters
    assert main(["weights", "check", str(file)]) == 0
    assert f"it is '{name}' of the catalogue, byte for byte" in capsys.readouterr().out
