"""A headless Chromium for the tests: pages are opened, looked at and hovered over, by its DevTools protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Whatever the browser itself would like to ask the network goes to a port where nobody listens.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--proxy-server=127.0.0.1:9"),
    "--remote-debugging-pipe",  # file descriptors 3 and 4
)
_PATIENCE = 60  # seconds until an answer counts as lost


class Browser:
    """Chromium with one page of ``width`` × ``height`` pixels."""

    def __init__(self, width: int = 900, height: int = 1200):
        self._profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        theirs, self._to = os.pipe()
        self._from, its = os.pipe()
        # Descriptors of these numbers can be handed over by a shell alone, without code between fork and exec.
        handed = f'exec "$@" 3<&{theirs} 4>&{its}'
        command = ["bash", "-c", handed, "chromium", str(CHROMIUM), *FLAGS, f"--user-data-dir={self._profile.name}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            [*command, f"--window-size={width},{height}", "about:blank"], pass_fds=(theirs, its), **quiet
        )
        os.close(theirs)
        os.close(its)
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.console: list[str] = []
        pages = [one for one in self._ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        target = pages[0]["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        self._send("Browser.close")
        self._process.wait(timeout=_PATIENCE)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def open(self, page: Path) -> Self:
        """Show a file; ``console`` has what it and its security policy say from now on."""
        self.console.clear()
        self._loaded = False
        self._ask("Page.navigate", url=page.absolute().as_uri())
        while not self._loaded:
            self._take()
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self

    def run(self, script: str) -> Any:
        """The value of an expression in the page, or what its promise comes to."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer there, in pixels of the window, and let the page react."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.run("new Promise((done) => setTimeout(done, 30))")

    def picture(self, path: Path) -> None:
        """Save what is seen as a PNG file."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, **parameters)
        while True:
            answer = self._take()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return answer["result"]

    def _send(self, method: str, **parameters: Any) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._number

    def _take(self) -> dict[str, Any]:
        """The next answer or event."""
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            chunk = os.read(self._from, 1 << 20) if ready else b""
            assert chunk, "Chromium has gone" if ready else f"Chromium does not answer within {_PATIENCE} s"
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Log.entryAdded":
            self.console.append(told["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(one.get("value")) for one in told["args"]))
        elif event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
