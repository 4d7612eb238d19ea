"""The rendered streets: geometry held to hand formulas, the two looks, depth, and the cache under damage and races."""

import dataclasses
import errno
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from uda_jax.cli import main
from uda_jax.data import get_dataset, rendering
from uda_jax.data.datasets import streets
from uda_jax.data.datasets.streets import SPLITS, Streets
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.prepare.command import prepare
from uda_jax.data.rendering import layout, motion, render, render_drive, render_neighbours, render_stereo, stereo
from uda_jax.data.rendering.looks import LOOKS
from uda_jax.data.rendering.raster import Camera, rotation
from uda_jax.data.rendering.record_cache import RecordCache
from uda_jax.errors import UserError

SIZE = (48, 96)


def reproject(source, target, translation, yaw=0.0):
    """Looks up the points of `source` in a camera moved by `translation` (right, down, forward), then turned right.

    Returns (depth expected, depth seen, label expected, label seen) of the points that land inside the other image
    within 0.1 pixel of a pixel's centre, so that no tolerance for rounding to the grid is needed.
    """
    k = source.intrinsics
    rows, columns = np.nonzero(source.depth > 0)
    depth = source.depth[rows, columns].astype(float)
    points = np.stack([(columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1], np.ones_like(depth)]) * depth
    points = points - np.asarray(translation)[:, None]
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    x, y, z = turn @ points
    u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    height, width = target.depth.shape
    kept = (
        (z > 0.5)
        & (row >= 0)
        & (row < height)
        & (column >= 0)
        & (column < width)
        & (np.hypot(u - column, v - row) < 0.1)
    )
    row, column = row[kept], column[kept]
    return z[kept], target.depth[row, column], source.label[rows[kept], columns[kept]], target.label[row, column]


def assert_consistent(source, target, translation, yaw=0.0, tolerance=0.03):
    expected, seen, label, label_seen = reproject(source, target, translation, yaw)
    assert len(expected) > 100
    # A point of the source may be hidden in the target (something nearer), never missing (something farther):
    # only pixels on an outline differ by the tenth of a pixel.
    visible = seen > expected * (1 - tolerance)
    visible &= seen > 0
    assert visible.mean() > 0.75
    assert (np.abs(seen[visible] / expected[visible] - 1) < tolerance).mean() > 0.97
    assert (label[visible] == label_seen[visible]).mean() > 0.97


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_equal_arguments_give_equal_bytes(look):
    first, second = render(look, 7, SIZE), render(look, 7, SIZE)
    for field in ("image", "label", "depth"):
        assert getattr(first, field).tobytes() == getattr(second, field).tobytes()
    other = render(look, 8, SIZE)
    assert (other.label != first.label).mean() > 0.05


@pytest.mark.parametrize("size", [(96, 192), (64, 64), (33, 75), (128, 512)])
def test_any_size(size):
    frame = render("camera", 3, size)
    assert frame.image.shape == (*size, 3) and frame.image.dtype == np.uint8
    assert frame.label.shape == size and frame.label.dtype == np.uint8
    assert frame.depth.shape == size and frame.depth.dtype == np.float32
    np.testing.assert_allclose(
        frame.intrinsics, [[0.8 * size[1], 0, (size[1] - 1) / 2], [0, 0.8 * size[1], (size[0] - 1) / 2], [0, 0, 1]]
    )


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_depth_of_the_ground_is_the_hand_formula(look):
    """A road seen from height h with pitch p: depth = h / (sin p + y cos p), y = (row - cy) / fy, whatever the yaw."""
    frame = render(look, 5)
    _, height, _, pitch = layout.build(LOOKS[look], 5).camera
    rows, columns = np.nonzero(np.isin(frame.label, (0, 1, 9)))
    y = (rows - frame.intrinsics[1, 2]) / frame.intrinsics[1, 1]
    np.testing.assert_allclose(frame.depth[rows, columns], height / (np.sin(pitch) + y * np.cos(pitch)), rtol=2e-4)


def test_sky_alone_has_no_depth():
    frame = render("simulator", 11)
    np.testing.assert_array_equal(frame.depth == 0, frame.label == 10)
    assert (frame.label == 10).any() and frame.depth.max() < 400


def test_camera_axes():
    """x right, y down, z forward; a yaw turns right, a pitch down."""
    np.testing.assert_allclose(rotation(0, 0) @ [1, 2, 3], [1, -2, 3])
    np.testing.assert_allclose(rotation(np.pi / 2, 0) @ [1, 0, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation(0, np.pi / 2) @ [0, -1, 0], [0, 0, 1], atol=1e-12)
    camera = Camera((4, 6), rendering.intrinsics((4, 6)), np.zeros(3), np.eye(3))
    np.testing.assert_allclose(camera.rays(np.array([1.5]), np.array([2.5])), [[0], [0]], atol=1e-7)


@pytest.mark.parametrize("look", sorted(LOOKS))
@pytest.mark.parametrize("seed", [0, 1])
def test_stereo_reprojects(look, seed):
    left, right = render_stereo(look, seed, (96, 192), baseline=0.5)
    assert_consistent(left, right, (0.5, 0.0, 0.0))
    assert_consistent(right, left, (-0.5, 0.0, 0.0))


@pytest.mark.parametrize("offset, yaw", [((0.0, -0.4, 0.0), 0.0), ((0.3, 0.2, 0.8), 0.1), ((0.0, 0.0, 0.0), -0.2)])
def test_moved_camera_reprojects(offset, yaw):
    source, target = render("camera", 4), render("camera", 4, camera_offset=offset, yaw_offset=yaw)
    if yaw:
        # A yaw about the vertical is one about the camera's y axis only without pitch: undo the pitch in the formula.
        pitch = layout.build(LOOKS["camera"], 4).camera[3]
        tilt = rotation(0, pitch) @ rotation(yaw, pitch).T
        expected, seen, label, label_seen = _reproject_turned(source, target, offset, tilt)
        visible = seen > expected * 0.97
        assert visible.mean() > 0.75 and (np.abs(seen[visible] / expected[visible] - 1) < 0.03).mean() > 0.97
        assert (label[visible] == label_seen[visible]).mean() > 0.97
    else:
        assert_consistent(source, target, offset)


def _reproject_turned(source, target, offset, back):
    """`reproject` for a general rotation: `back` maps axes of the target camera to those of the source."""
    k = source.intrinsics
    rows, columns = np.nonzero(target.depth >= 0)
    rays = (
        np.stack([(columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1], np.ones(len(rows))])
        * target.depth[rows, columns]
    )
    x, y, z = back @ rays + np.asarray(offset)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
    good = np.isfinite(u) & (z > 0.5) & (target.depth[rows, columns] > 0)
    rows, columns, u, v, z = rows[good], columns[good], u[good], v[good], z[good]
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    height, width = source.depth.shape
    kept = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (np.hypot(u - column, v - row) < 0.1)
    row, column = row[kept], column[kept]
    return z[kept], source.depth[row, column], target.label[rows[kept], columns[kept]], source.label[row, column]


def test_textures_stick_to_surfaces_and_noise_does_not():
    """The right image fetched by the left one's disparity fits far better than unshifted, yet not exactly."""
    left, right = render_stereo("camera", 0, (96, 192), baseline=0.5, condition="day")
    disparity = np.where(left.depth > 0, left.intrinsics[0, 0] * 0.5 / np.maximum(left.depth, 0.1), 0)
    columns = np.rint(np.arange(192)[None] - disparity).astype(int)
    near = (disparity > 3) & (columns >= 0)
    rows = np.nonzero(near)[0]
    warped = right.image[rows, columns[near]].astype(float)
    error = np.abs(warped - left.image[near]).mean()
    assert 0 < error < 0.7 * np.abs(right.image[near].astype(float) - left.image[near]).mean()


def test_drive_moves_through_one_world():
    frames = render_drive("simulator", 2, (96, 192), frames=4, speed=0.5)
    assert len(frames) == 4
    pitch = layout.build(LOOKS["simulator"], 2).camera[3]
    _, _, yaw, _ = layout.build(LOOKS["simulator"], 2).camera
    assert_consistent(frames[0], frames[3], rotation(yaw, pitch) @ [0, 0, 1.5])


def test_a_longer_street_begins_like_a_shorter_one():
    short, long_ = (layout.build(LOOKS["camera"], 9, length=length) for length in (100.0, 200.0))
    near = [
        {tuple(row) for row in np.round(street.position[street.position[:, 1] < 90], 4)} for street in (short, long_)
    ]
    assert near[0] == near[1] and len(near[0]) > 50


def test_classes_and_conditions_of_the_looks():
    for look, conditions in (("simulator", {"clean"}), ("camera", {"day", "dusk", "fog", "night"})):
        frames = [render(look, seed, SIZE) for seed in range(60)]
        counts = sum(np.bincount(frame.label.ravel(), minlength=256) for frame in frames)
        # All of Cityscapes but trains.
        assert set(np.flatnonzero(counts)) == set(range(19)) - {16}
        assert {frame.condition for frame in frames} == conditions
    assert (
        render("camera", 0, SIZE, condition="night").image.mean()
        < 0.6 * render("camera", 0, SIZE, condition="day").image.mean()
    )


def test_user_errors_of_the_renderer():
    with pytest.raises(UserError, match="unknown look 'film'; known: camera, simulator"):
        render("film", 0)
    with pytest.raises(UserError, match="no condition 'night'; known: clean"):
        render("simulator", 0, condition="night")
    with pytest.raises(UserError, match="at least 2x2"):
        render("simulator", 0, (1, 5))


def test_dataset_gives_what_the_renderer_draws(tmp_path, capsys):
    dataset = Streets(tmp_path, "camera_val", size=SIZE, limit=3)
    told = capsys.readouterr().err
    assert "streets: rendering camera_val at 48x96: 100%" in told and " 3/3 " in told and "frames/s" in told
    assert len(dataset) == 3 and dataset.name(2) == "camera_val_00002"
    example, frame = dataset[2], render("camera", SPLITS["camera_val"][1] + 2, SIZE)
    assert sorted(example) == ["depth", "image", "index", "label", "name"]
    for field in ("image", "label", "depth"):
        np.testing.assert_array_equal(example[field], getattr(frame, field))
        assert example[field].dtype == getattr(frame, field).dtype
    assert example["name"] == "camera_val_00002" and example["index"] == 2
    np.testing.assert_array_equal(dataset.intrinsics, frame.intrinsics)
    assert dataset.label_space.names[13] == "car"
    with pytest.raises(IndexError):
        dataset[3]
    # The second opening renders nothing.
    assert get_dataset("streets", tmp_path, "camera_val", size=SIZE, limit=3)[2]["name"] == "camera_val_00002"
    assert capsys.readouterr().err == ""


def test_label_protocols_share_one_cache(tmp_path):
    full, merged = (Streets(tmp_path, "camera_val", space, size=SIZE, limit=1) for space in ("19", "7"))
    assert full.folder == merged.folder
    assert set(np.unique(merged[0]["label"])) <= {*range(7), 255}


@pytest.mark.parametrize("split", ["simulator_dev", "camera_labelled"])
def test_stereo_depth_replaces_the_exact_one(tmp_path, capsys, split):
    exact, measured = (Streets(tmp_path, split, size=SIZE, limit=2, depth=depth) for depth in ("exact", "stereo"))
    told = capsys.readouterr().err
    assert f"streets: rendering {split} at 48x96" in told and " 2/2 " in told and "stereo pairs/s" in told
    assert exact.folder != measured.folder
    for one, other in zip(exact, measured, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])
        assert one["name"] == other["name"] and other["depth"].dtype == np.float32
        both = (one["depth"] > 0) & (other["depth"] > 0)
        assert 0.3 < both.mean() and (other["depth"] == 0).any()
        assert 0 < np.median(np.abs(other["depth"][both] / one["depth"][both] - 1)) < 0.12
    assert Streets(tmp_path, split, size=SIZE, limit=2, depth="stereo").folder == measured.folder
    assert capsys.readouterr().err == ""


def test_stereo_depth_sees_the_images_alone(tmp_path, monkeypatch):
    honest = Streets(tmp_path / "honest", "camera_dev", size=SIZE, limit=1, depth="stereo")[0]
    draw = rendering.render

    def lying(*arguments, **options):
        frame = draw(*arguments, **options)
        return dataclasses.replace(frame, depth=np.full(SIZE, 7, np.float32), label=np.zeros(SIZE, np.uint8))

    monkeypatch.setattr("uda_jax.data.rendering.frames.render", lying)
    lied_to = Streets(tmp_path / "lied_to", "camera_dev", size=SIZE, limit=1, depth="stereo")[0]
    assert not lied_to["label"].any()
    np.testing.assert_array_equal(lied_to["depth"], honest["depth"])


def test_stereo_depth_leaves_caches_of_exact_depth_valid(tmp_path, monkeypatch):
    """The name under which frames with exact depth have always been stored; a new renderer gives a new one."""
    monkeypatch.setattr(RecordCache, "make", lambda *_: None)
    assert Streets(tmp_path, "camera_train").folder.name == "camera_train-2000-96x192-08e9a7d2c904"


def test_stereo_depth_is_an_option_of_the_commands(tmp_path, capsys):
    options = {"depth": "stereo", "limit": 1, "size": list(SIZE)}
    words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    cache, out = tmp_path / "cache", tmp_path / "out"
    common = ["streets", "--root", str(cache), "--split", "camera_dev", *words]
    assert main(["check", *common, "--workers", "0"]) == 0
    assert main(["prepare", *common, "--out", str(out), "--workers", "1"]) == 0
    prepared = get_dataset("streets", out, "camera_dev", **options)[0]
    np.testing.assert_array_equal(prepared["depth"], Streets(cache, "camera_dev", **options)[0]["depth"])
    assert len(os.listdir(cache)) == 1
    with pytest.raises(UserError, match="option 'depth': .* was prepared with 'stereo', got 'exact'"):
        get_dataset("streets", out, "camera_dev", depth="exact")


def test_processes_and_one_process_write_the_same_frames(tmp_path):
    alone, together = (
        Streets(tmp_path / name, "simulator_dev", size=(24, 48), limit=12, workers=n)
        for name, n in (("a", 1), ("b", 2))
    )
    for i in range(12):
        np.testing.assert_array_equal(alone[i]["image"], together[i]["image"])


def test_pickling_keeps_the_file_closed(tmp_path):
    dataset = Streets(tmp_path, "simulator_train", size=SIZE, limit=2)
    data = pickle.dumps(dataset)
    assert len(data) < 20_000
    np.testing.assert_array_equal(pickle.loads(data)[1]["label"], dataset[1]["label"])


def test_labelled_frames_are_training_frames(tmp_path):
    look, first, indices = SPLITS["camera_labelled"]
    assert (look, first) == SPLITS["camera_train"][:2] and len(set(indices)) == 50 and max(indices) < 2000
    frames = Streets(tmp_path, "camera_labelled", size=(96, 192))
    counts = sum(np.bincount(frames[i]["label"].ravel(), minlength=256) for i in range(50))
    # Every class, and none by a few stray pixels.
    assert set(np.flatnonzero(counts > 100)) == set(range(19)) - {16}
    assert frames.name(1) == f"camera_train_{indices[1]:05d}"


def test_user_errors_of_the_dataset(tmp_path):
    with pytest.raises(UserError, match="unknown split 'train'; known: camera_dev, camera_labelled, camera_train"):
        Streets(tmp_path, "train")
    with pytest.raises(UserError, match="unknown protocol '12'"):
        Streets(tmp_path, "camera_val", "12")
    with pytest.raises(UserError, match="depth: expected one of exact, stereo, got 'lidar'"):
        Streets(tmp_path, "camera_val", depth="lidar")
    with pytest.raises(UserError, match="limit: expected an integer >= 1, got 0"):
        Streets(tmp_path, "camera_val", limit=0)


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damaged_cache_names_the_folder(tmp_path, damage):
    folder = Streets(tmp_path, "camera_val", size=SIZE, limit=2).folder
    path = folder / "frames.array_record"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:100])
    else:
        for k in range(300, 20_000, 50):
            data[k] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(UserError, match="cannot read .*frames.array_record.*delete the folder"):
        dataset = Streets(tmp_path, "camera_val", size=SIZE, limit=2)
        [dataset[i] for i in range(2)]


def test_a_record_of_another_kind_is_refused():
    with pytest.raises(ValueError):
        streets.decode(b"STR1" + bytes(40), SIZE)


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def no_space(*job):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streets, "_frame", no_space)
    with pytest.raises(UserError, match="no space left"):
        Streets(tmp_path, "camera_val", size=SIZE, limit=2)
    assert os.listdir(tmp_path) == []


def test_interrupted_rendering_is_not_taken_for_a_cache(tmp_path, monkeypatch):
    def interrupted(*job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streets, "_frame", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Streets(tmp_path, "camera_val", size=SIZE, limit=2)
    assert len(Streets(tmp_path, "camera_val", size=SIZE, limit=2)) == 2


def _open_in_process(root):
    return Streets(root, "camera_val", size=SIZE, limit=2)[1]["label"].sum()


def test_two_processes_may_race(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_open_in_process, [tmp_path, tmp_path])
    assert first == second
    assert len(os.listdir(tmp_path)) == 1


def test_new_constants_of_a_look_make_a_new_cache(tmp_path, monkeypatch):
    folders = [Streets(tmp_path, "camera_val", size=SIZE, limit=1).folder]
    monkeypatch.setitem(LOOKS, "camera", dataclasses.replace(LOOKS["camera"], texture=0.5))
    folders.append(Streets(tmp_path, "camera_val", size=SIZE, limit=1).folder)
    monkeypatch.setattr(rendering, "RENDERER_VERSION", "streets-0")
    folders.append(Streets(tmp_path, "camera_val", size=SIZE, limit=1).folder)
    folders.append(Streets(tmp_path, "camera_val", size=SIZE, limit=1, depth="stereo").folder)
    monkeypatch.setattr(stereo, "MATCHER_VERSION", "matcher-0")
    folders.append(Streets(tmp_path, "camera_val", size=SIZE, limit=1, depth="stereo").folder)
    assert len(set(folders)) == 5


VIEWS = ("image_previous", "image_next", "image_right", "intrinsics", "baseline")


@pytest.mark.parametrize("split", ["simulator_dev", "camera_dev"])
def test_what_surrounds_a_frame_leaves_the_frame_as_it_is(tmp_path, split):
    plain = Streets(tmp_path, split, size=SIZE, limit=2)
    dataset = get_dataset("streets", tmp_path, split, size=SIZE, limit=2, fields=VIEWS)
    assert (dataset.folder, plain.maps, plain.rule) == (plain.folder, ("image", "label", "depth"), "")
    assert dataset.maps == ("image", "label", "depth", *VIEWS) and dataset.rule
    look, first, _ = SPLITS[split]
    previous, following = render_neighbours(look, first + 1, SIZE)
    left, right = render_stereo(look, first + 1, SIZE, streets.BASELINE)
    example = dataset.read(1, VIEWS)
    for field, frame in (("image_previous", previous), ("image_next", following), ("image_right", right)):
        np.testing.assert_array_equal(example[field], frame.image)
    np.testing.assert_array_equal(example["intrinsics"], np.float32([0.8, 1.6, 0.5, 0.5]))
    assert example["baseline"] == np.float32(streets.BASELINE)
    for field, value in plain[1].items():
        np.testing.assert_array_equal(dataset[1][field], value)
    np.testing.assert_array_equal(plain[1]["image"], left.image)


def test_only_what_is_asked_for_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "render_neighbours", None)
    dataset = get_dataset("streets", tmp_path, "camera_dev", size=SIZE, limit=1, fields=("image_right", "intrinsics"))
    assert sorted(dataset.read(0, ("intrinsics",))) == ["index", "intrinsics", "name"]
    assert sorted(folder.rpartition("-")[2] for folder in os.listdir(tmp_path) if folder.endswith("pair")) == ["pair"]
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("look", ["simulator", "camera"])
def test_points_stand_still_while_the_camera_drives(look):
    """Points of the frame, moved as `motion` says, are where the frames before and after have them."""
    frame = render(look, 5, (96, 192))
    k = frame.intrinsics
    rows, columns = np.nonzero(frame.depth > 0)
    depth = frame.depth[rows, columns]
    points = np.stack([(columns - k[0, 2]) / k[0, 0] * depth, (rows - k[1, 2]) / k[1, 1] * depth, depth, depth**0])
    for offset, other in zip((-1, 1), render_neighbours(look, 5, (96, 192)), strict=True):
        moved = motion(look, 5, offset)
        assert 0.5 <= np.linalg.norm(moved[:3, 3]) <= 1.0 and np.sign(moved[2, 3]) == -offset
        x, y, z = (moved @ points)[:3]
        u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
        near = (np.hypot(u - np.rint(u), v - np.rint(v)) < 0.1) & (z > 1)
        near &= (np.rint(u) >= 0) & (np.rint(u) < 192) & (np.rint(v) >= 0) & (np.rint(v) < 96)
        seen = other.depth[np.rint(v[near]).astype(int), np.rint(u[near]).astype(int)]
        assert near.sum() > 200 and np.mean(np.abs(seen / z[near] - 1) < 0.03) > 0.8


def test_a_prepared_street_has_no_neighbours_but_those_it_was_rendered_with(tmp_path):
    options, out = {"size": list(SIZE), "limit": 3}, tmp_path / "out"
    prepare("streets", tmp_path / "cache", out, split="camera_dev", options=options, workers=1)
    with pytest.raises(UserError, match="no frame has neighbours in time for image_next"):
        open_domain(Domain(root=str(out), split="camera_dev", fields=("image", "image_next")))
