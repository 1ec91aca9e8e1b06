"""Monitoring schedules: there are none, as CreateMonitoringSchedule is not implemented. The SDK asks all the same."""

from __future__ import annotations

from typing import Any

from clary.services.registry import Answer, Context, operation
from clary.wire.errors import ValidationError


@operation("sagemaker")
def list_monitoring_schedules(context: Context, params: dict[str, Any]) -> Answer:
    """No schedules, whatever is asked for: `Predictor.list_monitors` asks before it deletes an endpoint's."""
    if "NextToken" in params:
        raise ValidationError("The NextToken is none of this list's: it has one page. Leave it out.")
    return {"MonitoringScheduleSummaries": []}
