"""Rare class sampling: the published probabilities, frames and crops that show the class, counts kept in a cache."""

import dataclasses
import itertools
import os

import numpy as np
import pytest
import vectors
from PIL import Image

from uda_jax.data.frames import FrameFiles
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.rare_class_sampling import RareClasses, RareClassSampler, class_counts, class_probabilities
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.errors import UserError

GOLDEN = vectors.FOLDER / "daformer/rcs_probs.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "class_counts"


@pytest.fixture
def trams(make_folder):
    """Frames of 12x16 = 192 pixels, all road; f003 and f007 have 40 pixels of tram, f004 has 5, f008 none but void."""
    root = make_folder(10)
    for k in range(10):
        label = np.zeros((12, 16), np.uint8)
        if k in (3, 7):
            label[2:10, 8:13] = 2
        elif k == 4:
            label[0, :5] = 2
        elif k == 8:
            label[:] = 255
        Image.fromarray(label).save(root / "train" / "labels" / f"f{k:03d}.png")
    return root


def domain(root, section, **fields):
    return Domain(dataset="folder", root=str(root), label_space="own", rare_classes=section, **fields)


def source(root):
    return ("folder", str(root), "train", None)


@pytest.mark.parametrize("k", range(len(np.load(GOLDEN)["temperatures"])))
def test_probabilities_are_the_published_ones(k):
    golden = np.load(GOLDEN)
    probabilities = class_probabilities(golden["counts"], float(golden["temperatures"][k]))
    np.testing.assert_allclose(probabilities, golden[f"probs_dense_{k}"], atol=2e-6)
    np.testing.assert_allclose(probabilities[golden[f"classes_{k}"]], golden[f"probs_sorted_{k}"], atol=2e-6)
    assert probabilities.sum() == pytest.approx(1)


def test_a_class_that_never_occurs_is_never_drawn():
    # Shares 0.75 and 0.25: the ratio of the two is exp(0.5 / T) = e.
    counts = np.array([[30, 0, 10], [45, 0, 15]])
    probabilities = class_probabilities(counts, 0.5)
    np.testing.assert_allclose(probabilities, [1 / (1 + np.e), 0, np.e / (1 + np.e)], rtol=1e-12)
    sampler = RareClassSampler(counts, RareClasses(temperature=0.5, min_pixels=12), ("a", "b", "c"), "rare")
    generator = np.random.default_rng(0)
    draws = [sampler.draw(generator) for _ in range(4000)]
    classes, frames = np.array(draws).T
    assert set(classes) == {0, 2}
    assert np.mean(classes == 2) == pytest.approx(np.e / (1 + np.e), abs=0.02)
    # Ten pixels are not more than twelve: only the second frame shows class 2. Both show class 0, equally often.
    assert set(frames[classes == 2]) == {1}
    assert np.mean(frames[classes == 0]) == pytest.approx(0.5, abs=0.05)


def test_a_frame_with_just_min_pixels_does_not_show_the_class():
    # DAFormer keeps the files with "more than" min_pixels.
    counts = np.array([[13, 0], [12, 20], [0, 13]])
    sampler = RareClassSampler(counts, RareClasses(temperature=1.0, min_pixels=12), ("a", "b"), "rare")
    drawn = {sampler.draw(np.random.default_rng(seed)) for seed in range(200)}
    assert drawn == {(0, 0), (1, 1), (1, 2)}


def test_counts_are_those_of_the_labels(trams):
    counts = class_counts(open_domain(domain(trams, None)), source(trams))
    expected = np.tile([192, 0, 0], (10, 1))
    expected[[3, 7]] = [152, 0, 40]
    expected[4] = [187, 0, 5]
    expected[8] = 0
    np.testing.assert_array_equal(counts, expected)


def test_counts_come_from_the_cache_until_a_label_changes(trams, cache, monkeypatch, tmp_path):
    opened = lambda **fields: open_domain(domain(trams, None, **fields))  # noqa: E731
    first = class_counts(opened(), source(trams))
    (file,) = cache.iterdir()
    monkeypatch.setattr(FrameFiles, "read", lambda *_: pytest.fail("a label was read"))
    np.testing.assert_array_equal(class_counts(opened(), source(trams)), first)
    monkeypatch.undo()
    monkeypatch.setenv("UDA_JAX_CACHE", str(cache.parent))

    label = trams / "train" / "labels" / "f000.png"
    stat = label.stat()
    Image.fromarray(np.full((12, 16), 1, np.uint8)).save(label)
    os.utime(label, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert class_counts(opened(), source(trams))[0].tolist() == [0, 192, 0]

    # Fewer frames, another label space, other labels: other counts, each with a file of its own.
    assert class_counts(opened(count=4), source(trams)).shape == (4, 3)
    pseudo = tmp_path / "pseudo"
    pseudo.mkdir()
    for k in range(10):
        Image.fromarray(np.full((12, 16), 2, np.uint8)).save(pseudo / f"f{k:03d}.png")
    relabelled = class_counts(opened(labels_from=str(pseudo)), source(trams))
    assert relabelled.tolist() == [[0, 0, 192]] * 10
    assert len(list(cache.iterdir())) == 4

    file.write_bytes(file.read_bytes()[:50])
    os.utime(label, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(label)
    os.utime(label, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    np.testing.assert_array_equal(class_counts(opened(), source(trams)), first)
    np.testing.assert_array_equal(np.load(file), first)


def test_a_cache_that_cannot_be_written(trams, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(UserError, match="rare_classes: cannot write .*; set UDA_JAX_CACHE to a writable folder"):
        train_stream({"source": domain(trams, RareClasses(min_pixels=20))}, global_batch=1, seed=0)


def taken(one, count=40, **options):
    stream = train_stream({"source": one}, global_batch=1, seed=0, **options)
    batches = [batch["source"] for batch in itertools.islice(stream, count)]
    stream.close()
    return batches


def test_the_stream_draws_frames_and_crops_that_show_rare_classes(trams):
    section = RareClasses(temperature=0.01, min_pixels=20, crop_share=0.5, retries=100)
    batches = taken(domain(trams, section, crop=(6, 6), flip=True))
    # The share of tram is 85 of 1728 pixels: at this temperature road is practically never drawn.
    assert {int(batch["index"][0]) for batch in batches} == {3, 7}
    assert all((batch["label"] == 2).sum() > 10 for batch in batches)
    assert len({batch["image"].tobytes() for batch in batches}) > 20

    # Without new crops, many of the same frames' windows miss it.
    careless = taken(domain(trams, dataclasses.replace(section, retries=0), crop=(6, 6), flip=True))
    assert {int(batch["index"][0]) for batch in careless} == {3, 7}
    assert sum((batch["label"] == 2).sum() <= 10 for batch in careless) > 5


def test_a_crop_that_cannot_show_the_class_is_accepted_in_the_end(trams):
    # A window of 2x2 never holds more than 20 pixels.
    batches = taken(domain(trams, RareClasses(min_pixels=20, crop_share=1.0), crop=(2, 2)), 5)
    assert {batch["label"].shape for batch in batches} == {(1, 2, 2)}


def test_rare_classes_of_resized_frames_without_a_crop(trams):
    batches = taken(domain(trams, RareClasses(min_pixels=20), size=(6, 8)), 10)
    assert {int(batch["index"][0]) for batch in batches} == {3, 7}
    assert {batch["label"].shape for batch in batches} == {(1, 6, 8)}


def test_the_built_in_streets_can_be_counted(cache):
    options = {"size": (48, 96), "limit": 4}
    streets = Domain(split="simulator_train", options=options, rare_classes=RareClasses(min_pixels=0), crop=(32, 32))
    assert len(taken(streets, 3)) == 3
    counts = np.load(next(cache.iterdir()))
    labels = [open_domain(streets)[k]["label"] for k in range(4)]
    np.testing.assert_array_equal(counts, [np.bincount(x[x < 19], minlength=19) for x in labels])
    # All of them in one file: the names tell which frames were counted.
    taken(dataclasses.replace(streets, count=2, count_seed=0), 1)
    taken(dataclasses.replace(streets, count=2, count_seed=1), 1)
    assert len(list(cache.iterdir())) == 3


def test_mistakes(trams, make_folder):
    with pytest.raises(
        UserError, match=r"config.data.source.rare_classes.min_pixels: expected less than 40, the most .*'tram'"
    ):
        train_stream({"source": domain(trams, RareClasses())}, global_batch=1, seed=0)
    bare = make_folder(3, root="bare", labels=False)
    with pytest.raises(UserError, match="config.data.source.fields: 3 frames have no label, the first is 'f000'"):
        train_stream({"source": domain(bare, RareClasses())}, global_batch=1, seed=0)
    void = make_folder(2, root="void")
    for k in range(2):
        Image.fromarray(np.full((12, 16), 255, np.uint8)).save(void / "train" / "labels" / f"f{k:03d}.png")
    with pytest.raises(UserError, match="rare_classes: no label of the split has a pixel of a class"):
        train_stream({"source": domain(void, RareClasses())}, global_batch=1, seed=0)
    (trams / "train" / "labels" / "f009.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"config.data.source.rare_classes: .*f009.png: not an image"):
        train_stream({"source": domain(trams, RareClasses(min_pixels=20))}, global_batch=1, seed=0)
