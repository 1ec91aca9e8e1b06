"""FailureReason: AWS's own form first, which clients match on, then why: last lines, signal, peak memory.

Pure functions. The forms are those of the training contract's status machine; a reason has at most 1024 characters.
"""

from __future__ import annotations

from clary.host.spec import Ending

LIMIT = 1024
OUT_OF_MEMORY = "ClientError: " + (
    "Please use an instance type with more memory, or reduce the size of job data processed on an instance."
)
NO_CAPACITY = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
INTERNAL = "InternalServerError: We encountered an internal error. Please try again."


def failure_reason(ending: Ending, *, host: str, hosts: int, memory_limit_bytes: int | None = None) -> str:
    """The reason of a job that failed because one of its hosts ended like this.

    Args:
        ending: of the host that failed first.
        host: its name, told where the job has several.
        hosts: how many the job has.
        memory_limit_bytes: what the host was allowed.
    """
    where = f" On {host}." if hosts > 1 else ""
    if ending.cause == "OutOfMemory":
        return _limited(OUT_OF_MEMORY, where + _memory(ending, memory_limit_bytes), ())
    if ending.cause == "ClientError":
        return _limited(f"ClientError: {ending.message}", where, ending.last_lines)
    if ending.cause == "ScriptFailed":
        code = 1 if ending.exit_code is None else ending.exit_code
        tail = f", exit code: {code}"
        form = f"AlgorithmError: {ending.failure_text[: LIMIT - len('AlgorithmError: ') - len(tail)]}{tail}"
        detail = where + (f" Killed by {ending.signal}." if ending.signal else "")
        detail += _memory(ending, memory_limit_bytes) if ending.signal == "SIGKILL" else ""
        return _limited(form, detail, _not_told_yet(ending.last_lines, form))
    return _limited(INTERNAL, f"{where} {ending.message}".rstrip(), ending.last_lines)


def capacity_reason(what_is_missing: str) -> str:
    """The reason of a job that no machine here can ever hold.

    Args:
        what_is_missing: what the job needs and what there is, in a sentence.
    """
    return _limited(NO_CAPACITY, f" {what_is_missing}", ())


def replica_reason(ending: Ending, *, variant: str, memory_limit_bytes: int | None = None) -> str:
    """The reason of an endpoint that failed, or was rolled back, because one of its replicas ended like this.

    Args:
        ending: of the replica.
        variant: its production variant.
        memory_limit_bytes: what the replica was allowed.
    """
    if ending.cause == "InternalError":
        return _limited(INTERNAL, f" {ending.message}".rstrip(), ending.last_lines)
    if ending.cause == "ClientError":
        return _limited(f"Unable to deploy production variant {variant}: {ending.message}", "", ending.last_lines)
    form = ending.message or (
        f"The primary container for production variant {variant} did not pass the ping health check. "
        "Please check CloudWatch logs for this endpoint."
    )
    detail = _memory(ending, memory_limit_bytes) if ending.cause == "OutOfMemory" or ending.signal == "SIGKILL" else ""
    return _limited(form, detail, ending.last_lines)


def timeout_reason(seconds: int) -> str:
    """The reason of an update that took longer than its MaximumExecutionTimeoutInSeconds."""
    return f"The update did not complete within MaximumExecutionTimeoutInSeconds of {seconds} seconds."


def _memory(ending: Ending, limit: int | None) -> str:
    if not ending.peak_memory_bytes:
        return ""
    allowed = f" of the {_amount(limit)} that it may use" if limit else ""
    return f" Peak memory: {_amount(ending.peak_memory_bytes)}{allowed}."


def _amount(amount: int) -> str:
    return f"{amount / 1024**3:.2f} GiB" if amount >= 1024**3 else f"{amount / 1024**2:.0f} MiB"


def _not_told_yet(lines: tuple[str, ...], form: str) -> tuple[str, ...]:
    """The last lines, unless the failure file, which AWS's toolkit fills with the traceback, ends with them already."""
    told = lines and lines[-1].strip() and lines[-1].strip() in form.replace("\\n", "\n")
    return () if told else lines


def _limited(form: str, detail: str, lines: tuple[str, ...]) -> str:
    """The form whole, then what fits of the detail, then as many of the last lines as fit, the last one first."""
    text = (form + ("." if detail and not form.endswith(".") else "") + detail)[:LIMIT]
    kept: list[str] = []
    room = LIMIT - len(text) - len("\nLast lines:")
    for line in reversed([line.rstrip() for line in lines if line.strip()]):
        if len(line) + 1 > room:
            break
        kept.insert(0, line)
        room -= len(line) + 1
    if not kept and lines and room > 20:
        kept = [lines[-1].rstrip()[: room - 1]]
    return text + ("\nLast lines:\n" + "\n".join(kept) if kept else "")
