"""Page tokens: opaque to clients, and refused when a client makes one up."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import orjson

from clary.wire.errors import ValidationError

_SEAL = b"clary page token"  # no secret: it tells a token from a typing mistake, and a token grants nothing
_SEAL_BYTES = 9


def encode_token(position: dict[str, Any]) -> str:
    """A token that stands for a position: any values that JSON holds."""
    content = orjson.dumps(position)
    return base64.urlsafe_b64encode(_seal(content) + content).decode().rstrip("=")


def decode_token(token: str) -> dict[str, Any]:
    """The position that a token stands for.

    Raises:
        AwsError: ValidationException, when the token is none of ours.
    """
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        if hmac.compare_digest(_seal(sealed[_SEAL_BYTES:]), sealed[:_SEAL_BYTES]):
            return orjson.loads(sealed[_SEAL_BYTES:])
    except ValueError:
        pass
    raise ValidationError("Invalid pagination token. Use the NextToken of the previous page unchanged.")


def _seal(content: bytes) -> bytes:
    return hashlib.sha256(_SEAL + content).digest()[:_SEAL_BYTES]
