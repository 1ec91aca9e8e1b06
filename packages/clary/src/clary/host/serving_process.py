"""One run of a container's serving command: from its start in the sandbox to the last process of it being gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from clary.host import processes
from clary.host.instance_metrics import InstanceMetrics
from clary.host.output_capture import OutputCapture
from clary.host.watch import Watch

if TYPE_CHECKING:
    from clary.host.control import Control, Excess
    from clary.host.output_capture import Line
    from clary.host.sandbox import Plan, Running, Sandbox

_DRAIN_SECONDS = 5.0
_KILLED = 137


class ServingProcess:
    """Starts the command and ends it. Made in a thread of the supervisor on whose life the command's depends.

    `excess` is the limit that this run has passed, if it has; the caller is to end it then.

    Arguments:
        plan: what to start.
        sandbox: in what.
        control: told of the command's end.
        log: told its output.
        measure: told what is used by the whole tree below `measured`, a process id, and below `others`; by the
            command's where that is None. No `measure`: another container's run measures for all.
    """

    def __init__(
        self,
        plan: Plan,
        sandbox: Sandbox,
        control: Control,
        log: Callable[[Sequence[Line]], None],
        measure: Callable[[list[dict[str, Any]]], None] | None,
        measured: int | None = None,
        others: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._plan, self._sandbox, self._control = plan, sandbox, control
        self.exit_code: int | None = None
        self.excess: Excess | None = None
        self._cpu_seconds = 0.0
        self._problem = ""
        self._killed_for_memory = False
        self._kills_before = plan.group.out_of_memory_kills()
        self._running: Running = sandbox.start(plan)
        self._pid = self._running.process.pid
        self._group = plan.group
        if self._running.group is not None:
            self._group, self._kills_before = self._running.group, 0
        self._capture = OutputCapture(self._running.output, log)
        threading.Thread(target=self._await_exit, name="exit", daemon=True).start()
        limits = plan.spec.limits
        self._metrics: InstanceMetrics | None = None
        if measure is not None:
            group = self._group if measured is None else plan.group
            root = measured or self._running.measured
            self._metrics = InstanceMetrics(root, plan.folder, group, limits, measure, others)
            self._metrics.start()
        self._watch = Watch(self._running.measured, plan.folder, self._group, limits, self._note_excess)

    @property
    def tail(self) -> list[str]:
        """The last lines of its output."""
        return self._capture.tail

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of this run for memory, or it passed the limit."""
        passed = self.excess is not None and self.excess.kind == "memory"
        return passed or self._killed_for_memory or self._group.out_of_memory_kills() > self._kills_before

    @property
    def root(self) -> int | None:
        """The command's first process, where it is not below the supervisor."""
        return self._running.root

    @property
    def address(self) -> str | None:
        """Where it is reached, if it has been told neither a port nor a socket."""
        return self._running.address

    @property
    def notices(self) -> list[str]:
        """Lines for the log about how it was started."""
        return self._running.notices

    def problem(self) -> str:
        """Why the sandbox itself failed, after the end; empty when the command did run."""
        return self._problem

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, time to finish what is being answered, and then the end whatever happens."""
        deadline = time.monotonic() + grace_seconds
        main = self._sandbox.main_process(self._running)
        for pid in processes.stop_recipients(main) if main is not None else [self._pid]:
            processes.send(pid, signal.SIGTERM)
        left = deadline - time.monotonic()
        self._control.wait(lambda: self.exit_code is not None or self._control.wanted == "abort", max(left, 0))
        self.finish()

    def finish(self) -> int:
        """End everything that still runs, and return the exit code: 128 + n when signal n killed it."""
        if self.exit_code is None:
            self._sandbox.kill(self._running)
        self._control.wait(lambda: self.exit_code is not None, _DRAIN_SECONDS)
        self._watch.stop()
        order = self._plan.spec
        left = processes.kill_host(order.host_id, container=order.own_variables[processes.CONTAINER_VARIABLE])
        if left:
            print(f"processes {left} do not die", flush=True)
        if not self._capture.drain(_DRAIN_SECONDS):
            print("something still holds the server's output open", flush=True)
        if self._metrics is not None:
            self._metrics.stop(self._cpu_seconds)
        self._problem = self._sandbox.problem(self._running)
        self._killed_for_memory = self.out_of_memory
        self._sandbox.clean(self._running)
        return _KILLED if self.exit_code is None else self.exit_code

    def _await_exit(self) -> None:
        _, status, used = os.wait4(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._running.process.returncode = code
        if self._running.root is None:  # else it was a client, and not the command
            self._cpu_seconds = used.ru_utime + used.ru_stime
        self.exit_code = 128 - code if code < 0 else code
        self._control.notify()

    def _note_excess(self, kind: str, sentence: str) -> None:
        from clary.host.control import Excess

        self.excess = Excess(kind, sentence)
        self._control.notify()
