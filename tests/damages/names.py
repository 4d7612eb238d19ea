"""Names of files: letters that lists and other systems cannot hold, names that two files share, names in lists."""

import shutil
import unicodedata
from collections.abc import Callable

import numpy as np
from layouts import Case, content, write

from damages import damage, in_files


def renamed(case: Case, change: Callable[[str], str], fields: tuple[str, ...] = ()) -> str:
    """Gives files of a frame another name, all of them or those of some maps; returns the frame's old name."""
    frame = case.choice(case.layout.frames)
    for field in fields or case.layout.paths:
        path = case.file(field, frame)
        path.rename(path.with_name(change(path.name)))
    return frame.rpartition("/")[2]


@damage(in_files)
def line_break_in_a_name(case: Case) -> str:
    renamed(case, lambda name: "new\nline" + name)
    return "new\\nline"


@damage(in_files)
def control_sequence_in_a_name(case: Case) -> str:
    renamed(case, lambda name: "\x1b[31mred" + name)
    return "\\x1b[31mred"


@damage(in_files)
def turned_letters_in_a_name(case: Case) -> str:
    renamed(case, lambda name: "\u202e" + name)
    return "\\u202e"


@damage(in_files)
def space_before_a_name(case: Case) -> str:
    frame = case.choice(case.layout.frames)
    files = [case.file(field, frame) for field in case.layout.paths]
    for path in files:
        path.rename(path.with_name(" " + path.name))
    return "/ " + files[0].name


@damage(in_files)
def dot_behind_a_name(case: Case) -> tuple[str, ...]:
    frame = case.choice(case.layout.frames)
    files = [case.file(field, frame) for field in case.layout.paths]
    for path in files:
        path.rename(path.with_name(f"{path.name}."))
    return tuple(path.name for path in files)


@damage(in_files)
def image_of_a_long_name(case: Case) -> tuple[str, str]:
    # Where images are known by how their names begin, what is left of the frame is named.
    frame = renamed(case, lambda name: "x" * (240 - len(name)) + name, ("image",))
    return ("x" * 100, frame)


@damage(in_files)
def frame_of_a_long_name(case: Case) -> str:
    renamed(case, lambda name: "x" * (240 - len(name)) + name)
    return "x" * 100


@damage(in_files)
def image_in_other_case(case: Case) -> str:
    path = case.file("image")
    path.rename(path.with_name(path.name.swapcase()))
    return path.name.swapcase()


@damage(in_files)
def image_with_two_endings(case: Case) -> str:
    path = case.file("image")
    path.rename(path.with_name(path.name + path.suffix))
    return path.name + path.suffix


def twins(case: Case, first: Callable[[str], str], second: Callable[[str], str]) -> tuple[str, str]:
    """Gives the files of a frame a name, and writes another frame whose name differs little."""
    frame = case.choice(case.layout.frames)
    folder, _, last = frame.rpartition("/")
    names = []
    for field, pattern in case.layout.paths.items():
        path = case.file(field, frame)
        others = [
            case.root / pattern.format(f"{folder}/{change(last)}" if folder else change(last))
            for change in (first, second)
        ]
        path.rename(others[0])
        write(others[1], content(case.layout, field, (14, 18), case.generator))
        names += [other.stem for other in others]
    return tuple(names)


@damage(in_files)
def names_alike_but_for_case(case: Case) -> tuple[str, ...]:
    return twins(case, lambda last: f"a{last}", lambda last: f"A{last}")


@damage(in_files)
def names_alike_but_for_their_letters(case: Case) -> tuple[str, ...]:
    forms = (
        lambda last: unicodedata.normalize("NFC", f"é{last}"),
        lambda last: unicodedata.normalize("NFD", f"é{last}"),
    )
    return twins(case, *forms)


@damage(in_files)
def ending_lost(case: Case) -> tuple[str, str]:
    frame = case.choice(case.layout.frames)
    path = case.file("image", frame)
    path.rename(path.with_suffix(""))
    # Or the frame is named as one whose other maps are left.
    return path.with_suffix("").name, frame.rpartition("/")[2]


@damage(in_files)
def partial_download(case: Case) -> tuple[str, str]:
    frame = case.choice(case.layout.frames)
    path = case.file("image", frame)
    path.rename(path.with_name(f"{path.name}.part"))
    return path.name, frame.rpartition("/")[2]


@damage(in_files, unseen=lambda layout: len(layout.paths) == 1)
def folder_of_one_map_doubled(case: Case) -> str:
    path = case.file("image")
    shutil.copytree(path.parent, path.parent / "copy")
    return path.parent.name + "/copy"


def names_file(case: Case, content: bytes, named: str = "names.txt") -> str:
    (case.root.parent / "names.txt").write_bytes(content)
    return named


def stems(case: Case) -> list[str]:
    return [frame.rpartition("/")[2] for frame in case.layout.frames]


@damage(in_files)
def list_with_nul(case: Case) -> str:
    return names_file(case, f"{stems(case)[0]}\n{stems(case)[1]}\0\n".encode(), "names.txt, line 2")


@damage(in_files)
def list_in_utf_16(case: Case) -> str:
    return names_file(case, "\n".join(stems(case)).encode("utf-16"))


@damage(in_files)
def list_with_a_mark_before(case: Case) -> str:
    return names_file(case, b"\xef\xbb\xbf" + "\n".join(stems(case)).encode(), "names.txt, line 1")


@damage(in_files)
def list_with_a_frame_twice(case: Case) -> str:
    return names_file(
        case, "\n".join([*stems(case), stems(case)[2]]).encode(), f"names.txt, line {len(stems(case)) + 1}"
    )


@damage(in_files)
def list_leading_elsewhere(case: Case) -> str:
    return names_file(case, f"{stems(case)[0]}\n../../../{stems(case)[1]}x.png\n".encode(), "names.txt, line 2")


@damage(in_files)
def list_of_another_split(case: Case) -> str:
    return names_file(case, f"{stems(case)[0]}\nfrom_elsewhere_000001\n".encode(), "names.txt, line 2")


@damage(in_files)
def list_that_is_a_picture(case: Case) -> str:
    return names_file(case, case.file().read_bytes())


@damage(in_files)
def list_that_is_empty(case: Case) -> str:
    return names_file(case, case.choice((b"", b"\n \n\t\n", b"\0" * 100)))


@damage(in_files)
def list_of_noise(case: Case) -> str:
    return names_file(case, bytes(np.frombuffer(case.generator.bytes(300), np.uint8) % 127))
