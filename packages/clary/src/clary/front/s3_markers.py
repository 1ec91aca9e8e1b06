"""Copies of folder markers: empty objects whose key ends in a slash, which the embedded store keeps but cannot copy.

TensorFlow's own S3 file system makes one for each folder and copies it when it renames a folder, as tf.estimator does
with every model that it exports. So such a copy is a read of the marker and a new marker with what the old one carried.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from urllib.parse import unquote

from clary.front.s3_request import S3Request
from clary.storage import signing


def copied_marker(request: S3Request) -> S3Request | None:
    """The request for the head of the marker that `request` copies; None when it copies none."""
    source = unquote(request.headers.get("x-amz-copy-source", "").partition("?versionId=")[0]).removeprefix("/")
    bucket, _, key = source.partition("/")
    if request.method != "PUT" or "partNumber" in request.parameters or not key.endswith("/"):
        return None
    return S3Request("HEAD", signing.object_path(bucket, key), bucket, key, {}, {})


def marker_to_put(request: S3Request, content_type: str | None) -> S3Request:
    """The request that makes the new marker. The store keeps a marker's content type, and no metadata.

    Args:
        request: the copy.
        content_type: of the old marker.
    """
    dropped = ("x-amz-copy-source", "x-amz-metadata-directive", "x-amz-tagging-directive")
    headers = {name: value for name, value in request.headers.items() if not name.startswith(dropped)}
    if content_type and request.headers.get("x-amz-metadata-directive", "COPY").upper() == "COPY":
        headers["content-type"] = content_type
    return replace(request, headers=headers)


def copy_result(etag: str) -> bytes:
    """The document that answers a copy."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<CopyObjectResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<LastModified>{now}</LastModified><ETag>{etag.replace(chr(34), '&quot;')}</ETag></CopyObjectResult>"
    ).encode()
