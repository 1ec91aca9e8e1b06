"""What is made of shapes once and for all, by their names."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


class Compiled(Generic[Made]):
    """What was made of each shape. A shape may hold itself, so its own is there before those of its members; a thread
    that asks meanwhile waits: what it got too early would pass over the members that are not there yet.
    """

    def __init__(self) -> None:
        self._whole: dict[str, Made] = {}
        self._begun: dict[str, Made] = {}
        self._lock = RLock()
        self._depth = 0

    def of(self, shape: Any, make: Callable[[Any], Made]) -> Made:
        """What was made of a shape, or what `make` makes of it now, which may call `of` and `begin`."""
        name = shape.name
        if name in self._whole:
            return self._whole[name]
        with self._lock:
            if name in self._whole:
                return self._whole[name]
            if name in self._begun:
                return self._begun[name]
            self._depth += 1
            try:
                made = self._begun[name] = make(shape)
                if self._depth == 1:
                    self._whole.update(self._begun)
            finally:
                self._depth -= 1
                if not self._depth:
                    self._begun.clear()
            return made

    def begin(self, shape: Any, made: Made) -> None:
        """What becomes of a shape, for members that hold it; called by its `make`."""
        self._begun[shape.name] = made
