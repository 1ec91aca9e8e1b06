"""One run of a job's command: from its start in the sandbox to the last process of it being gone."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clary.host import ending, processes
from clary.host.instance_metrics import InstanceMetrics
from clary.host.output_capture import OutputCapture
from clary.host.watch import Watch, disk_excess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clary.host.control import Control
    from clary.host.ending import Cause
    from clary.host.output_capture import Line
    from clary.host.report import Reporter
    from clary.host.sandbox import Plan, Running, Sandbox
    from clary.host.spec import Ending, MetricDefinition

_DRAIN_SECONDS = 5.0
_START_SECONDS = 2.0
_REPEAT_SECONDS = 5.0  # a helper took the stop order's signal and ended, but the command did not


@dataclass
class _Exit:
    code: int
    cpu_seconds: float
    peak_memory: int


class CommandRun:
    """Starts the command and sees it to its end. Made and used in the supervisor's main thread, on whose life the
    command's depends.
    """

    def __init__(
        self,
        plan: Plan,
        sandbox: Sandbox,
        control: Control,
        reporter: Reporter,
        metric_definitions: Sequence[MetricDefinition] = (),
    ) -> None:
        self._plan, self._sandbox, self._control, self._reporter = plan, sandbox, control, reporter
        self._exit: _Exit | None = None
        self._running: Running = sandbox.start(plan)
        self._pid = self._running.process.pid
        self._group = self._running.group or plan.group
        for text in self._running.notices:
            reporter.notice(text)
        self._finder = None
        if metric_definitions:
            from clary.host.metrics import MetricFinder

            self._finder = MetricFinder(metric_definitions)
        self._capture = OutputCapture(self._running.output, self._on_lines)
        threading.Thread(target=self._await_exit, name="exit", daemon=True).start()
        spec, measured = plan.spec, self._running.measured
        self._metrics = InstanceMetrics(measured, plan.folder, self._group, spec.limits, reporter.measure)
        self._metrics.start()
        self._watch = Watch(measured, plan.folder, self._group, spec.limits, control.note_excess)

    def finish(self) -> Ending:
        """Wait for the end, bring it about when it is due, and say what it was."""
        control = self._control
        ended_by, message = self._wait()
        if self._exit is None:
            self._sandbox.kill(self._running)
        control.wait(lambda: self._exit is not None, _DRAIN_SECONDS)
        self._watch.stop()
        left = processes.kill_host(self._plan.spec.host_id)
        if left:
            print(f"processes {left} do not die", flush=True)
        if not self._capture.drain(_DRAIN_SECONDS):
            print("something still holds the job's output open", flush=True)
        end = self._exit or _Exit(137, 0.0, 0)
        self._metrics.stop(end.cpu_seconds)
        kills = self._group.out_of_memory_kills()
        if problem := self._sandbox.problem(self._running):
            if ended_by is None:
                ended_by, message = "InternalError", f"{problem}: {' '.join(self._capture.tail[-3:])}"
        elif ended_by is None and end.code and (sentence := self._disk_was_full()):
            ended_by, message = "ClientError", sentence
        self._sandbox.clean(self._running)
        peak = max(end.peak_memory, self._metrics.peak_memory, self._plan.spec.limits.memory_bytes if kills else 0)
        return ending.derive(
            exit_code=end.code,
            ended_by=ended_by,
            message=message,
            out_of_memory_kills=kills,
            failure_file=self._plan.folder.failure,
            tail=self._capture.tail,
            peak_memory=peak or None,
        )

    def _wait(self) -> tuple[Cause | None, str]:
        """Wait until the command ends, or end it; returns why it was ended, and a sentence for the user."""
        control, limits = self._control, self._plan.spec.limits
        began = time.monotonic()

        def over() -> bool:
            return self._exit is not None or control.wanted != "run" or control.excess is not None

        while True:
            left = began + (control.max_runtime_seconds or limits.max_runtime_seconds) - time.monotonic()
            if control.wait(over, max(left, 0)):
                break
            if left <= 0:
                self._stop()
                return "MaxRuntimeExceeded", ""
        if control.excess is not None and self._exit is None:
            self._reporter.notice(control.excess.sentence)
            if control.excess.kind == "memory":
                return "OutOfMemory", control.excess.sentence
            return "ClientError", control.excess.sentence
        if self._exit is None:
            if control.wanted == "stop":
                self._stop()
            return "Stopped", ""
        return None, ""

    def _stop(self) -> None:
        """SIGTERM to whom it is for, then the time that the script has to end in peace."""
        control, began = self._control, time.monotonic()
        grace = self._plan.spec.limits.stop_grace_seconds
        main = self._main()
        told = processes.stop_recipients(main) if main is not None else [self._pid]
        for pid in told:
            processes.send(pid, signal.SIGTERM)
        while time.monotonic() - began < grace:
            left = grace - (time.monotonic() - began)
            if control.wait(lambda: self._exit is not None or control.wanted == "abort", min(_REPEAT_SECONDS, left)):
                return
            if main is not None and not any(processes.exists(pid) for pid in told):
                told = [main]
                processes.send(main, signal.SIGTERM)

    def _main(self) -> int | None:
        deadline = time.monotonic() + _START_SECONDS
        while self._exit is None:
            main = self._sandbox.main_process(self._running)
            if main is not None or time.monotonic() > deadline:
                return main
            self._control.wait(lambda: self._exit is not None, 0.01)
        return None

    def _await_exit(self) -> None:
        _, status, used = os.wait4(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._running.process.returncode = code
        # A child begins with the peak of the process that it was forked from: only more than ours is its own.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = used.ru_maxrss * 1024 if used.ru_maxrss > own else 0
        cpu_seconds = used.ru_utime + used.ru_stime
        if self._running.root is not None:  # this was a client, and not the command
            cpu_seconds, peak = 0.0, 0
        self._exit = _Exit(128 - code if code < 0 else code, cpu_seconds, peak)
        self._control.notify()

    def _on_lines(self, lines: list[Line]) -> None:
        self._reporter.log(lines)
        if self._finder is not None:
            self._reporter.measure(self._finder.find(lines))
            while self._finder.notices:
                self._reporter.notice(self._finder.notices.pop(0))

    def _disk_was_full(self) -> str:
        """A script that met a full disk mostly fails before the watch looks again."""
        return disk_excess(self._plan.folder, self._plan.spec.limits.disk_bytes)
