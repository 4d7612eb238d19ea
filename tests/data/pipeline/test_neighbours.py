"""Frames with their neighbours in time."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.datasets import streets
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.neighbours import Neighbours
from uda_jax.data.pipeline.streams import evaluation_batches, train_stream
from uda_jax.data.pipeline.views import Selection
from uda_jax.errors import UserError

BOTH = {"image_previous": -1, "image_next": 1}


def frame(name, value):
    return {"image": np.full((2, 3, 3), value, np.uint8), "label": np.full((2, 3), value, np.uint8), "name": name}


@pytest.fixture
def drives(in_memory):
    """Two drives whose frames come mixed; of the second each fifth frame, but for one that is lost."""
    names = ["a/f_001", "b/010", "a/f_000", "a/f_002", "b/015", "a/f_003", "b/025", "b/030", "b/035", "still"]
    return in_memory(frame(name, k) | {"index": k} for k, name in enumerate(names))


def test_neighbours_are_one_step_apart_in_the_same_recording(drives):
    view = Neighbours(drives, BOTH)
    assert view.names() == ["a/f_001", "a/f_002", "b/030"]
    assert [
        [int(view[k][field][0, 0, 0]) for field in ("image_previous", "image", "image_next")] for k in range(3)
    ] == [
        [2, 0, 3],
        [0, 3, 5],
        [6, 7, 8],
    ]
    assert [view[k]["index"] for k in range(3)] == [0, 1, 2] and view[1]["label"][0, 0] == 3


def test_one_offset_keeps_more_frames(drives):
    assert Neighbours(drives, {"image_next": 1}).names() == ["a/f_001", "b/010", "a/f_000", "a/f_002", "b/025", "b/030"]
    assert Neighbours(drives, {"image_previous": -2}).names() == ["a/f_002", "a/f_003", "b/025", "b/035"]


def test_a_view_is_a_data_set(drives):
    view = Neighbours(drives, BOTH)
    assert view.maps == ("image", "label", "image_previous", "image_next")
    assert view.missing("image_next") == [] and view.missing("depth") == view.names()
    assert set(view.read(0, ("image_next",))) == {"image_next", "name", "index"}
    assert set(view.stored(0, ("label", "image_previous"))) == {"label", "image_previous", "name", "index"}
    chosen = Selection(view, [2])
    assert chosen.names() == ["b/030"] and chosen[0]["image_next"][0, 0, 0] == 8 and chosen[0]["index"] == 0


def test_without_neighbours(in_memory):
    with pytest.raises(UserError, match="no frame has neighbours in time for image_next; expected names that number"):
        Neighbours(in_memory([frame("a/1", 0), frame("b/2", 1)]), {"image_next": 1})


@pytest.fixture
def video(tmp_path):
    for drive, count in (("drive_1", 4), ("drive_2", 3)):
        (tmp_path / drive).mkdir()
        for k in range(count):
            Image.fromarray(np.full((4, 6, 3), 10 * int(drive[-1]) + k, np.uint8)).save(
                tmp_path / drive / f"{k:03d}.png"
            )
    return {"dataset": "video", "root": str(tmp_path), "label_space": "own"}


def test_a_domain_takes_neighbours_from_the_video(video):
    domain = Domain(fields=("image", "image_previous", "image_next"), crop=(3, 3), flip=True, **video)
    assert open_domain(domain).names() == ["drive_1/001", "drive_1/002", "drive_2/001"]
    stream = train_stream({"target": domain}, global_batch=3, seed=0)
    batch = next(stream)["target"]
    stream.close()
    middle = batch["image"].astype(int)
    np.testing.assert_array_equal(batch["image_previous"], middle - 1)
    np.testing.assert_array_equal(batch["image_next"], middle + 1)


def test_all_frames_stay_where_no_neighbour_is_asked_for(video):
    assert len(open_domain(Domain(fields=("image",), **video))) == 7
    (batch,) = evaluation_batches(Domain(fields=("image", "image_next"), **video), 8)
    assert batch["index"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]


def test_frames_without_an_order_have_no_neighbours(tmp_path):
    dataset = streets.Streets(tmp_path, "camera_val", size=(24, 48), limit=3)
    with pytest.raises(UserError, match="no frame has neighbours in time for image_next"):
        Neighbours(dataset, {"image_next": 1})
