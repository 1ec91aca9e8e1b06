"""What a Range header means."""

from __future__ import annotations

import pytest

from clary.front.s3_ranges import part_of


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-9", (0, 9)),
        ("bytes=90-", (90, 99)),
        ("bytes=90-5000", (90, 99)),
        ("bytes=-10", (90, 99)),
        ("bytes=-5000", (0, 99)),
        ("bytes=9-0", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=0-9", None),
    ],
)
def test_a_range_means_bytes_of_the_object(header: str, part: tuple[int, int] | None) -> None:
    assert part_of(header, 100) == part
