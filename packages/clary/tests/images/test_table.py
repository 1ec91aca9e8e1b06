"""The documentation's table says what the catalog and the trials say."""

from __future__ import annotations

from pathlib import Path

from clary.images.catalog import resolve
from clary.images.releases import releases
from clary.images.table import written_into
from clary.images.trial import trials_made

_PAGE = Path(__file__).parents[4] / "docs" / "reference" / "images.md"


def test_the_table_in_the_documentation_is_the_one_of_now():
    page = _PAGE.read_text()
    assert written_into(page) == page, "run: python -m clary.images.table docs/reference/images.md"


def test_every_trial_was_of_the_packages_of_now():
    for trial in trials_made():
        _, version, device, python = trial["image"].split("-")
        assert resolve(f"tensorflow-training:{version}-{device}-{python}").folder == trial["folder"], "try it again"


def test_every_minor_version_has_been_tried():
    tried = {trial["version"].rpartition(".")[0] for trial in trials_made()}
    assert tried >= {release.minor for release in releases()}
