"""Transforms: Pillow's resizing to the bit, and geometry that all maps share."""

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax import ops
from uda_jax.data.pipeline.transforms import (
    HorizontalFlip,
    RandomCrop,
    RandomScale,
    RandomShortSide,
    Resampling,
    resize,
)

GOLDEN = vectors.FOLDER


def example(height=7, width=10):
    """A frame in which every map holds its own row and column, so that geometry can be read off."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return {
        "image": np.stack([rows, columns, rows + columns], axis=-1),
        "label": rows * 16 + columns,
        "depth": (rows * 16 + columns).astype(np.float32) + 1.0,
        "disparity": (rows * 16 + columns).astype(np.float32) + 2.0,
        "name": "frame",
        "index": 3,
    }


def assert_aligned(result):
    image = result["image"].astype(int)
    inside = result["label"] != 255
    np.testing.assert_array_equal((image[..., 0] * 16 + image[..., 1])[inside], result["label"][inside])
    np.testing.assert_array_equal(result["depth"][inside], result["label"][inside] + 1.0)
    np.testing.assert_array_equal(result["disparity"][inside], result["label"][inside] + 2.0)


def test_resize_is_the_reference_preprocessing():
    golden = np.load(GOLDEN / "advent-intrada" / "preprocess.npz")
    width, height = golden["size_wh"]
    result = resize({"image": golden["image_rgb"], "label": golden["label_ids"]}, (int(height), int(width)))
    np.testing.assert_array_equal(result["image"], golden["resized_rgb"])
    np.testing.assert_array_equal(result["label"], golden["label_resized"])


@pytest.mark.parametrize(
    ("data", "label_path", "size", "window"),
    [
        ("gta5", "gta5/labels/16742.png", (720, 1280), np.s_[320:352, 600:664]),
        (
            "cityscapes",
            "cityscapes/gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png",
            (512, 1024),
            np.s_[220:252, 400:464],
        ),
    ],
)
def test_resize_of_real_frames(shared, data, label_path, size, window):
    # Read where the frames lie: it holds crops of them, which may not be passed on.
    golden = vectors.load("datasets/resize.npz", elsewhere=shared / "golden")
    frames = shared / "data" / "real_frames"
    image = np.array(Image.open(frames / str(golden[f"{data}_path"])).convert("RGB"))
    result = resize({"image": image, "label": np.array(Image.open(frames / label_path))}, size)
    np.testing.assert_allclose(result["image"].mean((0, 1)), golden[f"{data}_mean_rgb"], rtol=1e-9)
    np.testing.assert_array_equal(result["image"][window], golden[f"{data}_crop"])
    np.testing.assert_array_equal(result["label"][window], golden[f"{data}_label_crop"])
    counts = np.bincount(result["label"].ravel(), minlength=256)
    np.testing.assert_array_equal(counts, golden[f"{data}_label_raw_hist"])
    if data == "cityscapes":
        normalised = ops.normalise(result["image"][window], "caffe_bgr")
        np.testing.assert_allclose(normalised, golden["cityscapes_bgr_minus_mean_crop"], rtol=0, atol=1e-5)


def test_resize_of_the_image_alone():
    result = resize(example(), (14, 20), maps=("image",))
    assert result["image"].shape == (14, 20, 3)
    assert result["label"].shape == (7, 10) and result["depth"].shape == (7, 10)
    assert result["name"] == "frame" and result["index"] == 3


@pytest.mark.parametrize("field", ["depth", "disparity"])
def test_resize_of_depth_invents_no_distances(field):
    result = resize(example(), (11, 23))
    assert result[field].dtype == np.float32 and result[field].shape == (11, 23)
    assert set(result[field].ravel()) <= set(example()[field].ravel())


def test_bilinear_resampling_where_a_paper_asks_for_it():
    frame = {
        "image": np.array([[[0] * 3, [100] * 3]], np.uint8),
        "label": np.array([[1, 2]], np.uint8),
        "depth": np.array([[0, 2]], np.float32),
        "disparity": np.array([[0, 2]], np.float32),
    }
    result = resize(frame, (1, 4), resampling=Resampling(image="bilinear", disparity="bilinear"))
    # Half-pixel centres: new pixels lie at -1/4, 1/4, 3/4 and 5/4 of the old ones.
    assert result["image"][0, :, 0].tolist() == [0, 25, 75, 100]
    assert result["disparity"].tolist() == [[0.0, 0.5, 1.5, 2.0]] and result["disparity"].dtype == np.float32
    assert result["label"].tolist() == [[1, 1, 2, 2]] and result["depth"].tolist() == [[0, 0, 2, 2]]
    plain = resize(frame, (1, 4))
    assert plain["image"][0, :, 0].tolist() != [0, 25, 75, 100] and plain["disparity"].tolist() == [[0, 0, 2, 2]]


def test_padding_keeps_the_aspect_ratio():
    # 7x10 pixels fit twice into 16x20: 14x20, and two rows of nothing.
    result = resize(example(), (16, 20), fit="pad")
    assert result["image"].shape == (16, 20, 3)
    inner = resize(example(), (14, 20))
    for field, fill in (("image", 0), ("label", 255), ("depth", 0), ("disparity", 0)):
        np.testing.assert_array_equal(result[field][:14], inner[field])
        assert (result[field][14:] == fill).all() and result[field].dtype == inner[field].dtype
    # A frame that is too high gets columns of nothing: 7x10 halved is 4x5 (3.5 rounds up), within 4x9.
    narrow = resize(example(), (4, 9), fit="pad")
    assert (narrow["label"][:, :6] != 255).all() and (narrow["label"][:, 6:] == 255).all()
    # What has the aspect ratio already is only resized.
    np.testing.assert_array_equal(resize(example(), (14, 20), fit="pad")["image"], inner["image"])


def test_padding_of_a_label_of_another_size():
    frame = example() | {"label": np.repeat(np.repeat(example()["label"], 3, axis=0), 3, axis=1)}
    result = resize(frame, (9, 10), fit="pad")
    np.testing.assert_array_equal(result["label"][:7], example()["label"])
    assert (result["label"][7:] == 255).all() and (result["image"][7:] == 0).all()


def test_the_class_of_a_whole_image_has_no_geometry():
    frame = {"image": example()["image"], "label": np.array([[7]], np.uint8)}
    generator = np.random.default_rng(0)
    for changed in (
        resize(frame, (14, 14)),
        resize(frame, (14, 14), fit="pad"),
        RandomCrop((4, 4))(frame, generator),
        RandomCrop((20, 20))(frame, generator),
        RandomScale(2.0, 3.0)(frame, generator),
        HorizontalFlip()(frame, generator),
    ):
        assert changed["label"].tolist() == [[7]]
    # A picture of one pixel is no such thing.
    pixel = {"image": np.zeros((1, 1, 3), np.uint8), "label": np.array([[7]], np.uint8)}
    assert resize(pixel, (2, 3))["label"].tolist() == [[7, 7, 7], [7, 7, 7]]


def test_crop_is_a_window_of_all_maps():
    seen = set()
    for seed in range(200):
        result = RandomCrop((4, 6))(example(), np.random.default_rng(seed))
        assert result["image"].shape == (4, 6, 3) and result["label"].shape == (4, 6)
        assert_aligned(result)
        seen.add(int(result["label"][0, 0]))
    assert seen == {row * 16 + column for row in range(4) for column in range(5)}  # every position occurs


def test_crop_extends_small_frames():
    result = RandomCrop((9, 6))(example(), np.random.default_rng(0))
    assert result["image"].shape == (9, 6, 3)
    assert_aligned(result)
    assert (result["image"][7:] == 0).all() and (result["label"][7:] == 255).all()
    assert (result["depth"][7:] == 0).all() and (result["disparity"][7:] == 0).all()
    assert (result["label"][:7] != 255).all()


def test_flip_mirrors_half_of_the_time():
    flipped = 0
    for seed in range(400):
        result = HorizontalFlip()(example(), np.random.default_rng(seed))
        assert_aligned(result)
        flipped += int(result["label"][0, 0]) == 9
    assert 160 < flipped < 240


def test_scale_keeps_the_aspect_ratio_and_its_bounds():
    heights = []
    for seed in range(100):
        result = RandomScale(0.5, 2.0)(example(40, 60), np.random.default_rng(seed))
        height, width = result["label"].shape
        assert result["image"].shape == (height, width, 3)
        assert abs(width - 1.5 * height) <= 1.5
        heights.append(height)
    assert 20 <= min(heights) < 24 and 76 < max(heights) <= 80


def test_the_shorter_side_takes_every_length_between_its_bounds():
    for height, width in ((20, 30), (30, 20)):
        sizes = [
            RandomShortSide(8, 12)(example(height, width), np.random.default_rng(seed))["image"].shape[:2]
            for seed in range(100)
        ]
        assert {min(size) for size in sizes} == {8, 9, 10, 11, 12}
        assert all(max(size) == round(1.5 * min(size)) for size in sizes if min(size) % 2 == 0)
        assert all((size[0] > size[1]) == (height > width) for size in sizes)


def test_draws_do_not_depend_on_the_maps():
    whole, bare = np.random.default_rng(5), np.random.default_rng(5)
    labelled, image = example(30, 40), {"image": example(30, 40)["image"]}
    for step in (RandomScale(0.5, 1.5), RandomShortSide(20, 30), RandomCrop((16, 16)), HorizontalFlip()):
        labelled, image = step(labelled, whole), step(image, bare)
    np.testing.assert_array_equal(labelled["image"], image["image"])
