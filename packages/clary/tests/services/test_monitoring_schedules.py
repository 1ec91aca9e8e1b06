"""Nothing is monitored on a schedule, and lists say so."""

from __future__ import annotations

from typing import Any

import pytest

from clary.services import compatibility, monitoring_schedules, registry
from clary.services.registry import Context
from clary.settings import Settings
from clary.wire.errors import ValidationError


@pytest.fixture
def context(tmp_path):
    return Context(Settings(home=tmp_path), None, None, None, "a-request")


@pytest.mark.parametrize("filters", [{}, {"EndpointName": "e"}, {"SortBy": "Name", "MaxResults": 5}])
def test_there_are_no_schedules_as_none_can_be_created(context: Any, filters: dict[str, Any]) -> None:
    assert monitoring_schedules.list_monitoring_schedules(context, filters) == {"MonitoringScheduleSummaries": []}
    compatibility.page()  # loads every operation that there is
    assert ("sagemaker", "CreateMonitoringSchedule") not in registry.operations()


def test_a_token_of_another_list_is_refused(context: Any) -> None:
    with pytest.raises(ValidationError, match="Leave it out"):
        monitoring_schedules.list_monitoring_schedules(context, {"NextToken": "x"})
