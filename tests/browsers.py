"""Drives a headless Chromium through its debugging pipe, which needs nothing but the browser itself."""

import json
import os
import select
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds, before a browser that says nothing is taken for dead


class Browser:
    """One page of a headless browser.

    Attributes:
      requests: the addresses that the page asked for, without `data:` ones.
      errors: what it complained of.
    """

    def __init__(self, program, profile):
        self._out, theirs_in = os.pipe()  # Ours to read, theirs to write.
        theirs_out, self._in = os.pipe()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        arguments += ["--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank"]
        # The browser reads commands from descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{theirs_out} 4>&{theirs_in}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", program, *arguments],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number, self._session = b"", 0, None
        self.requests, self.errors, self._loaded = [], [], False
        target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        arguments = {"targetId": target["targetId"], "flatten": True}
        self._session = self._call("Target.attachToTarget", **arguments)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, path, width=1400, height=900, dark=False):
        """Shows a local page in a window of some size; the lists are those of this page."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests, self.errors, self._loaded = [], [], False
        self._call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def evaluate(self, expression):
        """Returns the value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key):
        """Presses and releases a key, such as "Enter"."""
        code = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, *, whole=True):
        """Returns a PNG file in base64, of the whole page or of what the window shows."""
        return self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]

    def close(self):
        """Ends the browser."""
        os.close(self._in)
        self._process.kill()
        self._process.wait()
        os.close(self._out)

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            assert select.select([self._out], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self._out, 65536)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])
        if method == "Log.entryAdded" or method == "Runtime.exceptionThrown":
            self.errors.append(parameters)
        self._loaded |= method == "Page.loadEventFired"
        return message


def start(profile):
    """Starts a browser; the test is skipped where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser found on PATH, looked for {', '.join(NAMES)}")
    return Browser(program, profile)
