"""Files in folders and archives, seen as one tree."""

import os
import pickle
import shutil
import tarfile
import zipfile

import pytest

from uda_jax.data import open_dataset
from uda_jax.data.io.archives import Bytes, File, Tree
from uda_jax.errors import UserError, printable

CONTENT = {"top/images/a/1.png": b"one", "top/images/a/2.png": b"two", "top/images/b/3.jpg": b"three"}


def write_folder(root, content):
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path, content, source, mode="w"):
    write_folder(source, content)
    with tarfile.open(path, mode) as archive:
        for name in content:
            archive.add(source / name, f"./{name}")
    return path


@pytest.fixture(params=["folder", "zip", "stored zip", "tar", "zip itself", "tar itself", "two zips", "mixed"])
def tree(request, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    first, rest = dict(list(CONTENT.items())[:1]), dict(list(CONTENT.items())[1:])
    if request.param == "folder":
        write_folder(root, CONTENT)
    elif request.param == "zip":
        write_zip(root / "download.zip", CONTENT)
    elif request.param == "stored zip":
        write_zip(root / "download.zip", CONTENT, zipfile.ZIP_STORED)
    elif request.param == "tar":
        write_tar(root / "download.tar", CONTENT, tmp_path / "source")
    elif request.param == "zip itself":
        root = write_zip(tmp_path / "download.zip", CONTENT)
    elif request.param == "tar itself":
        root = write_tar(tmp_path / "download.tar", CONTENT, tmp_path / "source")
    elif request.param == "two zips":
        write_zip(root / "01.zip", first)
        write_zip(root / "02.zip", rest)
    else:
        write_zip(root / "01.zip", first)
        write_folder(root, rest)
    return Tree("made_up", root)


def test_one_tree_whatever_the_packing(tree):
    assert tree.problems == []
    assert tree.find("images/a") == "top/images/a" and tree.find("images") == "top/images"
    assert tree.find("images/c") is None and tree.find("1.png") is None
    assert tree.is_folder("top") and not tree.is_folder("top/images/a/1.png")
    files = tree.files("top/images", (".png", ".jpg"), recursive=True)
    assert list(files) == ["a/1.png", "a/2.png", "b/3.jpg"]
    assert [file.read_bytes() for file in files.values()] == [b"one", b"two", b"three"]
    assert [file.name for file in files.values()] == ["1.png", "2.png", "3.jpg"]
    assert list(tree.files("top/images", (".png",), recursive=True)) == ["a/1.png", "a/2.png"]
    assert list(tree.files("top/images/a", (".png",))) == ["1.png", "2.png"]
    assert tree.files("top/images", (".png",)) == {} and tree.files("nowhere", (".png",)) == {}
    again = pickle.loads(pickle.dumps(files["a/2.png"]))
    assert again == files["a/2.png"] and again.read_bytes() == b"two"
    assert str(again).endswith("top/images/a/2.png")
    assert tree.file("top/images/b/3.jpg").read_bytes() == b"three" and tree.file("top/4.jpg") is None


def test_a_file_on_disk_hides_the_packed_one(tmp_path):
    write_zip(tmp_path / "download.zip", {"images/1.png": b"packed", "images/2.png": b"packed"})
    write_folder(tmp_path, {"images/1.png": b"unpacked"})
    files = Tree("made_up", tmp_path).files("images", (".png",))
    assert {name: file.read_bytes() for name, file in files.items()} == {"1.png": b"unpacked", "2.png": b"packed"}


def test_what_systems_leave_behind_is_no_file(tmp_path):
    write_zip(tmp_path / "download.zip", {"images/._1.png": b"", "__MACOSX/images/1.png": b"", "images/2.png": b""})
    write_folder(tmp_path, {"images/.3.png": b"", "images/Thumbs.db": b""})
    assert list(Tree("made_up", tmp_path).files("images", (".png",))) == ["2.png"]


def test_compressed_tars_are_passed_over_but_named(tmp_path):
    write_tar(tmp_path / "download.tgz", CONTENT, tmp_path / "source", "w:gz")
    (tmp_path / "source").rename(tmp_path.parent / "elsewhere")
    tree = Tree("made_up", tmp_path)
    assert tree.find("images") is None
    (note,) = tree.problems
    assert note.note and "download.tgz: not read, since only .zip and .tar can be; unpack it" in note.message


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_damaged_archives_are_problems_and_named(tmp_path, suffix):
    (tmp_path / f"bad.{suffix}").write_bytes(b"nothing of the kind" * 100)
    write_folder(tmp_path, CONTENT)
    tree = Tree("made_up", tmp_path)
    assert len(tree.problems) == 1 and f"bad.{suffix}: damaged archive" in tree.problems[0].message
    assert len(tree.files("top/images/a", (".png",))) == 2


def test_damage_inside_an_archive_is_an_oserror(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"images/1.png": bytes(range(256)) * 4})
    data = bytearray(path.read_bytes())
    data[60:70] = b"0123456789"
    path.write_bytes(bytes(data))
    (file,) = Tree("made_up", tmp_path).files("images", (".png",)).values()
    with pytest.raises(OSError, match="damaged in the archive"):
        file.read_bytes()
    path = write_tar(tmp_path / "b.tar", {"2.png": b"x" * 5000}, tmp_path / "source")
    file = File(path, "2.png", (512, 20000))
    with pytest.raises(OSError, match="the archive ends within the file: expected 20000 bytes"):
        file.read_bytes()


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path / "disk", {"1.png": b"one"})
    (tmp_path / "root" / "images").mkdir(parents=True)
    (tmp_path / "root" / "images" / "far").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "images" / "up").symlink_to(tmp_path / "root" / "images")
    (tmp_path / "root" / "images" / "self.png").symlink_to(tmp_path / "root" / "images" / "self.png")
    tree = Tree("made_up", tmp_path / "root")
    files = tree.files("images", (".png",), recursive=True)
    assert list(files) == ["far/1.png", "self.png"] and files["far/1.png"].read_bytes() == b"one"
    assert [problem.message.partition(":")[0] for problem in tree.problems] == [str(tmp_path / "root/images/up")]
    with pytest.raises(OSError):
        files["self.png"].read_bytes()


def test_roots(tmp_path):
    with pytest.raises(UserError, match="made_up: root: expected the folder of the data set, got none"):
        Tree("made_up", None)
    with pytest.raises(UserError, match=r"made_up: root: no folder .*gone; give it by --root"):
        Tree("made_up", tmp_path / "gone")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match=r"no folder .*file\.txt"):
        Tree("made_up", tmp_path / "file.txt")


def test_names_can_always_be_printed():
    undecodable = os.fsdecode(b"stra\xdfe\n.png")
    assert printable(undecodable) == "stra\\udcdfe\\n.png"
    assert printable("straße.png") == "straße.png"
    assert str(File(path=Bytes("x", b"").name)) == "x" and Bytes("x", b"y").read_bytes() == b"y"


@pytest.mark.parametrize("damage", [b"\xff" * 512, bytes(512)])
def test_a_damaged_header_hides_nothing_silently(tmp_path, damage):
    path = write_tar(tmp_path / "a.tar", {f"images/{k}.png": bytes([k]) * 600 for k in range(6)}, tmp_path / "source")
    with tarfile.open(path) as archive:
        third = archive.getmembers()[3].offset
    data = bytearray(path.read_bytes())
    data[third : third + 512] = damage
    path.write_bytes(data)
    shutil.rmtree(tmp_path / "source")
    (problem,) = Tree("made_up", tmp_path).problems
    assert f"a.tar: damaged archive (what follows byte {third} cannot be listed)" in problem.message


def test_names_in_archives_never_lead_elsewhere(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("images/1.png", "images/../../evil.png", "/images/2.png", "images/\x1b[2J.png", "./images/3.png"):
            archive.writestr(name, b"x")
    tree = Tree("made_up", tmp_path)
    assert list(tree.files("images", (".png",), recursive=True)) == ["1.png", "3.png"]
    assert "3 names in it lead out of its folder or hold control characters" in tree.problems[0].message
    assert "\x1b" not in tree.problems[0].message
    assert tree.files("images", (".png",))["3.png"].read_bytes() == b"x"


@pytest.mark.parametrize("place", ["labels.tar.gz", "RAND_CITYSCAPES.rar"])
def test_compressed_archives_are_named_where_something_lacks(tmp_path, place):
    (tmp_path / "RGB").mkdir()
    (tmp_path / place).write_bytes(b"")
    with pytest.raises(UserError, match=f"no folder .*GT/LABELS; .*{place} is compressed, which .*; unpack it"):
        open_dataset("synthia", tmp_path, "train")
    with pytest.raises(UserError, match=f"{place} is compressed"):
        open_dataset("synthia", tmp_path / place, "train")
