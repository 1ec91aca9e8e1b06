"""What can go wrong, and the HTTP status that says so.

ServingError
├── InvalidArgument     400: the request does not fit the model
├── NotFound            404: no such model or version
└── StartupError        no status: the server cannot start, and says why before it exits
"""

from __future__ import annotations


class ServingError(Exception):
    """An answer that is an error: `status` and a text for {"error": ...}.

    `hint` is what helps besides, such as what the model expects. It stands beside the text and not in it, which clients
    compare with TensorFlow Serving's; and in the log.
    """

    def __init__(self, message: str, status: int = 500, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.hint = hint


class InvalidArgument(ServingError):
    """The request cannot be what the model takes."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, 400, hint)


class NotFound(ServingError):
    """The request names a model or version that is not served."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, 404, hint)


class StartupError(ServingError):
    """The server cannot serve what it was given."""
