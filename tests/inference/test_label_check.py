"""What is told of labels before the first step."""

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.errors import UserError
from uda_jax.inference import label_check


@pytest.fixture
def folder(tmp_path):
    """A function that writes a folder data set with these labels, and opens it."""

    def write(maps, yaml="classes: [background, crack]", **fields):
        for kind in ("images", "labels"):
            (tmp_path / "train" / kind).mkdir(parents=True)
        (tmp_path / "dataset.yaml").write_text(yaml + "\n")
        for number, label in enumerate(maps):
            label = np.asarray(label, np.uint8)
            Image.fromarray(label).save(tmp_path / "train" / "labels" / f"{number:03}.png")
            Image.new("RGB", label.shape[::-1]).save(tmp_path / "train" / "images" / f"{number:03}.png")
        domain = Domain(dataset="folder", root=str(tmp_path), label_space="own", **fields)
        return open_domain(domain), domain

    return write


HALF = np.repeat(np.array([[0], [255]], np.uint8), 4, axis=0) * np.ones((1, 8), np.uint8)
BOTH = HALF // 255


def test_a_class_that_is_stored_as_the_ignored_value_is_told(folder):
    dataset, _ = folder([HALF] * 3)
    note = label_check.check(dataset, "config.data.source")
    assert note.startswith(
        "note: config.data.source: no pixel of the class crack in the 3 frames, and 50 % of the pixels are"
    )
    assert note.endswith("stored as 255; list that value in ids if it is a class")


def test_the_cure_of_that_note_works(folder):
    dataset, _ = folder([HALF] * 3, "classes: [background, crack]\nids: [0, 255]\nignore: [7]")
    assert label_check.check(dataset, "config.data.source") is None


def test_one_void_frame_among_others_is_nothing_to_tell(folder):
    dataset, _ = folder([BOTH, np.full((8, 8), 255), BOTH])
    assert label_check.check(dataset, "domain") is None


def test_the_only_labelled_frame_is_found_behind_the_sample(folder):
    void = np.full((8, 8), 255)
    dataset, _ = folder([*[void] * 18, BOTH, void])
    found = label_check.sample(dataset)
    assert found.frames > label_check.SAMPLED_FRAMES and found.classes.tolist() == [32, 32]
    assert label_check.check(dataset, "domain") is None


def test_of_many_frames_a_few_are_read(folder):
    dataset, _ = folder([BOTH] * 20)
    assert label_check.sample(dataset)[:2] == (label_check.SAMPLED_FRAMES, 20)
    assert label_check.sample(dataset).classes.tolist() == [8 * 32, 8 * 32]


def test_labels_of_nothing_are_refused(folder):
    dataset, domain = folder([np.full((8, 8), 255)] * 20)
    with pytest.raises(UserError, match=r"domain: none of the 20 frames has a labelled pixel of \['backgr.*\]"):
        label_check.check(dataset, "domain")
    with pytest.raises(UserError, match="config.data.source: none of the 20 frames"):
        label_check.check_domains({"source": domain})
    # What a method does not learn from is not looked at.
    assert label_check.check_domains({"target": domain, "target_more": domain}) == []


@pytest.mark.parametrize("ignore", ["others", "[3]"])
def test_the_value_that_files_store_is_named(folder, ignore):
    dataset, _ = folder([np.full((8, 8), 3)] * 2, f"classes: [background, crack]\nids: [7, 11]\nignore: {ignore}")
    with pytest.raises(UserError, match="none of the 2 frames .* most are stored as 3, so that"):
        label_check.check(dataset, "domain")


def test_of_painted_labels_no_value_is_named(folder):
    dataset, _ = folder([np.zeros((8, 8))] * 2, "classes: [a, b]\ncolours: [[9, 9, 9], [8, 8, 8]]\nignore: others")
    with pytest.raises(UserError, match=r"a labelled pixel of \['a', 'b'\], so that nothing"):
        label_check.check(dataset, "domain")


def test_classes_that_the_headline_averages_have_to_be_there(folder):
    dataset, _ = folder([np.zeros((8, 8))] * 2)
    assert "no pixel of the class crack" in label_check.check(dataset, "domain", [0])
    with pytest.raises(UserError, match="none of the 2 frames has a labelled pixel"):
        label_check.check(dataset, "domain", [1])


COLOURS = {0: (128, 64, 128), 1: (200, 0, 0)}


@pytest.mark.parametrize(
    ("palette", "told"),
    [
        ({0: (128, 64, 128), 1: (200, 0, 0)}, None),
        ({0: (5, 5, 5), 1: (6, 6, 6)}, None),  # another palette alone is no contradiction
        ({0: (0, 0, 0), 1: (0, 0, 0)}, None),
        ({0: (200, 0, 0), 1: (128, 64, 128)}, "shows background in the colour of crack in"),
    ],
)
def test_palettes_of_two_domains_are_compared(tmp_path, palette, told):
    sections = {}
    for name, colours in (("source", COLOURS), ("final", palette)):
        root = tmp_path / name
        for kind in ("images", "labels"):
            (root / "train" / kind).mkdir(parents=True)
        (root / "dataset.yaml").write_text("classes: [background, crack]\n")
        label = Image.fromarray(BOTH).convert("P")
        label.putpalette([part for value in (0, 1) for part in colours[value]])
        label.save(root / "train" / "labels" / "0.png")
        Image.new("RGB", label.size).save(root / "train" / "images" / "0.png")
        sections[f"config.{name}"] = Domain(dataset="folder", root=str(root), label_space="own")
    notes = label_check.compare_palettes(sections)
    assert len(notes) == bool(told) and all(told in note and note.startswith("note: config.final: ") for note in notes)
