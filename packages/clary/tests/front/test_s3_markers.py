"""Which copies are those of a folder marker, whatever way its address is quoted."""

from __future__ import annotations

import pytest

from clary.front.s3_markers import copied_marker
from clary.front.s3_request import S3Request


def copy_of(source: str, **parameters: str) -> S3Request:
    return S3Request("PUT", "/bucket/new/", "bucket", "new/", parameters, {"x-amz-copy-source": source})


@pytest.mark.parametrize("source", ["bucket/a%20b/c/", "/bucket/a b/c/", "bucket/a%20b%2Fc%2F"])
def test_a_source_that_ends_in_a_slash_is_a_marker(source: str) -> None:
    marker = copied_marker(copy_of(source))
    assert marker is not None
    assert (marker.method, marker.path, marker.key) == ("HEAD", "/bucket/a%20b/c/", "a b/c/")


@pytest.mark.parametrize("source", ["bucket/file", "bucket/", "bucket/folder/file"])
def test_other_sources_are_the_stores_to_copy(source: str) -> None:
    assert copied_marker(copy_of(source)) is None


def test_a_part_of_an_upload_is_the_stores_to_copy() -> None:
    assert copied_marker(copy_of("bucket/folder/", partNumber="1", uploadId="u")) is None
