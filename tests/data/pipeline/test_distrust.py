"""Distrusted margins, and frames resized as VFM-UDA's code does."""

import numpy as np
import pytest
import vectors

from uda_jax.data.base import Dataset
from uda_jax.data.labels import label_spaces
from uda_jax.data.pipeline import domains, transforms
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.margins import Margins
from uda_jax.data.pipeline.transforms import Resampling
from uda_jax.errors import UserError

MARGINS = (0.03, 0.25, 0.03, 0.03)


class Frames(Dataset):
    """One frame."""

    def __init__(self, image, label):
        self.image, self.label = image, label
        self.label_space, self.label_size, self.table, self.known = label_spaces.label_space("19"), None, None, None

    def __len__(self):
        return 1

    def name(self, index):
        return str(index)

    @property
    def maps(self):
        return ("image", "label")

    def read(self, index, fields):
        return {"image": self.image, "label": self.label, "name": "0", "index": index}


@pytest.mark.parametrize("name", ["uda_transform", "uda_transform_shrink"])
def test_resized_frames(name):
    golden = vectors.load(f"vfm-uda/{name}.npz")
    image = golden["image"]
    label = np.full(image.shape[:2], 255, np.uint8)
    for raw, train in {7: 0, 8: 1, 11: 2, 26: 13}.items():
        label[golden["label_ids"] == raw] = train
    frames = Frames(image, label)
    example = Margins(frames, MARGINS, lambda size: size).read(0, ("image", "label", "distrust"))
    factor = float(golden["short_side"]) / min(image.shape[:2]) * float(golden["scale"])
    resize = transforms.RandomScale(factor, factor, Resampling("bilinear"))
    found = resize(example, np.random.default_rng(0))
    np.testing.assert_array_equal(found["image"].transpose(2, 0, 1), golden["out_image"])
    np.testing.assert_array_equal(found["label"], golden["out_label"])
    np.testing.assert_array_equal(found["distrust"] * 255, golden["out_ignore_mask"])


def test_a_domain_with_margins(tiny_folder):
    own = {"dataset": "folder", "root": str(tiny_folder), "label_space": "own"}
    dataset = domains.open_domain(Domain(fields=("image", "distrust"), distrust=MARGINS, **own))
    frame = dataset.read(0, ("image", "distrust"))
    assert "distrust" in dataset.maps and dataset.missing("distrust") == []
    assert frame["distrust"].dtype == np.float32 and frame["distrust"].shape == frame["image"].shape[:2]
    # 32 x 64 pixels: none at the top, 8 at the bottom, one at each side.
    assert frame["distrust"][:, 0].all() and frame["distrust"][24:].all() and not frame["distrust"][:24, 1:63].any()
    assert "distrust" not in dataset.read(0, ("image",))
    padded = transforms.RandomCrop((40, 64))(frame, np.random.default_rng(0))
    assert padded["distrust"][32:].all()
    with pytest.raises(UserError, match="domain.distrust: expected None, since 'domain.fields' has no distrust"):
        Domain(distrust=MARGINS, **own).check("domain")
