"""Archives: members that lead elsewhere or are not read, directories that do not fit, and other kinds of archives."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

from layouts import Case, packed

from damages import damage, in_files, name

CENTRAL = b"PK\x01\x02"
# How files are called that a data set reads.
READ = (".png", ".jpg", ".mat", ".exr", ".json")


def archive_of(case: Case, kind: str) -> Path:
    return case.choice(packed(case.root, kind))


def pictures(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return [name for name in opened.namelist() if name.endswith(READ)]


def entry(data: bytes, member: str) -> int:
    """Returns where the central directory of a zip describes a member."""
    at = data.index(CENTRAL)
    while data[at + 46 : at + 46 + struct.unpack_from("<H", data, at + 28)[0]] != member.encode():
        at = data.index(CENTRAL, at + 4)
    return at


def patched(case: Case, offset: int, value: bytes) -> str:
    """Overwrites a field of one member's entry in the central directory."""
    archive = archive_of(case, "zip")
    member, data = case.choice(pictures(archive)), bytearray(archive.read_bytes())
    at = entry(data, member) + offset
    data[at : at + len(value)] = value
    archive.write_bytes(data)
    return name(case, archive)


@damage(in_files)
def zip_encrypted(case: Case) -> str:
    return patched(case, 8, b"\x01\0")


@damage(in_files)
def zip_of_unknown_compression(case: Case) -> str:
    return patched(case, 10, struct.pack("<H", case.choice((1, 9, 93, 98))))


@damage(in_files)
def zip_of_wrong_checksum(case: Case) -> str:
    return patched(case, 16, b"\1\2\3\4")


@damage(in_files)
def zip_of_wrong_sizes(case: Case) -> str:
    return patched(case, case.choice((20, 24)), struct.pack("<I", case.choice((0, 5, 2**31, 2**32 - 1))))


@damage(in_files)
def zip_of_wrong_offset(case: Case) -> str:
    return patched(case, 42, struct.pack("<I", case.choice((1, 77, 2**31, 2**32 - 1))))


@damage(in_files)
def zip_of_wrong_lengths(case: Case) -> str:
    return patched(case, case.choice((28, 30, 32)), struct.pack("<H", case.choice((0, 3, 60000))))


@damage(in_files)
def zip_of_later_version(case: Case) -> str:
    return patched(case, 6, struct.pack("<H", 99))


@damage(in_files)
def zip_of_bad_letters(case: Case) -> str:
    archive = archive_of(case, "zip")
    data = bytearray(archive.read_bytes())
    at = entry(data, case.choice(pictures(archive)))
    data[at + 8 : at + 10] = struct.pack("<H", 0x800)
    data[at + 46] = 0xFF
    archive.write_bytes(data)
    return name(case, archive)


@damage(in_files)
def zip_with_directory_damaged(case: Case) -> tuple[str, str]:
    archive = archive_of(case, "zip")
    data = bytearray(archive.read_bytes())
    start = data.index(CENTRAL)
    for _ in range(4):
        data[case.generator.integers(start, len(data))] = case.generator.integers(256)
    archive.write_bytes(data)
    # Where names were hit, the frames that lack these files are named.
    return name(case, archive), "there is no"


@damage(in_files)
def zip_of_windows_paths(case: Case) -> str:
    archive = archive_of(case, "zip")
    with zipfile.ZipFile(archive) as opened:
        contents = {member: opened.read(member) for member in opened.namelist()}
    with zipfile.ZipFile(archive, "w") as out:
        for member, data in contents.items():
            out.writestr(member.replace("/", "\\"), data)
    return name(case, archive)


@damage(in_files)
def member_twice(case: Case) -> str:
    archive = archive_of(case, case.choice(("zip", "tar")))
    if archive.suffix == ".zip":
        first, second, *_ = pictures(archive)
        with zipfile.ZipFile(archive, "a") as out:
            data = out.read(second)
            out.writestr(first, data)
    else:
        with tarfile.open(archive) as opened:
            first, second = [member for member in opened if member.isfile()][:2]
            data = opened.extractfile(second).read()
        with tarfile.open(archive, "a") as out:
            out.addfile(described(first.name, len(data)), io.BytesIO(data))
    return name(case, archive)


def described(member: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(member)
    info.size, info.type, info.linkname = size, kind, target
    return info


def member_replaced(case: Case, kind: bytes, target: str) -> str:
    """Replaces one picture in a tar by an entry of another kind."""
    archive = archive_of(case, "tar")
    with tarfile.open(archive) as opened:
        contents = {member.name: opened.extractfile(member).read() for member in opened if member.isfile()}
    chosen = case.choice([member for member in contents if member.endswith(READ)])
    with tarfile.open(archive, "w") as out:
        for member, data in contents.items():
            if member == chosen:
                out.addfile(described(member, kind=kind, target=target))
            else:
                out.addfile(described(member, len(data)), io.BytesIO(data))
    return name(case, archive)


@damage(in_files)
def tar_with_link_outside(case: Case) -> str:
    return member_replaced(case, tarfile.SYMTYPE, case.choice(("/etc/hostname", "../../outside.png")))


@damage(in_files)
def tar_with_hard_link(case: Case) -> str:
    return member_replaced(case, tarfile.LNKTYPE, "another/file.png")


@damage(in_files)
def tar_with_device(case: Case) -> str:
    return member_replaced(case, case.choice((tarfile.CHRTYPE, tarfile.FIFOTYPE)), "")


@damage(in_files)
def tar_with_sparse_file(case: Case) -> str:
    return member_replaced(case, tarfile.GNUTYPE_SPARSE, "")


@damage(in_files)
def zip_with_link_outside(case: Case) -> tuple[str, str]:
    archive = archive_of(case, "zip")
    with zipfile.ZipFile(archive) as opened:
        contents = {member: opened.read(member) for member in opened.namelist()}
    chosen = case.choice(pictures(archive))
    with zipfile.ZipFile(archive, "w") as out:
        for member, data in contents.items():
            info = zipfile.ZipInfo(member)
            info.create_system, info.external_attr = 3, (0o120777 if member == chosen else 0o100644) << 16
            out.writestr(info, b"/etc/hostname" if member == chosen else data)
    return name(case, archive), chosen


@damage(in_files)
def member_leading_elsewhere(case: Case) -> str:
    archive = archive_of(case, case.choice(("zip", "tar")))
    member = case.choice(("/etc/evil.png", "../evil.png", "a/../../evil.png", "C:/../evil.png", "a\nb/evil.png"))
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "a") as out:
            out.writestr(member, b"")
    else:
        with tarfile.open(archive, "a") as out:
            out.addfile(described(member))
    return name(case, archive)


@damage(in_files)
def archive_in_archive(case: Case) -> tuple[str, str]:
    archive = archive_of(case, case.choice(("zip", "tar")))
    data = archive.read_bytes()
    with zipfile.ZipFile(archive.with_suffix(".zip"), "w") as out:
        out.writestr(f"inner/{archive.name}", data)
    if archive.suffix != ".zip":
        archive.unlink()
    return f"inner/{archive.name}", name(case, archive.with_suffix(".zip"))


@damage(in_files)
def tar_compressed(case: Case) -> str:
    archive = archive_of(case, "tar")
    data = gzip.compress(archive.read_bytes())
    archive.unlink()
    other = archive.with_suffix(case.choice((".tar.gz", ".tgz")))
    other.write_bytes(data if case.choice((True, False)) else data[: len(data) // 2])
    return name(case, other)


@damage(in_files)
def archive_of_other_kind(case: Case) -> str:
    archive = archive_of(case, "zip")
    other = archive.with_suffix(case.choice((".7z", ".rar", ".tar.xz")))
    archive.rename(other)
    return name(case, other)


@damage(in_files)
def zip_called_tar(case: Case) -> str:
    kinds = ["zip", "tar"] if case.choice((True, False)) else ["tar", "zip"]
    archive = archive_of(case, kinds[0])
    other = archive.with_suffix(f".{kinds[1]}")
    archive.rename(other)
    return name(case, other)


@damage(in_files)
def archive_that_is_a_web_page(case: Case) -> str:
    archive = archive_of(case, case.choice(("zip", "tar")))
    archive.write_bytes(b"<!DOCTYPE html>\n<html><body>Quota exceeded</body></html>\n" * 20)
    return name(case, archive)


@damage(in_files)
def archive_that_is_a_pipe(case: Case) -> str:
    archive = archive_of(case, case.choice(("zip", "tar")))
    archive.unlink()
    os.mkfifo(archive)
    return name(case, archive)


@damage(in_files)
def tar_header_damaged(case: Case) -> str:
    archive = archive_of(case, "tar")
    with tarfile.open(archive) as opened:
        member = case.choice([member for member in opened if member.isfile()][1:])
    data = bytearray(archive.read_bytes())
    at = member.offset
    # A size in the base of 256, or one that is none; the checksum of the header is right again.
    data[at + 124 : at + 136] = case.choice(
        (b"\x80" + bytes(3) + b"\x7f" * 8, b"\xff" * 12, b"7" * 11 + b"\0", b"zz" * 6)
    )
    total = sum(data[at : at + 148]) + 8 * 32 + sum(data[at + 156 : at + 512])
    data[at + 148 : at + 156] = f"{total:06o}\0 ".encode()
    archive.write_bytes(data)
    return name(case, archive)
