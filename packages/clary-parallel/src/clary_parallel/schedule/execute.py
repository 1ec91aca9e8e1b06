"""The loop that executes a schedule on one rank: any schedule, any stages, any transport.

It knows buffers and not models. Receives are posted some actions ahead and results are sent as soon as they are there;
nothing waits for a send before the end of the step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from clary_parallel.errors import PeerStuck
from clary_parallel.schedule.actions import Action, Schedule, Work
from clary_parallel.transport import Request, Transport

Arrays = Sequence[np.ndarray[Any, Any]]
Spec = tuple[tuple[int, ...], np.dtype[Any]]

ALIGNMENT = 64
"""Received buffers begin at a multiple of this many bytes, so that a framework may take them without a copy."""

_AHEAD = 4


class StageProgram(Protocol):
    """What a stage does with one micro-batch. Arrays that it returns are not changed until the step ends."""

    def forward_specs(self, microbatch: int) -> Sequence[Spec]:
        """Shape and type of what `forward` takes from the stage before."""
        ...

    def backward_specs(self, microbatch: int) -> Sequence[Spec]:
        """Shape and type of what `backward` takes from the stage after: gradients of what `forward` returned."""
        ...

    def forward(self, microbatch: int, inputs: Arrays) -> Arrays:
        """Compute what the next stage takes."""
        ...

    def backward(self, microbatch: int, gradients: Arrays, weights: bool) -> Arrays:
        """Compute the gradients of what `forward` took, and with `weights` those of weights."""
        ...

    def weight(self, microbatch: int) -> None:
        """Compute the gradients of weights, after a `backward` without them."""
        ...

    def forward_and_backward(self, microbatch: int, inputs: Arrays, weights: bool) -> Arrays:
        """Both at once, on the last stage, where a schedule has them in a row."""
        ...


Observer = Callable[[Action, float, float], None]
"""Told of each action when it was executed: the action, and when its work began and ended (`time.perf_counter`)."""


def execute(
    schedule: Schedule, programs: Mapping[int, StageProgram], transport: Transport, observer: Observer | None = None
) -> None:
    """Run this rank's part of a step.

    Args:
        schedule: The order of work; its ranks are the transport's.
        programs: This rank's stages by number.
        transport: The ranks of one pipeline.
        observer: Told when each action ran, for measurements.

    Raises:
        PeerStuck: A neighbour did not send; the message names its stage.
    """
    _Step(schedule, programs, transport, observer).run()


class _Step:
    """One step of one rank: what is posted, under way and handed over."""

    def __init__(
        self,
        schedule: Schedule,
        programs: Mapping[int, StageProgram],
        transport: Transport,
        observer: Observer | None,
    ) -> None:
        self.observer = observer
        self.schedule, self.programs, self.transport = schedule, programs, transport
        self.actions = list(schedule.actions(transport.rank))
        self.posted: dict[Action, tuple[list[np.ndarray[Any, Any]], list[Request]]] = {}
        self.local: dict[Action, Arrays] = {}
        self.sending: deque[tuple[Request, np.ndarray[Any, Any]]] = deque()
        self.next_to_post = 0
        self.splits_backward = schedule.splits_backward
        # When a rank has no forwards left, the one before waits for its gradients: they go before those of weights.
        hurries = schedule.ranks > 1 and not self.splits_backward
        self.hurries_from = int(schedule.last_forward[transport.rank]) if hurries else len(self.actions)

    def run(self) -> None:
        skip = False
        for place, action in enumerate(self.actions):
            if skip:
                skip = False
                continue
            self._post_until(place + _AHEAD)
            program, taken = self.programs[action.stage], self._take(action)
            began = time.perf_counter()
            if action.work is Work.WEIGHT:
                program.weight(action.microbatch)
            elif action.work is Work.FORWARD and not self._backward_follows(place):
                self._send(action, program.forward(action.microbatch, taken))
            else:
                skip = action.work is Work.FORWARD
                compute = program.forward_and_backward if skip else program.backward
                hurry = place >= self.hurries_from and action.stage > 0
                sent = compute(action.microbatch, taken, not (hurry or self.splits_backward))
                self._send(Action(action.stage, action.microbatch, Work.BACKWARD), sent)
                if hurry:
                    program.weight(action.microbatch)
            self._drop_sent()
            if self.observer is not None:
                self.observer(action, began, time.perf_counter())
        for request, _ in self.sending:
            request.wait()

    def _backward_follows(self, place: int) -> bool:
        action = self.actions[place]
        return (
            action.stage == self.schedule.stages - 1
            and not self.splits_backward
            and place + 1 < len(self.actions)
            and self.actions[place + 1] == Action(action.stage, action.microbatch, Work.BACKWARD)
        )

    def _post_until(self, place: int) -> None:
        """Post the receives of the actions before a place, in the order in which they are sent."""
        while self.next_to_post < min(place, len(self.actions)):
            action = self.actions[self.next_to_post]
            self.next_to_post += 1
            source = self._source(action)
            if source is None or self._rank(source.stage) == self.transport.rank:
                continue
            program = self.programs[action.stage]
            specs = (
                program.forward_specs(action.microbatch)
                if action.work is Work.FORWARD
                else program.backward_specs(action.microbatch)
            )
            # Never used again after the step: a framework may keep a received buffer as a tensor without a copy.
            buffers = [aligned_empty(shape, dtype) for shape, dtype in specs]
            peer, about = self._rank(source.stage), f"{source}, which stage {action.stage} needs"
            requests = [self.transport.irecv(buffer, peer, _tag(source), about) for buffer in buffers]
            self.posted[action] = (buffers, requests)

    def _take(self, action: Action) -> Arrays:
        source = self._source(action)
        if source is None:
            return ()
        if self._rank(source.stage) == self.transport.rank:
            return self.local.pop(source)
        buffers, requests = self.posted.pop(action)
        try:
            for request in requests:
                request.wait()
        except PeerStuck as error:
            raise PeerStuck(
                f"Stage {action.stage} on rank {self.transport.rank} waited in vain for {source} from rank "
                f"{self._rank(source.stage)}. {error}"
            ) from error
        return buffers

    def _send(self, action: Action, results: Arrays) -> None:
        """Hand an action's results to the stage that needs them."""
        target = action.stage + (1 if action.work is Work.FORWARD else -1)
        if not 0 <= target < self.schedule.stages:
            return
        if self._rank(target) == self.transport.rank:
            self.local[action] = results
            return
        for result in results:
            self.sending.append((self.transport.isend(result, self._rank(target), _tag(action)), result))

    def _drop_sent(self) -> None:
        while self.sending and self.sending[0][0].test():
            self.sending.popleft()

    def _source(self, action: Action) -> Action | None:
        """The action whose results an action takes."""
        if action.work is Work.WEIGHT:
            return None
        stage = action.stage + (-1 if action.work is Work.FORWARD else 1)
        return Action(stage, action.microbatch, action.work) if 0 <= stage < self.schedule.stages else None

    def _rank(self, stage: int) -> int:
        return self.schedule.rank_of(stage)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array whose memory begins at a multiple of `ALIGNMENT`."""
    count = prod(shape) * dtype.itemsize
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count].view(dtype).reshape(shape)


def _tag(action: Action) -> int:
    """A channel for each boundary and direction."""
    return 2 * action.stage + (1 if action.work is Work.BACKWARD else 0)
