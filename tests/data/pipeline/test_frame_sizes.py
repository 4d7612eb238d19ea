"""Frames of different sizes are told when a domain is opened, whatever its frames lie in, and not when one is drawn."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import evaluation_batches, train_stream
from uda_jax.data.prepare import command
from uda_jax.errors import UserError


@pytest.fixture
def mixed(make_folder):
    """A folder of four frames, of which the last is larger."""
    root = make_folder(4)
    for kind in ("images", "labels"):
        path = root / "train" / kind / "f003.png"
        Image.open(path).resize((20, 14), Image.Resampling.NEAREST).save(path)
    return root


def prepared(root, tmp_path):
    command.prepare("folder", root, tmp_path / "prepared", workers=1)
    return {"dataset": "folder", "root": str(tmp_path / "prepared"), "label_space": "own"}


def pictures(root, tmp_path):
    del tmp_path
    return {"dataset": "video", "root": str(root / "train" / "images"), "fields": ("image",)}


def pages(root, tmp_path):
    first, *others = (Image.open(path) for path in sorted((root / "train" / "images").iterdir()))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
    return {"dataset": "video", "root": str(tmp_path / "pages.tif"), "fields": ("image",)}


def files(root, tmp_path):
    del tmp_path
    return {"dataset": "folder", "root": str(root), "label_space": "own"}


@pytest.mark.parametrize("kind", [files, prepared, pictures, pages])
def test_sizes_are_told_at_once(mixed, tmp_path, kind):
    domain = Domain(**kind(mixed, tmp_path))
    first, last = ("pages_000000", "pages_000003") if kind is pages else ("f000", "f003")
    told = f"image of frame '{last}' is 14x20 .height x width., but that of '{first}' is 12x16, and a batch holds one"
    with pytest.raises(UserError, match=f"config.data.target: {told} size; set .*target.size, or .*target.crop"):
        train_stream({"target": domain}, global_batch=2, seed=0)
    with pytest.raises(UserError, match="a batch size of 1"):
        evaluation_batches(domain, 2)
    # The cures.
    train_stream({"target": dataclasses.replace(domain, size=(12, 16))}, global_batch=2, seed=0).close()
    train_stream({"target": dataclasses.replace(domain, crop=(8, 8))}, global_batch=2, seed=0).close()
    assert len(list(evaluation_batches(domain, 1))) == 4


def test_a_label_that_keeps_its_size_needs_two_fields(mixed):
    domain = Domain(dataset="folder", root=str(mixed), label_space="own", fields=("image", "label"), resize_label=False)
    with pytest.raises(UserError, match="label of frame 'f003' is .* set domain.resize_label=True, or a batch size"):
        evaluation_batches(dataclasses.replace(domain, size=(12, 16)), 2)
    for fields in ({"size": (12, 16), "resize_label": True},):
        assert len(list(evaluation_batches(dataclasses.replace(domain, **fields), 2))) == 2


def test_no_pixel_is_decoded_for_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    path.write_bytes(path.read_bytes()[:2000])
    dataset = get_dataset("video", tmp_path, "train")
    assert dataset.stored_size(0, "image") == (40, 60)
    with pytest.raises(UserError, match="damaged"):
        dataset.read(0, ("image",))


def test_frames_without_files_are_looked_at_when_they_are_drawn(in_memory):
    shapes = ((4, 6, 3), (4, 7, 3))
    frames = [{"name": str(k), "index": k, "image": np.zeros(shape, np.uint8)} for k, shape in enumerate(shapes)]
    assert in_memory(frames).stored_size(0, "image") is None
    with pytest.raises(UserError, match="image of frame '1' is 4x7 .height x width., but that of '0' is 4x6"):
        list(evaluation_batches(in_memory(frames), 2))
