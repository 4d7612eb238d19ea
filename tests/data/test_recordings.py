"""Frames in time by the numbers in their names."""

from pathlib import Path

from uda_jax.data.io.archives import File
from uda_jax.data.recordings import moment, nearest, shifted

FILES = {name: File(Path(name)) for name in ("a_0009", "a_0010", "a_0011", "b_0010", "still")}


def test_a_moment_is_the_recording_and_the_number():
    assert moment("drive/a_0010") == ("drive/a_", 10) and moment("17") == ("", 17) and moment("still") is None


def test_neighbours_are_written_with_as_many_digits():
    images = ("a_0009", "a_0010", "b_0010", "still")
    assert shifted(images, FILES, 1) == {"a_0009": FILES["a_0010"], "a_0010": FILES["a_0011"]}
    assert shifted(images, FILES, -1) == {"a_0010": FILES["a_0009"]}


def test_the_nearest_file_is_one_of_the_recording():
    files = {name: FILES[name] for name in ("a_0009", "a_0011", "still")}
    found = nearest(("a_0011", "a_0100", "a_0001", "b_0010", "still", "other"), files)
    assert found == {
        "a_0011": FILES["a_0011"],
        "a_0100": FILES["a_0011"],
        "a_0001": FILES["a_0009"],
        "still": FILES["still"],
    }
