"""A headless Chromium, steered through its own debugging pipe.

It needs nothing but the browser: no driver whose version has to fit, and no package. Messages are
JSON, ended by a zero byte: commands go in through file descriptor 3, answers and events come out
of 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    # There is no network: whatever is not served here is not found.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class Chromium:
    """One page of a browser, and what was heard of it.

    Attributes:
        complaints: what the console has been told as an error or a warning, uncaught exceptions,
            and what could not be loaded.
        asked: every address that was asked for.
    """

    def __init__(self, path: str) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._loads = 0
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        their_end, self._commands = os.pipe()
        self._events, their_other_end = os.pipe()
        join = f'exec "$@" 3<&{their_end} 4>&{their_other_end}'
        self._process = subprocess.Popen(
            ["bash", "-c", join, "-", path, *_OPTIONS, f"--user-data-dir={self._folder.name}"],
            pass_fds=(their_end, their_other_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_end)
        os.close(their_other_end)
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._commands)
        os.close(self._events)
        self._folder.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command of the debugging protocol, and wait for its answer."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        self._listen(lambda: number in self._answers, f"an answer to {method}")
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, address: str) -> None:
        """Go to a page, and wait until it is loaded."""
        loads = self._loads
        self.send("Page.navigate", url=address)
        self._listen(lambda: self._loads > loads, f"{address} to load")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page; a promise is waited for."""
        answer = self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + 20
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"not true within 20 seconds: {script}"
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Make the screen another one."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element."""
        place = self.run(
            f"""(() => {{
                const one = document.querySelector({json.dumps(selector)});
                one.scrollIntoView({{block: "center", behavior: "instant"}});
                const box = one.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="none" if kind == "mouseMoved" else "left",
                clickCount=1,
            )

    def photograph(self, path: Path, *, whole: bool = True) -> None:
        """Save what is seen as PNG: the whole page, or what fits on the screen."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _listen(self, until: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 60
        while not until():
            ready, _, _ = select.select([self._events], [], [], max(end - time.monotonic(), 0))
            assert ready, f"waited for {what} in vain"
            heard = os.read(self._events, 1 << 16)
            assert heard, f"the browser ended before {what}"
            *messages, self._rest = (self._rest + heard).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, told = message["method"], message["params"]
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            words = [str(one.get("value", one.get("description"))) for one in told["args"]]
            self.complaints.append(" ".join(words))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
