"""Images of a data set from another folder: translated ones, whose frames, labels and depth stay."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from uda_jax.cli import main
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.errors import UserError

SIZE = (6, 8)


@pytest.fixture
def domain(make_folder):
    """Three frames of 12x16 pixels with labels."""
    return Domain(dataset="folder", root=str(make_folder(3)), label_space="own")


@pytest.fixture
def translated(tmp_path):
    """Pictures of the three frames, of one colour each, and at half the size, as a network may have made them."""
    folder = tmp_path / "translated"
    folder.mkdir()
    for k, ending in enumerate(("png", "jpg", "png")):
        Image.new("RGB", (8, 6), (40 * k, 100, 200)).save(folder / f"f00{k}.{ending}")
    return folder


def test_images_are_those_of_the_folder_and_labels_stay(domain, translated):
    plain, other = open_domain(domain), open_domain(dataclasses.replace(domain, images_from=str(translated)))
    assert [other.name(k) for k in range(3)] == [plain.name(k) for k in range(3)]
    for k in range(3):
        example = other[k]
        assert example["image"].shape == (*SIZE, 3) and abs(int(example["image"][0, 0, 0]) - 40 * k) <= 2
        np.testing.assert_array_equal(example["label"], plain[k]["label"])
        assert set(other.read(k, ("label",))) == set(plain.read(k, ("label",)))
        assert other.files(k)["image"].path.parent == translated and other.files(k)["label"] == plain.files(k)["label"]


def test_a_stream_resizes_both_to_one_size(domain, translated):
    section = dataclasses.replace(domain, images_from=str(translated), size=SIZE)
    stream = train_stream({"source": section}, global_batch=3, seed=0)
    batch = next(stream)["source"]
    stream.close()
    labels = {k: np.array(Image.open(f"{domain.root}/train/labels/f00{k}.png").resize((8, 6), 0)) for k in range(3)}
    assert sorted(batch["index"]) == [0, 1, 2]
    for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True):
        assert abs(int(image[0, 0, 0]) - 40 * index) <= 2
        np.testing.assert_array_equal(label, labels[index])


def test_only_the_frames_that_are_kept_need_a_picture(domain, translated, tmp_path):
    (translated / "f001.jpg").unlink()
    section = dataclasses.replace(domain, images_from=str(translated))
    with pytest.raises(UserError, match="^domain: images_from: .*no picture of frame 'f001'; 1 of 3 frames have"):
        open_domain(section)
    (tmp_path / "list.txt").write_text("f002\nf000\n")
    assert len(open_domain(dataclasses.replace(section, names_file=str(tmp_path / "list.txt")))) == 2


def test_two_pictures_of_a_frame_and_an_absent_folder_are_named(domain, translated, tmp_path):
    Image.new("RGB", (8, 6)).save(translated / "f001.png")
    with pytest.raises(UserError, match=r"images_from: .*no picture of frame 'f001' \(.*shares the stem 'f001'"):
        open_domain(dataclasses.replace(domain, images_from=str(translated)))
    with pytest.raises(UserError, match="images_from: .*nowhere: no such folder; set it to"):
        open_domain(dataclasses.replace(domain, images_from=str(tmp_path / "nowhere")))


def test_check_opens_them(domain, translated, capsys):
    words = ["check", "folder", "--root", domain.root, "--split", "train", "--workers", "0"]
    words += ["--images-from", str(translated)]
    assert main(words) == 0
    assert "6x8 (3) (height x width)" in capsys.readouterr().out
    (translated / "f002.png").write_bytes((translated / "f002.png").read_bytes()[:-20])
    assert main(words) == 1
    assert f"problem: {translated}/f002.png: damaged" in capsys.readouterr().out
