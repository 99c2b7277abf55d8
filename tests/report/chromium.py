"""A page in headless Chromium, driven over the DevTools protocol: real clicks and keys, no library.

https://chromedevtools.github.io/devtools-protocol/
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio --remote-debugging-pipe"
)


class Page:
    """A file in a browser of its own, of some width."""

    def __init__(self, file: Path, width: int, profile: Path) -> None:
        assert CHROMIUM is not None
        (read_1, write_1), (read_2, write_2) = os.pipe(), os.pipe()
        # The browser reads commands from its file 3 and writes answers to its file 4.
        words = ["bash", "-c", f'exec "$0" "$@" 3<&{read_1} 4>&{write_2}', CHROMIUM, *OPTIONS.split()]
        self.process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_1, write_2),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_1), os.close(write_2)
        self.to, self.back = os.fdopen(write_1, "wb"), os.fdopen(read_2, "rb")
        self.session: dict[str, str] = {}
        self.last_id = 0
        target = self.send("Target.createTarget", url=file.as_uri())["targetId"]
        self.session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.until("document.readyState === 'complete' && document.querySelector('main') !== null")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.session = {}
        self.send("Browser.close")
        self.process.wait(timeout=30)
        self.to.close(), self.back.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command, and what comes of it."""
        self.last_id += 1
        self.to.write(
            json.dumps({"id": self.last_id, "method": method, "params": params} | self.session).encode() + b"\0"
        )
        self.to.flush()
        while True:
            answer = json.loads(b"".join(iter(lambda: self.back.read(1), b"\0")))
            if answer.get("id") == self.last_id:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def js(self, expression: str) -> Any:
        """The value of an expression on the page, as if its reader had asked for it: no sound plays by itself."""
        asked = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.send("Runtime.evaluate", expression=expression, **asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 20.0) -> None:
        end = monotonic() + seconds
        while not self.js(expression):
            assert monotonic() < end, f"{expression} did not come true in {seconds} s"
            sleep(0.05)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{box}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.js(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")
