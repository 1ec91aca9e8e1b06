"""S3's errors, as the front gives them itself."""

from __future__ import annotations

import uuid
from xml.sax.saxutils import escape


class S3Error(Exception):
    """An error that is the answer to an S3 request."""

    def __init__(self, code: str, message: str, status: int, **fields: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status, self.fields = code, message, status, fields

    def document(self, request_id: str) -> bytes:
        """The error as XML."""
        fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in self.fields.items())
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{self.code}</Code>'
            f"<Message>{escape(self.message)}</Message>{fields}"
            f"<RequestId>{request_id}</RequestId><HostId>clary</HostId></Error>"
        ).encode()


class ClientGone(Exception):
    """The client closed the connection within its request: nobody waits for an answer."""


def new_request_id() -> str:
    """An id in the form that S3 gives."""
    return uuid.uuid4().hex[:16].upper()
