"""Every config with `:smoke`, end to end on the built-in data."""

import importlib
import json

import pytest

from uda_jax import cli, config
from uda_jax.data.label_spaces import CLASS_NAMES


def variants(name):
    """Returns "" and ",<variant>" for each variant of a packaged config."""
    module = importlib.import_module(f"uda_jax.configs.{name}")
    return [f",{variant}" if variant else "" for variant in module.VARIANTS]


REFERENCES = [f"{name}:smoke{variant}" for name in config.names() for variant in variants(name)]


@pytest.mark.parametrize("reference", REFERENCES)
def test_smoke(reference, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    workdir = tmp_path / "run"
    assert cli.main(["train", "--config", reference, "--workdir", str(workdir)]) == 0
    (row,) = json.loads((workdir / "result.json").read_text())
    assert row["config"] == reference and row["steps"] == 4 and tuple(row["iou"]) == CLASS_NAMES
    assert 0 <= row["miou"]["19"] <= 1 and row["best_miou"] is not None
    assert len(list((workdir / "pictures").iterdir())) == 2
