"""The reason that a script failed is found in what it printed."""

from __future__ import annotations

import pytest

from clary_toolkit.training import failure

CODE = "/opt/ml/code"


def test_the_innermost_frame_in_the_users_code_and_the_error_are_given() -> None:
    printed = b"""Epoch 1
Traceback (most recent call last):
  File "/opt/ml/code/train.py", line 9, in <module>
    main()
  File "/opt/ml/code/model.py", line 4, in build
    keras.fit(x)
    ^^^^^^^^^^^^
  File "/usr/lib/keras/traceback_utils.py", line 122, in error_handler
    raise e.with_traceback(filtered_tb) from None
ValueError: shapes differ: 3
  and 4
"""
    reason = failure.explain(printed, CODE)
    assert reason.message == (
        'File "/opt/ml/code/model.py", line 4, in build\nkeras.fit(x)\nValueError: shapes differ: 3\n  and 4'
    )
    assert (reason.error, reason.title) == ("ValueError", None)


def test_the_last_of_several_tracebacks_counts() -> None:
    printed = b"""Traceback (most recent call last):
  File "train.py", line 1, in <module>
    first()
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "train.py", line 3, in <module>
    second()
mypackage.Trouble: b
"""
    assert (
        failure.explain(printed, CODE).message == 'File "train.py", line 3, in <module>\nsecond()\nmypackage.Trouble: b'
    )


def test_an_error_of_tensorflow_heads_the_failure() -> None:
    printed = b"""Traceback (most recent call last):
  File "train.py", line 1, in <module>
    fit()
tensorflow.python.framework.errors_impl.InvalidArgumentError: Graph execution error:
"""
    assert failure.explain(printed, CODE).title == "InvalidArgumentError"


def test_a_syntax_error_is_placed() -> None:
    printed = b'  File "/opt/ml/code/train.py", line 1\n    def work(:\n             ^\nSyntaxError: invalid syntax\n'
    message = failure.explain(printed, CODE).message
    assert message == 'File "/opt/ml/code/train.py", line 1\ndef work(:\nSyntaxError: invalid syntax'


def test_without_a_traceback_the_last_lines_are_given() -> None:
    assert failure.explain(b"1\n\n2\n3\n4\n5\nno data\n", CODE).message == "2\n3\n4\n5\nno data"


@pytest.mark.parametrize("printed", [b"", b"\xff\xfe\n", b"\n\n"])
def test_nothing_and_nonsense_are_no_trouble(printed: bytes) -> None:
    assert failure.explain(printed, CODE).error is None


def test_a_message_stays_of_a_size() -> None:
    printed = b'Traceback (most recent call last):\n  File "t.py", line 1, in f\n    f()\nValueError: ' + b"x" * 50_000
    assert len(failure.explain(printed, CODE).message) == 2000


def test_a_known_failure_comes_with_the_way_out() -> None:
    said = (
        "Traceback (most recent call last):\n"
        '  File "train.py", line 9, in <module>\n    model.fit(x, y)\n'
        "ValueError: Attempt to convert a value (PerReplica:{\n  0: <tf.Tensor>\n}) with an unsupported type\n"
    )
    message = failure.explain(said.encode(), "/opt/ml/code").message
    assert "clary_parallel.data_parallel(model)" in message
    assert "TF_USE_LEGACY_KERAS" in message


def test_of_several_ranks_the_one_that_raised_is_told() -> None:
    said = "".join(
        f"[1,mpirank:{rank},algo-{rank + 1}]<stderr>:{line}\n"
        for rank, line in [
            (1, "Traceback (most recent call last):"),
            (0, "INFO waiting"),
            (1, '  File "train.py", line 3, in <module>'),
            (1, "    step()"),
            (0, "INFO still waiting"),
            (1, "ValueError: this rank is broken"),
            (1, "-----------------"),
            (1, "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD"),
        ]
    )
    reason = failure.explain(said.encode(), "/opt/ml/code")
    expected = 'On rank 1 on algo-2: File "train.py", line 3, in <module>\nstep()\nValueError: this rank is broken'
    assert reason.message == expected
    assert reason.error == "ValueError"


def test_a_rank_that_was_killed_is_the_reason_and_not_those_that_lost_it() -> None:
    tail = b"""[1,mpirank:0,algo-1]<stderr>:Traceback (most recent call last):
[1,mpirank:0,algo-1]<stderr>:  File "/opt/ml/code/train.py", line 3, in <module>
[1,mpirank:0,algo-1]<stderr>:RuntimeError: a peer has gone
[1,mpirank:1,algo-2]<stderr>:The script of this rank was killed by SIGKILL (signal 9)
"""
    assert failure.explain(tail, "/opt/ml/code").message == (
        "On rank 1 on algo-2: The script of this rank was killed by SIGKILL (signal 9)"
    )


def of_rank(rank: int, *lines: str) -> str:
    return "".join(f"[1,mpirank:{rank},algo-{rank + 1}]<stderr>:{line}\n" for line in lines)


def test_a_rank_that_gave_up_because_another_was_killed_is_not_the_reason() -> None:
    said = of_rank(0, "The script of this rank was killed by SIGABRT (signal 6)") + of_rank(
        1, "The script of this rank was killed by SIGSEGV (signal 11)"
    )
    assert failure.explain(said.encode(), CODE).message == (
        "On rank 1 on algo-2: The script of this rank was killed by SIGSEGV (signal 11)"
    )


def test_a_rank_that_ended_without_an_exception_is_told_with_its_last_lines() -> None:
    said = of_rank(1, "no such file", "The script of this rank ended with exit code 3") + "prterun noticed\n"
    assert failure.explain(said.encode(), CODE).message == (
        "On rank 1 on algo-2: no such file\nThe script of this rank ended with exit code 3"
    )


def test_a_host_that_is_lost_is_the_reason_and_not_the_ranks_that_lost_it() -> None:
    said = of_rank(0, "Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "OSError: lost")
    assert failure.explain(said.encode(), CODE, ["algo-2"]).message == (
        "Nothing is heard of algo-2 any more: its processes have ended."
    )


def test_a_parameter_server_strategy_without_a_chief_comes_with_the_way_out() -> None:
    said = (
        "Traceback (most recent call last):\n"
        '  File "train.py", line 27, in <module>\n    strategy = tf.distribute.ParameterServerStrategy(resolver)\n'
        "ValueError: Disallowed task type found in cluster spec. Allowed types are ('chief', 'worker', 'ps', None) and "
        "the cluster spec is ClusterSpec({'master': ['algo-1:2222'], 'ps': ['algo-1:2223']}).\n"
    )
    assert (
        "config['cluster']['chief'] = config['cluster'].pop('master')" in failure.explain(said.encode(), CODE).message
    )
