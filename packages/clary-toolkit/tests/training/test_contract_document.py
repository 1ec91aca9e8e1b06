"""The reference page carries the table of differences as it is."""

from __future__ import annotations

from pathlib import Path

from conformance_differences import DIFFERENCES, with_table

DOCUMENT = Path(__file__).parents[4] / "docs" / "reference" / "training-contract.md"


def test_the_page_shows_the_table_that_the_test_enforces() -> None:
    text = DOCUMENT.read_text()
    assert with_table(text) == text, "run: python packages/clary-toolkit/tests/training/conformance_differences.py FILE"


def test_every_difference_has_a_reason_and_a_proof() -> None:
    for row in DIFFERENCES:
        assert row.why, row.subject
        assert bool(row.pattern) != bool(row.shown_by), row.subject
