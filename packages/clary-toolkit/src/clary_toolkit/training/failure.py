"""Why a command failed, in a few lines: found in the end of what it printed."""

from __future__ import annotations

import re

from clary_toolkit.training.rank import EXITED, KILLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_ANY_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(:|$)")
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Warning|Exit|Interrupt)(:|$)")
_FRAME = re.compile(r'^\s+File "(?P<path>.*?)", line \d+')
_HEADER = "Traceback (most recent call last):"
_RANK = re.compile(r"^\[1,mpirank:(\d+),([\w-]+)\]<std(?:out|err)>:")
_AFTER_ABORT = "MPI_ABORT was invoked"
# Failures that are known, with the way out.
_WAYS_OUT = (
    (
        re.compile(r"Attempt to convert a value \(PerReplica:"),
        "Keras 3 cannot train by model.fit under MultiWorkerMirroredStrategy. Train by MPI instead, with two lines: "
        "`import clary_parallel` and `model = clary_parallel.data_parallel(model)` in place of strategy.scope(), and "
        'distribution={"mpi": {"enabled": True}} in the estimator. Or keep the strategy with Keras 2: '
        'environment={"TF_USE_LEGACY_KERAS": "1"}.',
    ),
    (
        re.compile(r"Disallowed task type found in cluster spec.*'master'", re.DOTALL),
        "The first host is the master in TF_CONFIG, as on AWS, and ParameterServerStrategy wants a chief. Rename it in "
        "what the script reads, before the strategy is made: `config = json.loads(os.environ['TF_CONFIG'])` and "
        "`config['cluster']['chief'] = config['cluster'].pop('master')`; so too config['task']['type'].",
    ),
)
_LONGEST = 2000
_LAST_LINES = 5

# AWS's toolkit titles the failure with TensorFlow's own error when one ended the script.
_TENSORFLOW_ERRORS = frozenset(
    (
        "AbortedError",
        "AlreadyExistsError",
        "CancelledError",
        "DataLossError",
        "DeadlineExceededError",
        "FailedPreconditionError",
        "InternalError",
        "InvalidArgumentError",
        "NotFoundError",
        "OpError",
        "OperatorNotAllowedInGraphError",
        "OutOfRangeError",
        "PermissionDeniedError",
        "ResourceExhaustedError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnimplementedError",
        "UnknownError",
        "XlaRuntimeError",
    )
)


class Reason:
    """`message`: the lines that say why. `error`: the class of the exception that ended the script, when one did."""

    def __init__(self, message: str, error: str | None) -> None:
        self.message = message
        self.error = error

    @property
    def title(self) -> str | None:
        """TensorFlow's error when that is what it was, which then heads the failure text."""
        return self.error if self.error in _TENSORFLOW_ERRORS else None


def explain(tail: bytes, code_folder: str, lost_hosts: Sequence[str] = ()) -> Reason:
    """Find the last Python traceback in `tail` and give where it was raised in the user's code, and the error.

    Without a traceback: the last lines there are. Of several ranks it is one that was killed, or the first that raised:
    its end is what ended the others. So is the end of a whole host.
    """
    lines = [line.rstrip() for line in tail.decode("utf-8", "replace").replace("\r", "\n").split("\n")]
    if lost_hosts or any(_RANK.match(line) for line in lines):
        return _explain_ranks(lines, code_folder, lost_hosts)
    return _explain(lines, code_folder)


def _explain_ranks(lines: list[str], code_folder: str, lost_hosts: Sequence[str]) -> Reason:
    by_rank: dict[str, list[str]] = {}
    for line in lines:
        match = _RANK.match(line)
        if match:
            name = "rank {} on {}".format(match.group(1), match.group(2))
            by_rank.setdefault(name, []).append(line[match.end() :])
    killed = [(name, line) for name, said in by_rank.items() for line in said if line.startswith(KILLED)]
    for name, line in sorted(killed, key=lambda end: "SIGABRT" in end[1]):  # the others only lost it, or gave up then
        return Reason("On {}: {}".format(name, line), None)
    if lost_hosts:
        return Reason("Nothing is heard of {} any more: its processes have ended.".format(", ".join(lost_hosts)), None)
    aborting = [name for name, said in by_rank.items() if any(_AFTER_ABORT in line for line in said)]
    raised = [name for name, said in by_rank.items() if _HEADER in (line.strip() for line in said)]
    for name in aborting + raised:
        said = by_rank[name]
        end = next((index for index, line in enumerate(said) if _AFTER_ABORT in line), len(said) + 1)
        reason = _explain(said[: max(0, end - 1)], code_folder)
        if reason.error:
            return Reason("On {}: {}".format(name, reason.message), reason.error)
    for name, said in by_rank.items():
        if any(line.startswith(EXITED) for line in said):
            end = max(index for index, line in enumerate(said) if line.startswith(EXITED))
            return Reason("On {}: {}".format(name, _explain(said[: end + 1], code_folder).message), None)
    return _explain([_RANK.sub("", line) for line in lines], code_folder)


def _explain(lines: list[str], code_folder: str) -> Reason:
    start = _error_line(lines)
    if start is None:
        spoken = [line for line in lines if line.strip()]
        return Reason("\n".join(spoken[-_LAST_LINES:])[-_LONGEST:].strip(), None)
    name = lines[start].partition(":")[0].rpartition(".")[2]
    text = [line for line in lines[start:] if line.strip()]
    message = "\n".join(_place(lines[:start], code_folder) + text)[:_LONGEST].strip()
    ways_out = [way_out for pattern, way_out in _WAYS_OUT if pattern.search(message)]
    return Reason("\n".join([message] + ways_out), name)


def _error_line(lines: list[str]) -> int | None:
    """Where the last exception is named: after the last traceback header, else after the last frame (SyntaxError)."""
    headers = [index for index, line in enumerate(lines) if line.strip() == _HEADER]
    frames = [index for index, line in enumerate(lines) if _FRAME.match(line)]
    if not headers and not frames:
        return None
    begin = headers[-1] if headers else frames[-1]
    last_frame = max([index for index in frames if index >= begin], default=begin)
    pattern = _ANY_EXCEPTION if headers else _ERROR
    return next((index for index in range(last_frame + 1, len(lines)) if pattern.match(lines[index])), None)


def _place(before: list[str], code_folder: str) -> list[str]:
    """The innermost frame that lies in the user's code (else the innermost at all), with its source line."""
    header = max([index for index, line in enumerate(before) if line.strip() == _HEADER], default=0)
    frames = [index for index in range(header, len(before)) if _FRAME.match(before[index])]
    if not frames:
        return []

    def is_users(index: int) -> bool:
        match = _FRAME.match(before[index])
        return match is not None and (match.group("path").startswith(code_folder) or "/" not in match.group("path"))

    chosen = next((index for index in reversed(frames) if is_users(index)), frames[-1])
    place = [before[chosen].strip()]
    for line in before[chosen + 1 :]:
        if _FRAME.match(line):
            break
        if line.strip(" ^~"):
            place.append(line.strip())
            break
    return place
