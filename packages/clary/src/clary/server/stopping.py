"""When a process of the server is to end."""

from __future__ import annotations

import asyncio
import signal


def stopped_by_signals() -> asyncio.Event:
    """An event that SIGTERM sets. Ctrl-C reaches every process of the terminal, but it is the parent that decides."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # not ignored: what is started from here would inherit that
    return stop
