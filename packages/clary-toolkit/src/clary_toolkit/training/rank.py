"""One rank of MPI with its output in whole lines, each of which begins as AWS's logs have it.

    mpirun … python -m clary_toolkit.training.rank HOSTS PROCESSES_PER_HOST COMMAND…

mpirun's own tags (`--tag-output`) go to the wrong rank where a program writes a line in pieces.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from clary_toolkit.training import process, rank_ends
from clary_toolkit.training.errors import StoppedBeforeStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_HEARD_SECONDS = 1.0  # mpirun hears no rank any more once it knows that one has failed
KILLED = "The script of this rank was killed by "
EXITED = "The script of this rank ended with exit code "


def main(hosts: str, each: str, command: list[str]) -> int:
    """Run the command as this rank; its exit code."""
    process.forward_termination()
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    names = hosts.split(",")
    host = names[min(rank // int(each), len(names) - 1)]
    try:
        outcome = process.run(command, os.getcwd(), os.environ, rewrite=prefixed(rank, host))
    except StoppedBeforeStart:
        return 143
    text = _cause(outcome.exit_code)
    line = prefixed(rank, host)(text.encode() + b"\n", 2) if text else b""
    rank_ends.record(rank, outcome.tail + line, os.environ)
    if outcome.exit_code >= 0:
        return outcome.exit_code
    if line:
        os.write(2, line)
        time.sleep(_HEARD_SECONDS)
    return 128 - outcome.exit_code


def _cause(exit_code: int) -> str:
    """What is to be said of this rank's end; nothing where it ended well, or because another one had ended the job."""
    if -exit_code == signal.SIGTERM and process.is_stopping():
        return ""  # mpirun sends it to all when one rank has failed
    if exit_code < 0:
        return KILLED + process.signal_text(-exit_code)
    return "{}{}".format(EXITED, exit_code) if exit_code and not process.is_stopping() else ""


def prefixed(rank: int, host: str) -> Callable[[bytes, int], bytes]:
    """Puts rank, host and stream before each line."""

    def rewrite(text: bytes, stream: int) -> bytes:
        name = "stdout" if stream == 1 else "stderr"
        start = "[1,mpirank:{},{}]<{}>:".format(rank, host, name).encode()
        lines = text.split(b"\n")
        last = lines.pop()  # empty but at the end of the output
        return b"".join(start + line + b"\n" for line in lines) + (start + last + b"\n" if last else b"")

    return rewrite


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
