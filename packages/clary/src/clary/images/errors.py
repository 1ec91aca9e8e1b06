"""The one error of this room."""

from __future__ import annotations


class ImageError(Exception):
    """An image that cannot be had on this machine.

    Args:
        reason: what is wrong, in a sentence for the person who asked for the image.
        nearest: the image that comes closest and can be had, if any.
    """

    def __init__(self, reason: str, nearest: str | None = None) -> None:
        self.reason = reason
        self.nearest = nearest
        super().__init__(f"{reason} The nearest that works here: {nearest}." if nearest else reason)
