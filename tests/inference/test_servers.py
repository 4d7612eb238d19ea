"""What is handed in to test servers: names, ids, and that an archive read again gives the labels."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.io.images import read_label
from uda_jax.data.labels.label_spaces import CLASS_NAMES, lookup_table
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference import servers
from uda_jax.inference.predict import Wanted, predict_folder

CITYSCAPES = ("berlin/berlin_000000_000019_leftImg8bit", "bonn/bonn_000001_000019_leftImg8bit")
GOPRO = ("night/test/GOPR0475/GOPR0475_frame_000247_rgb_anon", "fog/test/GOPR0476/GOPR0476_frame_000854_rgb_anon")
BDD = ("ac6d4f42-00000000", "ac6d4f42-0000001a")


def columns(images, size, reduce):
    """Predicts column x as class x modulo 19."""
    classes = np.broadcast_to(np.arange(size[1]) % 19, (len(images), *size))
    return reduce({"scores": 4 * np.eye(19, dtype=np.float32)[classes]})


def export(tmp_path, server, names, ending=".png", classes=CLASS_NAMES):
    for name in names:
        path = tmp_path / "in" / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 40, 3), 90, np.uint8)).save(path)
    return predict_folder(
        columns,
        tmp_path / "in",
        tmp_path / "out",
        domain=Domain(size=(2, 20)),
        palette=np.zeros((19, 3), np.uint8),
        classes=classes,
        wanted=Wanted(("labels",), server=server),
    )


@pytest.mark.parametrize(
    ("server", "names", "ending", "folder", "expected"),
    [
        ("cityscapes", CITYSCAPES, ".png", "", 1525),
        ("acdc", GOPRO, ".png", "labelTrainIds/", 2000),
        ("dark_zurich", GOPRO, ".png", "labelTrainIds/", 151),
        ("bdd100k", BDD, ".jpg", "", 2000),
    ],
)
def test_an_archive_read_again_gives_the_labels(server, names, ending, folder, expected, tmp_path):
    summary = export(tmp_path, server, names, ending)
    assert f"2 frames for the server of {server}, but the server expects the {expected} frames" in str(summary)
    with zipfile.ZipFile(tmp_path / "out" / f"{server}.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    stems = [name.rpartition("/")[2] for name in names]
    own = [name for name in files if name.rpartition("/")[0] == folder.rstrip("/")]
    assert sorted(own) == sorted(f"{folder}{stem}.png" for stem in stems)
    for stem in stems:
        stored = Image.open(io.BytesIO(files[f"{folder}{stem}.png"]))
        assert stored.mode == "L" and stored.size == (40, 4)
        (tmp_path / "one.png").write_bytes(files[f"{folder}{stem}.png"])
        ids = read_label(tmp_path / "one.png")
        labels = lookup_table("cityscapes", "19")[ids] if server == "cityscapes" else ids
        relative = next(name for name in names if name.endswith(stem))
        np.testing.assert_array_equal(labels, read_label(tmp_path / "out" / f"{relative}.png"))
        assert labels[0].tolist() == [x % 19 for x in range(40)]


def test_dark_zurich_gets_confidences_too(tmp_path):
    export(tmp_path, "dark_zurich", GOPRO[:1])
    stem = GOPRO[0].rpartition("/")[2]
    with zipfile.ZipFile(tmp_path / "out" / "dark_zurich.zip") as archive:
        assert archive.namelist() == [
            f"{f}/{stem}.png" for f in ("labelTrainIds", "labelTrainIds_invalid", "confidence")
        ]
        labels, same, confidence = (np.asarray(Image.open(archive.open(name))) for name in archive.namelist())
    np.testing.assert_array_equal(labels, same)
    share = np.exp(4) / (np.exp(4) + 18)
    assert confidence.dtype == np.uint16 and np.abs(confidence / 65535 - share).max() < 1e-4


def test_a_second_call_makes_the_archive_of_what_exists(tmp_path):
    export(tmp_path, "cityscapes", CITYSCAPES)
    (tmp_path / "out" / "cityscapes.zip").unlink()
    assert export(tmp_path, "cityscapes", CITYSCAPES).skipped == 2
    with zipfile.ZipFile(tmp_path / "out" / "cityscapes.zip") as archive:
        assert len(archive.namelist()) == 2


def test_no_archive_lacks_an_image_that_could_not_be_read(tmp_path):
    broken = tmp_path / "in" / f"{CITYSCAPES[0]}.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no picture")
    summary = export(tmp_path, "cityscapes", CITYSCAPES[1:])
    assert "cityscapes.zip: not written, since images could not be read" in str(summary)
    assert not (tmp_path / "out" / "cityscapes.zip").exists()


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        ((*CITYSCAPES, "frame_1"), CLASS_NAMES, "expected images named like berlin_000000_000019_leftImg8bit.png, got"),
        ((CITYSCAPES[0], f"x/{CITYSCAPES[0]}"), CLASS_NAMES, "expected each frame once"),
        (CITYSCAPES, ("road", "tree"), r"expected classes of Cityscapes, got \['tree'\]"),
    ],
)
def test_what_a_server_would_refuse_is_refused(names, classes, words, tmp_path):
    with pytest.raises(UserError, match=f"--server cityscapes: {words}"):
        export(tmp_path, "cityscapes", names, classes=classes)
    assert not (tmp_path / "out").exists()


def test_every_server_has_an_example_that_fits():
    import re

    for server in servers.SERVERS.values():
        assert re.fullmatch(server.image, server.example.rpartition(".")[0])
