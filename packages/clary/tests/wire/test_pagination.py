"""Page tokens come back as they went, and made-up ones are refused."""

from __future__ import annotations

import pytest

from clary.wire.errors import AwsError
from clary.wire.pagination import decode_token, encode_token


@pytest.mark.parametrize("position", [{}, {"after": ["2026-01-02T03:04:05", "job-1"]}, {"start": 100, "ü": None}])
def test_a_token_stands_for_its_position(position):
    token = encode_token(position)
    assert decode_token(token) == position
    assert token.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "token", ["", "x", "é", "AAAA" * 10, encode_token({"a": 1})[:-2], "x" + encode_token({"a": 1})]
)
def test_a_made_up_token_is_refused(token):
    with pytest.raises(AwsError, match="ValidationException"):
        decode_token(token)
