"""Images from other files than the data set's own."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.streams import evaluation_batches
from uda_jax.errors import UserError


@pytest.fixture
def redrawn(tmp_path):
    """The folder of three translated images of one grey each, of half the size of `make_folder`'s."""
    base = tmp_path / "translated"
    base.mkdir()
    for k in range(3):
        Image.fromarray(np.full((6, 8), 50 * k, np.uint8)).save(base / f"f{k:03d}.png")
    return base


def folder(root, **fields):
    return Domain(dataset="folder", root=str(root), label_space="own", **fields)


def test_translated_images_take_the_place_of_images_and_labels_stay(make_folder, redrawn, tmp_path):
    listed = tmp_path / "some.txt"
    listed.write_text("f002\nf001\n")
    root = make_folder(3)
    dataset = open_domain(folder(root, names_file=str(listed), images_from=str(redrawn)))
    plain = open_domain(folder(root, names_file=str(listed)))
    for k, grey in enumerate((100, 50)):
        np.testing.assert_array_equal(dataset[k]["image"], np.full((6, 8, 3), grey))
        np.testing.assert_array_equal(dataset[k]["label"], plain[k]["label"])
        assert dataset.files(k)["image"].path.parent == redrawn and dataset.files(k)["label"] == plain.files(k)["label"]
        assert dataset.stored(k, ("label",)).keys() == plain.stored(k, ("label",)).keys()
        assert (dataset.stored(k, ("image",))["image"] == grey).all()
    (batch,) = evaluation_batches(folder(root, images_from=str(redrawn), size=(12, 16)), 3)
    assert batch["image"].shape == (3, 12, 16, 3) and batch["label"].shape == (3, 12, 16)


def test_both_images_and_labels_may_come_from_elsewhere(make_folder, redrawn):
    domain = folder(make_folder(3), images_from=str(redrawn), labels_from=str(redrawn), size=(6, 8))
    Image.fromarray(np.full((6, 8), 2, np.uint8)).save(redrawn / "f000.png")
    example = open_domain(domain)[0]
    assert (example["image"] == 2).all() and (example["label"] == 2).all()


def test_a_missing_image_is_named(make_folder, redrawn):
    (redrawn / "f001.png").unlink()
    with pytest.raises(UserError, match=r"source: images_from: .*f001.png: no such file; 1 of 3 frames have no"):
        open_domain(folder(make_folder(3), images_from=str(redrawn)), "source")
