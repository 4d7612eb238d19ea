"""Predictions as a video, and as frames where videos cannot be written."""

import sys

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import open_dataset
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.predict import Wanted, predict_folder

PALETTE = np.array([(0, 0, 0), (200, 40, 40)], np.uint8)


def bright(images, size, reduce):
    """Predicts class 1 where the whole image is bright."""
    classes = np.broadcast_to((images.mean((1, 2, 3)) > 127)[:, None, None], (len(images), *size)).astype(int)
    return reduce({"scores": np.eye(2, dtype=np.float32)[classes]})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        value = 255 if number % 2 else 0
        Image.fromarray(np.full((33, 48, 3), value, np.uint8)).save(tmp_path / "in" / f"{number}.png")
    return tmp_path


def predict(folder, kinds=("labels", "colours"), source="in", **options):
    wanted = Wanted(kinds, video=True, **options)
    return predict_folder(
        bright, folder / source, folder / "out", domain=Domain(), palette=PALETTE, batch_size=2, wanted=wanted
    )


def test_pictures_become_frames_in_their_order(folder):
    pytest.importorskip("av")
    predict(folder, rate=10.0)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *(f"{number}.png" for number in range(6)),
        "in_colours.mp4",
    ]
    found = open_dataset("video", folder / "out" / "in_colours.mp4", "train", "own")
    assert len(found) == 6 and found.frame_rate == 10
    frames = [found.read(i, ("image",))["image"] for i in range(6)]
    assert all(frame.shape == (34, 48, 3) for frame in frames)  # an even number of rows
    assert [bool(frame[16, 16, 0] > 120) for frame in frames] == [False, True] * 3
    assert predict(folder, rate=10.0).skipped == 6
    # A video is read as well as written.
    predict(folder, kinds=("overlay",), source="out/in_colours.mp4", rate=None)
    again = open_dataset("video", folder / "out" / "in_colours_overlay.mp4", "train", "own")
    assert len(again) == 6 and again.frame_rate == 10


def test_frames_of_another_size_are_refused_and_nothing_is_half_written(folder):
    pytest.importorskip("av")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "in" / "9.png")
    with pytest.raises(UserError, match="9: 20x20 pixels do not fit into in_colours.mp4.* with --size 48x33"):
        predict(folder)
    assert not [path for path in (folder / "out").iterdir() if "mp4" in path.name]
    predict(folder, size=(16, 16), again=True)
    assert (folder / "out" / "in_colours.mp4").exists()


def test_frames_are_written_where_no_video_can_be(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    summary = predict(folder)
    assert "frames are written instead of a video, which needs PyAV" in str(summary)
    assert (folder / "out" / "0_colours.png").exists() and not list((folder / "out").glob("*.mp4"))


def test_a_video_of_nothing_to_see_is_refused(folder):
    with pytest.raises(UserError, match="--video: expected --write with colours or overlay"):
        predict(folder, kinds=("labels",))
