"""Predicting folders with a stand-in network whose answer is known for every pixel."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.predict import Wanted, predict_folder
from uda_jax.inference.summary import Summary

PALETTE = np.array([(10, 20, 30), (128, 64, 128), (0, 0, 142)], np.uint8)


class Network:
    """Predicts class 1 left and class 2 right of the middle where the image is bright, else 0; records its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, images, size, reduce):
        self.calls.append((images.shape, tuple(size)))
        assert images.dtype == np.uint8
        scores = np.zeros((len(images), *size, 3), np.float32)
        bright = images.mean((1, 2, 3)) > 127
        middle = size[1] // 2
        scores[bright, :, :middle, 1] = 1
        scores[bright, :, middle:, 2] = 1
        return reduce({"scores": scores, "depth": np.full((len(images), *size, 1), 1.5, np.float32)})


def save(path, height, width, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def test_labels_and_overlays_at_the_images_own_size(tmp_path):
    for name, value in (("a.png", 255), ("b.png", 0), ("nested/deep/c.d.jpg", 255)):
        save(tmp_path / "in" / name, 6, 8, value)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.png").write_text("no image")
    network = Network()
    summary = predict_folder(
        network, tmp_path / "in", tmp_path / "out", domain=Domain(size=(3, 4)), palette=PALETTE, batch_size=2
    )
    assert network.calls == [((2, 3, 4, 3), (6, 8))] * 2  # the second batch is filled up
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        "a.png",
        "a_overlay.jpg",
        "b.png",
        "b_overlay.jpg",
        "nested/deep/c.d.png",
        "nested/deep/c.d_overlay.jpg",
    ]
    label = Image.open(tmp_path / "out" / "a.png")
    assert label.mode == "P"
    np.testing.assert_array_equal(np.asarray(label), np.repeat([[1] * 4 + [2] * 4], 6, axis=0))
    assert np.asarray(label.convert("RGB"))[0, 7].tolist() == [0, 0, 142]
    assert not np.asarray(Image.open(tmp_path / "out" / "b.png")).any()
    # JPEG moves colours a little.
    assert np.abs(np.asarray(Image.open(tmp_path / "out" / "a_overlay.jpg"))[0, 0] - [192.0, 160, 192]).max() < 4
    assert [path.name for path in summary.written] == ["a.png", "b.png", "c.d.png"] and not summary.failed


def test_sizes_do_not_mix_and_native_is_kept(tmp_path):
    for name, height in (("a", 4), ("b", 4), ("c", 6), ("d", 6), ("e", 6)):
        save(tmp_path / "in" / f"{name}.png", height, 4, 255)
    network = Network()
    predict_folder(network, tmp_path / "in", tmp_path / "out", domain=Domain(), palette=PALETTE, batch_size=4)
    assert network.calls == [((4, 4, 4, 3), (4, 4)), ((4, 6, 4, 3), (6, 4))]
    assert [Image.open(tmp_path / "out" / f"{name}.png").height for name in "abcde"] == [4, 4, 6, 6, 6]


def test_colliding_names_are_all_kept(tmp_path):
    for name, value in (("a.jpg", 255), ("a.png", 0), ("a_overlay.jpg", 255), ("A.bmp", 0)):
        save(tmp_path / "in" / name, 4, 4, value)
    summary = predict_folder(Network(), tmp_path / "in", tmp_path / "out", domain=Domain(), palette=PALETTE)
    renamed = {source.name: target.name for source, target in summary.renamed}
    assert renamed == {"a.jpg": "a_jpg.png", "a.png": "a_png.png", "a_overlay.jpg": "a_overlay_jpg.png"}
    assert len(list((tmp_path / "out").iterdir())) == 8
    assert np.asarray(Image.open(tmp_path / "out" / "a_jpg.png")).any()
    assert not np.asarray(Image.open(tmp_path / "out" / "a_png.png")).any()
    assert "a.jpg: written as a_jpg.png" in str(summary)


def test_an_output_around_the_input_never_overwrites_an_image(tmp_path):
    save(tmp_path / "x" / "x" / "a.png", 4, 4, 255)  # its plain output would be x/a.png, an input
    save(tmp_path / "x" / "a.png", 4, 4, 200)
    predict_folder(Network(), tmp_path / "x", tmp_path, domain=Domain(), palette=PALETTE)
    assert np.asarray(Image.open(tmp_path / "x" / "a.png"))[0, 0].tolist() == [200, 200, 200]
    assert Image.open(tmp_path / "x" / "a_png.png").mode == "P"


def test_unreadable_images_are_named_and_the_others_done(tmp_path):
    save(tmp_path / "in" / "a.png", 4, 4, 255)
    save(tmp_path / "in" / "c.png", 4, 4, 255)
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:50])
    summary = predict_folder(Network(), tmp_path / "in", tmp_path / "out", domain=Domain(), palette=PALETTE)
    assert [path.name for path in summary.written] == ["a.png", "c.png"]
    assert [path.name for path, _ in summary.failed] == ["b.png"]
    assert "b.png" in str(summary) and str(summary).endswith("2 images predicted, 1 could not be read")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith((".", "b"))]


@pytest.mark.parametrize("output", ["in", "in/predictions", "in/../in/x"])
def test_output_inside_the_input_is_refused(tmp_path, output):
    save(tmp_path / "in" / "a.png", 4, 4, 255)
    with pytest.raises(UserError, match="--output .* lies in the input folder"):
        predict_folder(Network(), tmp_path / "in", tmp_path / output, domain=Domain(), palette=PALETTE)


def test_inputs_without_images_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("")
    (tmp_path / "file").write_text("")
    for name, words in (("in", "no image there"), ("absent", "got nothing"), ("file", "expected one of .mp4")):
        with pytest.raises(UserError, match=words):
            predict_folder(Network(), tmp_path / name, tmp_path / "out", domain=Domain(), palette=PALETTE)
    save(tmp_path / "in" / "a.png", 4, 4, 255)
    with pytest.raises(UserError, match="expected a folder, got a file"):
        predict_folder(Network(), tmp_path / "in", tmp_path / "file", domain=Domain(), palette=PALETTE)


def predict(tmp_path, source="in", **options):
    return predict_folder(
        Network(), tmp_path / source, tmp_path / "out", **{"domain": Domain(), "palette": PALETTE} | options
    )


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    save(tmp_path / "in" / "a.png", 4, 4, 255)
    for name in ("notes.txt", "more.txt", "film.mp4", "nested/raw.CR2", "README", ".hidden"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("no image")
    lines = str(predict(tmp_path)).splitlines()
    assert lines[0].startswith("5 files passed over, no pictures that are read: 1 .cr2, 1 .mp4, 2 .txt, 1 without end")
    assert lines[1].startswith("1 frames in ")
    assert lines[-1] == "1 images predicted, 0 could not be read"
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(UserError, match=r"for a video, give its file, such as .*film\.mp4"):
        predict(tmp_path)


def test_names_of_any_length_and_with_dots_are_written(tmp_path):
    for name in ("x" * 240, "x" * 241, "f.0.12", "f.0.13", "ü" * 120):
        save(tmp_path / "in" / f"{name}.png", 4, 4, 255)
    summary = predict(tmp_path)
    assert len(summary.written) == len(set(summary.written)) == 5 and all(path.exists() for path in summary.written)
    assert {path.name for path in summary.written} >= {"f.0.12.png", "f.0.13.png"}
    assert len(summary.renamed) == 3 and "its plain name was taken or too long" in str(summary)


def test_a_picture_and_a_video_are_inputs_too(tmp_path):
    save(tmp_path / "a.png", 4, 6, 255)
    frames = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (255, 0, 255)]
    frames[0].save(tmp_path / "drive.webp", save_all=True, append_images=frames[1:], lossless=True)
    (still,) = predict(tmp_path, "a.png").written
    assert still == tmp_path / "out" / "a.png"
    written = predict(tmp_path, "drive.webp").written
    assert len(written) == 3 and written == sorted(written)
    assert [bool(np.asarray(Image.open(path)).any()) for path in written] == [True, False, True]


def test_names_in_an_archive_do_not_lead_elsewhere(tmp_path):
    import io

    data = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).save(data, "PNG")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("a/b.png", "a/..b.png", "c.d.png"):
            archive.writestr(name, data.getvalue())
    written = predict(tmp_path, "in.zip").written
    assert written and all(path.resolve().is_relative_to(tmp_path / "out") for path in written)
    assert tmp_path / "out" / "a" / "b.png" in written


def test_an_output_that_cannot_be_made_is_one_line(tmp_path):
    save(tmp_path / "in" / "a.png", 4, 4, 255)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output .*file/out: a part of this path is a file"):
        predict_folder(Network(), tmp_path / "in", tmp_path / "file" / "out", domain=Domain(), palette=PALETTE)


def test_limits_are_told(tmp_path):
    save(tmp_path / "in" / "a.png", 40, 40, 255)
    assert "seen by windows of" in str(predict(tmp_path, most_pixels=500))


def test_links_are_followed_and_told(tmp_path):
    save(tmp_path / "drive" / "more" / "a.png", 6, 8, 255)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "seq").symlink_to(tmp_path / "drive")
    (tmp_path / "drive" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    summary = predict(tmp_path)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in summary.written] == ["seq/more/a.png"]
    assert "lost.png: no such file" in str(summary)


def test_what_an_archive_holds_besides_is_told(tmp_path):
    save(tmp_path / "a.png", 6, 8, 255)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
        archive.writestr("b.heic", b"")
    assert "1 files are passed over: .heic (1), the first is 'b.heic'" in str(predict(tmp_path, "in.zip"))


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_kind_is_written_by_choice(tmp_path):
    save(tmp_path / "in" / "a.png", 6, 8, 255)
    kinds = ("labels", "colours", "overlay", "confidence", "entropy", "depth", "probabilities")
    predict(tmp_path, wanted=Wanted(kinds, overlay="png"), classes=("a", "b", "c"))
    open_ = lambda kind: np.asarray(Image.open(tmp_path / "out" / f"a_{kind}.png"))  # noqa: E731
    assert open_("colours")[0, 0].tolist() == [128, 64, 128] and open_("overlay")[0, 0].tolist() == [192, 160, 192]
    share = np.exp([1.0, 0, 0]) / np.exp([1.0, 0, 0]).sum()
    assert open_("confidence").dtype == np.uint8 and (open_("confidence") == round(255 * share[0])).all()
    assert (open_("entropy") == round(255 * -(share * np.log(share)).sum() / np.log(3))).all()
    assert open_("depth").dtype == np.uint16 and (open_("depth") == 150).all()
    with np.load(tmp_path / "out" / "a_probabilities.npz") as found:
        assert found["probabilities"].shape == (6, 8, 3) and found["classes"].tolist() == ["a", "b", "c"]
        np.testing.assert_allclose(found["probabilities"][0, 0], share[[1, 0, 2]], atol=1e-3)
    assert len(written(tmp_path / "out")) == len(kinds)


def test_a_chosen_size_holds_for_all_that_is_written(tmp_path):
    save(tmp_path / "in" / "a.png", 6, 8, 255)
    predict(tmp_path, wanted=Wanted(("labels", "overlay", "confidence"), size=(12, 20)))
    sizes = {Image.open(tmp_path / "out" / name).size for name in written(tmp_path / "out")}
    assert sizes == {(20, 12)}


def test_what_exists_is_skipped_and_what_is_missing_is_made(tmp_path):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", 6, 8, 255)
    predict(tmp_path)
    (tmp_path / "out" / "b_overlay.jpg").unlink()
    before = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    summary = predict(tmp_path)
    assert [path.name for path in summary.written] == ["b.png"] and summary.skipped == 2
    assert str(summary).endswith("1 images predicted, 2 skipped, whose files exist, 0 could not be read")
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == before
    # Another kind is made of all of them.
    assert len(predict(tmp_path, wanted=Wanted(("labels", "entropy"))).written) == 3
    assert len(predict(tmp_path, wanted=Wanted(again=True)).written) == 3


def test_predictions_of_something_else_are_not_mixed_with(tmp_path):
    save(tmp_path / "in" / "a.png", 6, 8, 255)
    predict(tmp_path, made_by={"steps": [4], "size": (1, 2)})
    assert predict(tmp_path, made_by={"steps": [4], "size": (1, 2)}).skipped == 1
    with pytest.raises(UserError, match=r"holds predictions that were made otherwise .steps.; give another folder, or"):
        predict(tmp_path, made_by={"steps": [8], "size": (1, 2)})
    assert len(predict(tmp_path, made_by={"steps": [8]}, wanted=Wanted(again=True)).written) == 1
    (tmp_path / "out" / "predictions.json").write_text("{")
    with pytest.raises(UserError, match="made otherwise"):
        predict(tmp_path, made_by={"steps": [8]})


def test_patterns_and_lists_are_inputs_too(tmp_path):
    for name in ("x/a_left.png", "x/a_right.png", "y/z/b_left.png"):
        save(tmp_path / "in" / name, 6, 8, 255)
    predict_folder(Network(), tmp_path / "in" / "**" / "*_left.png", tmp_path / "out", domain=Domain(), palette=PALETTE)
    assert written(tmp_path / "out") == [
        "x/a_left.png", "x/a_left_overlay.jpg", "y/z/b_left.png", "y/z/b_left_overlay.jpg"
    ]  # fmt: skip
    several = [tmp_path / "in" / "x" / name for name in ("a_left.png", "a_right.png")]
    summary = predict_folder(Network(), several, tmp_path / "two", domain=Domain(), palette=PALETTE)
    assert [path.name for path in summary.written] == ["a_left.png", "a_right.png"]
    for wrong, words in (
        (tmp_path / "in" / "*.gif", r"no file fits this pattern"),
        ([tmp_path / "in", several[0]], "expected files where there are several, got a folder"),
        ([several[0], several[0]], "expected each file once"),
    ):
        with pytest.raises(UserError, match=words):
            predict_folder(Network(), wrong, tmp_path / "no", domain=Domain(), palette=PALETTE)
    assert not (tmp_path / "no").exists()


def test_a_map_that_the_method_does_not_predict_is_refused(tmp_path):
    save(tmp_path / "in" / "a.png", 6, 8, 255)

    def without_depth(images, size, reduce):
        return reduce({"scores": np.zeros((len(images), *size, 3), np.float32)})

    with pytest.raises(UserError, match="depth: expected a method of depth"):
        predict_folder(
            without_depth,
            tmp_path / "in",
            tmp_path / "out",
            domain=Domain(),
            palette=PALETTE,
            wanted=Wanted(("labels", "depth")),
        )
    assert not written(tmp_path / "out")


def test_a_disk_that_refuses_ends_it(tmp_path, monkeypatch):
    from uda_jax.data.io import atomic

    save(tmp_path / "in" / "a.png", 6, 8, 255)

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(atomic, "write", full)
    with pytest.raises(OSError, match="No space left"):
        predict(tmp_path)


def test_shares_of_the_time_add_up(tmp_path):
    for name in "abcdef":
        save(tmp_path / "in" / f"{name}.png", 6, 8, 255)
    summary = predict(tmp_path, batch_size=2)
    parts = (summary.compiling, summary.busy, summary.reading, summary.writing)
    assert all(part >= 0 for part in parts) and sum(parts) <= summary.seconds and 0 < summary.device_share <= 1


def test_the_rate_is_that_without_compiling(tmp_path):
    summary = Summary(written=[tmp_path] * 30, seconds=7.5, compiling=6.0, busy=1.2, reading=0.15, writing=0.15)
    assert str(summary).splitlines()[0] == (
        "30 frames in 7.5 s; apart from 6.0 s to compile, 20.0 frames/s, and the device was 80 % busy, "
        "10 % waiting for reading, 10 % waiting for writing"
    )


def test_what_could_not_be_read_was_not_written_under_another_name(tmp_path):
    summary = Summary(
        renamed=[(tmp_path / "a.gif", tmp_path / "a_gif.png")], failed=[(tmp_path / "a.gif", "a.gif: no")]
    )
    assert str(summary) == "a.gif: no\n0 images predicted, 1 could not be read"
