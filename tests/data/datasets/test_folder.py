"""The folder data set: what dataset.yaml can say, and one line for everything that it can say wrongly."""

import pickle
import shutil

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import dataset_names, get_dataset
from uda_jax.errors import UserError

FULL = """
classes: [road, tram, sky]
ids: [7, [20, 21], 23]
colours: [[128, 64, 128], [1, 2, 3], [70, 130, 180]]
ignore: [0, 255]
depth_unit: 0.01
"""


def write_label(root, array, name="f000"):
    Image.fromarray(np.asarray(array, np.uint8)).save(root / "train" / "labels" / f"{name}.png")


def test_shortest_description(make_folder):
    root = make_folder(count=3)
    dataset = get_dataset("folder", root, "train", "own")
    assert len(dataset) == 3
    stored = np.array(Image.open(root / "train" / "labels" / "f001.png"))
    np.testing.assert_array_equal(dataset[1]["label"], stored)
    np.testing.assert_array_equal(dataset[1]["image"], np.array(Image.open(root / "train" / "images" / "f001.png")))
    assert dataset.label_space.names == ("road", "sky", "tram")
    assert dataset.label_space.colours[:2] == ((128, 64, 128), (70, 130, 180))  # known by their names
    assert (dataset[-1]["name"], dataset[-1]["index"]) == ("f002", 2)
    with pytest.raises(IndexError):
        dataset[3]


def test_ids_ignore_and_depth(make_folder):
    root = make_folder(count=1, size=(2, 4), yaml=FULL)
    write_label(root, [[7, 20, 21, 23], [0, 255, 7, 7]])
    (root / "train" / "depth").mkdir()
    counts = np.array([[0, 1, 100, 65535]] * 2, np.uint16)
    Image.fromarray(counts).save(root / "train" / "depth" / "f000.png")
    example = get_dataset("folder", root, "train", "own")[0]
    assert example["label"].tolist() == [[0, 1, 1, 2], [255, 255, 0, 0]]
    np.testing.assert_array_equal(example["depth"][0], np.array([0, 0.01, 1, 655.35], np.float32))
    dataset = get_dataset("folder", root, "train", "19")
    assert dataset[0]["label"].tolist() == [[0, 255, 255, 10], [255, 255, 0, 0]]  # "tram" is no Cityscapes class
    assert len(dataset.label_space.names) == 19
    assert get_dataset("folder", root, "train", "16")[0]["label"][0, 3] == 9
    assert get_dataset("folder", root, "train", "own").label_space.colours[1] == (1, 2, 3)


def test_painted_labels(make_folder):
    yaml = "classes: [road, sky]\ncolours: [[128, 64, 128], [70, 130, 180]]\n"
    root = make_folder(count=1, size=(1, 3), yaml=yaml)
    write_label(root, [[[128, 64, 128], [70, 130, 180], [0, 0, 0]]])
    assert get_dataset("folder", root, "train", "own")[0]["label"].tolist() == [[0, 1, 255]]
    assert get_dataset("folder", root, "train", "19")[0]["label"].tolist() == [[0, 10, 255]]
    write_label(root, [[[128, 64, 128], [70, 130, 181], [0, 0, 0]]])
    with pytest.raises(UserError, match=r"f000\.png: colour \[70, 130, 181\] is no class; list it in 'colours' or"):
        get_dataset("folder", root, "train", "own")[0]


def test_black_may_be_a_class(make_folder):
    root = make_folder(count=1, size=(1, 2), yaml="classes: [hole, rim]\ncolours: [[0, 0, 0], [9, 9, 9]]\n")
    write_label(root, [[[0, 0, 0], [9, 9, 9]]])
    assert get_dataset("folder", root, "train", "own")[0]["label"].tolist() == [[0, 1]]


def test_unlabelled_frames_and_splits(make_folder):
    root = make_folder(count=3)
    (root / "train" / "labels" / "f001.png").unlink()
    dataset = get_dataset("folder", root, "train", "own")
    assert "label" not in dataset[1] and "label" in dataset[0] and dataset.missing("label") == ["f001"]
    with pytest.raises(UserError, match="1 of 3 images have no label, the first is 'f001'; label or remove them"):
        get_dataset("folder", root, "train", "own", require_labels=True)
    shutil.rmtree(root / "train" / "labels")
    dataset = get_dataset("folder", root, "train", "own")
    assert len(dataset) == 3 and "label" not in dataset[0]


def test_generic_fixture(shared, tmp_path):
    root = tmp_path / "generic"
    shutil.copytree(shared / "data" / "format_fixtures" / "generic", root, copy_function=shutil.copyfile)
    (root / "dataset.yaml").write_text("classes: [a, b, c]\n")
    golden = vectors.load("datasets/format_fixtures.npz")
    dataset = get_dataset("folder", root, "train", "own")
    assert [dataset.name(k) for k in range(len(dataset))] == ["a", "b", "unlabelled_c"]
    np.testing.assert_array_equal(dataset[0]["label"], golden["generic_a"])
    np.testing.assert_array_equal(dataset[1]["label"], golden["generic_b"])
    assert "label" not in dataset[2] and dataset[2]["image"].shape == (40, 64, 3)


def test_reading_some_fields_opens_no_other_files(make_folder):
    root = make_folder(count=2)
    (root / "train" / "labels" / "f000.png").write_bytes(b"broken")
    dataset = pickle.loads(pickle.dumps(get_dataset("folder", root, "train", "own")))
    assert set(dataset.read(0, ("image",))) == {"image", "name", "index"}
    with pytest.raises(UserError, match=r"f000\.png: not an image"):
        dataset[0]


def test_mistakes_on_access(make_folder):
    root = make_folder(count=1, size=(4, 4))
    write_label(root, np.full((4, 4), 9))
    with pytest.raises(
        UserError, match=r"f000\.png: id 9 is in no class; list it in 'ids' or 'ignore' of .*dataset\.yaml"
    ):
        get_dataset("folder", root, "train", "own")[0]
    write_label(root, np.zeros((4, 5)))
    with pytest.raises(UserError, match=r"labels/f000\.png: 4x5 \(height x width\), but .*images/f000\.png is 4x4"):
        get_dataset("folder", root, "train", "own")[0]


def test_mistakes_in_the_folders(make_folder, tmp_path):
    root = make_folder(count=2)
    with pytest.raises(UserError, match=r"no folder .*trian/images for split 'trian'; did you mean 'train'\?"):
        get_dataset("folder", root, "trian", "own")
    with pytest.raises(UserError, match=r"label_space: unknown protocol '20'; known: own, 19"):
        get_dataset("folder", root, "train", "20")
    Image.new("L", (2, 2)).save(root / "train" / "labels" / "lonely.png")
    with pytest.raises(UserError, match=r"lonely\.png: there is no image 'lonely'; add it or remove this file"):
        get_dataset("folder", root, "train", "own")
    (root / "train" / "labels" / "lonely.png").unlink()
    Image.new("RGB", (16, 12)).save(root / "train" / "images" / "f000.jpg")
    with pytest.raises(UserError, match=r"images/f000\.png: shares the stem 'f000' with f000\.jpg; remove one"):
        get_dataset("folder", root, "train", "own")
    (root / "train" / "images" / "f000.jpg").unlink()
    (root / "train" / "depth").mkdir()
    Image.new("L", (16, 12)).save(root / "train" / "depth" / "f000.png")
    with pytest.raises(UserError, match=r"dataset\.yaml: depth_unit: expected metres per count"):
        get_dataset("folder", root, "train", "own")
    empty = make_folder(count=0, root="empty")
    with pytest.raises(UserError, match=r"images: expected images \(.png, .jpg, .jpeg, .*\), found none"):
        get_dataset("folder", empty, "train", "own")
    with pytest.raises(UserError, match=r"dataset\.yaml: no such file; write one that lists your classes"):
        get_dataset("folder", tmp_path, "train", "own")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("classes: [a", "not valid YAML"),
        ("classes:\n\t- a\n", "not valid YAML: .*; indent by spaces, not by tabs$"),
        ("classes: [a, b]   ids: [1, 2]", "not valid YAML: .*; begin a new line for each key$"),
        ("just words", "expected the keys classes, ids, colours, ignore, depth_unit, got 'just words'"),
        ("", "nothing is in it; write the classes, such as"),
        ("classes: [a]\nid: [1]", r"id: unknown key; did you mean 'ids'\?"),
        ("ids: [1]", "classes: expected a list of names such as .* got None"),
        ("classes: {a: 1}", "classes: expected a list of names"),
        ("classes: [a, yes]", "classes: expected a list of names"),
        ("classes: [a, a]", "classes: 'a' is listed twice"),
        (f"classes: {[f'c{k}' for k in range(256)]}", "classes: expected at most 255 names, got 256"),
        ("classes: [a, b]\nids: [1]", "ids: expected a list with one entry for each of 2 classes, got 1"),
        ("classes: [a, b]\nids: 3", "ids: expected a list with one entry for each of 2 classes, got 3"),
        ("classes: [a, b]\nids: [1, 256]", "ids: expected an id between 0 and 255, got 256"),
        ("classes: [a, b]\nids: [1, true]", "ids: expected an id between 0 and 255, got True"),
        ("classes: [a, b]\nids: [1, [2, 1]]", "ids: 1 is listed twice"),
        ("classes: [a, b]\nids: [1, 2]\nignore: [2]", "ignore: 2 is listed twice"),
        (
            "classes: [a, b]\nignore: [0]",
            "ignore: 0 is class 0, 'a', since without 'ids' they are stored as 0 .. 1",
        ),
        ("classes: [a, b]\nignore: 7", "ignore: expected a list such as .255., or others, got 7"),
        ("classes: [a, b]\nignore: [[0, 0, 0]]", "ignore: expected an id between 0 and 255"),
        ("classes: [a]\ncolours: [[1, 2]]", "colours: expected a colour as .red, green, blue., got"),
        ("classes: [a]\ncolours: [[1, 2, 300]]", "colours: expected a whole number from 0 to 255 per channel, got 300"),
        ("classes: [a, b]\ncolours: [[1, 2, 3], [1, 2, 3]]", r"colours: \(1, 2, 3\) is listed twice"),
        ("classes: [a]\ndepth_unit: 0", "depth_unit: expected metres per count, a number above 0, got 0"),
        ("classes: [a]\ndepth_unit: cm", "depth_unit: expected metres per count, a number above 0, got 'cm'"),
        ("classes: [a]\ndepth_unit: .nan", "depth_unit: expected metres per count"),
    ],
)
def test_mistakes_in_the_description(make_folder, yaml, message):
    root = make_folder(count=1, yaml=yaml)
    with pytest.raises(UserError, match=rf"dataset\.yaml: {message}") as caught:
        get_dataset("folder", root, "train", "own")
    assert "\n" not in str(caught.value)


def test_no_name_fits_the_protocol(make_folder):
    root = make_folder(count=1, yaml="classes: [cat, dog]")
    with pytest.raises(UserError, match="classes: no name is a class of label space '19'; use label_space 'own'"):
        get_dataset("folder", root, "train", "19")


def test_get_dataset_knows_its_modules_and_their_options(make_folder):
    assert {"camvid", "folder"} <= set(dataset_names())
    with pytest.raises(UserError, match=r"dataset: unknown data set 'floder'; did you mean 'folder'\?"):
        get_dataset("floder", None, "train")
    with pytest.raises(UserError, match=r"folder: unknown option 'require_label'; did you mean 'require_labels'\?"):
        get_dataset("folder", make_folder(), "train", "own", require_label=True)
    with pytest.raises(UserError, match=r"camvid: unknown option 'size'; it takes none"):
        get_dataset("camvid", None, "train", size=3)


def test_one_description_for_folders_side_by_side(make_folder, tmp_path):
    source, target = make_folder(root="mine/source"), make_folder(root="mine/target", labels=False)
    (tmp_path / "mine" / "dataset.yaml").write_text("classes: [sky, road, tram]\n")
    (target / "dataset.yaml").unlink()
    assert get_dataset("folder", target, "train", "own").label_space.names == ("sky", "road", "tram")
    assert get_dataset("folder", source, "train", "own").label_space.names == ("road", "sky", "tram"), "own comes first"
    (tmp_path / "mine" / "dataset.yaml").unlink()
    with pytest.raises(UserError, match=r"mine/target/dataset\.yaml: no such file"):
        get_dataset("folder", target, "train", "own")


def test_whatever_is_in_no_class_may_be_ignored(make_folder):
    root = make_folder(1, yaml="classes: [sky, ufo]\nids: [1, 77]\nignore: others\n")
    stored = np.array(Image.open(root / "train" / "labels" / "f000.png"))
    label = get_dataset("folder", root, "train", "own")[0]["label"]
    np.testing.assert_array_equal(label, np.where(stored == 1, 0, 255))
    (root / "dataset.yaml").write_text("classes: [sky, ufo]\ncolours: [[1, 1, 1], [7, 7, 7]]\nignore: others\n")
    Image.fromarray(np.repeat(stored[..., None], 3, axis=-1)).save(root / "train" / "labels" / "f000.png")
    np.testing.assert_array_equal(get_dataset("folder", root, "train", "own")[0]["label"], label)
    (root / "dataset.yaml").write_text("classes: [sky, ufo]\nids: [1, 77]\nignore: rest\n")
    with pytest.raises(UserError, match=r"ignore: expected a list such as \[255\], or others, got 'rest'"):
        get_dataset("folder", root, "train", "own")


def test_further_pictures_of_a_frame(make_folder):
    root = make_folder(3)
    (root / "train" / "image_right").mkdir()
    for k in (0, 2):
        Image.fromarray(np.full((12, 16, 3), k, np.uint8)).save(root / "train" / "image_right" / f"f{k:03d}.png")
    dataset = get_dataset("folder", root, "train", "own")
    assert dataset.maps == ("image", "label", "image_right") and dataset.missing("image_right") == ["f001"]
    assert (dataset[2]["image_right"] == 2).all() and "image_right" not in dataset[1]
    Image.fromarray(np.full((12, 15, 3), 1, np.uint8)).save(root / "train" / "image_right" / "f001.png")
    with pytest.raises(
        UserError, match=r"image_right/f001.png: 12x15 \(height x width\), but .*images/f001.png is 12x16"
    ):
        get_dataset("folder", root, "train", "own")[1]


def moved(root, where):
    """Moves the split "train" to where people have it; returns what to open."""
    train = root / "train"
    if where == "flat":
        for path in list((train / "images").iterdir()):
            path.rename(train / path.name)
        (train / "images").rmdir()
    elif where == "by kind":
        for kind in ("images", "labels"):
            (root / kind).mkdir()
            (train / kind).rename(root / kind / "train")
        train.rmdir()
    return {"one too high": root.parent, "one too deep": train}.get(where, root)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("flat", "found 3 pictures in .*train itself, move the images into 'train/images'"),
        ("by kind", "rename 'images/train' to 'train/images', labels likewise"),
        ("one too high", "so set root one folder deeper, such as .*folder"),
        ("one too deep", "dataset.yaml: no such file; found .*dataset.yaml, so set root to the folder that holds"),
    ],
)
def test_folders_that_lie_otherwise_are_found(make_folder, where, told):
    root = make_folder(3, root="data/folder")
    shutil.move(root / "dataset.yaml", root.parent / "dataset.yaml")
    with pytest.raises(UserError, match=told):
        get_dataset("folder", moved(root, where), "train", "own")


def test_yml_is_named(make_folder):
    root = make_folder(3)
    (root / "dataset.yaml").rename(root / "dataset.yml")
    with pytest.raises(UserError, match="dataset.yaml: no such file; rename .*dataset.yml to dataset.yaml"):
        get_dataset("folder", root, "train", "own")


@pytest.mark.parametrize(("classes", "told"), [("[road, no]", "put these names in quotes"), ("[0, 1]", "in quotes")])
def test_what_yaml_makes_of_names(make_folder, classes, told):
    with pytest.raises(UserError, match=f"expected a list of names .*; .*{told}"):
        get_dataset("folder", make_folder(3, yaml=f"classes: {classes}\n"), "train", "own")
    quoted = ", ".join(f"'{name}'" for name in classes.strip("[]").split(", "))
    assert len(get_dataset("folder", make_folder(3, yaml=f"classes: [{quoted}, c]\n"), "train", "own")) == 3
