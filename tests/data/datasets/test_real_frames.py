"""Real frames: what decoders and readers make of them, against sums, histograms and probes that two decoders gave."""

import hashlib

import numpy as np
import pytest
import vectors

from uda_jax.data import get_dataset, open_dataset
from uda_jax.data.datasets.cityscapes import disparity_metres, read_camera
from uda_jax.data.frames import Frame
from uda_jax.data.io.archives import File
from uda_jax.data.io.images import read_counts, read_image, read_label
from uda_jax.data.labels.label_spaces import lookup_table

GOLDEN = vectors.load("datasets/real_frames.npz")
KINDS = dict(zip(GOLDEN["path"].tolist(), GOLDEN["kind"].tolist(), strict=True))
# Which ids each kind of label file holds; no table exists for version 2.0 of Mapillary's.
TABLES = {
    "label_id34": lookup_table("cityscapes", "19"),
    "label_train19": lookup_table("bdd100k", "19"),
    "label_camvid11": lookup_table("camvid", "19"),
    "label_mapillary12": lookup_table("mapillary", "19"),
    "label_mapillary20": np.full(256, 255, np.uint8),
}


@pytest.fixture
def frames(shared):
    return shared / "data" / "real_frames"


def histogram19(label):
    counts = np.bincount(label.ravel(), minlength=256)
    assert not counts[19:255].any()
    return [*counts[:19], counts[255]]


def test_files_are_the_ones_that_were_measured(frames):
    for path, digest in zip(GOLDEN["path"], GOLDEN["sha256"], strict=True):
        assert hashlib.sha256((frames / path).read_bytes()).hexdigest() == digest, path


def test_label_histograms(frames):
    paths = GOLDEN["label_path"].tolist()
    assert len(paths) == 43 and {KINDS[path] for path in paths} == set(TABLES)
    for path, raw, train19 in zip(paths, GOLDEN["label_raw_hist"], GOLDEN["label_train19_hist"], strict=True):
        stored = read_label(frames / path)
        np.testing.assert_array_equal(np.bincount(stored.ravel(), minlength=256), raw, err_msg=path)
        np.testing.assert_array_equal(histogram19(TABLES[KINDS[path]][stored]), train19, err_msg=path)


def test_image_means_and_probes(frames):
    for path, mean, probe in zip(
        GOLDEN["image_path"].tolist(), GOLDEN["image_mean_rgb"], GOLDEN["image_probe_rgb"], strict=True
    ):
        image = read_image(frames / path)
        height, width = image.shape[:2]
        places = [height // 4, height // 2, 3 * height // 4], [width // 4, width // 2, 3 * width // 4]
        # JPEG decoders may differ a little; PNGs may not.
        off, off_mean = (2, 0.5) if path.endswith(".jpg") else (0, 1e-9)
        np.testing.assert_allclose(image[places].astype(int), probe.astype(int), rtol=0, atol=off, err_msg=path)
        np.testing.assert_allclose(image.reshape(-1, 3).mean(0), mean, rtol=0, atol=off_mean, err_msg=path)


@pytest.mark.parametrize("row", [0, 1])
def test_stereo_disparity(frames, row):
    path, expected = GOLDEN["disparity_path"][row].item(), GOLDEN["disparity_stats"][row]
    camera = File(frames / path.replace("disparity", "camera").replace("camera.png", "camera.json"))
    depth = disparity_metres(Frame("frame", {"depth": File(frames / path)}, camera))
    counts = read_counts(frames / path)
    baseline, focal_length = read_camera(camera)
    valid = depth > 0
    disparity = baseline * focal_length / depth[valid].astype(float)
    measured = [focal_length, baseline, (counts == 0).sum(), (counts == 1).sum(), valid.sum(), counts.max()]
    measured += [
        disparity.min(),
        disparity.max(),
        disparity.mean(),
        *np.percentile(depth[valid], [5, 25, 50, 75, 95]),
    ]
    measured += [np.minimum(depth[valid].astype(float), 655.35).mean(), counts[512, 1024], counts[700, 600]]
    np.testing.assert_allclose(measured, expected, rtol=1e-6)


def test_cityscapes_reader(frames):
    dataset = open_dataset("cityscapes", frames / "cityscapes", "train", depth="disparity")
    names = [dataset.name(k) for k in range(len(dataset))]
    assert names == ["aachen_000000_000019", "aachen_000001_000019", "zurich_000066_000019"]
    # Of the other labelled frames there are no images; two frames have no depth.
    assert {problem.field for problem in dataset.problems} == {"label", "depth"}
    example = dataset[1]
    assert example["image"].shape == (1024, 2048, 3)
    path = "cityscapes/gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png"
    (row,) = np.flatnonzero(GOLDEN["label_path"] == path)
    assert histogram19(example["label"]) == GOLDEN["label_train19_hist"][row].tolist()
    assert (example["depth"] > 0).sum() == GOLDEN["disparity_stats"][0, 4]
    val = open_dataset("cityscapes", frames / "cityscapes", "val")
    assert [val.name(k) for k in range(len(val))] == ["frankfurt_000001_073464"]


def test_small_cityscapes_frame(frames):
    dataset = get_dataset("cityscapes", frames / "cityscapes_small", "val")
    path = "cityscapes_small/gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png"
    (row,) = np.flatnonzero(GOLDEN["label_path"] == path)
    assert (len(dataset), dataset.name(0)) == (1, "frankfurt_000000_000294")
    assert histogram19(dataset[0]["label"]) == GOLDEN["label_train19_hist"][row].tolist()


def test_lists_of_the_shrunk_frames(shared):
    """Readers take the layouts of the downloads; what lacks a label is a problem of that map alone."""
    root = shared / "data" / "mini_gta2city" / "cityscapes"
    dataset = open_dataset("cityscapes", root, "train")
    unlabelled = ["cologne_000088_000019", "dusseldorf_000020_000019", "hamburg_000000_046078"]
    assert len(dataset) == 14 and dataset.missing("label") == unlabelled
    assert [(problem.frame, problem.field) for problem in dataset.problems] == [(name, "label") for name in unlabelled]
    assert len(get_dataset("cityscapes", root, "val")) == 2


def test_disparity_pixel_by_pixel(shared, frames):
    # Read where it lies: it holds crops of real frames, which may not be passed on.
    golden = vectors.load("datasets/resize.npz", elsewhere=shared / "golden")
    stem = "train/aachen/aachen_000001_000019"
    disparity, camera = (
        File(frames / "cityscapes" / f"{kind}/{stem}_{kind}.{ending}")
        for kind, ending in (("disparity", "png"), ("camera", "json"))
    )
    window = np.s_[500:532, 600:664]
    counts = read_counts(disparity)[window]
    np.testing.assert_array_equal(counts, golden["disparity_raw_crop"])
    depth = disparity_metres(Frame("frame", {"depth": disparity}, camera))[window]
    np.testing.assert_array_equal(depth > 0, golden["disparity_valid_crop"])
    np.testing.assert_allclose(depth, golden["depth_m_crop"], rtol=1e-6)
    pixels = np.where(counts == 0, 0, (counts.astype(np.float32) - 1) / 256)
    np.testing.assert_array_equal(pixels, golden["disparity_px_crop"])
