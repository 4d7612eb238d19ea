"""Streams: the same batches on any topology, resumed or not, and evaluation passes that count every frame once."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from uda_jax import schema
from uda_jax.data import get_dataset
from uda_jax.data.pipeline.examples import DomainFrames
from uda_jax.data.pipeline.rare_class_sampling import RareClasses
from uda_jax.data.pipeline.streams import Domain, evaluation_batches, open_domain, train_stream
from uda_jax.errors import UserError


@pytest.fixture
def domains(make_folder):
    """A labelled source of 10 frames and an unlabelled target of 7, with every random transform."""
    common = {"dataset": "folder", "label_space": "own", "scale": (0.8, 1.5), "crop": (8, 8), "flip": True}
    source = Domain(root=str(make_folder(10, root="source")), **common)
    target = Domain(root=str(make_folder(7, root="target", labels=False)), fields=("image",), **common)
    return {"source": source, "target": target}


@pytest.fixture
def drawn(make_folder, tmp_path, monkeypatch):
    """A source of rare class sampling mixed with another set, and a target of two sets: every way to draw frames."""
    monkeypatch.setenv("UDA_JAX_CACHE", str(tmp_path / "cache"))
    common = {"dataset": "folder", "label_space": "own", "crop": (8, 8), "flip": True}
    roots = [str(make_folder(count, size=(12, 16 + count), root=f"set{count}")) for count in (4, 5, 6)]
    plain = [Domain(root=root, **common) for root in roots]
    rare = RareClasses(temperature=0.1, min_pixels=60, crop_share=0.35)
    source = dataclasses.replace(plain[0], rare_classes=rare, weight=2.0, mix={"more": plain[1]})
    target = dataclasses.replace(plain[1], short_side=(9, 13), mix={"even_more": plain[2]})
    return {"source": source, "target": target}


def take(iterator, count):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].keys() == right[name].keys()
            for field in left[name]:
                np.testing.assert_array_equal(left[name][field], right[name][field])


def test_batches_hold_the_fields_asked_for(domains):
    (batch,) = take(train_stream(domains, global_batch=4, seed=0), 1)
    assert set(batch) == {"source", "target"}
    assert set(batch["source"]) == {"image", "label", "index"} and set(batch["target"]) == {"image", "index"}
    assert batch["source"]["image"].shape == (4, 8, 8, 3) and batch["source"]["image"].dtype == np.uint8
    assert batch["source"]["label"].shape == (4, 8, 8) and batch["source"]["label"].dtype == np.uint8
    assert batch["source"]["index"].dtype == np.int32


def test_same_seed_same_batches_other_seed_others(domains):
    first, again, other = (take(train_stream(domains, global_batch=2, seed=seed), 5) for seed in (3, 3, 4))
    assert_equal(first, again)
    assert any((a["source"]["index"] != b["source"]["index"]).any() for a, b in zip(first, other, strict=True))


def test_two_domains_draw_different_numbers(domains):
    twins = {"source": domains["source"], "target": domains["source"]}
    batches = take(train_stream(twins, global_batch=2, seed=0), 10)
    assert any((batch["source"]["index"] != batch["target"]["index"]).any() for batch in batches)
    # Frames that happen to meet are still augmented differently.
    by_name = [
        {
            int(k): image
            for batch in batches
            for k, image in zip(batch[name]["index"], batch[name]["image"], strict=True)
        }
        for name in twins
    ]
    assert any((by_name[0][k] != by_name[1][k]).any() for k in by_name[0].keys() & by_name[1].keys())


def test_every_frame_once_per_epoch_and_new_augmentation_in_the_next(domains):
    batches = take(train_stream({"source": domains["source"]}, global_batch=5, seed=0), 4)
    indices = np.concatenate([batch["source"]["index"] for batch in batches])
    images = np.concatenate([batch["source"]["image"] for batch in batches])
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert (indices[:10] != indices[10:]).any()
    changed = [(images[:10][indices[:10] == k] != images[10:][indices[10:] == k]).any() for k in range(10)]
    assert sum(changed) >= 9


def test_label_follows_its_image(make_folder):
    root = make_folder(6)
    for k in range(6):
        # The red channel repeats the label, so a crop or flip that differs between them shows.
        label = np.array(Image.open(root / "train" / "labels" / f"f{k:03d}.png"))
        Image.fromarray(np.stack([label] * 3, -1)).save(root / "train" / "images" / f"f{k:03d}.png")
    domain = Domain(dataset="folder", root=str(root), label_space="own", crop=(9, 20), flip=True)
    for batch in take(train_stream({"only": domain}, global_batch=3, seed=1), 6):
        label, red = batch["only"]["label"], batch["only"]["image"][..., 0]
        np.testing.assert_array_equal(np.where(label == 255, 0, label), red)
        assert (label == 255).any() and (label != 255).any()


def test_processes_hold_the_contiguous_blocks_of_the_single_process_batch(domains):
    whole = take(train_stream(domains, global_batch=6, seed=0), 5)
    for count in (2, 3):
        parts = [
            take(train_stream(domains, global_batch=6, seed=0, process_index=p, process_count=count), 5)
            for p in range(count)
        ]
        joined = [
            {
                name: {
                    field: np.concatenate([part[step][name][field] for part in parts]) for field in whole[step][name]
                }
                for name in whole[step]
            }
            for step in range(5)
        ]
        assert_equal(joined, whole)


def test_resume_from_state_and_by_seeking(domains):
    whole = take(train_stream(domains, global_batch=2, seed=0), 9)
    iterator = train_stream(domains, global_batch=2, seed=0)
    for _ in range(4):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    resumed = train_stream(domains, global_batch=2, seed=0)
    resumed.set_state(state)
    assert_equal(take(resumed, 5), whole[4:])
    sought = train_stream(domains, global_batch=2, seed=0)
    sought.set_state({"step": 4})
    assert_equal(take(sought, 5), whole[4:])


@pytest.mark.parametrize("step", [1, 4])
def test_each_process_resumes_with_its_own_block(domains, step):
    whole = take(train_stream(domains, global_batch=4, seed=0), step + 3)
    for index in range(2):
        resumed = train_stream(domains, global_batch=4, seed=0, process_index=index, process_count=2)
        resumed.set_state({"step": step})
        block = slice(2 * index, 2 * index + 2)
        expected = [
            {name: {field: value[block] for field, value in maps.items()} for name, maps in batch.items()}
            for batch in whole[step:]
        ]
        assert_equal(take(resumed, 3), expected)


def test_the_seed_decides_the_first_batch(domains):
    def first(seed, names=("source", "target")):
        (batch,) = take(train_stream({name: domains[name] for name in names}, global_batch=4, seed=seed), 1)
        return batch

    same, other = first(0), first(1)
    assert_equal([first(0)], [same])
    for name in domains:
        assert not np.array_equal(same[name]["image"], other[name]["image"])
    # Domains draw on their own: what else is trained on does not matter.
    assert_equal([first(0, ("target",))], [{"target": same["target"]}])


def test_worker_processes_give_the_same_batches_and_errors(domains):
    whole = take(train_stream(domains, global_batch=2, seed=0), 8)
    iterator = train_stream(domains, global_batch=2, seed=0, workers=2)
    iterator.set_state({"step": 3})
    assert_equal([next(iterator)], whole[3:4])
    state = iterator.get_state()
    iterator.close()
    iterator = train_stream(domains, global_batch=2, seed=0, workers=1)  # the state fits any number of them
    iterator.set_state(json.loads(json.dumps(state)))
    assert_equal(take(iterator, 4), whole[4:8])

    # The first frame is read at opening; all others are read by the worker alone.
    root = domains["source"].root
    for k in range(1, 10):
        with open(f"{root}/train/labels/f{k:03d}.png", "wb") as file:
            file.write(b"broken")
    iterator = train_stream(domains, global_batch=2, seed=0, workers=1)
    with pytest.raises(Exception, match=r"f00\d\.png: not an image that Pillow can read") as caught:
        take(iterator, 3)
    assert isinstance(caught.value, UserError)


def test_drawn_and_mixed_frames_are_the_same_on_any_topology_resumed_or_not(drawn):
    whole = take(train_stream(drawn, global_batch=6, seed=0), 6)
    assert_equal(take(train_stream(drawn, global_batch=6, seed=0), 6), whole)
    other = take(train_stream(drawn, global_batch=6, seed=1), 6)
    for name in drawn:
        assert any((a[name]["index"] != b[name]["index"]).any() for a, b in zip(other, whole, strict=True))
        assert len({int(k) for batch in whole for k in batch[name]["index"]}) > 6
    for count in (2, 3):
        parts = [
            train_stream(drawn, global_batch=6, seed=0, process_index=p, process_count=count) for p in range(count)
        ]
        parts = [take(part, 6) for part in parts]
        for step, batch in enumerate(whole):
            for name, maps in batch.items():
                for field, array in maps.items():
                    joined = np.concatenate([part[step][name][field] for part in parts])
                    np.testing.assert_array_equal(joined, array)
    resumed = train_stream(drawn, global_batch=6, seed=0, workers=1)
    resumed.set_state({"step": 4})
    assert_equal([next(resumed)], whole[4:5])
    assert resumed.get_state() == {"step": 5}
    assert_equal(take(resumed, 1), whole[5:6])


def test_evaluation_counts_every_frame_once(make_folder):
    domain = Domain(dataset="folder", root=str(make_folder(7)), label_space="own")
    dataset = get_dataset("folder", domain.root, "train", "own")
    for given in (domain, dataset):
        batches = evaluation_batches(given, 3)
        assert len(batches) == 3 and batches.dataset.name(2) == "f002"
        for _ in range(2):  # a second pass gives the same
            indices = np.concatenate([batch["index"] for batch in batches])
            assert indices.tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -1]
        last = list(batches)[-1]
        assert last["image"].shape == (3, 12, 16, 3) and last["label"].shape == (3, 12, 16)
        np.testing.assert_array_equal(last["image"][0], dataset[6]["image"])
        np.testing.assert_array_equal(last["label"][0], dataset[6]["label"])
        assert (last["image"][1:] == 0).all() and (last["label"][1:] == 255).all()


def test_one_batch_of_an_evaluation_is_read_alone_and_no_frame_twice(make_folder, monkeypatch):
    domain = Domain(root=str(make_folder(5)), dataset="folder", label_space="own")
    read, decode = [], DomainFrames._read
    monkeypatch.setattr(DomainFrames, "_read", lambda frames, index: read.append(index) or decode(frames, index))
    batches = evaluation_batches(domain, 2)
    assert batches[1]["index"].tolist() == [2, 3] and batches[-1]["index"].tolist() == [4, -1]
    assert read == [0, 2, 3, 4]
    with pytest.raises(IndexError):
        batches[3]
    assert [i for batch in batches for i in batch["index"].tolist()] == [0, 1, 2, 3, 4, -1]
    # The first frame was read when the domain was opened.
    assert sorted(read) == [0, 1, 2, 2, 3, 3, 4, 4]


def test_an_evaluation_takes_the_data_set_that_is_open_already(make_folder):
    domain = Domain(root=str(make_folder(3)), dataset="folder", label_space="own")
    dataset = open_domain(domain)
    assert evaluation_batches(domain, 2, dataset=dataset).dataset is dataset


def test_evaluation_gives_every_process_its_block_and_as_many_batches(make_folder):
    domain = Domain(dataset="folder", root=str(make_folder(5)), label_space="own")
    parts = [
        [batch["index"].tolist() for batch in evaluation_batches(domain, 4, process_index=p, process_count=2)]
        for p in range(2)
    ]
    assert parts == [[[0, 1], [4, -1]], [[2, 3], [-1, -1]]]


def test_evaluation_keeps_labels_at_their_own_size(make_folder):
    domain = Domain(dataset="folder", root=str(make_folder(3)), label_space="own", size=(6, 8), resize_label=False)
    batches = list(evaluation_batches(domain, 2))
    assert batches[1]["image"].shape == (2, 6, 8, 3) and batches[1]["label"].shape == (2, 12, 16)
    domain = dataclasses.replace(domain, resize_label=True)
    assert next(iter(evaluation_batches(domain, 2)))["label"].shape == (2, 6, 8)


def test_names_file_restricts_and_orders(make_folder, tmp_path):
    root = make_folder(5)
    names = tmp_path / "names.txt"
    names.write_text("f003\n\nf001\n")
    (root / "train" / "labels" / "f002.png").unlink()  # not chosen, so not missed
    domain = Domain(dataset="folder", root=str(root), label_space="own", names_file=str(names))
    dataset = open_domain(domain)
    whole = get_dataset("folder", root, "train", "own")
    assert [(example["name"], example["index"]) for example in (dataset[0], dataset[1])] == [("f003", 0), ("f001", 1)]
    np.testing.assert_array_equal(dataset[0]["label"], whole[3]["label"])
    assert dataset.label_space == whole.label_space and dataset.name(-1) == "f001"
    with pytest.raises(IndexError):
        dataset[2]
    (batch,) = evaluation_batches(domain, 2)
    np.testing.assert_array_equal(batch["image"][1], whole[1]["image"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f000\nf0001\n", r"line 2: no frame 'f0001' in the split; did you mean 'f0"),
        ("aachen\n", r"line 1: no frame 'aachen' in the split; the file may belong to another split"),
        ("f000\nf001\nf000\n", r"line 3: frame 'f000' is listed twice"),
        ("\n", r"names\.txt lists no frame; write one name per line"),
        (None, r"cannot read .*names\.txt"),
    ],
)
def test_mistakes_in_a_names_file(make_folder, tmp_path, text, message):
    names = tmp_path / "names.txt"
    if text is not None:
        names.write_text(text)
    domain = Domain(dataset="folder", root=str(make_folder(2)), label_space="own", names_file=str(names))
    with pytest.raises(UserError, match=f"target: names_file: .*{message}"):
        open_domain(domain, "target")


def test_frames_without_a_map_that_is_asked_for(make_folder, in_memory):
    root = make_folder(3)
    (root / "train" / "labels" / "f001.png").unlink()
    domain = Domain(dataset="folder", root=str(root), label_space="own")
    with pytest.raises(
        UserError, match="config.data.source.fields: 1 frames have no label, the first is 'f001'; add it"
    ):
        train_stream({"source": domain}, global_batch=1, seed=0)
    with pytest.raises(UserError, match="domain.fields: 3 frames have no depth"):
        evaluation_batches(dataclasses.replace(domain, fields=("image", "depth")), 2)
    bare = [{"image": np.zeros((2, 2, 3), np.uint8), "name": f"n{k}", "index": k} for k in range(2)]
    bare[0]["label"] = np.zeros((2, 2), np.uint8)
    with pytest.raises(UserError, match="domain.fields: frame 'n1' has no label"):
        list(evaluation_batches(in_memory(bare), 2))


def test_frames_of_different_sizes(make_folder):
    root = make_folder(3)
    Image.new("RGB", (20, 12)).save(root / "train" / "images" / "f002.png")
    Image.new("L", (20, 12)).save(root / "train" / "labels" / "f002.png")
    domain = Domain(dataset="folder", root=str(root), label_space="own")
    message = r"image of frame 'f002' is 12x20 \(height x width\), but that of 'f000' is 12x16, and .* set [\w.]+\.size"
    with pytest.raises(UserError, match=message + ", or a batch size of 1"):
        list(evaluation_batches(domain, 2))
    assert [batch["label"].shape for batch in evaluation_batches(domain, 1)] == [(1, 12, 16)] * 2 + [(1, 12, 20)]
    with pytest.raises(UserError, match=message):
        take(train_stream({"source": domain}, global_batch=1, seed=0), 3)
    sized = dataclasses.replace(domain, size=(6, 8))
    assert len(take(train_stream({"source": sized}, global_batch=3, seed=0), 2)) == 2
    own = dataclasses.replace(sized, resize_label=False)
    with pytest.raises(UserError, match="label of frame 'f002' is 12x20 .* set domain.resize_label=True, or a batch"):
        list(evaluation_batches(own, 2))
    assert [batch["label"].shape for batch in evaluation_batches(own, 1)] == [(1, 12, 16)] * 2 + [(1, 12, 20)]


def test_a_label_of_another_size_is_fitted_or_resized_by_itself():
    root = str(Path(__file__).parents[1] / "datasets/format_fixtures" / "gta5_mismatch")
    domain = Domain(dataset="gta5", root=root)
    dataset = get_dataset("gta5", root, "train")
    apart = dataset.read(0, ("label",))["label"]
    assert apart.shape == (40, 56)
    for flip in (False, True):
        one = dataclasses.replace(domain, flip=flip, crop=(40, 64) if flip else None)
        (batch,) = take(train_stream({"source": one}, global_batch=1, seed=0), 1)
        label = batch["source"]["label"][0]
        assert any((label == side).all() for side in (dataset[0]["label"], dataset[0]["label"][:, ::-1]))
    (batch,) = evaluation_batches(dataclasses.replace(domain, size=(20, 28)), 1)
    expected = np.array(Image.fromarray(apart).resize((28, 20), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(batch["label"][0], expected)


def test_classes_of_whole_images(in_memory):
    def digits(*sizes):
        return in_memory(
            {"image": np.zeros((*size, 3), np.uint8), "label": np.array([[k]], np.uint8), "name": f"d{k}", "index": k}
            for k, size in enumerate(sizes)
        )

    first, last = evaluation_batches(digits((8, 8), (8, 8), (8, 8)), 2)
    assert first["image"].shape == (2, 8, 8, 3) and first["label"].tolist() == [[[0]], [[1]]]
    assert last["label"].tolist() == [[[2]], [[255]]]
    for fields in ({"size": (6, 6)}, {"crop": (5, 7)}, {"short_side": (4, 9), "crop": (4, 4), "flip": True}, {}):
        frames = DomainFrames(digits((8, 8), (8, 8)), Domain(**fields), "domain")
        assert [frames[k]["label"].tolist() for k in range(2)] == [[[0]], [[1]]]
    with pytest.raises(UserError, match=r"image of frame 'd1' is 9x8 \(height x width\), but that of 'd0' is 8x8"):
        list(evaluation_batches(digits((8, 8), (9, 8)), 2))


def test_batch_that_the_processes_cannot_share(domains):
    with pytest.raises(UserError, match="batch size: expected a multiple of the 3 processes, got 4"):
        train_stream(domains, global_batch=4, seed=0, process_count=3)


def test_the_rules_of_a_paper_reach_the_frames(make_folder):
    root = make_folder(1, size=(10, 10))
    stored = np.array(Image.open(root / "train" / "images" / "f000.png"))
    domain = Domain(dataset="folder", root=str(root), label_space="own", size=(6, 9), image_resampling="bilinear")
    (batch,) = evaluation_batches(domain, 1)
    expected = np.array(Image.fromarray(stored).resize((9, 6), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch["image"][0], expected)
    (batch,) = evaluation_batches(dataclasses.replace(domain, fit="pad"), 1)
    expected = np.array(Image.fromarray(stored).resize((6, 6), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch["image"][0, :, :6], expected)
    assert (batch["image"][0, :, 6:] == 0).all() and (batch["label"][0, :, 6:] == 255).all()

    # DADA for Mapillary: labels of another size stay as they are, and are padded as the image is, at their own scale.
    own = dataclasses.replace(domain, size=(3, 6), fit="pad", resize_label=False)
    (batch,) = evaluation_batches(own, 1)
    assert batch["image"].shape == (1, 3, 6, 3) and batch["label"].shape == (1, 10, 20)
    whole = np.array(Image.open(root / "train" / "labels" / "f000.png"))
    np.testing.assert_array_equal(batch["label"][0, :, :10], whole)
    assert (batch["label"][0, :, 10:] == 255).all()

    # PLCA: the shorter side at random, then a mirror, then a window of it.
    plca = dataclasses.replace(domain, size=None, short_side=(20, 20), crop=(20, 20), flip=True)
    large = np.array(Image.fromarray(stored).resize((20, 20), Image.Resampling.BILINEAR))
    seen = {
        batch["only"]["image"].tobytes() for batch in take(train_stream({"only": plca}, global_batch=1, seed=0), 20)
    }
    assert seen == {large.tobytes(), large[:, ::-1].tobytes()}


def test_evaluation_refuses_augmentation(domains):
    with pytest.raises(UserError, match="evaluation.dev: expected scale, crop and flip to be off"):
        evaluation_batches(domains["source"], 2, path="evaluation.dev")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fields": ["label"]}, r"config\.fields: expected 'image' and each map once"),
        ({"fields": ["image", "image"]}, r"config\.fields: expected 'image' and each map once"),
        ({"fields": ["image", "labels"]}, r"config\.fields\[1\]: expected one of"),
        ({"scale": [2.0, 1.0], "crop": [4, 4]}, r"config\.scale: expected \(low, high\)"),
        ({"scale": [1.0, 2.0]}, r"config\.crop: expected a size, since 'config\.scale'"),
        ({"size": [0, 4]}, r"config\.size\[0\]: expected an integer >= 1"),
        ({"resize_label": False, "flip": True}, r"config\.resize_label: expected True together with"),
    ],
)
def test_mistakes_in_the_section(values, message):
    with pytest.raises(UserError, match=message):
        schema.from_mapping(Domain, values)


def test_section_from_a_config(make_folder):
    values = {
        "dataset": "folder",
        "label_space": "own",
        "root": str(make_folder(2)),
        "options": {"require_labels": True},
    }
    domain = schema.from_mapping(Domain, values)
    assert schema.from_mapping(Domain, schema.to_dict(domain)) == domain
    assert len(open_domain(domain)) == 2


def test_depth_and_disparity_travel_with_their_image(in_memory):
    frames = [
        {
            "image": np.full((2, 3, 3), k, np.uint8),
            "depth": np.full((2, 3), k + 0.5, np.float32),
            "disparity": np.full((2, 3), k + 0.25, np.float32),
            "name": f"n{k}",
            "index": k,
        }
        for k in range(3)
    ]
    frames = in_memory(frames)
    first, last = evaluation_batches(frames, 2)
    assert set(first) == {"image", "depth", "disparity", "index"}
    np.testing.assert_array_equal(first["depth"][:, 0, 0], [0.5, 1.5])
    assert last["depth"].dtype == np.float32
    np.testing.assert_array_equal(last["depth"][:, 0, 0], [2.5, 0.0])
    assert last["disparity"].dtype == np.float32
    np.testing.assert_array_equal(last["disparity"][:, 0, 0], [2.25, 0.0])
    # A process whose block is all filling delivers the same types as the others.
    filling = list(evaluation_batches(frames, 2, process_index=1, process_count=2))[-1]
    assert filling["index"].tolist() == [-1]
    assert [filling[field].dtype for field in ("image", "depth", "disparity")] == [np.uint8, np.float32, np.float32]


def test_orbax_saves_and_restores_the_position(domains, tmp_path):
    whole = take(train_stream(domains, global_batch=2, seed=0), 4)
    stream = train_stream(domains, global_batch=2, seed=0)
    for _ in range(2):
        next(stream)
    with ocp.Checkpointer(grain.checkpoint.CheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "data", args=grain.checkpoint.CheckpointSave(stream))
        stream.close()
        restored = train_stream(domains, global_batch=2, seed=0)
        checkpointer.restore(tmp_path / "data", args=grain.checkpoint.CheckpointRestore(restored))
    assert_equal(take(restored, 2), whole[2:])
    with pytest.raises(ValueError, match="the stream is closed"):
        next(restored)
    sought = train_stream(domains, global_batch=2, seed=0)
    grain.experimental.set_next_index(sought, 3)
    assert_equal(take(sought, 1), whole[3:])


_LOADER = """
import multiprocessing, os, signal, sys
from uda_jax.data.pipeline.streams import Domain, train_stream
from uda_jax.errors import UserError
if __name__ == "__main__":
    domain = Domain(dataset="folder", root=sys.argv[1], label_space="own", size=(96, 128))
    stream = train_stream({"source": domain}, global_batch=4, seed=0, workers=1)
    # A batch that is alive when Python ends, as the last one of a run is, which lies on the device without a copy.
    batch = next(stream)
    (worker,) = multiprocessing.active_children()
    print(worker.pid, flush=True)
    if sys.argv[2] == "parent":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "worker":
        os.kill(worker.pid, signal.SIGKILL)
    try:
        for _ in range(50 if sys.argv[2] == "worker" else 1):
            next(stream)
    except UserError as error:
        print(error, flush=True)
    stream.close()
"""


def test_a_batch_that_outlives_the_stream_is_freed_without_a_word(make_folder, tmp_path):
    script = tmp_path / "loader.py"
    script.write_text(_LOADER)
    command = [sys.executable, script, make_folder(4), "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("killed", ["parent", "worker"])
def test_a_killed_process_ends_the_others_or_is_told_in_one_line(make_folder, tmp_path, killed):
    script = tmp_path / "loader.py"
    script.write_text(_LOADER)
    done = subprocess.run([sys.executable, script, make_folder(4), killed], capture_output=True, text=True, timeout=240)
    worker, *lines = done.stdout.splitlines()
    if killed == "worker":
        assert lines[0].startswith("a loader process was killed, perhaps for lack of memory"), done.stderr
        return
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while _runs(int(worker)):
        assert time.monotonic() < deadline, "the loader process lives on"
        time.sleep(0.1)


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
