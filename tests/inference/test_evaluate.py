"""One pass over a split scores it and keeps pictures, with methods whose predictions are known."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uda_jax.data.labels.label_spaces import LabelSpace, label_space
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.examples import DomainFrames
from uda_jax.errors import UserError
from uda_jax.inference import depth
from uda_jax.inference.evaluate import Evaluator, evaluation_step
from uda_jax.inference.figures import headline, summarise
from uda_jax.inference.options import Evaluation, Inference
from uda_jax.training import metrics, sharding


class Brightness:
    """A method that tells the tiny folder's classes by their colours; the state shifts them. Counts its traces."""

    def __init__(self):
        self.traces = 0

    def predict(self, state, images, size):
        assert images.shape[1:3] == size
        self.traces += 1
        colours = jnp.array([(90, 90, 90), (180, 60, 40), (40, 60, 200)], jnp.float32) + state
        return {"scores": -jnp.abs(images[..., None, :].astype(jnp.float32) - colours).mean(axis=-1)}


class Constant:
    """A method without classes: the depth that the state says, everywhere."""

    def predict(self, state, images, size):
        return {"depth": jnp.broadcast_to(state, (len(images), *size, 1))}


@pytest.fixture
def decoded(monkeypatch):
    """The indices of the frames that are decoded, in a list that grows."""
    found, read = [], DomainFrames._read
    monkeypatch.setattr(DomainFrames, "_read", lambda frames, index: found.append(index) or read(frames, index))
    return found


def make(method, domain, space=None, **fields):
    section = Evaluation(final=domain, **({"batch_size": 4, "protocol": "own"} | fields))
    mesh = sharding.data_mesh()
    step = evaluation_step(method, section, mesh)
    return Evaluator(domain, section, step, mesh, path="config.evaluation.final", space=space)


@pytest.fixture
def folder(tiny_folder):
    return Domain(dataset="folder", root=str(tiny_folder), split="val", label_space="own")


STREETS = Domain(dataset="streets", split="simulator_train", options={"size": (48, 96), "limit": 6})
BOTH = dataclasses.replace(STREETS, fields=("image", "label", "depth"))


def by_hand(evaluator, method, state):
    matrix = np.zeros((3, 3), np.int64)
    for frame in evaluator.dataset:
        predicted = np.argmax(
            method.predict(state, frame["image"][None], frame["image"].shape[:2])["scores"][0], axis=-1
        )
        valid = frame["label"] < 3
        np.add.at(matrix, (frame["label"][valid], predicted[valid]), 1)
    return matrix


def test_one_pass_decodes_each_frame_once_and_traces_the_forward_once(folder, decoded):
    method = Brightness()
    evaluator = make(method, folder)
    summary, frames = evaluator.evaluate(0.0, pictures=2)
    assert sorted(decoded) == list(range(8)) and method.traces == 1
    assert [frame["name"] for frame in frames] == ["000", "004"]
    for frame in frames:
        # Colours tell the classes of almost every pixel.
        assert (frame["prediction"] == frame["label"]).mean() > 0.95 and frame["prediction"].dtype == np.uint8
        assert frame["entropy"].shape == (32, 64) and 0 <= frame["entropy"].min() < frame["entropy"].max() <= 1
    assert summary["miou"]["own"] > 0.9
    evaluator.check(0.0)
    assert evaluator.evaluate(70.0)[0]["miou"]["own"] < summary["miou"]["own"] and method.traces == 1


def test_the_figures_are_those_of_the_whole_split(folder):
    evaluator = make(Brightness(), folder, batch_size=3)  # the last batch is padded
    summary, frames = evaluator.evaluate(0.0)
    assert frames == []
    matrix = by_hand(evaluator, Brightness(), 0.0)
    assert summary == summarise(matrix, evaluator.dataset.label_space, "own")
    assert summary["metrics"]["dice"] == pytest.approx(metrics.dice(matrix).mean())
    assert summary["metrics"]["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())


def test_evaluators_of_one_method_share_their_program(folder):
    method = Brightness()
    section, mesh = Evaluation(final=folder, batch_size=4), sharding.data_mesh()
    step = evaluation_step(method, section, mesh)
    for split in ("val", "train"):
        Evaluator(dataclasses.replace(folder, split=split), section, step, mesh, path="domain").evaluate(0.0)
    assert method.traces == 1


def test_a_split_without_labels_has_pictures_alone_and_only_they_are_decoded(folder, tiny_folder, tmp_path, decoded):
    (tmp_path / "dataset.yaml").write_text((tiny_folder / "dataset.yaml").read_text())
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "images").symlink_to(tiny_folder / "val" / "images")
    evaluator = make(Brightness(), dataclasses.replace(folder, root=str(tmp_path)), batch_size=2)
    evaluator.check(0.0)
    decoded.clear()
    summary, frames = evaluator.evaluate(0.0, pictures=2)
    assert summary is None and not evaluator.scored
    assert [(frame["name"], frame["label"]) for frame in frames] == [("000", None), ("004", None)]
    assert sorted(decoded) == [1, 4, 5]  # the first frame was decoded when the split was opened


def test_scores_are_made_as_the_section_says(folder):
    plain = make(Brightness(), folder).evaluate(0.0)[0]
    windows = make(Brightness(), folder, inference=Inference(window=(16, 20), stride=(8, 15), flip=True)).evaluate(0.0)[
        0
    ]
    assert windows["iou"] == pytest.approx(plain["iou"], abs=1e-3)


def test_depth_is_scored_like_a_segmentation():
    evaluator = make(Constant(), dataclasses.replace(STREETS, fields=("image", "depth")), headline="abs_rel")
    evaluator.check(jnp.float32(20.0))
    summary, frames = evaluator.evaluate(jnp.float32(20.0), pictures=2)
    frames_of_depth = [frame["depth"][frame["depth"] > 0].astype(np.float64) for frame in evaluator.dataset]
    true = np.concatenate(frames_of_depth)
    # A constant depth, scaled by the ratio of medians, is the frame's median.
    scaled = np.concatenate([np.full_like(values, np.median(values)) for values in frames_of_depth])
    assert frames == [] and (summary["miou"], summary["iou"], summary["pixel_accuracy"]) == ({}, {}, None)
    expected = {}
    for form, found in (("", np.full_like(true, 20.0)), ("_scaled", scaled)):
        expected |= {
            f"abs_rel{form}": (np.abs(found - true) / true).mean(),
            f"sq_rel{form}": ((found - true) ** 2 / true).mean(),
            f"rmse{form}": np.sqrt(((found - true) ** 2).mean()),
            f"rmse_log{form}": np.sqrt(((np.log(found) - np.log(true)) ** 2).mean()),
            **{f"delta{k}{form}": (np.maximum(found / true, true / found) < 1.25**k).mean() for k in (1, 2, 3)},
        }
    assert summary["metrics"] == pytest.approx(expected, rel=1e-6)
    section = Evaluation(headline="abs_rel")
    assert headline(summary, section) == summary["metrics"]["abs_rel"]
    with pytest.raises(UserError, match=r"config.evaluation.headline: expected one of \['abs_rel', .* got 'dice'"):
        headline(summary, Evaluation(headline="dice"))
    # Better where it is right about more pixels.
    near = evaluator.evaluate(jnp.float32(np.median(true)))[0]["metrics"]
    assert near["delta1"] > summary["metrics"]["delta1"] or near["abs_rel"] < summary["metrics"]["abs_rel"]


def test_classes_and_depth_together():
    class Two(Constant):
        def predict(self, state, images, size):
            return super().predict(state, images, size) | {
                "scores": jnp.zeros((len(images), *size, 19)).at[..., 2].set(1)
            }

    summary, frames = make(Two(), BOTH, protocol="19").evaluate(jnp.float32(5.0), pictures=1)
    assert {"miou", "dice", "pixel_accuracy", "abs_rel", "delta3"} <= set(summary["metrics"])
    assert summary["metrics"]["miou"] == summary["miou"]["19"] and (frames[0]["prediction"] == 2).all()


def test_row_sums_leave_out_invalid_pixels_and_mind_predictions_that_are_none():
    true = jnp.array([[[2.0, 0.0, 4.0], [0.0, 0.0, 0.0]]])
    found = depth.row_sums(jnp.array([[[3.0, jnp.nan, -1.0], [1.0, 1.0, 1.0]]]), true)
    assert found.shape == (1, 2, 8) and not np.asarray(found[0, 1]).any()
    sums = dict(zip(metrics.DEPTH_SUMS, np.asarray(found[0, 0]).tolist(), strict=True))
    assert sums["count"] == 2 and sums["abs_rel"] == pytest.approx(0.5 + 3.999 / 4)
    assert sums["log_squares"] == pytest.approx(np.log(1.5) ** 2 + np.log(4000) ** 2, rel=1e-5)
    assert (sums["delta1"], sums["delta2"], sums["delta3"]) == (0, 1, 1)
    with pytest.raises(ValueError, match="expected one shape"):
        depth.row_sums(true, true[:, :1])


def test_a_headline_that_cannot_be_answered_is_refused_before_the_first_step(folder):
    with pytest.raises(UserError, match="config.evaluation.final.fields: expected 'depth', since .* found only label"):
        make(Brightness(), folder, headline="rmse")
    with pytest.raises(
        UserError, match="of what the method predicts and config.evaluation.final holds, which is depth, got 'miou'"
    ):
        make(Constant(), BOTH, protocol="19").check(jnp.float32(1.0))
    with pytest.raises(UserError, match="which is classes, got 'delta1'"):
        make(Brightness(), BOTH, headline="delta1").check(0.0)


def test_the_headline_of_a_summary():
    space = LabelSpace(("road", "tram"), ((1, 2, 3), (4, 5, 6)))
    summary = summarise(np.array([[3, 1], [0, 0]]), space)
    assert headline(summary, Evaluation(protocol="own")) == summary["miou"]["own"] == 0.75
    assert headline(summary, Evaluation(headline="dice")) == pytest.approx(6 / 7)
    assert headline(summary, Evaluation(headline="pixel_accuracy")) == 0.75
    with pytest.raises(UserError, match=r"config.evaluation.protocol: expected one of \['own'\], got '19'"):
        headline(summary, Evaluation())
    with pytest.raises(UserError, match=r"config.evaluation.headline: expected one of .* got 'accuracy'"):
        headline(summary, Evaluation(headline="accuracy"))
    empty = summarise(np.zeros((2, 2)), space)
    for section, words in (
        (Evaluation(protocol="own"), "label of protocol 'own'"),
        (Evaluation(headline="dice"), "dice"),
    ):
        with pytest.raises(UserError, match=f"config.evaluation.final: no frame of the split has a .*{words}"):
            headline(empty, section)


def test_dice_averages_what_is_not_background():
    """By hand, 2 |A and B| / (|A| + |B|) of each class; the mean is that of polyp and tool."""
    space = LabelSpace(("background", "polyp", "tool"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    summary = summarise(np.array([[90, 6, 0], [2, 10, 0], [4, 0, 12]]), space, "own")
    expected = {"background": 180 / 192, "polyp": 20 / 28, "tool": 24 / 28}
    assert summary["dice"] == pytest.approx(expected)
    assert headline(summary, Evaluation(headline="dice", protocol="own")) == pytest.approx(22 / 28)
    assert summary["miou"]["own"] == pytest.approx((90 / 102 + 10 / 18 + 12 / 16) / 3)
    # A structure that is labelled nowhere has no part in the mean, and without any there is none.
    summary = summarise(np.array([[90, 6, 2], [2, 10, 0], [0, 0, 0]]), space, "own")
    assert summary["metrics"]["dice"] == pytest.approx(20 / 28) and summary["dice"]["tool"] == 0
    with pytest.raises(UserError, match="config.evaluation.final: no frame of the split has a valid label for 'dice'"):
        headline(summarise(np.diag([5, 0, 0]), space), Evaluation(headline="dice"))


def test_dice_of_nothing_but_background_is_refused_before_the_first_step(tiny_folder, tmp_path):
    empty = with_classes(tiny_folder, tmp_path, ["background", "polyp"], [0, 0, 0])
    with pytest.raises(UserError, match=r"final: none of the 8 frames has a labelled pixel of \['polyp'\]"):
        make(Brightness(), empty, headline="dice").check_references()
    assert "no pixel of the class polyp" in make(Brightness(), empty).check_references()


def test_the_compiled_program_returns_no_scores(folder):
    evaluator = make(Brightness(), folder)
    shapes = jax.tree.map(lambda x: x.shape, evaluator._run(0.0, evaluator._batches[0]))
    assert shapes == {"prediction": (32, 64), "entropy": (32, 64), "confusion": (3, 3)}


def with_classes(tiny_folder, root, names, values):
    """Returns the domain of the tiny folder's frames with other classes: label value k becomes `values[k]`."""
    table = np.full(256, 255, np.uint8)
    table[: len(values)] = values
    (root / "val" / "labels").mkdir(parents=True)
    (root / "dataset.yaml").write_text(f"classes: [{', '.join(names)}]\n")
    (root / "val" / "images").symlink_to(tiny_folder / "val" / "images")
    for file in (tiny_folder / "val" / "labels").iterdir():
        Image.fromarray(table[np.asarray(Image.open(file))]).save(root / "val" / "labels" / file.name)
    return Domain(dataset="folder", root=str(root), split="val", label_space="own")


def test_classes_in_another_order_are_found_by_name(folder, tiny_folder, tmp_path):
    own = make(Brightness(), folder)
    expected, frames = own.evaluate(0.0, pictures=1)
    other = with_classes(tiny_folder, tmp_path, ["thing", "ground", "wall"], [1, 2, 0])
    evaluator = make(Brightness(), other, space=own.dataset.label_space)
    evaluator.check(0.0)
    found, others = evaluator.evaluate(0.0, pictures=1)
    assert found == expected
    np.testing.assert_array_equal(others[0]["label"], frames[0]["label"])
    assert own.mapping is None
    assert evaluator.mapping.endswith(
        "its classes are ['thing', 'ground', 'wall'], those of the run are ['ground', 'wall', 'thing']; they are "
        "matched by name"
    )


def test_some_of_the_classes_are_scored_alone(folder, tiny_folder, tmp_path):
    own = make(Brightness(), folder)
    expected = own.evaluate(0.0)[0]
    fewer = with_classes(tiny_folder, tmp_path, ["thing", "wall"], [255, 1, 0])
    found = make(Brightness(), fewer, space=own.dataset.label_space).evaluate(0.0)[0]
    assert found["iou"]["thing"] >= expected["iou"]["thing"] and found["iou"]["ground"] in (None, 0.0)
    assert found["miou"]["own"] == pytest.approx(np.mean([found["iou"][name] for name in ("thing", "wall")]))


def test_classes_that_the_run_does_not_know_are_refused_with_both_lists(folder, tiny_folder, tmp_path):
    own = make(Brightness(), folder).dataset.label_space
    more = with_classes(tiny_folder, tmp_path, ["ground", "wall", "thing", "tram"], [0, 1, 2])
    both = r"classes of the run \['ground', 'wall', 'thing'\], got \['ground', 'wall', 'thing', 'tram'\]: .*\['tram'\]"
    with pytest.raises(UserError, match=both):
        make(Brightness(), more, space=own)


def test_protocols_of_classes_that_a_split_does_not_label_are_left_out():
    """A run of 19 classes on data of 16: its mean is that of 16, and not called one of 19."""
    matrix = np.eye(19, dtype=np.int64)
    sixteen, nineteen = label_space("16"), label_space("19")
    matrix[[nineteen.names.index(name) for name in set(nineteen.names) - set(sixteen.names)]] = 0
    found = summarise(matrix, nineteen, "19", sixteen.names)
    assert found["miou"] == {"16": 1.0, "13": 1.0} and found["metrics"]["miou"] == 1.0
    assert set(summarise(matrix, nineteen, "19")["miou"]) == {"19", "16", "13"}


@pytest.fixture
def vary(tiny_folder, tmp_path):
    """The tiny folder with one frame of another size."""
    root = tmp_path / "vary"
    shutil.copytree(tiny_folder, root)
    for kind, rule in (("images", Image.Resampling.BILINEAR), ("labels", Image.Resampling.NEAREST)):
        file = root / "val" / kind / "003.png"
        Image.open(file).resize((80, 48), rule).save(file)
    return Domain(dataset="folder", root=str(root), split="val", label_space="own")


def test_one_at_a_time_frames_of_any_size_are_scored_at_their_own(vary):
    evaluator = make(Brightness(), vary, batch_size=1)
    assert evaluator.check_references() is None
    summary, frames = evaluator.evaluate(0.0, pictures=8)
    assert summary == summarise(by_hand(evaluator, Brightness(), 0.0), evaluator.dataset.label_space, "own")
    assert [frame["prediction"].shape for frame in frames] == [(32, 64)] * 3 + [(48, 80)] + [(32, 64)] * 4


@pytest.mark.parametrize(
    ("fields", "field", "cure"),
    [({}, "image", "size"), ({"size": (32, 64), "resize_label": False}, "label", "resize_label=True")],
)
def test_frames_of_sizes_that_a_batch_cannot_hold_are_refused_from_their_headers(vary, decoded, fields, field, cure):
    words = f"final: {field} of frame '003' is 48x80 .* that of '000' is 32x64.* set .*{cure}, or config.* own size$"
    with pytest.raises(UserError, match=words):
        make(Brightness(), dataclasses.replace(vary, **fields), batch_size=4)
    assert decoded == [0]
    # Both cures.
    make(Brightness(), dataclasses.replace(vary, **fields), batch_size=1)
    make(Brightness(), dataclasses.replace(vary, size=(32, 64)), batch_size=4)


def test_references_of_nothing_are_refused(folder, tiny_folder, tmp_path):
    void = with_classes(tiny_folder, tmp_path, ["ground", "wall", "thing"], [255, 255, 255])
    with pytest.raises(UserError, match="config.evaluation.final: none of the 8 frames has a labelled pixel"):
        make(Brightness(), void).check_references()
    assert make(Brightness(), folder).check_references() is None


def test_padded_frames_are_scored_at_their_own_padded_size(tmp_path):
    """DADA's rule for Mapillary: what the network sees is padded, and so is the label, which is ignored there."""
    for kind in ("images", "labels"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    (tmp_path / "dataset.yaml").write_text("classes: [ground, wall, thing]\n")
    for k, (height, width) in enumerate(((20, 20), (40, 20), (20, 60))):
        Image.new("RGB", (width, height), (9, 9, 9)).save(tmp_path / "val" / "images" / f"{k}.png")
        Image.new("L", (width, height), k).save(tmp_path / "val" / "labels" / f"{k}.png")
    seen = []

    class Ground:
        """Predicts the first class everywhere."""

        def predict(self, state, images, size):
            seen.append((images.shape[1:3], size))
            return {"scores": jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0]), (len(images), *size, 3))}

    domain = Domain(*("folder", str(tmp_path), "val", "own"), size=(12, 24), fit="pad", resize_label=False)
    summary, frames = make(Ground(), domain, batch_size=1).evaluate(None, pictures=3)
    assert set(seen) == {((12, 24), (20, 40)), ((12, 24), (40, 80)), ((12, 24), (30, 60))}
    # Of 400, 800 and 1200 labelled pixels those of the first frame are right; the padding does not count.
    assert summary["pixel_accuracy"] == pytest.approx(400 / 2400)
    assert [frame["label"].shape for frame in frames] == [(20, 40), (40, 80), (30, 60)]
