"""Video: the order of frames, every n-th of them, random access into files, and damage."""

import io
import pickle
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import get_dataset
from uda_jax.data.datasets.video import natural
from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.errors import UserError

COUNT = 24


def grey(number, size=(24, 32)):
    """Returns a picture whose brightness tells its number."""
    return np.full((*size, 3), 8 * number, np.uint8)


def numbers(dataset):
    """Returns the numbers that the frames of a data set show."""
    return [int(np.rint(example["image"].mean() / 8)) for example in dataset]


def write_video(path, codec="libx264", gap=10, times=None):
    """Writes COUNT frames with a key frame every `gap` frames."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        stream.codec_context.gop_size = gap
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        for k in range(COUNT):
            frame = av.VideoFrame.from_ndarray(grey(k), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[k], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    for k, name in enumerate(["drive_2/frame_2.png", "drive_2/frame_10.jpg", "drive_10/frame_1.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(grey(k)).save(tmp_path / name, quality=100)
    (tmp_path / "notes.txt").write_text("")
    dataset = get_dataset("video", tmp_path, "train", "16")
    assert [dataset.name(k) for k in range(3)] == ["drive_2/frame_2", "drive_2/frame_10", "drive_10/frame_1"]
    assert numbers(dataset) == [0, 1, 2] and len(dataset.label_space.names) == 16
    assert dataset[1].keys() == {"image", "name", "index"}
    assert dataset.missing("image") == [] and dataset.missing("label")[2] == "drive_10/frame_1"
    assert sorted(["a10", "a9b", "a009", "b", "a9"], key=natural) == ["a009", "a9", "a9b", "a10", "b"]


def test_archive_of_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path / "drive.zip", "w") as archive:
        for k in (0, 9, 10):
            buffer = io.BytesIO()
            Image.fromarray(grey(k)).save(buffer, "PNG")
            archive.writestr(f"drive/{k}.png", buffer.getvalue())
    dataset = get_dataset("video", tmp_path / "drive.zip", "train")
    assert [dataset.name(k) for k in range(3)] == ["drive/0", "drive/9", "drive/10"]
    assert numbers(dataset) == [0, 9, 10]


@pytest.mark.parametrize("ending", ["gif", "webp", "tiff", "png"])
def test_animations(tmp_path, ending):
    first, *others = [Image.fromarray(grey(k)) for k in range(7)]
    options = {"lossless": True} if ending == "webp" else {}
    first.save(tmp_path / f"drive.{ending}", save_all=True, append_images=others, **options)
    dataset = get_dataset("video", tmp_path / f"drive.{ending}", "train")
    assert (len(dataset), dataset.name(6)) == (7, "drive_000006")
    assert [int(np.rint(dataset[k]["image"].mean() / 8)) for k in (5, 0, 6, 2, 2)] == [5, 0, 6, 2, 2]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[3]["image"], grey(3))
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda k: int(dataset[k]["image"][0, 0, 0]), [6, 0, 3, 1] * 5))
    assert shown == [48, 0, 24, 8] * 5


@pytest.mark.parametrize(
    ("file", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mov", "mpeg4"), ("a.webm", "libvpx-vp9")]
)
def test_video_files_are_read_in_any_order(tmp_path, file, codec):
    dataset = get_dataset("video", write_video(tmp_path / file, codec), "train")
    assert (len(dataset), dataset.name(23), dataset[0]["image"].shape) == (COUNT, "a_000023", (24, 32, 3))
    in_order = numbers(dataset)
    assert in_order == list(range(COUNT))
    order = np.random.default_rng(0).permutation(COUNT)
    shuffled = [int(np.rint(dataset[int(k)]["image"].mean() / 8)) for k in order]
    assert shuffled == order.tolist()
    copy = pickle.loads(pickle.dumps(dataset))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda k: int(np.rint(copy[int(k)]["image"].mean() / 8)), order)) == order.tolist()


def test_b_frames_in_avi_are_each_read_once(tmp_path):
    dataset = get_dataset("video", write_video(tmp_path / "a.avi"), "train")
    in_order = numbers(dataset)
    assert sorted(in_order) == list(range(COUNT))
    assert [int(np.rint(dataset[k]["image"].mean() / 8)) for k in reversed(range(COUNT))] == in_order[::-1]


def test_every_counts_frames_also_at_a_varying_rate(tmp_path):
    times = np.cumsum([1, 4, 20] * (COUNT // 3)).tolist()
    path = write_video(tmp_path / "a.mp4", times=times)
    dataset = get_dataset("video", path, "train", every=5)
    assert numbers(dataset) == [0, 5, 10, 15, 20]
    assert [dataset.name(k) for k in range(5)] == [f"a_{k:06d}" for k in (0, 5, 10, 15, 20)]
    assert dataset[-1]["index"] == 4
    assert dataset.read(0, ()).keys() == {"name", "index"}
    with pytest.raises(IndexError):
        dataset[5]


def test_frames_are_turned_as_the_file_says(tmp_path):
    av = pytest.importorskip("av")
    half = grey(0)
    half[:12] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(half, format="rgb24")))
        container.mux(stream.encode())
    image = get_dataset("video", tmp_path / "a.mp4", "train")[0]["image"]
    # Counter-clockwise by a quarter: what was at the top is at the left.
    assert image.shape == (32, 24, 3) and image[:, :10].min() > 240 and image[:, 14:].max() < 15


def test_as_unlabelled_domain(tmp_path):
    domain = Domain("video", str(write_video(tmp_path / "a.mp4")), fields=("image",), size=(12, 16), flip=True)
    stream = train_stream({"target": domain}, global_batch=COUNT, seed=0)
    batch = next(stream)["target"]
    stream.close()
    assert batch["image"].shape == (COUNT, 12, 16, 3)
    assert np.rint(batch["image"].mean(axis=(1, 2, 3)) / 8).tolist() == batch["index"].tolist()
    assert sorted(batch["index"].tolist()) == list(range(COUNT))


@pytest.mark.parametrize("kept", [0, 30, 0.5, 0.9])
@pytest.mark.parametrize("file", ["a.mp4", "a.mkv", "a.gif", "a.png"])
def test_cut_files(tmp_path, file, kept):
    path = tmp_path / file
    if file in ("a.gif", "a.png"):
        noise = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
        first, *others = map(Image.fromarray, noise)
        first.save(path, save_all=True, append_images=others)
        count = 5
    else:
        write_video(path)
        count = COUNT
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
    try:
        dataset = get_dataset("video", path, "train")
        whole = 0
        for k in range(len(dataset)):
            try:
                dataset[k]
                whole += 1
            except UserError as error:
                assert file in str(error) and "\n" not in str(error)
    except UserError as error:
        assert file in str(error) and "\n" not in str(error)
        whole = 0
    assert whole < count


def test_one_bad_picture_harms_no_other(tmp_path):
    for k in range(3):
        Image.fromarray(grey(k)).save(tmp_path / f"{k}.png")
    (tmp_path / "1.png").write_bytes(b"")
    dataset = get_dataset("video", tmp_path, "train")
    assert dataset[2]["image"].max() == 16
    with pytest.raises(UserError, match=r"1\.png: not an image"):
        dataset[1]
    Image.fromarray(grey(0)).save(tmp_path / "1.jpg")
    with pytest.raises(UserError, match=r"1\.png: shares the stem '1' with 1\.jpg"):
        get_dataset("video", tmp_path, "train")


def test_mistakes(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"video: root: expected the folder of the data set, got none"):
        get_dataset("video", None, "train")
    with pytest.raises(UserError, match=r"video: root: no folder .*gone"):
        get_dataset("video", tmp_path / "gone", "train")
    with pytest.raises(
        UserError, match=r"video: .* holds no picture \(.*\); set root to a folder of pictures or to a v"
    ):
        get_dataset("video", tmp_path, "train")
    with pytest.raises(UserError, match=r"video: every: expected an integer >= 1, got 0"):
        get_dataset("video", tmp_path, "train", every=0)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(
        UserError, match=r"a\.txt: expected one of \.mp4, .*, or a folder of pictures; convert the file"
    ):
        get_dataset("video", tmp_path / "a.txt", "train")
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"a\.mp4: reading video files needs PyAV; run pip install 'uda_jax\[video\]'"):
        get_dataset("video", tmp_path / "a.mp4", "train")
