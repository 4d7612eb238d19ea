"""Prepared TFDS sets: pixels as they were put in, what ids mean, and sets that cannot be read."""

import io
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.data.io.png import write_floats
from uda_jax.errors import UserError

LUTS = vectors.load("datasets/luts.npz")
GENERATOR = np.random.default_rng(0)
SIZE = (4, 6)
COUNT = 5
IMAGES = GENERATOR.integers(0, 256, (COUNT, *SIZE, 3), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 34, (COUNT, *SIZE), dtype=np.uint8)
OWN = GENERATOR.choice(np.array([0, 1, 2, 255], np.uint8), (COUNT, *SIZE))
DEPTH = GENERATOR.uniform(1, 90, (COUNT, *SIZE)).astype(np.float32)
COUNTS = GENERATOR.integers(0, 65536, (COUNT, *SIZE)).astype(np.uint16)
CLASSES = ["road", "tram", "sky"]
KINDS = [2, 0, 1, 1, 0]


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A `data_dir` with a prepared set "drives", splits train (5 frames) and validation (2 frames)."""
    import tensorflow_datasets as tfds

    class Drives(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        # TFDS would look for a file of checksums beside the module, which pytest has not imported as one.
        url_infos = {}

        def _info(self):
            image, tensor = tfds.features.Image, tfds.features.Tensor
            features = {
                "image_left": image(shape=(None, None, 3)),
                "segmentation_label": image(shape=(None, None, 1)),
                "own": tfds.features.LabeledImage(labels=CLASSES, shape=(None, None, 1)),
                "kind": tfds.features.ClassLabel(names=CLASSES),
                "ids": tensor(shape=(*SIZE, 1), dtype=np.int32),
                "depth": tensor(shape=SIZE, dtype=np.float32),
                "counts": image(shape=(None, None, 1), dtype=np.uint16),
                "image_id": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(COUNT), "validation": self._generate_examples(2)}

        def _generate_examples(self, count):
            for k in range(count):
                depth = DEPTH[k].copy()
                depth[0, :2] = np.nan, -1
                yield (
                    k,
                    {
                        "image_left": io.BytesIO(png(IMAGES[k])),
                        "segmentation_label": io.BytesIO(png(LABELS[k])),
                        "own": io.BytesIO(png(OWN[k])),
                        "kind": KINDS[k],
                        "ids": LABELS[k][..., None].astype(np.int32),
                        "depth": depth,
                        "counts": io.BytesIO(png(COUNTS[k])),
                        "image_id": f"drive_{k}",
                    },
                )

    root = tmp_path_factory.mktemp("tfds")
    Drives(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def opened(root, split="train", label_space="19", **options):
    return get_dataset("tfds", root, split, label_space, **{"builder": "drives", "image": "image_left"} | options)


def order(dataset):
    """Returns which frame each record holds: TFDS shuffles them when it writes."""
    return [int(np.flatnonzero((IMAGES == example["image"]).all(axis=(1, 2, 3)))[0]) for example in dataset]


def test_cityscapes_ids(prepared):
    dataset = opened(prepared, label="segmentation_label")
    frames = order(dataset)
    assert sorted(frames) == list(range(COUNT))
    for index, (frame, example) in enumerate(zip(frames, dataset, strict=True)):
        np.testing.assert_array_equal(example["label"], LUTS["cityscapes_id_to_train19"][LABELS[frame]])
        np.testing.assert_array_equal(dataset.stored(index, ("label",))["label"], LABELS[frame])
        assert (example["name"], example["index"], dataset.name(index)) == (f"{index:06d}", index, f"{index:06d}")
    assert example["label"].dtype == np.uint8 and example.keys() == {"image", "label", "name", "index"}
    assert dataset.read(0, ("label",)).keys() == {"label", "name", "index"}
    assert dataset.known == frozenset(range(34)) and dataset.missing("label") == []
    assert dataset.missing("depth")[1] == "000001"
    with pytest.raises(IndexError):
        dataset[COUNT]
    as_tensor = opened(prepared, "train", "16", label="ids")
    np.testing.assert_array_equal(as_tensor[0]["label"], LUTS["cityscapes_id_to_16"][LABELS[frames[0]]])


@pytest.mark.parametrize(("label", "size"), [("segmentation_label", SIZE), ("ids", SIZE), ("kind", (1, 1))])
def test_sizes_are_known_before_anything_is_decoded(prepared, monkeypatch, label, size):
    dataset = opened(prepared, label=label, depth="depth", **({"ids": "own"} if label == "kind" else {}))
    monkeypatch.setattr(type(dataset), "_decoded", None)
    assert [dataset.stored_size(3, field) for field in ("image", "label", "depth")] == [SIZE, size, SIZE]
    assert dataset.stored_size(0, "disparity") is None


def test_splits_and_folders(prepared):
    assert len(opened(prepared, "validation")) == 2
    part = opened(prepared, "train[1:3]")
    assert order(part) == order(opened(prepared))[1:3] and part.name(0) == "000000"
    for root, builder in (
        (prepared, "drives:1.0.0"),
        (prepared / "drives" / "1.0.0", None),
        (prepared / "drives", None),
    ):
        assert len(opened(root, builder=builder)) == COUNT
    copy = pickle.loads(pickle.dumps(opened(prepared)))
    assert order(copy) == order(opened(prepared))


def test_newest_version(prepared, tmp_path):
    for version in ("1.9.0", "1.10.0"):
        shutil.copytree(prepared / "drives" / "1.0.0", tmp_path / "drives" / version)
    info = tmp_path / "drives" / "1.9.0" / "dataset_info.json"
    info.write_text("{")
    assert len(opened(tmp_path)) == COUNT
    with pytest.raises(UserError, match=r"1\.9\.0: cannot open split 'train'"):
        opened(tmp_path, builder="drives:1.9.0")


def test_own_classes(prepared):
    dataset = opened(prepared, "train", "own", label="own", ids="own")
    frames = order(dataset)
    assert dataset.label_space.names == tuple(CLASSES) and dataset.known == {0, 1, 2, 255}
    np.testing.assert_array_equal(dataset[0]["label"], OWN[frames[0]])
    by_name = opened(prepared, "train", "19", label="own", ids="own")
    expected = np.select([OWN[frames[0]] == 0, OWN[frames[0]] == 2], [0, 10], 255)
    np.testing.assert_array_equal(by_name[0]["label"], expected)


def test_classification(prepared):
    dataset = opened(prepared, "train", "own", label="kind", ids="own")
    assert [example["label"].tolist() for example in dataset] == [[[KINDS[frame]]] for frame in order(dataset)]
    assert dataset[0]["label"].dtype == np.uint8


def test_depth(prepared):
    metres = opened(prepared, depth="depth", depth_unit=0.5)
    frame = order(metres)[0]
    expected = DEPTH[frame] / 2
    expected[0, :2] = 0
    np.testing.assert_allclose(metres[0]["depth"], expected, rtol=1e-6)
    counts = opened(prepared, depth="counts", depth_unit=0.01)[0]["depth"]
    np.testing.assert_allclose(counts, COUNTS[frame] * 0.01, rtol=1e-6)
    assert counts.dtype == metres[0]["depth"].dtype == np.float32


def test_float_pictures_are_read_exactly(prepared, tmp_path):
    import tensorflow_datasets as tfds

    from uda_jax.data.datasets.tfds import Tfds

    dataset = opened(prepared, depth="counts")
    # TFDS writes float pictures with TensorFlow only, but what it writes is known.
    dataset._kinds["depth"] = "floats"
    assert isinstance(dataset, Tfds)
    encoded = write_floats(DEPTH[0])
    np.testing.assert_array_equal(dataset._decoded("depth", encoded, "here"), DEPTH[0])
    feature = tfds.features.Image(shape=(None, None, 1), dtype=np.float32)
    np.testing.assert_array_equal(feature.decode_example_np(encoded)[..., 0], DEPTH[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, r"cannot open split 'trian' \(Unknown split 'trian'"),
        ({"builder": "dirves"}, r"tfds: root: no folder .*dirves; set 'root' and 'builder' to a prepared set"),
        ({"image": "image_lfet"}, r"tfds: image: .* has no feature 'image_lfet'; did you mean 'image_left'\?"),
        ({"image": "image_id"}, r"tfds: image: feature 'image_id' of .* is Text\(.*\), which holds no image"),
        ({"depth": "kind"}, r"tfds: depth: feature 'kind' of .* which holds no depth"),
        ({"label": "segmentation_label", "ids": "own"}, r"tfds: ids: 'own' needs a label feature with class names"),
        ({"ids": "citiscapes"}, r"no label table for 'citiscapes'; did you mean 'cityscapes'\?"),
        ({"label_space": "own"}, r"label_space: unknown protocol 'own'"),
        ({"depth": "depth", "depth_unit": 0}, r"tfds: depth_unit: expected metres per unit, a number above 0, got 0"),
    ],
)
def test_mistakes(prepared, options, message):
    with pytest.raises(UserError, match=message) as caught:
        opened(prepared, **options)
    assert "\n" not in str(caught.value)


def test_maps_of_different_sizes(prepared, monkeypatch):
    dataset = opened(prepared, label="segmentation_label", depth="depth")
    record = dict(dataset._open()[0]) | {"segmentation_label": png(LABELS[0][:3])}
    monkeypatch.setattr(dataset, "_source", [record])
    with pytest.raises(
        UserError, match=r"1\.0\.0: record 0: segmentation_label is 3x6 \(height x width\), but image_left"
    ):
        dataset[0]


def test_depth_of_another_size_is_resized(prepared, monkeypatch):
    dataset = opened(prepared, label="segmentation_label", depth="depth")
    record, whole = dict(dataset._open()[0]), dataset[0]["depth"]
    monkeypatch.setattr(dataset, "_source", [record | {"depth": record["depth"][::2, ::2]}])
    assert dataset.read(0, ("depth",))["depth"].shape == (2, 3) and dataset[0]["depth"].shape == (4, 6)
    np.testing.assert_array_equal(dataset[0]["depth"], whole[::2, ::2].repeat(2, 0).repeat(2, 1))


def test_sets_that_cannot_be_read(prepared, tmp_path):
    with pytest.raises(UserError, match=r"tfds: root: expected the folder of prepared sets, got none"):
        opened(None)
    with pytest.raises(UserError, match=r"tfds: no features\.json in .*; prepare the set first"):
        get_dataset("tfds", tmp_path, "train")
    for config in ("one", "two"):
        shutil.copytree(prepared / "drives" / "1.0.0", tmp_path / "drives" / config / "1.0.0")
    with pytest.raises(UserError, match=r"holds several sets; choose one of drives/one, drives/two"):
        opened(tmp_path)
    folder = tmp_path / "drives" / "one" / "1.0.0"
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        UserError, match=r"expected a set prepared as array_record, got tfrecord; prepare it again with"
    ):
        opened(tmp_path, builder="drives/one")
    shard = next((tmp_path / "drives" / "two" / "1.0.0").glob("*train.array_record*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:300] + bytes(len(data) - 300))
    with pytest.raises(UserError, match=r"two/1\.0\.0: .*"):
        opened(tmp_path, builder="drives/two")[0]
    shard.unlink()
    with pytest.raises(UserError, match=r"two/1\.0\.0: .*"):
        opened(tmp_path, builder="drives/two")[0]


def test_tfds_is_imported_when_it_is_needed_only():
    code = "import sys, uda_jax.data.datasets.tfds; print('tensorflow_datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
