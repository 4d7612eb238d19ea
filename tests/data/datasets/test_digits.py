"""Digits: every file format decodes to the same samples, published counts and checksums, and damaged files."""

import gzip
import hashlib
import pickle
import struct
import zlib

import numpy as np
import pytest

from uda_jax.data import get_dataset
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import evaluation_batches, train_stream
from uda_jax.errors import UserError

GENERATOR = np.random.default_rng(0)
LABELS = np.array([7, 0, 9, 1, 1], np.uint8)
MNIST = GENERATOR.integers(0, 256, (5, 28, 28), dtype=np.uint8)
USPS = GENERATOR.integers(0, 256, (5, 16, 16), dtype=np.uint8)
SVHN = GENERATOR.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_npz(path, images, labels, names=("train_images", "train_labels", "test_images", "test_labels")):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **dict(zip(names, (images, labels, images[:2], labels[:2]), strict=True)))


def write_idx(folder, images, labels, packed=False):
    folder.mkdir(parents=True)
    for split, count in (("train", None), ("t10k", 2)):
        for name, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            data = idx(array[:count])
            (folder / (name + packed * ".gz")).write_bytes(gzip.compress(data) if packed else data)


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(name, array):
    """Returns a MATLAB variable of unsigned bytes, compressed as MATLAB does it."""
    sizes = np.array(array.shape, "<i4").tobytes()
    parts = (6, struct.pack("<II", 9, 0)), (5, sizes), (1, name.encode()), (2, array.tobytes(order="F"))
    data = zlib.compress(element(14, b"".join(element(*part) for part in parts)))
    return struct.pack("<II", 15, len(data)) + data


def write_mat(folder, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    for split, count in (("train", None), ("test", 2)):
        content = variable("X", np.moveaxis(images[:count], 0, 3)) + variable("y", stored[:count])
        (folder / f"{split}_32x32.mat").write_bytes(header + content)


def write_rows(folder, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", None), ("test", 2)):
        rows = [
            f"{label}.0000 " + " ".join(f"{value:.4f}" for value in image.ravel() / 127.5 - 1)
            for image, label in zip(images[:count], labels[:count], strict=True)
        ]
        (folder / f"zip.{split}.gz").write_bytes(gzip.compress("\n".join(rows).encode()))


FORMATS = {
    "npz": ("mnist", MNIST, lambda root: write_npz(root / "mnist.npz", MNIST, LABELS)),
    "npz of Keras": (
        "mnist",
        MNIST,
        lambda root: write_npz(root / "mnist.npz", MNIST, LABELS, ("x_train", "y_train", "x_test", "y_test")),
    ),
    "idx": ("mnist", MNIST, lambda root: write_idx(root / "MNIST" / "raw", MNIST, LABELS)),
    "packed idx": ("mnist", MNIST, lambda root: write_idx(root / "mnist", MNIST, LABELS, packed=True)),
    "usps npz": ("usps", USPS, lambda root: write_npz(root / "usps" / "usps.npz", USPS, LABELS)),
    "usps idx": ("usps", USPS, lambda root: write_idx(root / "usps", USPS, LABELS)),
    "usps rows": ("usps", USPS, lambda root: write_rows(root, USPS, LABELS)),
    "svhn": ("svhn", SVHN, lambda root: write_mat(root, SVHN, LABELS)),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(tmp_path, kind):
    which, images, write = FORMATS[kind]
    write(tmp_path)
    dataset = get_dataset("digits", tmp_path, "train", "own", which=which)
    assert (len(dataset), dataset.label_space.names[3], len(set(dataset.label_space.colours))) == (5, "3", 10)
    expected = images if images.ndim == 4 else np.stack([images] * 3, axis=-1)
    for k, example in enumerate(pickle.loads(pickle.dumps(dataset))):
        np.testing.assert_array_equal(example["image"], expected[k])
        assert example["image"].flags.c_contiguous and example["image"].dtype == np.uint8
        assert example["label"].tolist() == [[LABELS[k]]] and example["label"].dtype == np.uint8
        assert (example["name"], example["index"]) == (f"train_{k:05d}", k)
    assert len(get_dataset("digits", tmp_path, "test", "own", which=which)) == 2


def test_options_and_fields(tmp_path):
    write_npz(tmp_path / "mnist.npz", MNIST, LABELS)
    dataset = get_dataset("digits", tmp_path, "train", "own", limit=3)
    assert len(dataset) == 3 and dataset.name(2) == "train_00002"
    assert dataset.read(-1, ("image",)).keys() == {"image", "name", "index"}
    assert dataset.read(0, ("label",)).keys() == {"label", "name", "index"}
    assert dataset.missing("label") == [] and dataset.missing("depth")[2] == "train_00002"
    with pytest.raises(IndexError):
        dataset[3]
    assert len(pickle.dumps(dataset)) < 2000


def test_the_label_of_one_pixel_stays_when_pictures_are_resized(tmp_path):
    write_npz(tmp_path / "usps.npz", USPS, LABELS)
    options = {"which": "usps"}
    domain = Domain("digits", str(tmp_path), "train", "own", options=options, size=(28, 28), resize_label=False)
    batch = next(iter(evaluation_batches(domain, 5)))
    assert batch["image"].shape == (5, 28, 28, 3)
    assert batch["label"].ravel().tolist() == LABELS.tolist() and batch["label"].shape == (5, 1, 1)


def drawn(which, split="train", **options):
    """Returns grey pictures [N, 28, 28] and labels [N] of a drawn set."""
    examples = list(get_dataset("digits", None, split, "own", which=which, **options))
    pictures = np.stack([example["image"] for example in examples])
    np.testing.assert_array_equal(pictures, pictures[..., :1].repeat(3, axis=-1))
    return pictures[..., 0], [int(example["label"][0, 0]) for example in examples]


@pytest.mark.parametrize("which", ["segments", "faded"])
def test_drawn_sets_need_no_files_and_are_always_the_same(which):
    pictures, labels = drawn(which)
    assert pictures.shape == (200, 28, 28) and labels == [k % 10 for k in range(200)]
    few, _ = drawn(which, limit=7)
    np.testing.assert_array_equal(few, pictures[:7])
    again = pickle.loads(pickle.dumps(get_dataset("digits", None, "train", "own", which=which)))
    np.testing.assert_array_equal(again[199]["image"][..., 0], pictures[199])
    test, _ = drawn(which, "test")
    assert len({picture.tobytes() for picture in (*pictures, *test)}) > 300


def test_drawn_digits_are_made_of_seven_segments():
    pictures, labels = drawn("segments")
    assert set(np.unique(pictures)) == {0, 255}
    # Lit segments, upright ones of 9 further lines each, level ones of 10 further columns; 18 and 10 to the far ends.
    area = {
        1: lambda t: (18 + t) * t,
        7: lambda t: (10 + t) * t + 18 * t,
        0: lambda t: 2 * (10 + t) * t + 2 * (18 - t) * t,
        8: lambda t: 3 * (10 + t) * t + 2 * (18 - 2 * t) * t,
    }
    for digit, expected in area.items():
        lit = {int((pictures[k] > 0).sum()) for k in range(digit, 200, 10)}
        assert lit == {expected(3), expected(4)}
    for digit in range(10):
        rows, columns = np.nonzero(pictures[labels.index(digit)])
        assert np.ptp(rows) in (20, 21) and np.ptp(columns) in ((2, 3) if digit == 1 else (12, 13))


def test_the_looks_are_two_domains():
    plain, faded = drawn("segments")[0], drawn("faded")[0]
    assert plain.max() - plain.min() == 255 and faded.std() < plain.std() / 2
    # The noise: half of a faded picture is ground.
    assert 15 < np.std(faded[:, 0]) < 30 and np.std(plain[:, 0]) == 0
    with pytest.raises(UserError, match="segments, faded, got 'neon'"):
        get_dataset("digits", None, "train", "own", which="neon")


def test_a_margin_lets_crops_shift_the_strokes(tmp_path):
    write_npz(tmp_path / "mnist.npz", MNIST, LABELS)
    write_mat(tmp_path, SVHN, LABELS)
    framed = get_dataset("digits", tmp_path, "train", "own", margin=2)[3]["image"]
    assert framed.shape == (32, 32, 3) and framed[:2].max() == framed[:, -2:].max() == 0
    np.testing.assert_array_equal(framed[2:-2, 2:-2, 0], MNIST[3])
    colour = get_dataset("digits", tmp_path, "train", "own", which="svhn", margin=1)[3]["image"]
    np.testing.assert_array_equal(colour[1:-1, 1:-1], SVHN[3])
    assert colour.shape == (34, 34, 3) and colour[0].max() == colour[:, 0].max() == 0
    domain = Domain("digits", str(tmp_path), "train", "own", options={"margin": 2}, crop=(28, 28))
    stream = train_stream({"source": domain}, global_batch=5, seed=0)
    places = set()
    for _ in range(8):
        batch = next(stream)["source"]
        for picture, index, label in zip(batch["image"][..., 0], batch["index"], batch["label"], strict=True):
            frame = np.pad(MNIST[index], 2)
            found = [
                (top, left)
                for top in range(5)
                for left in range(5)
                if np.array_equal(picture, frame[top : top + 28, left : left + 28])
            ]
            assert len(found) == 1 and label.tolist() == [[LABELS[index]]]
            places.update(found)
    stream.close()
    assert len(places) > 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, r"digits: unknown split 'val'"),
        ({"label_space": "19"}, r"digits: label_space: expected 'own', since the classes are digits, got '19'"),
        ({"which": "emnist"}, r"digits: which: expected one of mnist, usps, svhn, segments, faded, got 'emnist'"),
        ({"limit": 0}, r"digits: limit: expected an integer >= 1, got 0"),
        ({"margin": -1}, r"digits: margin: expected an integer >= 0, got -1"),
        ({"which": "svhn"}, r"digits: no file of svhn train in .*: expected train_32x32\.mat"),
        (
            {"which": "usps"},
            r"no file of usps train in .*: expected usps\.npz or train-images-.* with .* or zip\.train",
        ),
    ],
)
def test_mistakes(tmp_path, arguments, message):
    write_npz(tmp_path / "mnist.npz", MNIST, LABELS)
    with pytest.raises(UserError, match=message):
        get_dataset("digits", tmp_path, **{"split": "train", "label_space": "own"} | arguments)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("kind", "file", "damage", "message"),
    [
        ("npz", "mnist.npz", truncated, r"mnist\.npz: cannot be read"),
        ("idx", "MNIST/raw/train-images-idx3-ubyte", truncated, r"train-images-idx3-ubyte and .*: cannot be read"),
        ("packed idx", "mnist/train-labels-idx1-ubyte.gz", truncated, r"train-labels-idx1-ubyte\.gz: cannot be read"),
        ("svhn", "train_32x32.mat", truncated, r"train_32x32\.mat: damaged file"),
        ("usps rows", "zip.train.gz", truncated, r"zip\.train\.gz: cannot be read"),
        ("npz", "mnist.npz", lambda path: path.write_bytes(b""), r"mnist\.npz: cannot be read"),
        ("npz", "mnist.npz", lambda path: write_npz(path, USPS, LABELS), r"uint8 of 28x28, got uint8 of 16x16"),
        ("npz", "mnist.npz", lambda path: write_npz(path, MNIST / 255, LABELS), r"uint8 of 28x28, got float64"),
        ("npz", "mnist.npz", lambda path: write_npz(path, MNIST, LABELS + 1), r"expected labels from 0 to 9"),
        ("npz", "mnist.npz", lambda path: write_npz(path, MNIST, LABELS[:4]), r"expected one label for each of 5"),
        ("npz", "mnist.npz", lambda path: np.savez(path, a=LABELS), r"expected the arrays train_images and .*, got a"),
        (
            "usps rows",
            "zip.train.gz",
            lambda path: path.write_bytes(gzip.compress(b"1 2 3")),
            r"zip\.train\.gz: cannot",
        ),
    ],
)
def test_damaged_files(tmp_path, kind, file, damage, message):
    which, _, write = FORMATS[kind]
    write(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(UserError, match=message) as caught:
        get_dataset("digits", tmp_path, "train", "own", which=which)
    assert "\n" not in str(caught.value)


def published(shared, which):
    """Returns both splits, and how often each digit occurs in them."""
    sets = [get_dataset("digits", shared / "data" / "digits", split, "own", which=which) for split in ("train", "test")]
    labels = [[int(dataset.read(k, ("label",))["label"][0, 0]) for k in range(len(dataset))] for dataset in sets]
    return sets, labels, [np.bincount(values, minlength=10) for values in labels]


def test_published_usps(shared):
    _, labels, (train, test) = published(shared, "usps")
    assert train.tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    assert test.tolist() == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    assert labels[0][:10] == [6, 5, 4, 7, 3, 6, 3, 1, 0, 1]


def test_published_mnist(shared):
    (train, test), _, counts = published(shared, "mnist")
    assert (len(train), len(test)) == (60000, 10000)
    assert sum(counts).tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    digest = hashlib.md5(struct.pack(">HBB3I", 0, 8, 3, 60000, 28, 28))
    for k in range(60000):
        digest.update(np.ascontiguousarray(train.read(k, ("image",))["image"][..., 0]))
    assert digest.hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
