"""How each rank of MPI ended, kept by its own host: mpirun reads nothing more of the others once one has ended the job.

Each rank writes its end to a folder of its host (`record`); when mpirun has ended, the first host asks all hosts for
theirs (`of_this_host`, `remote_start.Held.ends`), so that the rank that ended first can be named.
"""

from __future__ import annotations

import json
import os
import time

from clary_toolkit.training import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FOLDER_VARIABLE = "CLARY_RANK_ENDS"
"""Where the ranks of a host say how they ended; none is written where it is not set."""

_PATIENCE_SECONDS = 3.0  # mpirun kills its ranks before it ends itself; those of other hosts a moment later
_LAST_BYTES = 16 * 1024
_MOST = 8  # of one host, so that an answer stays under remote_start's limit


class RankEnd:
    """One rank that has ended: how many seconds ago, and the last lines that it printed, each with rank and host."""

    def __init__(self, seconds_ago: float, said: bytes) -> None:
        self.seconds_ago = seconds_ago
        self.said = said


def record(rank: int, said: bytes, environ: Mapping[str, str]) -> None:
    """Keep that this rank has ended now, with the end of what it printed."""
    folder = environ.get(FOLDER_VARIABLE)
    if not folder:
        return
    path = os.path.join(folder, str(rank))
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump({"ended": time.monotonic(), "said": said[-_LAST_BYTES:].decode("utf-8", "replace")}, file)
    os.replace(path + ".part", path)


def of_this_host(folder: str, patience_seconds: float = _PATIENCE_SECONDS) -> list[dict[str, Any]]:
    """The ends that ranks of this host have recorded, the first one first, as JSON can carry them.

    Waits until no rank runs here any more, but not longer than told.
    """
    deadline = time.monotonic() + patience_seconds
    while process.ranks_here() and time.monotonic() < deadline:
        time.sleep(0.02)
    now = time.monotonic()  # which all processes of one machine share
    ends: list[dict[str, Any]] = []
    for name in os.listdir(folder):
        if name.isdigit():
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                end = json.load(file)
            ends.append({"seconds_ago": now - end["ended"], "said": end["said"]})
    ends.sort(key=lambda end: -end["seconds_ago"])
    return ends[:_MOST]


def parsed(ends: list[dict[str, Any]]) -> list[RankEnd]:
    """What `of_this_host` of any host gave."""
    return [RankEnd(float(end["seconds_ago"]), str(end["said"]).encode()) for end in ends]


def in_order(ends: list[RankEnd]) -> bytes:
    """What the ranks said, that of the one that ended first before the others'."""
    said = [end.said for end in sorted(ends, key=lambda end: -end.seconds_ago)]
    return b"".join(text if text.endswith(b"\n") or not text else text + b"\n" for text in said)
