"""Sending from a process of its own, so that no receiver keeps the one that delivers.

A receiver may drip its answer, or hang, for ever, and a thread cannot be ended from outside. What
does not belong here: what is sent where (`channels`), and when (`delivery`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType

from leora_pipeline.core.alerting.channels import Message, send, shown_url
from leora_pipeline.core.settings import PROJECT_ROOT

SEND_TIMEOUT_SECONDS = 20
"""How long one address may take for one message; then the process that sends it is killed."""

SLOW_AFTER_SECONDS = 2
"""An address that takes so long, and fails, is tried again by the next sender alone: it has had its
share of this one's time."""


class Sender:
    """Sends messages, one after the other, for as long as a block lasts; then nothing is left."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._slow: set[str] = set()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def send(self, url: str, message: Message) -> str | None:
        """Sends a message to one address, an Apprise URL.

        Returns:
            None, or why that failed, on one line, without secrets. What failed by its time limit
            may have arrived all the same.
        """
        if url in self._slow:
            return f"{shown_url(url)}: it was too slow to answer a moment ago"
        begun = time.monotonic()
        error = self._send(url, message)
        if error and time.monotonic() - begun > SLOW_AFTER_SECONDS:
            self._slow.add(url)
        return error

    def _send(self, url: str, message: Message) -> str | None:
        process = self._process = self._process or _start()
        assert process.stdin
        assert process.stdout
        request = {"url": url, "message": asdict(message), "timeout": SEND_TIMEOUT_SECONDS}
        answer = ""
        with suppress(BrokenPipeError):  # It was killed.
            process.stdin.write(f"{json.dumps(request)}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self._end()
            why = (
                f"no answer within {SEND_TIMEOUT_SECONDS:g} s"
                if code == -signal.SIGALRM
                else f"the process that sends ended with code {code}"
            )
            return f"{shown_url(url)}: {why}"
        error: str | None = json.loads(answer)
        return error

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Libraries' own deprecations are no news to a user.
        [sys.executable, "-W", "ignore", "-m", __name__],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A terminal's Ctrl-C is the parent's to hear.
        start_new_session=True,
    )


def _serve() -> None:
    """Sends what the lines of standard input say, until they end, and answers each by a line."""
    for line in sys.stdin:
        request = json.loads(line)
        # The kernel ends the process, whatever its threads wait for.
        signal.setitimer(signal.ITIMER_REAL, request["timeout"])
        error = send(request["url"], Message(**request["message"]))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(error), flush=True)
    # What Apprise may have left running is not waited for.
    os._exit(0)


if __name__ == "__main__":
    _serve()
