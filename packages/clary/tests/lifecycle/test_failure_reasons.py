"""FailureReason: AWS's form first, then why."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clary.host.spec import Ending
from clary.lifecycle.failure_reasons import LIMIT, capacity_reason, failure_reason

GIB = 1024**3


def reason(hosts: int = 1, **ending: object) -> str:
    return failure_reason(Ending.model_validate(ending), host="algo-2", hosts=hosts, memory_limit_bytes=4 * GIB)


def test_the_failure_file_and_the_exit_code_come_first() -> None:
    assert (
        reason(cause="ScriptFailed", failure_text="diverged", exit_code=7) == "AlgorithmError: diverged, exit code: 7"
    )


def test_without_a_failure_file_the_last_lines_say_why() -> None:
    lines = ("Traceback (most recent call last):", '  File "a.py", line 3, in <module>', "KeyError: 'label'")
    assert reason(cause="ScriptFailed", exit_code=1, last_lines=lines) == (
        "AlgorithmError: , exit code: 1\nLast lines:\nTraceback (most recent call last):\n"
        "  File \"a.py\", line 3, in <module>\nKeyError: 'label'"
    )


def test_lines_that_the_failure_file_tells_are_not_told_twice() -> None:
    text = 'ExecuteUserScriptError:\nExitCode 1\nErrorMessage "KeyError: label"\nCommand "python train.py"'
    told = reason(cause="ScriptFailed", exit_code=1, failure_text=text, last_lines=("KeyError: label",))
    assert told == f"AlgorithmError: {text}, exit code: 1"


def test_a_killed_script_tells_signal_and_memory() -> None:
    told = reason(cause="ScriptFailed", exit_code=137, signal="SIGKILL", peak_memory_bytes=3 * GIB)
    assert told == (
        "AlgorithmError: , exit code: 137. Killed by SIGKILL. Peak memory: 3.00 GiB of the 4.00 GiB that it may use."
    )


def test_out_of_memory_has_sagemakers_advice_and_the_peak() -> None:
    told = reason(cause="OutOfMemory", exit_code=137, peak_memory_bytes=4 * GIB)
    assert told == (
        "ClientError: Please use an instance type with more memory, or reduce the size of job data processed on an "
        "instance. Peak memory: 4.00 GiB of the 4.00 GiB that it may use."
    )


def test_of_several_hosts_the_one_that_failed_is_named() -> None:
    assert reason(hosts=3, cause="ClientError", message="No such file.") == "ClientError: No such file. On algo-2."


def test_an_internal_error_has_sagemakers_sentence_first() -> None:
    assert reason(cause="InternalError", message="The host was lost.") == (
        "InternalServerError: We encountered an internal error. Please try again. The host was lost."
    )


def test_the_capacity_error_is_what_the_sdk_looks_for() -> None:
    assert capacity_reason("It needs 9 CPUs; this machine has 2.") == (
        "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance "
        "type. It needs 9 CPUs; this machine has 2."
    )


def test_a_long_failure_file_does_not_push_the_exit_code_out() -> None:
    told = reason(cause="ScriptFailed", exit_code=3, failure_text="x" * 1024)
    assert len(told) == LIMIT
    assert told.endswith("x, exit code: 3")


def test_of_many_lines_the_last_are_kept() -> None:
    told = reason(cause="ScriptFailed", exit_code=1, last_lines=tuple(f"line {number}" for number in range(500)))
    assert len(told) <= LIMIT
    assert told.endswith("line 498\nline 499")


def test_a_line_that_is_too_long_is_cut() -> None:
    told = reason(cause="ScriptFailed", exit_code=1, last_lines=("first", "y" * 5000))
    assert len(told) == LIMIT
    assert "y" * 900 in told


@given(
    st.sampled_from(["ScriptFailed", "OutOfMemory", "ClientError", "InternalError"]),
    st.text(max_size=1024),
    st.lists(st.text(max_size=2000), max_size=40),
    st.integers(0, 255),
)
def test_no_reason_is_longer_than_sagemakers_limit(cause: str, text: str, lines: list[str], code: int) -> None:
    told = reason(
        cause=cause, failure_text=text, message=text, last_lines=tuple(lines), exit_code=code, signal="SIGKILL"
    )
    assert 0 < len(told) <= LIMIT
