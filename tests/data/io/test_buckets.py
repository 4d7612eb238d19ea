"""Objects in a bucket, on a server of this machine."""

import fsspec
import pytest

from uda_jax.data.io.buckets import BucketFolder
from uda_jax.errors import UserError

RIGHTS = "may not be read or written .*; check the credentials"


@pytest.fixture
def folder(bucket):
    return BucketFolder(bucket)


def test_objects_come_back_under_their_names(folder, tmp_path):
    assert folder.listing() == {} and folder.read("a.txt") is None
    (tmp_path / "weird [1] #2?.png").write_bytes(b"picture")
    folder.put({"pictures/weird [1] #2?.png": tmp_path / "weird [1] #2?.png"})
    folder.write("a.txt", b"first")
    before = folder.listing()
    folder.write("a.txt", b"other")
    found = folder.listing()
    assert {name: stored.size for name, stored in found.items()} == {"a.txt": 5, "pictures/weird [1] #2?.png": 7}
    assert found["a.txt"].version != before["a.txt"].version and found["a.txt"].modified > 1e9
    folder.get({name: tmp_path / "back" / name for name in found})
    assert (tmp_path / "back" / "pictures" / "weird [1] #2?.png").read_bytes() == b"picture"
    folder.remove(["pictures/weird [1] #2?.png", "never there"])
    assert list(folder.listing()) == ["a.txt"]


def test_only_the_first_creates(folder):
    assert folder.create("lock.json", b"mine") and not folder.create("lock.json", b"yours")
    assert folder.read("lock.json") == b"mine"


def test_a_neighbour_with_a_longer_name_is_no_part(folder, bucket):
    BucketFolder(f"{bucket}2").write("a.txt", b"")
    assert folder.listing() == {} and not folder.is_object()


def test_a_single_object_is_told_from_a_folder(folder, bucket, tmp_path):
    folder.write("weights.pth", b"weights")
    single = BucketFolder(f"{bucket}/weights.pth")
    assert single.is_object() and not folder.is_object() and single.listing() == {}
    single.get({"": tmp_path / "weights.pth"})
    assert (tmp_path / "weights.pth").read_bytes() == b"weights"


def test_names_that_would_leave_the_folder_are_refused(folder):
    folder.write("train/../../outside", b"")
    with pytest.raises(UserError, match="expected a name of folders and a file; rename the object"):
        folder.listing()


def test_a_missing_bucket_is_one_line(object_store):
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/run: no such bucket or object .*; check the name, or "):
        BucketFolder("s3://no-such-bucket/run").listing()


@pytest.mark.parametrize(("address", "package"), [("s3://b/run", "s3fs"), ("gs://b/run", "gcsfs")])
def test_a_missing_package_names_the_extra(address, package, monkeypatch):
    def absent(protocol, **options):
        raise ImportError(f"Please install {package}")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(UserError, match=rf"needs the package {package}, found none; .* 'uda_jax\[{address[:2]}"):
        BucketFolder(address)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError("Access Denied"), RIGHTS),
        (OSError("Forbidden: x"), RIGHTS),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), RIGHTS),
        (TimeoutError("slow\nserver"), "cannot be reached .TimeoutError: slow server.; check the network"),
    ],
)
def test_what_the_store_refuses_is_one_line(folder, bucket, monkeypatch, error, reason):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(folder._files, "find", refuse)
    with pytest.raises(UserError, match=f"^{bucket}: {reason}"):
        folder.listing()
