"""`python -m clary.host FOLDER`: run the host whose order is FOLDER/host.json, to its end.

`python -m clary.host --wait` does the same for a folder that comes as one line on standard input, and ends at once
when none comes: a process kept ready this way has its imports behind it when a job arrives. With `--tied` the host
lasts no longer than standard input stays open: whoever holds its other end takes the host along.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

_NEEDED = (
    "clary.host.channels",
    "clary.host.container_keeper",
    "clary.host.image_preparation",
    "clary.host.metrics",
    "clary.host.model_fetch",
    "clary.host.outputs",
    "clary.host.relocated",
    "clary.host.serving",
    "clary.host.store_transfers",
    "clary.images.build",
    "clary.images.catalog",
)


def main(arguments: list[str]) -> int:
    """Run one host; returns the exit code."""
    tied = arguments == ["--wait", "--tied"]
    if len(arguments) != 1 and not tied:
        print("Usage: python -m clary.host FOLDER (the folder of one host, with its host.json)", file=sys.stderr)
        return 2
    if arguments[0] == "--wait":
        _import_all()
        line = sys.stdin.readline().strip()
        if not line:
            return 0
        folder = Path(line)
        if tied:
            from clary.host.tie import end_at_the_end_of

            end_at_the_end_of(os.dup(sys.stdin.fileno()), folder)
        _write_to(folder / "supervisor.log")
        os.chdir(folder)
    else:
        folder = Path(arguments[0])
    if not (folder / "host.json").is_file():
        print(f"There is no order for a host: {folder / 'host.json'} does not exist.", file=sys.stderr)
        return 2
    if json.loads((folder / "host.json").read_bytes()).get("job_kind") == "endpoint":
        from clary.host.image_preparation import prepare_to_serve
        from clary.host.model_fetch import fetch_model
        from clary.host.serving import serve_replica

        serve_replica(folder.resolve(), prepare_to_serve, fetch_model)
        return 0
    from clary.host.image_preparation import prepare
    from clary.host.store_transfers import StoreTransfers
    from clary.host.supervisor import supervise

    supervise(folder.resolve(), prepare, StoreTransfers())
    return 0


def _import_all() -> None:
    """Import what a job will need, before there is one."""
    for name in _NEEDED:
        importlib.import_module(name)
    importlib.import_module("clary.host.bubblewrap").unavailable()


def _write_to(path: Path) -> None:
    """Send what this process prints to the host's own log, as if it had been started for this host."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads that still download or build for a job that was stopped are not waited for
