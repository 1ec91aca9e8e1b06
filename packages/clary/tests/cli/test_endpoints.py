"""The list of endpoints, from answers of the API as it words them."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from clary.cli import endpoints

_CREATED = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
_WAITS = "Waiting for memory or GPUs that other jobs and endpoints hold."


def _api(statuses: dict[str, str]) -> Any:
    """Answers about these endpoints; what is not in service lacks memory."""
    page = {
        "Endpoints": [
            {"EndpointName": name, "EndpointStatus": status, "CreationTime": _CREATED}
            for name, status in statuses.items()
        ]
    }
    variant = {"VariantName": "AllTraffic", "VariantStatus": [{"Status": "Creating", "StatusMessage": _WAITS}]}
    return SimpleNamespace(
        get_paginator=lambda _: SimpleNamespace(paginate=lambda **_: [page]),
        describe_endpoint=lambda EndpointName: {  # noqa: N803
            "EndpointName": EndpointName,
            "PendingDeploymentSummary": {"ProductionVariants": [variant]},
        },
    )


@pytest.mark.parametrize(
    ("statuses", "is_told"), [({"one": "InService", "two": "Creating"}, True), ({"one": "InService"}, False)]
)
def test_the_list_says_what_an_endpoint_waits_for(monkeypatch, capsys, tmp_path, statuses, is_told):
    monkeypatch.setattr(endpoints, "client", lambda *_: _api(statuses))
    endpoints.list_endpoints(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(statuses)
    assert ("waiting for" in lines[0]) == is_told
    assert (_WAITS in lines[-1]) == is_told
