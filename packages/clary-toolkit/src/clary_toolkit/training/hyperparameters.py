"""Hyperparameters: from strings to Python values, from those to arguments and environment variables."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RESERVED_PREFIX = "sagemaker_"
# Read by the toolkit itself. Every other key that starts with "sagemaker_" is a parameter for the framework.
TOOLKIT_KEYS = frozenset(
    (
        "sagemaker_program",
        "sagemaker_submit_directory",
        "sagemaker_enable_cloudwatch_metrics",
        "sagemaker_region",
        "sagemaker_container_log_level",
        "sagemaker_job_name",
        "sagemaker_s3_output",
        "default_user_module_name",
        "_tuning_objective_metric",
    )
)


def decode(raw: Mapping[str, object]) -> dict[str, object]:
    """Give each value its type: what is JSON is decoded, anything else stays the string it is.

    Framework estimators of the SDK send JSON ("5", "\\"adam\\""), everyone else plain strings (adam).
    """
    return {key: _decoded(value) for key, value in raw.items()}


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def split(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """Divide decoded hyperparameters into the user's, the toolkit's own and the framework's."""
    user: dict[str, object] = {}
    toolkit: dict[str, object] = {}
    framework: dict[str, object] = {}
    for key, value in values.items():
        if key in TOOLKIT_KEYS:
            toolkit[key] = value
        elif key.startswith(RESERVED_PREFIX):
            framework[key] = value
        else:
            user[key] = value
    return user, toolkit, framework


def to_arguments(values: Mapping[str, object]) -> list[str]:
    """Command-line arguments in the order of the keys: --batch-size 32 -k 3 --betas first=0.9,second=0.99.

    None becomes an empty argument, booleans True and False, lists and numbers what Python prints for them.
    """
    arguments: list[str] = []
    for key in sorted(values):
        arguments.append("--" + key if len(key) > 1 else "-" + key if key else "")
        arguments.append(_argument(values[key]))
    return arguments


def _argument(value: object) -> str:
    if isinstance(value, dict):
        items: dict[str, object] = value
        return ",".join("{}={}".format(key, item) for key, item in sorted(items.items()))
    return "" if value is None else str(value)


def to_variable(value: object) -> str:
    """The text of an environment variable: strings as they are, None empty, everything else compact sorted JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
