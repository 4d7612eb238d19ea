"""Domains: lists of names as papers write them, random subsets, pseudo-labels, mixtures of data sets."""

import dataclasses
import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from uda_jax import config, schema
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain, check_name, open_domain, opened_once
from uda_jax.data.pipeline.frame_lists import listed_positions, random_positions
from uda_jax.data.pipeline.rare_class_sampling import RareClasses
from uda_jax.data.pipeline.streams import evaluation_batches, train_stream
from uda_jax.errors import UserError

CITY = ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313")


def folder(root, **fields):
    return Domain(dataset="folder", root=str(root), label_space="own", **fields)


def names_of(dataset):
    return [dataset.name(k) for k in range(len(dataset))]


@pytest.mark.parametrize(
    ("names", "lines", "expected"),
    [
        (CITY, ["bochum_000000_000313", "aachen_000000_000019"], [2, 0]),
        (CITY, ["aachen/aachen_000001_000019", "bochum/bochum_000000_000313"], [1, 2]),
        (CITY, ["aachen/aachen_000001_000019_leftImg8bit.png"], [1]),
        (
            CITY,
            [
                "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png\t"
                "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
                "leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png gtFine/train/bochum/other.png",
            ],
            [0, 2],
        ),
        (("00001", "00002"), ["00002.png", "", "images/00001.png"], [1, 0]),
        # Folders tell frames of one name apart, and may be left out where nothing else has it.
        (("clone/00001", "fog/00001", "fog/00002"), ["0018/fog/00001.png", "00002.png"], [1, 2]),
        # An exact name comes first, whatever it holds.
        (("a", "a b", "a.png", "x/a"), ["a b", "a.png", "a", "x/a.jpg"], [1, 2, 0, 3]),
        (("two words",), ["two words\tsomething"], [0]),
        (("GOPR0351_frame_000159",), ["rgb_anon/night/train/GOPR0351/GOPR0351_frame_000159_rgb_anon.png"], [0]),
    ],
)
def test_lists_as_papers_write_them(tmp_path, names, lines, expected):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    assert listed_positions(str(path), names) == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["00001.png"], r"line 1: '00001.png' fits clone/00001 and fog/00001; write the whole name"),
        (["fog/00001", "rain/00001.png"], r"line 2: no frame 'rain/00001.png' in the split; the file may belong"),
        (["fog/00001", "fog/0001"], r"line 2: no frame 'fog/0001' in the split; did you mean 'fog/00001'"),
        (["fog/00001", "data/fog/00001.png"], r"line 2: frame 'fog/00001' is listed twice"),
    ],
)
def test_lists_that_leave_a_doubt(tmp_path, lines, message):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"names_file: .*{message}"):
        listed_positions(str(path), ("clone/00001", "fog/00001"))


def test_published_lists_fit_real_frames(shared):
    lists = shared / "data" / "lists"
    names = [line.rpartition("/")[2] for line in (lists / "cityscapes_train.txt").read_text().split()]
    assert listed_positions(str(lists / "cityscapes_train.txt"), names) == list(range(2975))


def test_a_random_subset_is_the_same_everywhere_and_nested():
    names = [f"frame{k}" for k in range(1000)]
    # NumPy never changes PCG64's raw draws; these names are what they give.
    chosen = [names[k] for k in random_positions(names, 5, 0)]
    assert chosen == ["frame108", "frame340", "frame864", "frame869", "frame928"]
    shuffled = names[::-1]
    assert sorted(shuffled[k] for k in random_positions(shuffled, 5, 0)) == sorted(chosen)
    more = random_positions(names, 50, 0)
    assert set(random_positions(names, 5, 0)) < set(more) and more == sorted(more) and len(set(more)) == 50
    assert random_positions(names, 50, 1) != more
    assert random_positions(names, 1000, 7) == list(range(1000))


def test_count_restricts_a_domain(make_folder, tmp_path):
    root = make_folder(9)
    dataset = open_domain(folder(root, count=4, count_seed=3))
    assert len(dataset) == 4 and [dataset[k]["index"] for k in range(4)] == [0, 1, 2, 3]
    listed = tmp_path / "names.txt"
    listed.write_text("f008\nf001\nf004\n")
    kept = names_of(open_domain(folder(root, names_file=str(listed), count=2)))
    assert len(kept) == 2 and set(kept) < {"f008", "f001", "f004"}
    with pytest.raises(UserError, match="target: count: expected at most the 3 frames of the split, got 4"):
        open_domain(folder(root, names_file=str(listed), count=4), "target")


@pytest.fixture
def pseudo(tmp_path):
    """Returns a function that writes pseudo-labels, all of one value, and returns their folder."""

    def write(names, value=1, size=(12, 16)):
        base = tmp_path / "pseudo"
        base.mkdir(exist_ok=True)
        for name in names:
            Image.fromarray(np.full(size, value, np.uint8)).save(base / f"{name}.png")
        return str(base)

    return write


def test_pseudo_labels_take_the_place_of_labels(make_folder, pseudo, tmp_path):
    listed = tmp_path / "easy.txt"
    listed.write_text("f002\nf000\n")
    for root in (make_folder(3), make_folder(3, labels=False, root="bare")):
        labels = pseudo(["f000", "f002"])
        domain = folder(root, names_file=str(listed), labels_from=labels)
        dataset = open_domain(domain)
        assert [dataset[k]["name"] for k in range(2)] == ["f002", "f000"]
        assert all((dataset[k]["label"] == 1).all() for k in range(2))
        (batch,) = evaluation_batches(domain, 2)
        assert batch["label"].shape == (2, 12, 16) and (batch["label"] == 1).all()
    # The labels of the data set itself do not matter: they are never opened, and may lack an image.
    damaged = make_folder(3)
    for name in ("f000", "f001", "f002", "f9"):
        (damaged / "train" / "labels" / f"{name}.png").write_bytes(b"broken")
    pseudo(["f001"])
    assert (open_domain(folder(damaged, labels_from=labels))[1]["label"] == 1).all()
    assert (open_domain(folder(damaged, names_file=str(listed), labels_from=labels))[0]["label"] == 1).all()


def test_pseudo_labels_may_have_the_size_of_the_stream(make_folder, pseudo):
    root, names = make_folder(3), ["f000", "f001", "f002"]
    label = np.arange(6, dtype=np.uint8).reshape(2, 3) % 3
    base = pseudo(names, size=(2, 3))
    for name in names:
        Image.fromarray(label).save(f"{base}/{name}.png")
    (batch,) = evaluation_batches(folder(root, labels_from=base, size=(2, 3)), 3)
    np.testing.assert_array_equal(batch["label"], [label] * 3)
    with pytest.raises(UserError, match=r"f000.png: expected 12x16 or 4x6 \(height x width\), got 2x3; write"):
        evaluation_batches(folder(root, labels_from=base, size=(4, 6)), 3)
    with pytest.raises(UserError, match=r"f000.png: expected 12x16 \(height x width\), got 2x3"):
        evaluation_batches(folder(root, labels_from=base), 3)


def test_mistakes_in_pseudo_labels(make_folder, pseudo):
    root = make_folder(3)
    domain = folder(root, labels_from=pseudo(["f000"]))
    with pytest.raises(UserError, match=r"target: labels_from: .*f001.png: no such file; 2 of 3 frames have no"):
        open_domain(domain, "target")
    pseudo(["f000", "f001", "f002"], value=3)
    with pytest.raises(UserError, match=r"f000.png: value 3 is no class, expected 0 .. 2 or 255"):
        open_domain(domain)[0]
    pseudo(["f000"], value=255)
    assert (open_domain(domain)[0]["label"] == 255).all()


@pytest.fixture
def mixture(make_folder):
    """Frames of 12x16 and of 20x30 pixels, both cropped to 8x8, three of the first for one of the second."""
    first, second = make_folder(5, root="first"), make_folder(4, size=(20, 30), root="second")
    member = folder(second, crop=(8, 8), scale=(0.5, 0.6), weight=1.0)
    return folder(first, crop=(8, 8), flip=True, weight=3.0, mix={"second": member})


def take(stream, count):
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def test_a_mixture_has_its_weights_and_tells_its_frames_apart(mixture):
    dataset = open_domain(mixture)
    assert names_of(dataset) == [f"folder/f{k:03d}" for k in range(5)] + [f"second/f{k:03d}" for k in range(4)]
    assert (dataset[6]["name"], dataset[6]["index"]) == ("second/f001", 6) and dataset[-1]["index"] == 8
    assert dataset[4]["image"].shape == (12, 16, 3) and dataset[5]["image"].shape == (20, 30, 3)
    with pytest.raises(IndexError):
        dataset[9]
    batches = take(train_stream({"source": mixture}, global_batch=4, seed=0), 40)
    indices = np.concatenate([batch["source"]["index"] for batch in batches])
    assert {batch["source"]["image"].shape for batch in batches} == {(4, 8, 8, 3)}
    # One of four in every batch, and each frame as often as the others of its data set.
    assert [(batch["source"]["index"] >= 5).sum() for batch in batches] == [1] * 40
    assert np.bincount(indices).tolist() == [24] * 5 + [10] * 4


def test_the_pixels_of_a_mixture_belong_to_the_frame_that_the_index_names(make_folder):
    member = folder(make_folder(4, root="second"))
    domain = folder(make_folder(5, root="first"), mix={"second": member})
    dataset = open_domain(domain)
    for batch in take(train_stream({"source": domain, "target": member}, global_batch=3, seed=1), 6):
        for k, image in zip(batch["source"]["index"], batch["source"]["image"], strict=True):
            np.testing.assert_array_equal(image, dataset[int(k)]["image"])
        assert max(batch["target"]["index"]) < 4


def test_the_parts_of_a_mixture_are_shuffled_apart(make_folder):
    twins = folder(make_folder(8), mix={"twin": folder(make_folder(8))})
    (batch,) = take(train_stream({"source": twins}, global_batch=16, seed=0), 1)
    indices = batch["source"]["index"]
    assert sorted(indices) == list(range(16)) and (indices[indices < 8] != indices[indices >= 8] - 8).any()


def test_several_targets_without_labels(make_folder):
    bare = [folder(make_folder(3, root=name, labels=False), fields=("image",)) for name in ("day", "night", "rain")]
    domain = dataclasses.replace(bare[0], mix={"night": bare[1], "rain": bare[2]})
    (batch,) = take(train_stream({"target": domain}, global_batch=9, seed=0), 1)
    assert set(batch["target"]) == {"image", "index"} and sorted(batch["target"]["index"]) == list(range(9))


def test_digits_of_several_sets_and_sizes(tmp_path):
    for which, size in (("usps", 16), ("mnist", 28)):
        images, labels = np.full((3, size, size), size, np.uint8), np.array([4, 5, 6], np.uint8)
        parts = {
            f"{split}_{kind}": value
            for split in ("train", "test")
            for kind, value in (("images", images), ("labels", labels))
        }
        np.savez(tmp_path / f"{which}.npz", **parts)
    common = {"dataset": "digits", "root": str(tmp_path), "label_space": "own", "size": (28, 28), "crop": (24, 24)}
    mnist = Domain(options={"which": "mnist"}, **common)
    usps = Domain(options={"which": "usps"}, image_resampling="bilinear", mix={"mnist": mnist}, **common)
    (batch,) = take(train_stream({"source": usps}, global_batch=6, seed=0), 1)
    assert batch["source"]["image"].shape == (6, 24, 24, 3) and batch["source"]["label"].shape == (6, 1, 1)
    for k, label, image in zip(*(batch["source"][field] for field in ("index", "label", "image")), strict=True):
        assert label.item() == 4 + k % 3 and (image == (16 if k < 3 else 28)).all()


def test_mistakes_in_a_mixture(mixture, make_folder):
    stream = lambda domain: train_stream({"source": domain}, global_batch=2, seed=0)  # noqa: E731
    uncropped = dataclasses.replace(mixture, mix={"second": dataclasses.replace(mixture.mix["second"], crop=(9, 8))})
    message = r"config.data.source.mix.second: image is 9x8 \(height x width\), but that of 'config.data.source' is 8x8"
    with pytest.raises(UserError, match=message):
        stream(uncropped)
    other = make_folder(2, root="other", yaml="classes: [road, sky, ship]\n")
    with pytest.raises(UserError, match=r"config.data.source.mix.sea.label_space: expected the classes of .*'ship'"):
        stream(dataclasses.replace(mixture, mix={"sea": folder(other, crop=(8, 8))}))
    with pytest.raises(
        UserError, match="config.data.source.mix.gone: root: no folder|mix.gone: folder: root: no folder"
    ):
        stream(dataclasses.replace(mixture, mix={"gone": folder("nowhere")}))
    with pytest.raises(UserError, match="mix.folder: the data set it is mixed into has this name; choose another"):
        stream(dataclasses.replace(mixture, mix={"folder": mixture.mix["second"]}))
    plain = dataclasses.replace(mixture, crop=None, flip=False)
    with pytest.raises(UserError, match="evaluation.final.mix: expected None for evaluation"):
        evaluation_batches(plain, 1, path="evaluation.final")
    with pytest.raises(UserError, match="evaluation.final.rare_classes: expected None for evaluation"):
        evaluation_batches(dataclasses.replace(plain, mix=None, rare_classes=RareClasses()), 1, path="evaluation.final")


def test_mixtures_and_rare_classes_in_config_files_and_overrides(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\n"
        "from uda_jax.config import Experiment, as_config\n"
        "from uda_jax.data.pipeline.domains import Domain\n"
        "from uda_jax.data.pipeline.rare_class_sampling import RareClasses\n\n\n"
        "def get_config(setting=''):\n"
        "    synthia = Domain(dataset='synthia', root='b', rare_classes=RareClasses(crop_share=2.0))\n"
        "    source = Domain(dataset='gta5', root='a', mix={'synthia': synthia})\n"
        "    return as_config(Experiment(method={'name': 'source_only'}, data={'source': source}))\n"
    )
    words = ["--config.data.source.mix.synthia.weight=0.3", "--config.data.source.mix.synthia.root=c"]
    words += ["--config.data.source.mix.synthia.rare_classes.min_pixels=50", "--config.data.source.count=7"]
    experiment = config.experiment(config.load(str(path), words))
    member = experiment.data["source"].mix["synthia"]
    assert isinstance(member, Domain) and (member.weight, member.root) == (0.3, "c")
    assert member.rare_classes == RareClasses(min_pixels=50, crop_share=2.0) and experiment.data["source"].count == 7
    assert config.experiment(config.to_plain(experiment)) == experiment
    with pytest.raises(UserError, match="config.data.source.mix.sinthia: unknown field; did you mean 'synthia'"):
        config.load(str(path), ["--config.data.source.mix.sinthia.weight=1.0"])
    # A section as a plain mapping, as other programs write it, builds the same.
    values = {"mix": {"second": {"weight": 2.0}}}
    assert schema.from_mapping(Domain, ConfigDict(values).to_dict()) == Domain(mix={"second": Domain(weight=2.0)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"short_side": [9, 8], "crop": [4, 4]}, r"config\.short_side: expected \(low, high\), got \(9, 8\)"),
        ({"short_side": [8, 9]}, r"config\.crop: expected a size, since 'config\.short_side'"),
        ({"short_side": [8, 9], "scale": [1.0, 2.0], "crop": [4, 4]}, r"config\.short_side: expected None together"),
        ({"fit": "pad"}, r"config\.fit: expected 'stretch' without a size"),
        (
            {"images_from": "x", "fields": ["image", "intrinsics"]},
            r"config\.images_from: expected None, since 'config\.fields' has intrinsics",
        ),
        (
            {"images_from": "x", "fields": ["image", "image_next"]},
            r"config\.images_from: expected None, since 'config\.fields' has image_next",
        ),
        ({"fit": "squeeze"}, r"config\.fit: expected one of 'stretch', 'pad', 'inside', got 'squeeze'"),
        ({"image_resampling": "nearest"}, r"config\.image_resampling: expected one of 'bicubic', 'bilinear'"),
        ({"disparity_resampling": "bicubic"}, r"config\.disparity_resampling: expected one of 'nearest', 'bilinear'"),
        ({"count": 0}, r"config\.count: expected an integer >= 1, got 0"),
        ({"labels_from": "x", "fields": ["image"]}, r"config\.labels_from: expected None, since 'config\.fields' has"),
        ({"rare_classes": {}, "fields": ["image"]}, r"config\.rare_classes: expected None, since 'config\.fields' has"),
        ({"rare_classes": {"temprature": 1.0}}, r"config\.rare_classes\.temprature: unknown field; did you mean"),
        ({"rare_classes": {"temperature": 0.0}}, r"config\.rare_classes\.temperature: expected a number >= 1e-06"),
        ({"weight": 0.0}, r"config\.weight: expected a number >= 1e-06, got 0\.0"),
        ({"mix": {"a": {"mix": {"b": {}}}}}, r"config\.mix\.a\.mix: expected None, since it is part of a mixture"),
        ({"mix": {"a": {"fields": ["image"]}}}, r"config\.mix\.a\.fields: expected the maps of 'config\.fields'"),
        ({"mix": {"a": {"wieght": 1.0}}}, r"config\.mix\.a\.wieght: unknown field; did you mean 'weight'"),
    ],
)
def test_mistakes_in_the_section(values, message):
    with pytest.raises(UserError, match=message):
        schema.from_mapping(Domain, values)


@pytest.mark.parametrize(
    "name", ["source", "target", "labelled_target", "target_bdd", "source_gta5", "labelled_target_2"]
)
def test_domains_are_named_after_their_kind(name):
    check_name(name, "config.data")


@pytest.mark.parametrize("name", ["targets", "bdd", "target_", "bdd_target", ""])
def test_other_names_of_domains_are_refused(name):
    message = f"config.data.{name}: unknown domain.*; further domains are named after these, such as target_bdd"
    with pytest.raises(UserError, match=message):
        check_name(name, "config.data")


def test_domains_share_the_data_set_that_they_read(tiny_folder, monkeypatch):
    opened = []
    open_dataset = domains.open_dataset
    monkeypatch.setattr(domains, "open_dataset", lambda *where, **o: opened.append(where) or open_dataset(*where, **o))
    with opened_once():
        whole = open_domain(folder(tiny_folder))
        assert open_domain(folder(tiny_folder, size=(16, 32), flip=True)) is whole
        few = open_domain(folder(tiny_folder, count=3))
        assert len(few) == 3 and len(whole) == 8
        mixed = open_domain(folder(tiny_folder, mix={"other": folder(tiny_folder, split="val")}))
        assert len(mixed) == 16
    assert [split for _, _, split, _ in opened] == ["train", "val"]
    assert open_domain(folder(tiny_folder)) is not whole
