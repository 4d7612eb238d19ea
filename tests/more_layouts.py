"""Further layouts: the data sets, versions and options that `layouts.LAYOUTS` leaves out, and those without a file
for each map of a frame."""

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
from layouts import FRAMES, LAYOUTS, SIZE, Layout, matlab, numbered, write_layout
from PIL import Image

from uda_jax.data.datasets.virtual_kitti import COLOURS
from uda_jax.data.prepare.command import prepare

CITY = LAYOUTS["cityscapes"]
CAMERA = json.dumps({"extrinsic": {"baseline": 0.209313}, "intrinsic": {"fx": 2262.52}})
PAINTED = ((128, 64, 128), (70, 130, 180), (0, 80, 100))
DRIVE = "2011_09_26_drive_0001_sync"
SCENE = "Scene01/clone/frames"
COLOUR_TABLE = "\n".join(["Category r g b", *(f"{name} {r} {g} {b}" for (r, g, b), name in COLOURS.items())])


def in_files() -> dict[str, Layout]:
    """Returns layouts of a file for each map of a frame."""
    found = {
        "folder, painted": Layout(
            "folder",
            "train",
            {"image": "train/images/{}.png", "label": "train/labels/{}.png"},
            numbered("drive/f{:03}"),
            ids=None,
            others={"dataset.yaml": f"classes: [road, sky, train]\ncolours: {[list(c) for c in PAINTED]}\n"},
            optional=("label",),
            channels={"image": 3, "label": 3},
            one_size=False,
            colours=PAINTED,
        ),
        "folder, unlabelled": Layout(
            "folder",
            "train",
            {"image": "train/images/{}.png"},
            numbered("{:03}"),
            others={"dataset.yaml": "classes: [road, sky, tram]\n"},
            one_size=False,
        ),
        "cityscapes, converted": CITY._replace(
            paths=CITY.paths | {"label": "gtFine/train/{}_gtFine_labelTrainIds.png"}, ids=18
        ),
        "cityscapes, disparity": CITY._replace(
            paths=CITY.paths | {"depth": "disparity_trainvaltest/disparity/train/{}_disparity.png"},
            others={f"camera_trainvaltest/camera/train/{frame}_camera.json": CAMERA for frame in CITY.frames},
            options={"depth": "disparity"},
        ),
        "cityscapes, stereo": CITY._replace(
            paths=CITY.paths | {"depth": "depth/train/{}_depth_stereoscopic.mat"}, options={"depth": "stereo"}
        ),
        "gta5, monocular": LAYOUTS["gta5"]._replace(
            paths=LAYOUTS["gta5"].paths | {"disparity": "disparity/{}.png"},
            options={"depth": "monocular"},
            sixteen=("disparity",),
        ),
        "virtual_kitti 2": LAYOUTS["virtual_kitti"]._replace(
            paths={
                "image": f"{SCENE}/rgb/Camera_0/rgb_{{}}.jpg",
                "label": f"{SCENE}/classSegmentation/Camera_0/classgt_{{}}.png",
                "depth": f"{SCENE}/depth/Camera_0/depth_{{}}.png",
            },
            others={"Scene01/clone/colors.txt": COLOUR_TABLE},
            colours=tuple(COLOURS)[1:5],
        ),
        "kitti, stereo": LAYOUTS["kitti"]._replace(
            paths=LAYOUTS["kitti"].paths | {"depth": "data_scene_flow/training/disp_occ_0/{}.png"}
        ),
        "kitti, sparse": Layout(
            "kitti",
            "depth_train",
            {
                "image": f"raw/{DRIVE}/image_02/data/{{}}.png",
                "depth": f"depth/train/{DRIVE}/proj_depth/groundtruth/image_02/{{}}.png",
            },
            numbered("{:010}"),
            one_size=False,
        ),
        "synscapes": Layout(
            "synscapes", "train", {"image": "Synscapes/img/rgb/{}.png", "label": "Synscapes/img/class/{}.png"},
            numbered("{}"),
        ),
        "urbansyn": Layout(
            "urbansyn", "train", {"image": "rgb/rgb_{}.png", "label": "ss/ss_{}.png"}, numbered("{:04}"), ids=18,
        ),
        "acdc": Layout(
            "acdc",
            "train",
            {"image": "rgb_anon/fog/train/GP01/{}_rgb_anon.png", "label": "gt/fog/train/GP01/{}_gt_labelIds.png"},
            numbered("GP01_frame_{:06}"),
        ),
        "dark_zurich": Layout(
            "dark_zurich",
            "val",
            {"image": "rgb_anon/val/night/GP/{}_rgb_anon.png", "label": "gt/val/night/GP/{}_gt_labelIds.png"},
            numbered("GP_frame_{:06}"),
        ),
        "bdd100k": Layout(
            "bdd100k",
            "train",
            {"image": "images/10k/train/{}.jpg", "label": "labels/sem_seg/masks/train/{}.png"},
            numbered("{:08x}-0a0b0c0d"),
            ids=18,
        ),
        "video, pictures": Layout("video", "train", {"image": "drive/{}.jpg"}, numbered("frame_{}"), one_size=False),
    }  # fmt: skip
    found["synscapes, depth"] = found["synscapes"]._replace(
        paths=found["synscapes"].paths | {"depth": "Synscapes/img/depth/{}.exr"},
        options={"depth": True},
        package="OpenEXR",
    )
    return found


def samples(size: tuple[int, ...], zero: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns twenty pictures and their digits."""
    digits = np.arange(20, dtype=np.uint8) % 10
    pictures = np.random.default_rng(3).integers(0, 256, (20, *size), np.uint8)
    return pictures, np.where(digits == 0, zero, digits).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def npz(root: Path) -> None:
    pictures, digits = samples((28, 28))
    np.savez_compressed(
        root / "mnist.npz", train_images=pictures, train_labels=digits, test_images=pictures[:2], test_labels=digits[:2]
    )


def plain_idx(root: Path) -> None:
    pictures, digits = samples((28, 28))
    for name, array in (("images-idx3", pictures), ("labels-idx1", digits)):
        (root / f"train-{name}-ubyte").write_bytes(idx(array))


def packed_idx(root: Path) -> None:
    plain_idx(root)
    for path in list(root.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def text_rows(root: Path) -> None:
    pictures, digits = samples((16, 16))
    rows = [
        f"{digit}.0000 " + " ".join(f"{value:.4f}" for value in picture.ravel() / 127.5 - 1)
        for picture, digit in zip(pictures, digits, strict=True)
    ]
    (root / "zip.train").write_text("\n".join(rows))


def mat_file(root: Path) -> None:
    pictures, digits = samples((32, 32, 3), zero=10)
    (root / "train_32x32.mat").write_bytes(matlab({"X": np.moveaxis(pictures, 0, 3), "y": digits[:, None]}))


def pictures_of_video() -> list[Image.Image]:
    generator = np.random.default_rng(5)
    return [Image.fromarray(generator.integers(0, 256, (*SIZE, 3), np.uint8)) for _ in range(FRAMES)]


def animation(ending: str):
    def write_animation(root: Path) -> None:
        first, *others = pictures_of_video()
        options = {"lossless": True} if ending == "webp" else {}
        first.save(root / f"drive.{ending}", save_all=True, append_images=others, **options)

    return write_animation


def video_archive(root: Path) -> None:
    with zipfile.ZipFile(root / "drive.zip", "w") as archive:
        for number, picture in enumerate(pictures_of_video()):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            archive.writestr(f"drive/{number}.png", buffer.getvalue())


def film(ending: str, **options: str):
    def write_film(root: Path) -> None:
        import av

        generator = np.random.default_rng(5)
        with av.open(str(root / f"drive.{ending}"), "w", options=options) as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.gop_size = 4
            for _ in range(24):
                picture = generator.integers(0, 256, (48, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())

    return write_film


def prepared(name: str, **options):
    def write_prepared(root: Path) -> None:
        layout = LAYOUTS[name]
        source = write_layout(layout, root / "source")
        prepare(layout.dataset, source, root / "out", split=layout.split, workers=1, **{"shard_bytes": 1} | options)

    return write_prepared


def as_tfds(root: Path) -> None:
    """What TFDS' own reader finds: the records without our manifest."""
    prepared("cityscapes")(root)
    (root / "out" / "manifest.json").unlink()


DIGITS = Layout("digits", "train", {}, (), options={"which": "mnist"}, one_size=False)
VIDEO = Layout("video", "train", {}, (), one_size=False)
PREPARED = Layout("folder", "train", {}, (), root="out", one_size=False)


def in_one() -> dict[str, Layout]:
    """Returns layouts of data sets that keep their frames in few files."""
    found = {
        "digits, npz": DIGITS._replace(maker=npz),
        "digits, idx": DIGITS._replace(maker=plain_idx),
        "digits, idx.gz": DIGITS._replace(maker=packed_idx),
        "digits, text": DIGITS._replace(maker=text_rows, options={"which": "usps"}),
        "digits, mat": DIGITS._replace(maker=mat_file, options={"which": "svhn"}),
        "video, gif": VIDEO._replace(maker=animation("gif"), root="drive.gif"),
        "video, png": VIDEO._replace(maker=animation("png"), root="drive.png"),
        "video, webp": VIDEO._replace(maker=animation("webp"), root="drive.webp"),
        "video, tiff": VIDEO._replace(maker=animation("tiff"), root="drive.tiff"),
        "video, archive": VIDEO._replace(maker=video_archive, root="drive.zip"),
        "prepared": PREPARED._replace(maker=prepared("folder")),
        "prepared, sized": PREPARED._replace(maker=prepared("folder", size=(8, 10), shard_bytes=1 << 20)),
        "prepared cityscapes": PREPARED._replace(dataset="cityscapes", maker=prepared("cityscapes")),
        "tfds": PREPARED._replace(dataset="tfds", maker=as_tfds, options={"label": "label"}),
    }
    films = {"mp4": film("mp4"), "mkv": film("mkv"), "avi": film("avi")}
    films["faststart.mp4"] = film("mp4", movflags="faststart")
    return found | {
        f"video, {name}": VIDEO._replace(maker=maker, root=f"drive.{name.rpartition('.')[2]}", package="av")
        for name, maker in films.items()
    }


MORE_LAYOUTS = in_files() | in_one()
