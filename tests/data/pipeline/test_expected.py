"""What a domain's examples are expected to be like is what its stream then gives."""

import pytest

from uda_jax.data.pipeline import expected
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.errors import UserError

DIGITS = Domain(dataset="digits", split="train", label_space="own", options={"which": "segments", "margin": 1})
BLOBS = Domain(dataset="blobs", split="sharp_train", label_space="own", options={"size": (16, 24)})


def given(domain):
    """Returns the shapes and types of the first batch of a domain's stream."""
    stream = train_stream({"source": domain}, global_batch=2, seed=0)
    try:
        return {field: (array.shape, array.dtype.type) for field, array in next(stream)["source"].items()}
    finally:
        stream.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (16, 24)},
        {"size": (16, 24), "scale": (0.9, 1.1), "crop": (8, 12), "flip": True},
        {"crop": (8, 8), "fields": ("image",)},
    ],
)
def test_of_files(tiny_folder, changes):
    domain = Domain(dataset="folder", root=str(tiny_folder), split="train", label_space="own", **changes)
    shapes = expected.from_config(domain, "config.data.source")
    assert shapes == expected.from_data(domain, "config.data.source")
    assert expected.batch_arrays({"source": shapes}, 2)["source"] == given(domain)


@pytest.mark.parametrize("domain", [DIGITS, BLOBS], ids=["one label per image", "drawn"])
def test_of_what_is_drawn(domain):
    shapes = expected.from_config(domain, "config.data.source")
    assert shapes == expected.from_data(domain, "config.data.source")
    assert expected.batch_arrays({"source": shapes}, 2)["source"] == given(domain)


def test_streets_are_known_without_rendering(tmp_path, monkeypatch):
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path / "none"))
    small = Domain(dataset="streets", split="camera_train", options={"size": (48, 96)}, label_space="16")
    assert expected.from_config(small, "x") == {"image": (48, 96, 3), "label": (48, 96)}
    assert len(expected.announced(small, "x").label_space.names) == 16
    assert expected.from_config(Domain(split="camera_train"), "x")["image"] == (96, 192, 3)
    assert not expected.is_there(small) and not (tmp_path / "none").exists()


def test_sizes_that_only_files_know(tiny_folder, tmp_path):
    domain = Domain(dataset="folder", root=str(tiny_folder), split="train", label_space="own")
    assert expected.from_config(domain, "x") is None and expected.announced(domain, "x").label_space is None
    assert expected.is_there(domain) and expected.from_data(domain, "x")["image"] == (32, 64, 3)
    mixed = Domain(
        **{"dataset": "folder", "root": str(tiny_folder), "label_space": "own", "size": (8, 8), "mix": {"b": domain}}
    )
    assert expected.from_data(mixed, "x") == {"image": (8, 8, 3), "label": (8, 8)}
    with pytest.raises(UserError, match="^config.data.source: .*unknown data set 'foldr'"):
        expected.from_config(Domain(dataset="foldr"), "config.data.source")
