"""A client of the S3 front, and a bucket for each test."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

_names = itertools.count(1)


@pytest.fixture(scope="module")
def s3(s3_front: Any) -> Any:
    """A boto3 client, before a real store."""
    return s3_front.client()


@pytest.fixture
def bucket(s3: Any) -> str:
    """An empty bucket of its own."""
    name = f"bucket-{next(_names)}"
    s3.create_bucket(Bucket=name)
    return name
