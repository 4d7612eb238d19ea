"""What DAFormer's loading has of mmsegmentation: OpenCV's resizing, frames that fit inside, varied crops, margins."""

import numpy as np
import pytest
import vectors

from uda_jax.data.pipeline.domains import Domain, open_domain, resized_size
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.data.pipeline.transforms import RandomCrop, Resampling, inside, resize
from uda_jax.errors import UserError

GOLDEN = vectors.FOLDER / "vfm-uda" / "daformer_resize.npz"
OPENCV = Resampling(image="opencv")


@pytest.mark.parametrize("case", range(4))
def test_golden_resizing(case):
    golden = np.load(GOLDEN)
    image, label, (width, height), out_image, out_label = (
        golden[f"case{case}_{name}"] for name in ("image", "label", "scale_wh", "out_image", "out_label")
    )
    found = resize({"image": image, "label": label}, (int(height), int(width)), resampling=OPENCV, fit="inside")
    np.testing.assert_array_equal(found["label"], out_label)
    assert np.abs(found["image"].astype(int) - out_image).max() <= 1


def test_labels_of_gta5_are_read_by_opencvs_rule():
    """Pillow reads the pixel at half a step further."""
    label = np.tile((np.arange(1914) % 251).astype(np.uint8), (2, 1))
    frame = {"image": np.zeros((2, 1914, 3), np.uint8), "label": label}
    found = resize(frame, (2, 1280), resampling=OPENCV)["label"][0]
    np.testing.assert_array_equal(found, np.arange(1280) * 1914 // 1280 % 251)
    assert (found != resize(frame, (2, 1280))["label"][0]).mean() > 0.3


def test_other_maps_follow():
    frame = {
        "image": np.zeros((2, 2, 3), np.uint8),
        "depth": np.float32([[1, 2], [3, 4]]),
        "disparity": np.eye(2).astype(np.float32),
    }
    found = resize(frame, (4, 4), resampling=OPENCV._replace(disparity="bilinear"))
    np.testing.assert_array_equal(found["depth"], np.kron([[1, 2], [3, 4]], np.ones((2, 2))))
    np.testing.assert_allclose(found["disparity"][0], [1, 0.75, 0.25, 0])


def test_frames_fit_inside():
    assert inside((1052, 1914), (720, 1280)) == (704, 1280)
    domain = Domain(dataset="gta5", size=(720, 1280), fit="inside", crop=(512, 512))
    assert resized_size(domain, (1052, 1914)) == (704, 1280)
    with pytest.raises(UserError, match="crop: expected a size, since 'd.fit' makes frames of many sizes"):
        Domain(dataset="gta5", size=(720, 1280), fit="inside").check("d")


class Lefts:
    """A generator whose windows start at given columns."""

    def __init__(self, *lefts):
        self.left = list(lefts)

    def integers(self, high):
        return 0 if high == 1 else self.left.pop(0)


def test_crops_of_one_class_are_drawn_anew():
    label = np.full((2, 9), 255, np.uint8)
    label[:, 4:] = 1
    label[0, 8] = 2
    frame = {"image": np.zeros((2, 9, 3), np.uint8), "label": label}
    # Of two classes, neither fills three quarters: of the window from 7 on, one fills exactly that many.
    assert RandomCrop((2, 2), 0.76)(frame, Lefts(0, 4, 7, 5))["label"].tolist() == [[1, 2], [1, 1]]
    strict = Lefts(*[7] * 11)
    assert RandomCrop((2, 2), 0.75)(frame, strict)["label"].tolist() == [[1, 2], [1, 1]] and not strict.left
    any_crop = Lefts(0, 4)
    RandomCrop((2, 2))(frame, any_crop)
    assert any_crop.left == [4]


def test_margins_are_cropped_with_the_image():
    options = {"size": (24, 48), "limit": 4}
    domain = Domain(
        split="camera_val",
        fields=("image", "distrust"),
        options=options,
        size=(20, 40),
        margins=(2, 5, 1, 3),
        crop=(20, 20),
    )
    stream = train_stream({"target": domain}, global_batch=4, seed=0)
    distrust = next(stream)["target"]["distrust"]
    stream.close()
    assert distrust.dtype == np.float32 and distrust.shape == (4, 20, 20)
    assert (distrust[:, :2] == 1).all() and (distrust[:, 15:] == 1).all()
    # A window somewhere in the frame shows at most one of the outer margins.
    assert {tuple(row) for row in distrust[:, 2:15].reshape(-1, 20)} <= {
        tuple(([1] + [0] * 36 + [1] * 3)[left : left + 20]) for left in range(21)
    }
    whole = open_domain(
        Domain(split="camera_val", fields=("image", "distrust"), options=options, margins=(0, 30, 0, 0))
    )
    assert whole.read(0, ("image", "distrust"))["distrust"].all() and "distrust" not in whole.read(0, ("image",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margins": (1, 1, 1, 1)}, "margins: expected None, since 'd.fields' has no distrust"),
        ({"crop_max_share": 0.75}, "crop_max_share: expected 1.0 without crops of labels, got 0.75"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        Domain(**options).check("d")
