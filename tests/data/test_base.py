"""The table of maps: every kind of map goes through crops, scales, flips, batches and padding as its row says."""

import numpy as np
import pytest

from uda_jax.data import base
from uda_jax.data.base import MAPS, Dataset, MapSpec
from uda_jax.data.frames import FrameFiles, by_name, pair
from uda_jax.data.io.archives import Tree
from uda_jax.data.io.png import write_png
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import evaluation_batches, train_stream
from uda_jax.data.pipeline.transforms import HorizontalFlip, RandomCrop, RandomScale, resize
from uda_jax.errors import UserError

FIELDS = ("image", "label", "image_right", "intrinsics", "baseline", "distrust")
HEIGHT, WIDTH = 8, 12
# fx, fy = 8, 16 pixels; the principal point is 4.5 columns and 3 rows from the outer corner of the first pixel.
CAMERA = np.array([8 / 12, 16 / 8, 4.5 / 12, 3 / 8], np.float32)


def stereo_frame(index=0):
    """A frame whose maps hold their own row and column: nearest resampling of any keeps them aligned."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    code = rows * 16 + columns
    return {
        "image": np.stack([rows, columns, code], axis=-1),
        "label": code,
        "image_right": np.stack([code, columns, rows], axis=-1),
        "intrinsics": CAMERA,
        "baseline": np.float32(0.5),
        "distrust": code.astype(np.float32) / 256,
        "name": f"n{index}",
        "index": index,
    }


class Always:
    """A generator whose draws are given."""

    def __init__(self, *draws):
        self._draws = list(draws)

    def integers(self, *_, **__):
        return self._draws.pop(0)

    def uniform(self, *_):
        return self._draws.pop(0)

    def random(self):
        return self._draws.pop(0)


@pytest.fixture
def opened(in_memory, monkeypatch):
    """Lets a domain open given frames as its data set."""

    def give(frames):
        dataset = in_memory(frames)
        monkeypatch.setattr(domains, "open_dataset", lambda *_, **__: dataset)
        return dataset

    return give


def test_a_crop_moves_the_principal_point():
    frame = RandomCrop((4, 6))(stereo_frame(), Always(2, 5))
    np.testing.assert_allclose(frame["intrinsics"], [8 / 6, 16 / 4, (4.5 - 5) / 6, (3 - 2) / 4], rtol=1e-6)
    assert frame["intrinsics"].dtype == np.float32 and frame["baseline"] == np.float32(0.5)
    # A smaller frame is extended at the bottom and the right.
    extended = RandomCrop((16, 24))(stereo_frame(), Always(0, 0))
    np.testing.assert_allclose(extended["intrinsics"], [8 / 24, 16 / 16, 4.5 / 24, 3 / 16], rtol=1e-6)


def test_a_scale_leaves_the_camera_as_a_share_of_the_image():
    np.testing.assert_array_equal(RandomScale(2, 2)(stereo_frame(), Always(2.0))["intrinsics"], CAMERA)
    np.testing.assert_array_equal(resize(stereo_frame(), (4, 12))["intrinsics"], CAMERA)
    # 8x12 into 20x24: doubled to 16x24 at the top left.
    padded = resize(stereo_frame(), (20, 24), fit="pad")["intrinsics"]
    np.testing.assert_allclose(padded, [8 / 12, 32 / 20, 4.5 / 12, 6 / 20], rtol=1e-6)


def test_a_flip_mirrors_the_principal_point_and_puts_the_right_camera_to_the_left():
    flipped = HorizontalFlip()(stereo_frame(), Always(0.9))
    np.testing.assert_allclose(flipped["intrinsics"], [8 / 12, 16 / 8, 1 - 4.5 / 12, 3 / 8], rtol=1e-6)
    assert flipped["baseline"] == np.float32(-0.5) and flipped["baseline"].dtype == np.float32
    frame = stereo_frame()
    assert HorizontalFlip()(frame, Always(0.1)) is frame


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_point_in_space_stays_on_its_pixel(mirrored):
    # (0.5, -0.0625, 2) is seen 8 * 0.25 + 4.5 = 6.5 columns and 16 * -0.03125 + 3 = 2.5 rows from the corner.
    frame = stereo_frame() | {"label": np.zeros((HEIGHT, WIDTH), np.uint8)}
    frame["label"][2, 6] = 1
    frame = resize(frame, (3 * HEIGHT, 3 * WIDTH))
    frame = RandomCrop((12, 18))(frame, Always(3, 11))
    frame = HorizontalFlip()(frame, Always(0.9 if mirrored else 0.1))
    rows, columns = np.nonzero(frame["label"] == 1)
    fx, fy, u0, v0 = frame["intrinsics"] * [18, 12, 18, 12]
    seen = fx * (-0.25 if mirrored else 0.25) + u0, fy * -0.03125 + v0
    np.testing.assert_allclose(seen, [columns.mean() + 0.5, rows.mean() + 0.5], rtol=0, atol=1e-5)


def test_every_map_travels_through_a_training_stream(opened):
    opened([stereo_frame(k) for k in range(3)])
    # Enlarging by whole factors with nearest neighbours would keep codes; bicubic pictures are compared by their peers.
    domain = Domain(dataset="folder", fields=FIELDS, scale=(1.0, 2.0), crop=(9, 13), flip=True)
    stream = train_stream({"target_bdd": domain}, global_batch=2, seed=1)
    batches = [next(stream)["target_bdd"] for _ in range(20)]
    stream.close()
    focal_lengths, baselines = set(), set()
    for batch in batches:
        assert {field: (batch[field].dtype, batch[field].shape) for field in batch if field != "index"} == {
            field: (MAPS[field].dtype, MAPS[field].shape((9, 13), (2,))) for field in FIELDS
        }
        inside = batch["label"] != 255
        np.testing.assert_array_equal(batch["distrust"][inside], batch["label"][inside].astype(np.float32) / 256)
        assert (batch["distrust"][~inside] == 1).all()
        # The right image holds the same channels in another order, and is resampled by the same rule.
        np.testing.assert_array_equal(batch["image_right"][..., ::-1], batch["image"])
        # What is mirrored shows in the columns, which the second channel holds.
        mirrored = np.sign(np.diff(batch["image"][:, 0, :, 1].astype(int))).sum(axis=1) < 0
        np.testing.assert_array_equal(batch["baseline"], np.where(mirrored, np.float32(-0.5), np.float32(0.5)))
        baselines |= set(batch["baseline"].tolist())
        focal_lengths |= set((13 * batch["intrinsics"][:, 0]).tolist())
    assert baselines == {-0.5, 0.5}
    assert len(focal_lengths) > 5 and min(focal_lengths) > 7.99 and max(focal_lengths) < 16.01


def test_maps_do_not_change_what_is_drawn(opened):
    opened([stereo_frame(k) for k in range(3)])
    images = []
    for fields in (("image",), FIELDS):
        domain = Domain(dataset="folder", fields=fields, scale=(0.8, 2.0), crop=(6, 7), flip=True)
        stream = train_stream({"source": domain}, global_batch=3, seed=0)
        images.append([next(stream)["source"]["image"] for _ in range(3)])
        stream.close()
    np.testing.assert_array_equal(*images)


def test_every_map_is_padded_for_evaluation(opened):
    dataset = opened([stereo_frame(k) for k in range(3)])
    for domain in (Domain(dataset="folder", fields=FIELDS, resize_label=False), dataset):
        last = list(evaluation_batches(domain, 2))[-1]
        assert last["index"].tolist() == [2, -1] and set(last) == {*FIELDS, "index"}
        for field in FIELDS:
            assert last[field].dtype == MAPS[field].dtype
            assert (last[field][1] == MAPS[field].fill).all() and not (last[field][0] == MAPS[field].fill).all()


def test_maps_that_are_scored_keep_their_size_beside_resized_images(opened):
    opened([stereo_frame()])
    domain = Domain(dataset="folder", fields=FIELDS, size=(16, 24), resize_label=False)
    (batch,) = evaluation_batches(domain, 1)
    assert batch["image"].shape == batch["image_right"].shape == (1, 16, 24, 3)
    assert batch["label"].shape == batch["distrust"].shape == (1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(batch["intrinsics"][0], CAMERA)


def test_a_new_map_is_one_row(opened, monkeypatch):
    monkeypatch.setitem(MAPS, "thermal", MapSpec(np.float32, (), "raster", "bilinear", -1, "degrees Celsius"))
    opened([stereo_frame(k) | {"thermal": np.full((HEIGHT, WIDTH), 20 + k, np.float32)} for k in range(3)])
    domain = Domain(dataset="folder", fields=("image", "thermal"), scale=(1.0, 1.5), crop=(12, 20), flip=True)
    domain.check("domain")
    stream = train_stream({"source": domain}, global_batch=4, seed=0)
    batch = next(stream)["source"]
    stream.close()
    for thermal, index in zip(batch["thermal"], batch["index"], strict=True):
        assert {-1, 20 + index} == set(thermal.ravel())


def test_an_unknown_map_is_named_and_never_dropped(opened, in_memory):
    opened([stereo_frame() | {"flow": np.zeros((HEIGHT, WIDTH), np.float32)}])
    message = "frame 'n0' holds the unknown map 'flow'.*a new map needs a row in uda_jax.data.base.MAPS"
    with pytest.raises(UserError, match=message):
        train_stream({"source": Domain(dataset="folder", fields=("image",))}, global_batch=1, seed=0)
    with pytest.raises(UserError, match=message):
        HorizontalFlip()(stereo_frame() | {"flow": np.zeros(3)}, Always(0.9))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("distrust", np.zeros((HEIGHT, WIDTH)), "expected float32 of HxW, got float64 of 8x12"),
        ("distrust", np.zeros((HEIGHT, WIDTH, 1), np.float32), "expected float32 of HxW, got float32 of 8x12x1"),
        ("image_right", np.zeros((HEIGHT, WIDTH), np.uint8), "expected uint8 of HxWx3, got uint8 of 8x12"),
        ("intrinsics", np.zeros((3, 3), np.float32), "expected float32 of 4, got float32 of 3x3"),
        ("baseline", 0.5, "expected float32 of one value, got float64 of one value"),
        ("label", np.uint8(3), "expected uint8 of HxW, got uint8 of one value"),
    ],
)
def test_a_map_of_another_kind_than_its_row_says(opened, field, value, message):
    opened([stereo_frame() | {field: value}])
    with pytest.raises(UserError, match=f"data.source: {field} of frame 'n0': {message}"):
        train_stream({"source": Domain(dataset="folder", fields=("image", field))}, global_batch=1, seed=0, path="data")


class Pairs(FrameFiles):
    """Stereo pairs in two folders, cameras as text."""

    def __init__(self, root):
        tree = Tree("pairs", root)
        maps = {
            field: by_name(tree.files(field, (ending,)), ending)
            for field, ending in (("image", ".png"), ("image_right", ".png"), ("intrinsics", ".txt"))
        }
        frames, problems = pair(maps.pop("image"), optional=("intrinsics",), **maps)
        super().__init__("streets", frames, "19", decoders={"intrinsics": self._camera}, problems=problems)

    @staticmethod
    def _camera(frame):
        return np.array(frame.files["intrinsics"].read_bytes().split(), np.float32)


def test_files_of_any_map_are_paired(tmp_path):
    for folder in ("image", "image_right", "intrinsics"):
        (tmp_path / folder).mkdir()
    for k in range(3):
        (tmp_path / "image" / f"f{k}.png").write_bytes(write_png(stereo_frame()["image"]))
        if k != 2:
            (tmp_path / "image_right" / f"f{k}.png").write_bytes(write_png(stereo_frame()["image_right"]))
    (tmp_path / "intrinsics" / "f1.txt").write_text("0.6666667 2 0.375 0.375")
    dataset = Pairs(tmp_path)
    assert dataset.maps == ("image", "image_right", "intrinsics")
    assert [problem.message.partition(": ")[2] for problem in dataset.problems] == [
        "there is no image_right of this frame; add it or remove the image"
    ]
    assert dataset.missing("image_right") == ["f2"] and dataset.missing("intrinsics") == ["f0", "f2"]
    assert set(dataset[0]) == {"image", "image_right", "name", "index"}
    np.testing.assert_array_equal(dataset[1]["image_right"], stereo_frame()["image_right"])
    np.testing.assert_array_equal(dataset.read(1, ("intrinsics",))["intrinsics"], CAMERA)
    assert set(dataset.files(1)) == {"image", "image_right", "intrinsics"} and dataset.label_files() == [None] * 3


def test_defaults_of_a_data_set(in_memory):
    dataset = in_memory([stereo_frame(k) for k in range(3)])
    assert dataset.maps == FIELDS and dataset.names() == ["n0", "n1", "n2"]
    assert dataset.has("distrust") and not dataset.has("depth")
    assert dataset.missing("depth") == ["n0", "n1", "n2"] and dataset.missing("label") == []
    assert set(dataset.read(1, ("baseline", "depth"))) == {"baseline", "name", "index"}
    assert dataset.stored(1, ("baseline",)) == dataset.read(1, ("baseline",))
    assert dataset.known == {0, 1, 2, 255} and dataset.table is None and dataset.files(0) == {}
    assert dataset.sequence(2) == ("n", 2) and in_memory([{"name": "last"}]).sequence(0) is None


def test_a_data_set_must_give_frames():
    with pytest.raises(TypeError, match="Silent must define __getitem__ or read"):
        type("Silent", (Dataset,), {})


def test_rows_are_what_transforms_can_follow():
    for name, spec in MAPS.items():
        assert spec.geometry in ("raster", "camera", "lateral", "none"), name
        assert spec.shape((4, 6), (2,)) == (2, *((4, 6) if spec.is_raster else ()), *spec.channels)
        base.check_map(name, np.full(spec.shape((4, 6)), spec.fill, spec.dtype), name)
