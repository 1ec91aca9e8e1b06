from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clary.cli import checkup

if TYPE_CHECKING:
    from conftest import Clary


def test_doctor_tells_what_is_missing_what_it_costs_and_what_mends_it(clary: Clary) -> None:
    findings = json.loads(clary("doctor", "--json").stdout)
    assert {"bubblewrap", "cgroups", "GPU", "framework Pythons", "network namespaces"} <= {f["name"] for f in findings}
    for finding in findings:
        assert finding["state"] in ("ok", "missing", "broken")
        assert finding["detail"]
        if finding["state"] == "missing":
            assert finding["cost"], finding
            assert finding["mend"], finding


def test_what_is_not_on_the_path_is_found_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clary.host.bubblewrap import unavailable

    monkeypatch.setenv("PATH", str(tmp_path))
    unavailable.cache_clear()
    try:
        found = checkup.bubblewrap()
        assert (found.state, found.detail) == ("missing", "not installed")
        assert "bubblewrap" in found.mend
    finally:
        unavailable.cache_clear()


def test_doctor_reports_a_running_server(served: Clary) -> None:
    findings = json.loads(served("doctor", "--json").stdout)
    server = next(finding for finding in findings if finding["name"] == "server")
    assert server["state"] == "ok"
    assert "http://127.0.0.1:" in server["detail"]
