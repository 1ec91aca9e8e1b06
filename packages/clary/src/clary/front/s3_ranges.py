"""HEAD for a part of an object: the store answers it for the whole, S3 for the part.

TensorFlow's S3 file system asks so for the length of every piece that it reads.
"""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(?P<first>\d*)-(?P<last>\d*)", re.ASCII)


def part_of(header: str, length: int) -> tuple[int, int] | None:
    """The first and last byte that a Range header means in an object of `length` bytes.

    None where it means the whole, as a header does that is malformed or names several parts. An empty part
    (last before first) is one that the object does not have.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        first, last = max(length - int(found["last"]), 0), length - 1
        return (first, last) if int(found["last"]) else (length, length - 1)
    first, last = int(found["first"]), int(found["last"] or length)
    if found["last"] and last < first:
        return None
    return first, min(last, length - 1)


def head_of_part(header: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Status and headers of the answer to HEAD with a Range, from the headers of the one without."""
    length = int(dict(headers).get(b"content-length", b"0"))
    part = part_of(header, length)
    if part is None:
        return 200, headers
    first, last = part
    size = last - first + 1
    told = f"{first}-{last}" if size > 0 else "*"
    rest = [pair for pair in headers if pair[0] not in (b"content-length", b"content-range")]
    rest += [
        (b"content-length", str(max(size, 0)).encode()),
        (b"content-range", f"bytes {told}/{length}".encode()),
    ]
    return (206 if size > 0 else 416), rest
