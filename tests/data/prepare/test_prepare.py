"""Prepared data: the same arrays as the raw data, read by TFDS as well, and whole whatever happens while writing."""

import dataclasses
import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from uda_jax.cli import main
from uda_jax.data import get_dataset
from uda_jax.data.base import Dataset
from uda_jax.data.io import atomic
from uda_jax.data.io.archives import Bytes
from uda_jax.data.io.images import read_floats
from uda_jax.data.io.png import write_floats, write_png
from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import PROTOCOLS
from uda_jax.data.pipeline import transforms
from uda_jax.data.pipeline.domains import Domain, open_domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.data.prepare import command
from uda_jax.data.prepare.prepared import Prepared
from uda_jax.errors import UserError

FIXTURES = Path(__file__).parents[1] / "datasets/format_fixtures"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_frames(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key])
            assert getattr(mine[key], "dtype", None) == getattr(other[key], "dtype", None)


@pytest.fixture
def depth_folder(make_folder):
    """A folder data set of five frames with ids of its own, some without label or depth, in sizes of their own."""
    root = make_folder(5, yaml="classes: [road, sky, tram]\ndepth_unit: 0.01\n")
    (root / "train" / "depth").mkdir()
    for k in range(4):
        counts = np.random.default_rng(k).integers(0, 60000, (12, 16), dtype=np.uint16)
        Image.fromarray(counts).save(root / "train" / "depth" / f"f{k:03d}.png")
    (root / "train" / "labels" / "f001.png").unlink()
    for kind in ("images", "labels"):
        path = root / "train" / kind / "f004.png"
        Image.open(path).resize((20, 10), Image.Resampling.NEAREST).save(path)
    return root


def test_files_are_copied_bit_by_bit(make_folder, tmp_path):
    root = make_folder(5)
    summary = command.prepare("folder", root, tmp_path / "out", workers=1)
    assert (summary.frames, summary.shards, summary.written) == (5, 1, 1)
    skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(tmp_path / "out").as_data_source("train", decoders=skip)
    for record in source:
        name = record["name"].decode()
        assert record["image"] == (root / "train" / "images" / f"{name}.png").read_bytes()
        assert record["label"] == (root / "train" / "labels" / f"{name}.png").read_bytes()
    for label_space in ("own", "19", "7"):
        raw = get_dataset("folder", root, "train", label_space)
        prepared = get_dataset("folder", tmp_path / "out", "train", label_space)
        assert_same_frames(prepared, raw)
        assert prepared.label_space == raw.label_space and prepared.known == raw.known
        np.testing.assert_array_equal(prepared.table, raw.table)


def test_pictures_that_are_not_rgb_are_stored_as_rgb(make_folder, tmp_path):
    root = make_folder(2)
    grey = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    Image.fromarray(grey).save(root / "train" / "images" / "f001.png")
    command.prepare("folder", root, tmp_path / "out", workers=1)
    second = tfds.builder_from_directory(tmp_path / "out").as_data_source("train")[1]
    np.testing.assert_array_equal(second["image"], np.repeat(grey[..., None], 3, axis=2))
    assert_same_frames(get_dataset("folder", tmp_path / "out", "train"), get_dataset("folder", root, "train"))


def test_labels_stored_otherwise_are_decoded(tmp_path):
    """SYNTHIA's labels have 16 bits, its depth counts centimetres."""
    command.prepare("synthia", FIXTURES / "synthia", tmp_path / "out", workers=1)
    for protocol in PROTOCOLS:
        raw = get_dataset("synthia", FIXTURES / "synthia", "train", protocol)
        prepared = get_dataset("synthia", tmp_path / "out", "train", protocol)
        assert_same_frames(prepared, raw)
        assert prepared.label_space == raw.label_space
        assert_same_frames([prepared.stored(0, ("label",))], [raw.stored(0, ("label",))])


def test_painted_labels_are_decoded(make_folder, tmp_path):
    root = make_folder(2, yaml="classes: [road, sky]\ncolours: [[128, 64, 128], [1, 2, 3]]\n")
    for k in range(2):
        ids = np.random.default_rng(k).integers(0, 2, (12, 16))
        painted = np.array([(128, 64, 128), (1, 2, 3)], np.uint8)[ids]
        Image.fromarray(painted).save(root / "train" / "labels" / f"f{k:03d}.png")
    command.prepare("folder", root, tmp_path / "out", workers=1)
    record = tfds.builder_from_directory(tmp_path / "out").as_data_source("train")[1]
    np.testing.assert_array_equal(record["label"][..., 0], ids)
    prepared, raw = (get_dataset("folder", path, "train", "own") for path in (tmp_path / "out", root))
    assert_same_frames(prepared, raw)
    assert prepared.label_space.colours == ((128, 64, 128), (1, 2, 3))


@pytest.mark.parametrize("resampling", ["bicubic", "bilinear"])
def test_sized_frames_are_resized_as_in_training(depth_folder, tmp_path, resampling):
    command.prepare("folder", depth_folder, tmp_path / "out", size=(8, 9), image_resampling=resampling, workers=1)
    raw = get_dataset("folder", depth_folder, "train", "own")
    rules = transforms.Resampling(image=resampling)
    expected = [transforms.resize(example, (8, 9), resampling=rules) for example in raw]
    assert_same_frames(get_dataset("folder", tmp_path / "out", "train", "own"), expected)


def test_frames_without_labels_fit_any_label_space(make_folder, tmp_path):
    frames = make_folder(2, labels=False) / "train" / "images"
    command.prepare("video", frames, tmp_path / "out", workers=1)
    assert get_dataset("video", tmp_path / "out", "train", "own").label_space.names == ()
    assert len(get_dataset("video", tmp_path / "out", "train", "16").label_space.names) == 16
    assert_same_frames(get_dataset("video", tmp_path / "out", "train"), get_dataset("video", frames, "train"))


def test_recoded_frames_hold_the_same_pixels_in_other_files(depth_folder, tmp_path):
    command.prepare("folder", depth_folder, tmp_path / "out", recode=True, workers=1)
    raw = get_dataset("folder", depth_folder, "train", "own")
    prepared = get_dataset("folder", tmp_path / "out", "train", "own")
    assert_same_frames(prepared, raw)
    skip = {"image": tfds.decode.SkipDecoding()}
    stored = tfds.builder_from_directory(tmp_path / "out").as_data_source("train", decoders=skip)[0]["image"]
    assert stored == write_png(raw[0]["image"]) != raw.frames[0].image.read_bytes()
    with pytest.raises(UserError, match="--recode: expected no --size beside it"):
        command.prepare("folder", depth_folder, tmp_path / "other", recode=True, size=(4, 4), workers=1)


def test_training_at_the_prepared_size_must_ask_for_the_same_rules(make_folder, tmp_path):
    command.prepare("folder", make_folder(2), tmp_path / "out", size=(6, 10), fit="pad", workers=1)
    domain = Domain(dataset="folder", root=str(tmp_path / "out"), label_space="own", size=(6, 10), fit="pad")
    assert len(open_domain(domain)) == 2
    with pytest.raises(UserError, match=r"^domain: fit: .*out was prepared with 'pad', asked for 'stretch'; set the"):
        open_domain(dataclasses.replace(domain, fit="stretch"))
    with pytest.raises(UserError, match="image_resampling: .* prepared with 'bicubic', asked for 'bilinear'"):
        open_domain(dataclasses.replace(domain, image_resampling="bilinear"))
    # At another size both the raw and the prepared frames are resized, by whatever rule is asked for.
    assert len(open_domain(dataclasses.replace(domain, size=(3, 5), fit="stretch"))) == 2


def test_disparity_by_the_rule_of_corda(tmp_path):
    root = tmp_path / "gta5"
    for folder, source in (
        ("images", "synscapes/img/rgb/1.png"),
        ("labels", "synscapes/img/class/1.png"),
        ("disparity", "corda/gta/disparity/00001.png"),
    ):
        (root / folder).mkdir(parents=True)
        shutil.copy(FIXTURES / source, root / folder / "00001.png")
    options = {"depth": "monocular"}
    for rule in ("nearest", "bilinear"):
        out = tmp_path / rule
        command.prepare("gta5", root, out, size=(20, 30), disparity_resampling=rule, options=options, workers=1)
        raw = get_dataset("gta5", root, "train", **options)[0]
        expected = transforms.resize(raw, (20, 30), resampling=transforms.Resampling(disparity=rule))
        assert_same_frames(get_dataset("gta5", out, "train"), [expected])


def test_labels_of_another_size_than_the_image(tmp_path):
    root = FIXTURES / "gta5_mismatch"
    raw = get_dataset("gta5", root, "train").read(0, ("image", "label"))
    assert raw["image"].shape[:2] != raw["label"].shape
    command.prepare("gta5", root, tmp_path / "files", workers=1)
    assert_same_frames(get_dataset("gta5", tmp_path / "files", "train"), get_dataset("gta5", root, "train"))
    command.prepare("gta5", root, tmp_path / "sized", size=(6, 11), workers=1)
    assert_same_frames(get_dataset("gta5", tmp_path / "sized", "train"), [transforms.resize(raw, (6, 11))])


def test_frames_without_some_maps(depth_folder, tmp_path):
    command.prepare("folder", depth_folder, tmp_path / "out", workers=1)
    raw, prepared = (get_dataset("folder", root, "train", "own") for root in (depth_folder, tmp_path / "out"))
    assert_same_frames(prepared, raw)
    assert prepared.missing("label") == ["f001"] and prepared.missing("depth") == ["f004"]
    assert prepared.missing("image") == [] and prepared.missing("disparity") == prepared.missing("disparity")
    assert len(prepared.missing("disparity")) == 5
    # For TFDS, whose records all have the same features, what is missing is ignored or invalid.
    records = tfds.builder_from_directory(tmp_path / "out").as_data_source("train")
    assert (records[1]["label"] == 255).all() and records[1]["label"].shape == (12, 16, 1)
    assert (records[4]["depth"] == 0).all() and records[4]["depth"].shape == (10, 20, 1)


def test_tfds_reads_all_maps(depth_folder, tmp_path):
    command.prepare("folder", depth_folder, tmp_path / "out", size=(8, 8), workers=1, shard_bytes=1)
    prepared = get_dataset("folder", tmp_path / "out", "train", "own")
    builder = tfds.builder_from_directory(tmp_path / "out")
    assert builder.info.splits["train"].num_shards == 5
    records = builder.as_data_source("train")
    assert [record["name"].decode() for record in records] == [prepared.name(k) for k in range(5)]
    for k, record in enumerate(records):
        for field in prepared.read(k, ("image", "label", "depth")).keys() - {"name", "index"}:
            ours = prepared.stored(k, (field,))[field]
            np.testing.assert_array_equal(record[field].reshape(ours.shape), ours)
            assert record[field].dtype == ours.dtype
    assert len(builder.as_data_source("train[:40%]")) == 2


def test_floats_survive():
    array = np.array([[0.0, -0.0, np.inf], [1e-42, np.pi, 65535.25]], np.float32)
    for view in (array, array[:, ::2], array.T):
        read = read_floats(Bytes("floats", write_floats(view)))
        np.testing.assert_array_equal(read.view(np.uint32), np.ascontiguousarray(view).view(np.uint32))


def test_only_what_is_asked_for_is_decoded(depth_folder, tmp_path):
    command.prepare("folder", depth_folder, tmp_path / "out", fields=["label", "image"], workers=1)
    prepared = get_dataset("folder", tmp_path / "out", "train", "own")
    assert set(prepared.read(0, ("label", "depth"))) == {"name", "index", "label"}
    assert set(prepared[0]) == {"name", "index", "image", "label"}
    assert prepared.read(-1, ()) == {"name": "f004", "index": 4} and prepared.problems == ()
    with pytest.raises(IndexError):
        prepared[5]


def test_training_batches_are_those_of_the_raw_data(make_folder, tmp_path):
    root = make_folder(7)
    command.prepare("folder", root, tmp_path / "files", workers=1, shard_bytes=1)
    command.prepare("folder", root, tmp_path / "sized", size=(10, 14), workers=1)
    domain = Domain(
        dataset="folder", label_space="own", size=(10, 14), scale=(0.8, 1.5), crop=(8, 8), flip=True, root=str(root)
    )
    streams = [
        list(itertools.islice(train_stream({"source": dataclasses.replace(domain, root=str(place))}, **SEEDS), 5))
        for place in (root, tmp_path / "files", tmp_path / "sized")
    ]
    for raw, files, sized in zip(*streams, strict=True):
        assert_same_frames([files["source"], sized["source"]], [raw["source"], raw["source"]])


SEEDS = {"global_batch": 4, "seed": 0}


def test_a_copy_reads_on_its_own(make_folder, tmp_path):
    command.prepare("folder", make_folder(3), tmp_path / "out", workers=1)
    prepared = get_dataset("folder", tmp_path / "out", "train")
    first = prepared[0]
    assert_same_frames([pickle.loads(pickle.dumps(prepared))[0]], [first])


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from uda_jax.data.prepare.command import prepare

root, out = sys.argv[1], Path(sys.argv[2])
moments, killed = random.Random(0), 0
# The k-th child is killed a random moment after it has written a random number of shards more than its forerunners.
for least in (0, 6, 12, 18, 24):
    child = os.fork()
    if not child:
        prepare("folder", root, out, shard_bytes=1, workers=1)
        os._exit(0)
    goal = least + moments.randrange(6)
    # A child that failed is not waited for.
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while len(list(out.glob("*.array_record*"))) < goal and not os.waitid(os.P_PID, child, ended):
        time.sleep(0.0005)
    time.sleep(moments.uniform(0, 0.01))
    os.kill(child, 9)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    print(killed, len(list(out.glob("*.array_record*"))), (out / "manifest.json").exists())
"""


def test_a_killed_run_goes_on_to_the_same_bytes(make_folder, tmp_path):
    root = make_folder(40)
    command.prepare("folder", root, tmp_path / "whole", shard_bytes=1, workers=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, root, tmp_path / "out"], capture_output=True, text=True, check=True
    )
    states = [line.split() for line in done.stdout.splitlines()]
    assert [state[0] for state in states] == ["1", "2", "3", "4", "5"] and {state[2] for state in states} == {"False"}
    with pytest.raises(UserError, match=r"split 'train' is not finished; run the same 'uda prepare' again$"):
        get_dataset("folder", tmp_path / "out", "train")
    # What a process leaves that is killed between writing a file and giving it its name.
    for name in ("unfinished-train.json", "manifest.json"):
        (tmp_path / "out" / f".{name}.4711-0123abcd").write_text("{")
    summary = command.prepare("folder", root, tmp_path / "out", shard_bytes=1, workers=1)
    assert summary.shards == 40 and 0 < summary.written < 40 - 15
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_bytes_do_not_depend_on_the_workers(make_folder, tmp_path):
    root = make_folder(6)
    for workers in (1, 2):
        command.prepare("folder", root, tmp_path / str(workers), size=(8, 8), shard_bytes=1, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_finished_shards_are_verified_not_written_again(make_folder, tmp_path):
    root, out = make_folder(4), tmp_path / "out"
    command.prepare("folder", root, out, shard_bytes=1, workers=1)
    whole = contents(out)
    shards = sorted(out.glob("*.array_record*"))
    assert [path.name for path in shards] == [f"folder-train.array_record-{k:05d}-of-00004" for k in range(4)]
    before = [path.stat().st_ino for path in shards]
    data = bytearray(shards[1].read_bytes())
    data[200] ^= 1
    shards[1].write_bytes(data)
    shards[2].unlink()
    assert command.prepare("folder", root, out, shard_bytes=1, workers=1).written == 2
    assert contents(out) == whole
    assert [path.stat().st_ino for path in shards[::3]] == before[::3]


def test_damaged_shards_are_named(make_folder, tmp_path):
    out = tmp_path / "out"
    command.prepare("folder", make_folder(4), out, shard_bytes=1, workers=1)
    path = sorted(out.glob("*.array_record*"))[2]
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    dataset = get_dataset("folder", out, "train", "own")
    assert dataset[1]["name"] == "f001"
    with pytest.raises(UserError, match=r"00002-of-00004: missing or damaged \(.*\); run the same 'uda prepare' again"):
        dataset[2]
    path.write_bytes(data[:-100])
    with pytest.raises(UserError, match=rf"00002-of-00004: damaged shard: expected {len(data)} bytes, got"):
        get_dataset("folder", out, "train", "own")
    path.unlink()
    with pytest.raises(UserError, match=r"00002-of-00004: missing shard \(No such file or directory\); run the same"):
        get_dataset("folder", out, "train", "own")


def test_unreadable_frames_are_listed_and_only_they_are_missing(make_folder, tmp_path, capsys):
    root, out = make_folder(5), tmp_path / "out"
    command.prepare("folder", root, tmp_path / "whole", shard_bytes=1, workers=1)
    good = {}
    for name in ("labels/f003.png", "images/f001.png"):
        path = root / "train" / name
        good[path] = path.read_bytes(), path.stat()
        # The whole picture is there, only the mark of the end of the file is not.
        path.write_bytes(good[path][0][:-12])
    with pytest.raises(UserError, match="folder: 2 frames cannot be read, the first is 'f001'; fix them and run"):
        command.prepare("folder", root, out, shard_bytes=1, workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert "images/f001.png: damaged" in lines[-2] and "labels/f003.png: damaged" in lines[-1]
    with pytest.raises(UserError, match="not finished"):
        get_dataset("folder", out, "train")
    for path, (data, stat) in good.items():
        path.write_bytes(data)
        # A copy that keeps the times is the same file for the fingerprint.
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert command.prepare("folder", root, out, shard_bytes=1, workers=1).written == 2
    assert contents(out) == contents(tmp_path / "whole")


def test_problems_of_the_listing_stop_it_before_anything_is_written(make_folder, tmp_path):
    root = make_folder(3)
    (root / "train" / "images" / "f000.png").unlink()
    with pytest.raises(UserError, match=r"f000\.png: there is no image 'f000'"):
        command.prepare("folder", root, tmp_path / "out", workers=1)
    for path in (root / "train").glob("*/*.png"):
        path.unlink()
    (root / "train.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"train\.zip: damaged archive"):
        command.prepare("folder", root, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_names_file_before_and_after(make_folder, tmp_path):
    root, out = make_folder(4), tmp_path / "out"
    (root / "train" / "images" / "f000.png").write_bytes(b"")
    (tmp_path / "good.txt").write_text("f003\nf001\nf002\n")
    command.prepare("folder", root, out, names_file=str(tmp_path / "good.txt"), workers=1)
    prepared = get_dataset("folder", out, "train", "own")
    assert [prepared.name(k) for k in range(3)] == ["f003", "f001", "f002"]
    (tmp_path / "two.txt").write_text("f002\nf003\n")
    domain = Domain(dataset="folder", root=str(out), label_space="own", names_file=str(tmp_path / "two.txt"))
    batch = next(train_stream({"source": domain}, global_batch=2, seed=0))["source"]
    raw = get_dataset("folder", root, "train", "own")
    for index, image in zip(batch["index"], batch["image"], strict=True):
        np.testing.assert_array_equal(image, raw[(2, 3)[index]]["image"])
    with pytest.raises(UserError, match=r"^names_file: .*line 1: no frame 'x'"):
        (tmp_path / "bad.txt").write_text("x\n")
        command.prepare("folder", root, out, names_file=str(tmp_path / "bad.txt"), workers=1)


def test_splits_share_a_folder(make_folder, tmp_path):
    out = tmp_path / "out"
    make_folder(3)
    root = make_folder(2, split="val")
    for split in ("train", "val"):
        command.prepare("folder", root, out, split=split, workers=1)
    assert len(get_dataset("folder", out, "train")) == 3 and len(get_dataset("folder", out, "val")) == 2
    builder = tfds.builder_from_directory(out)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 3, "val": 2}
    with pytest.raises(UserError, match=r"folder: split 'vall' was not prepared into .*; did you mean 'val'\?"):
        get_dataset("folder", out, "vall")


def test_other_settings_need_another_folder(make_folder, tmp_path):
    root, out = make_folder(3), tmp_path / "out"
    command.prepare("folder", root, out, size=(8, 10), workers=1)
    before = contents(out)
    for changed, message in (
        ({"size": (10, 8)}, "prepared with size 10x8, not 8x10; choose another folder"),
        ({"size": None}, "prepared with size 10x8, not None"),
        ({"image_resampling": "bilinear"}, "prepared with image_resampling bicubic, not bilinear"),
        ({"fit": "pad"}, "prepared with fit stretch, not pad"),
        ({"fields": ["image"]}, "prepared with fields image,label, not image"),
        ({"options": {"require_labels": True}}, "prepared with options {}, not {'require_labels': True}"),
    ):
        with pytest.raises(UserError, match=message):
            command.prepare("folder", root, out, **({"size": (8, 10), "workers": 1} | changed))
    (root / "train" / "images" / "f000.png").unlink()
    (root / "train" / "labels" / "f000.png").unlink()
    with pytest.raises(UserError, match="prepared with frames 3, not 2"):
        command.prepare("folder", root, out, size=(8, 10), workers=1)
    assert contents(out) == before


def test_settings_of_an_unfinished_split(make_folder, tmp_path):
    root, out = make_folder(3), tmp_path / "out"
    good = (root / "train" / "images" / "f001.png").read_bytes()
    (root / "train" / "images" / "f001.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 frames cannot be read"):
        command.prepare("folder", root, out, shard_bytes=1, workers=1)
    (root / "train" / "images" / "f001.png").write_bytes(good)
    with pytest.raises(UserError, match="prepared with size None, not 4x4; choose another folder, or delete this one"):
        command.prepare("folder", root, out, size=(4, 4), shard_bytes=1, workers=1)
    for name in ("images", "labels"):
        (root / "train" / name / "f002.png").rename(root / "train" / name / "f009.png")
    with pytest.raises(UserError, match="prepared with other frames"):
        command.prepare("folder", root, out, shard_bytes=1, workers=1)


def test_mistakes(make_folder, tmp_path):
    root = make_folder(2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ({"out": tmp_path / "full"}, "--out: .*full is neither empty nor prepared data; choose a new folder"),
        ({"out": root}, "--out: .* is neither empty nor prepared data"),
        ({"out": tmp_path / "file"}, "--out: cannot make the folder .*file"),
        ({"image_resampling": "nearest"}, "--resampling: expected one of bicubic, bilinear, got 'nearest'"),
        ({"fit": "cut"}, "--fit: expected one of stretch, pad, got 'cut'"),
        ({"fields": ["image", "depth"]}, "--fields: no frame of the split has depth; leave it out"),
        ({"fields": ["image", "lable"]}, "--fields: expected some of image, label, depth, disparity, .*, got 'lable'"),
        ({"fields": ["label"]}, "--fields: expected image among them, got 'label'"),
        ({"dataset": "foldr"}, "dataset: unknown data set 'foldr'; did you mean 'folder'"),
        ({"options": {"size": 3}}, "folder: unknown option 'size'"),
    ):
        with pytest.raises(UserError, match=message):
            command.prepare(**({"dataset": "folder", "root": root, "out": tmp_path / "out", "workers": 1} | arguments))
    assert not (tmp_path / "out").exists()


def test_mistakes_in_reading(make_folder, tmp_path):
    root, out = make_folder(2), tmp_path / "out"
    command.prepare("folder", root, out, options={"require_labels": True}, workers=1)
    for options in ({}, {"require_labels": True}):
        assert len(get_dataset("folder", out, "train", "own", **options)) == 2
    with pytest.raises(UserError, match="option 'require_labels': .* was prepared with True, got False"):
        get_dataset("folder", out, "train", "own", require_labels=False)
    with pytest.raises(UserError, match="camvid: root: .* holds folder; set the domain's 'dataset'"):
        get_dataset("camvid", out, "train")
    with pytest.raises(UserError, match="folder: label_space: 'camvidd' is none of own, 19, 16, "):
        get_dataset("folder", out, "train", "camvidd")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": "uda_jax prepared data 2"}))
    with pytest.raises(UserError, match="expected 'uda_jax prepared data 1', got 'uda_jax prepared data 2'"):
        get_dataset("folder", out, "train")
    (out / "manifest.json").write_text(json.dumps(manifest)[:-9])
    with pytest.raises(UserError, match=r"manifest\.json: damaged \(.*\); delete the folder and run the same"):
        get_dataset("folder", out, "train")


def test_a_manifest_of_something_else_is_no_prepared_data(make_folder, tmp_path):
    root = make_folder(2)
    for text in ('{"format": 1}', "[]", "not JSON"):
        (root / "manifest.json").write_text(text)
        assert len(get_dataset("folder", root, "train", "own")) == 2


def test_one_process_at_a_time(make_folder, tmp_path):
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match="another 'uda prepare' is writing into .*; wait for it, end it, or"):
            command.prepare("folder", make_folder(2), tmp_path / "out", workers=1)
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_the_command_line_knows():
    writer = ArrayRecordWriter("/dev/full", "group_size:1")
    writer.write(b"0" * 1000)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        with atomic.disk_full_errors(Path("out/shard")):
            writer.close()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "out/shard"


def test_data_sets_that_are_not_files(tmp_path):
    options = {"limit": 3, "size": (16, 32)}
    raw = get_dataset("streets", tmp_path / "cache", "camera_dev", "16", **options)
    command.prepare("streets", tmp_path / "cache", tmp_path / "out", split="camera_dev", options=options, workers=1)
    prepared = get_dataset("streets", tmp_path / "out", "camera_dev", "16", **options)
    assert_same_frames(prepared, raw)
    assert prepared.label_space == raw.label_space


def test_split_names_that_tfds_does_not_have(make_folder, tmp_path):
    root, out = make_folder(2, split="15° left"), tmp_path / "out"
    command.prepare("folder", root, out, split="15° left", workers=1)
    assert get_dataset("folder", out, "15° left", "own")[1]["name"] == "f001"
    assert len(tfds.builder_from_directory(out).as_data_source("15__left")) == 2
    shutil.copytree(root / "15° left", root / "15__left")
    with pytest.raises(
        UserError, match="holds split '15° left', whose files are named as those of '15__left' would be"
    ):
        command.prepare("folder", root, out, split="15__left", workers=1)


def test_command(make_folder, tmp_path, capsys):
    root, out = make_folder(3), tmp_path / "out"
    words = ["prepare", "folder", "--root", str(root), "--out", str(out), "--size", "10x6", "--resampling", "bilinear"]
    words += ["--fields", "image,label", "--option", "require_labels=true", "--workers", "1"]
    assert main(words) == 0
    assert "3 frames of folder train, 0.1 MB in 1 shards (0 were finished before)" in capsys.readouterr().out
    assert get_dataset("folder", out, "train", "own")[0]["image"].shape == (6, 10, 3)
    assert main([*words, "--split", "val"]) == 2
    assert "uda: error: folder: no folder" in capsys.readouterr().err
    assert main([*words, "--size", "10"]) == 2
    assert "expected width x height such as 1280x720, got '10'" in capsys.readouterr().err


def test_a_killed_worker_ends_the_run_with_one_line(make_folder, tmp_path):
    over = threading.Event()

    def kill():
        # The pool must not be starting another one at that moment; and processes of later tests are none of ours.
        while not over.wait(0.01):
            if len(workers := multiprocessing.active_children()) == 2:
                workers[0].kill()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(UserError, match="a worker process was killed.*run it again with fewer than 2 workers"):
            command.prepare("folder", make_folder(4), tmp_path / "out", shard_bytes=1, workers=2)
    finally:
        over.set()
    killer.join()


class Rig(Dataset):
    """Frames of a stereo camera: every kind of map."""

    label_space = label_spaces.label_space("19")
    maps = ("image", "label", "image_right", "intrinsics", "baseline", "distrust")

    def __init__(self, root, split, label_space="19"):
        del root, split, label_space

    def __len__(self):
        return 3

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        return {
            "image": generator.integers(0, 256, (6, 8, 3), dtype=np.uint8),
            "label": generator.integers(0, 19, (6, 8), dtype=np.uint8),
            "image_right": generator.integers(0, 256, (6, 8, 3), dtype=np.uint8),
            "intrinsics": generator.random(4, dtype=np.float32),
            "baseline": np.float32(0.1 + index),
            "distrust": generator.random((6, 8), dtype=np.float32),
            "name": self.name(index),
            "index": index,
        }

    def name(self, index):
        return f"frame{index}"


@pytest.mark.parametrize("size", [None, (12, 16)])
def test_every_kind_of_map_is_stored_exactly(tmp_path, monkeypatch, size):
    monkeypatch.setattr(command, "reader", lambda name: Rig)
    monkeypatch.setattr(command, "open_dataset", lambda name, *arguments, **_: Rig(*arguments))
    command.prepare("rig", None, tmp_path / "out", size=size, workers=1)
    prepared, raw = Prepared("rig", Rig, tmp_path / "out", "train", "16", {}), Rig(None, "train")
    assert prepared.maps == Rig.maps
    for index in range(3):
        expected = raw[index] | {"label": label_spaces.train19_table("16")[raw[index]["label"]]}
        expected = expected if size is None else transforms.resize(expected, size)
        assert prepared[index].keys() == expected.keys()
        for field in Rig.maps:
            np.testing.assert_array_equal(prepared[index][field], expected[field])
            assert prepared[index][field].dtype == expected[field].dtype
    (record, *_) = tfds.builder_from_directory(tmp_path / "out").as_data_source("train")
    np.testing.assert_array_equal(record["intrinsics"], prepared[0]["intrinsics"])


def test_shards_of_changed_files_are_written_anew(make_folder, tmp_path, capsys):
    root, out = make_folder(5), tmp_path / "out"
    assert command.prepare("folder", root, out, shard_bytes=1, workers=1).written == 5
    assert command.prepare("folder", root, out, shard_bytes=1, workers=1).written == 0
    Image.fromarray(np.full((12, 16), 2, np.uint8)).save(root / "train" / "labels" / "f002.png")
    assert command.prepare("folder", root, out, shard_bytes=1, workers=1).written == 1
    assert "files or classes were changed since; 1 of 5 shards are written anew" in capsys.readouterr().err
    assert (get_dataset("folder", out, "train", "own")[2]["label"] == 2).all()


@pytest.mark.parametrize("yaml", ["classes: [road, sky, tram]\nids: [2, 0, 1]\n", "classes: [sky, road, tram]\n"])
def test_other_classes_or_ids_make_all_shards_anew(make_folder, tmp_path, yaml):
    root, out = make_folder(3), tmp_path / "out"
    command.prepare("folder", root, out, shard_bytes=1, workers=1)
    (root / "dataset.yaml").write_text(yaml)
    assert command.prepare("folder", root, out, shard_bytes=1, workers=1).written == 3
    raw, prepared = get_dataset("folder", root, "train", "own"), get_dataset("folder", out, "train", "own")
    assert prepared.label_space == raw.label_space
    assert_same_frames(prepared, raw)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../b", "a\x1b]0;b", ""])
def test_names_in_a_manifest_never_lead_elsewhere(make_folder, tmp_path, name):
    out = tmp_path / "out"
    command.prepare("folder", make_folder(2), out, workers=1)
    manifest = json.loads((out / "manifest.json").read_text())
    for change in (
        lambda entry: entry["frames"].__setitem__(0, name),
        lambda entry: entry["shards"][0].__setitem__("file", name),
    ):
        changed = json.loads(json.dumps(manifest))
        change(changed["splits"]["train"])
        (out / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="leads out of its folder, or holds control characters"):
            get_dataset("folder", out, "train", "own")


def test_what_is_left_out_is_told(make_folder, tmp_path, capsys):
    root = make_folder(3)
    for path in sorted((root / "train" / "labels").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    (root / "train" / "images" / "f003.heic").write_bytes(b"")
    assert main(["prepare", "folder", "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    images, labels = capsys.readouterr().err.strip().splitlines()[-2:]
    assert images.startswith("note: ") and "1 files are passed over: .heic (1)" in images
    assert "3 files are passed over: .jpg (3), the first is 'f000.jpg'; a label must be .png" in labels
