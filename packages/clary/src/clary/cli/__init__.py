"""The `clary` command. It talks to the server as any client does, over HTTP with the root keys of the home folder.

Nothing imports this room. A command imports what it needs when it runs, so that `clary --help` answers at once.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process."""
    from clary.cli.app import run

    run()
