"""One rank of MPI with its output in whole lines, each of which begins as AWS's logs have it.

    mpirun … python -m clary_toolkit.training.rank HOSTS PROCESSES_PER_HOST COMMAND…

mpirun's own tags (`--tag-output`) go to the wrong rank where a program writes a line in pieces.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from clary_toolkit.training import process
from clary_toolkit.training.errors import StoppedBeforeStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_HEARD_SECONDS = 1.0  # mpirun hears no rank any more once it knows that one has failed
KILLED = "The script of this rank was killed by "


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
    if outcome.exit_code >= 0:
        return outcome.exit_code
    if -outcome.exit_code != signal.SIGTERM:  # which mpirun sends to all when one has ended the job
        line = "{}{}\n".format(KILLED, process.signal_text(-outcome.exit_code)).encode()
        os.write(2, prefixed(rank, host)(line, 2))
        time.sleep(_HEARD_SECONDS)
    return 128 - outcome.exit_code


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
