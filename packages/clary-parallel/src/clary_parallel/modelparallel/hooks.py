"""Functions that run once the model is parted, before its first forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_hooks: list[Callable[[], Any]] = []


def register_post_partition_hook(hook: Callable[[], Any]) -> Callable[[], Any]:
    """Have a function called when the model is parted, before its first forward. Usable as a decorator."""
    _hooks.append(hook)
    return hook


def run() -> None:
    """Call the hooks that wait, each once, in the order in which they were registered."""
    while _hooks:
        _hooks.pop(0)()
