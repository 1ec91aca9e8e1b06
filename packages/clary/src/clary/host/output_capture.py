"""Turns what a job writes to stdout and stderr into lines, each with the time at which it came.

Lines are split as CloudWatch shows them: at `\\n`. Three things are particular:
- a line longer than one log event may be (256 KiB) becomes several;
- a progress bar that rewrites its line with `\\r` is shipped once a second up to its last `\\r`, so that one can watch;
- bytes that are no UTF-8 become U+FFFD, as does NUL, which no record could hold.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE_BYTES = 262_118  # CloudWatch's 262,144 less the 26 bytes that it counts for the event itself
_READ_BYTES = 256 * 1024
_PROGRESS_INTERVAL_SECONDS = 1.0
_TAIL_LINES = 400

Line = tuple[int, str]  # milliseconds since the epoch, text


class LineSplitter:
    """Cuts a stream of bytes into lines. Not safe for several threads."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._searched = 0  # no newline stands before this index
        self._last_progress = 0.0

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        self._pending += data
        lines: list[str] = []
        start = 0
        while True:
            end = self._pending.find(b"\n", max(start, self._searched))
            stop = len(self._pending) if end < 0 else end
            while stop - start > MAX_LINE_BYTES:
                cut = _character_boundary(self._pending, start + MAX_LINE_BYTES)
                lines.append(_text(self._pending[start:cut]))
                start = cut
            if end < 0:
                break
            lines.append(_text(self._pending[start:end]))
            start = end + 1
        del self._pending[:start]
        self._searched = len(self._pending)
        return lines

    def progress(self, now: float) -> list[str]:
        """What an unfinished line has shown up to its last carriage return, at most once a second."""
        cut = self._pending.rfind(b"\r")
        if cut <= 0 or now - self._last_progress < _PROGRESS_INTERVAL_SECONDS:
            return []
        self._last_progress = now
        text = _text(self._pending[:cut])
        del self._pending[: cut + 1]
        self._searched = len(self._pending)
        return [text]

    def rest(self) -> list[str]:
        """The last line, when the stream ended without a newline."""
        lines = self.feed(b"\n") if self._pending else []
        self._searched = 0
        return lines


class OutputCapture:
    """Reads one pipe to its end in a thread of its own.

    Arguments:
        file: the reading end; closed at the end of the stream.
        on_lines: called in the reading thread with the lines that came together.
    """

    def __init__(self, file: int, on_lines: Callable[[list[Line]], None]) -> None:
        self._file = file
        self._on_lines = on_lines
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._thread = threading.Thread(target=self._read, name="output", daemon=True)
        self._thread.start()

    @property
    def tail(self) -> list[str]:
        """The last lines, for the reason of a failure."""
        return list(self._tail)

    def drain(self, seconds: float) -> bool:
        """Wait until everything written was read; False when something still holds the pipe open after `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _read(self) -> None:
        splitter = LineSplitter()
        while data := os.read(self._file, _READ_BYTES):
            self._hand_over(splitter.feed(data) + splitter.progress(time.monotonic()))
        self._hand_over(splitter.rest())
        os.close(self._file)

    def _hand_over(self, lines: list[str]) -> None:
        if lines:
            at = time.time_ns() // 1_000_000
            self._tail.extend(line[-2000:] for line in lines)
            self._on_lines([(at, line) for line in lines])


def _character_boundary(data: bytearray, index: int) -> int:
    """The nearest index at or before `index` at which a UTF-8 character begins."""
    for back in range(4):
        if data[index - back] & 0xC0 != 0x80:
            return index - back
    return index


def _text(data: bytearray) -> str:
    text = bytes(data).decode("utf-8", "replace").replace("\x00", "\ufffd")
    return text.removesuffix("\r")
