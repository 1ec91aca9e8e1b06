"""Hyperparameters are decoded, divided and spelled out as scripts expect."""

from __future__ import annotations

import pytest

from clary_toolkit.training import hyperparameters


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ('"adam"', "adam"), ("adam", "adam"), ("true", True), ("null", None), ('{"a": 1', '{"a": 1'), ("", "")],
)
def test_what_is_json_is_decoded_and_the_rest_stays_text(text: str, value: object) -> None:
    assert hyperparameters.decode({"key": text}) == {"key": value}


def test_deeply_nested_json_stays_text_instead_of_breaking_the_job() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert hyperparameters.decode({"deep": deep}) == {"deep": deep}


def test_reserved_keys_never_reach_the_script() -> None:
    user, toolkit, framework = hyperparameters.split(
        {"a": 1, "sagemaker_program": "t.py", "sagemaker_mpi_enabled": True, "_tuning_objective_metric": "loss"}
    )
    assert user == {"a": 1}
    assert toolkit == {"sagemaker_program": "t.py", "_tuning_objective_metric": "loss"}
    assert framework == {"sagemaker_mpi_enabled": True}


def test_arguments_are_sorted_and_one_letter_keys_get_one_dash() -> None:
    values = {"b": 1, "alpha": None, "map": {"y": 2, "x": 1}, "flag": True, "list": [1, "a"]}
    assert hyperparameters.to_arguments(values) == [
        *("--alpha", "", "-b", "1", "--flag", "True"),
        *("--list", "[1, 'a']", "--map", "x=1,y=2"),
    ]


def test_variables_hold_text_as_it_is_and_all_else_as_compact_json() -> None:
    assert [hyperparameters.to_variable(value) for value in ("ü", None, True, {"b": [1], "a": "ü"})] == [
        *("ü", "", "true", '{"a":"\\u00fc","b":[1]}')
    ]
