"""Words of the user: local paths, addresses in buckets, and what is neither."""

from pathlib import Path

import pytest

from uda_jax.cli.main import main
from uda_jax.data import get_dataset
from uda_jax.data.io import places
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.schema import from_mapping


@pytest.mark.parametrize("word", ["runs/advent", "/tmp/a b", "C:\\runs", "a:b", "~/runs"])
def test_local_words_stay_what_pathlib_makes_of_them(word):
    assert type(places.place(word)) is type(Path(word)) and places.place(word) == Path(word)
    assert not places.is_bucket(word) and places.local(word) == Path(word)


@pytest.mark.parametrize("word", ["s3://bucket/run", "gs://bucket/runs/ä, seed 0/"])
def test_addresses_stay_whole(word):
    path = places.place(word)
    assert str(path) == word.rstrip("/") and places.is_bucket(path)
    assert str(path / "train") == f"{word.rstrip('/')}/train" and path.parent.name
    assert places.place(path) == path


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("s3://bucket", "name a folder in the bucket"),
        ("s3://bucket/a//b", "name a folder in the bucket"),
        ("s3://bucket/../b", "name a folder in the bucket"),
        ("s3://bucket/run*", "other than"),
        ("https://bucket/run", "expected a local path, or gs://bucket/folder or s3://bucket/folder"),
        ("az://bucket/run", "expected a local path, or gs://bucket/folder or s3://bucket/folder"),
        (Path("s3://bucket/run"), "s3:/bucket/run: expected s3://bucket/run with two slashes"),
    ],
)
def test_other_addresses_are_refused(word, reason):
    with pytest.raises(UserError, match="--workdir: ") as error:
        places.place(word, "--workdir")
    assert reason in str(error.value)


@pytest.mark.parametrize("field", ["root", "names_file", "labels_from", "images_from"])
def test_data_are_local(field):
    with pytest.raises(UserError, match=rf"^config.data.source.{field}: expected a local path, got s3://b/x; .*mount"):
        from_mapping(Domain, {"dataset": "folder", field: "s3://b/x"}, "config.data.source")


def test_a_library_caller_is_told_too():
    with pytest.raises(UserError, match="^folder: root: expected a local path, got gs://b/x"):
        get_dataset("folder", "gs://b/x", "train")


@pytest.mark.parametrize(
    "words",
    [
        ["check", "folder", "--root"],
        ["prepare", "folder", "--root", "data", "--out"],
        ["prepare", "folder", "--root", "data", "--out", "out", "--names-file"],
        ["predict", "--workdir", "run", "--input", "images", "--output"],
        ["convert", "--from", "run", "--to"],
    ],
)
def test_options_of_local_files_say_so(words, capsys):
    assert main([*words, "s3://b/x"]) == 2
    assert f"argument {words[-1]}: expected a local path, got s3://b/x" in capsys.readouterr().err
