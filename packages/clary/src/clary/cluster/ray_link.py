"""`python -m clary.cluster.ray_link`: the process that speaks with Ray for the server, which itself never loads it.

Ray's library ends the process that it lives in when its cluster is gone; here that is this process, and the server
starts another. One JSON object a line: first the order to connect, then requests {"id", "do", "with"} in any number
at once, each answered by {"id", "result"} or {"id", "error"}. Ends with its standard input.

The records are Ray's own: a job's hosts are a placement group and detached actors, found again by their names.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

NAMESPACE = "clary"
START_SECONDS = 60.0
_ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 2.0  # a node that does not answer must not keep the server from the others
_NODE_SECONDS = 3.0
_GONE_SECONDS = 5.0
_THREADS = 16


class NoRoom(Exception):
    """The places that were asked for cannot be had now; the text is for the user."""


class Refused(Exception):
    """What was asked for cannot be done; the text is for the user."""


def main() -> None:
    """Serve one server until it closes standard input."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    lock = threading.Lock()

    def answer(content: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(content).encode() + b"\n")

    order = json.loads(sys.stdin.readline())
    try:
        link = _Link(**order)
    except Exception as error:  # noqa: BLE001 (the boundary: told to the server, which tries again)
        answer({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    answer({"result": "connected"})
    operations: Mapping[str, Callable[..., Any]] = {
        "nodes": link.nodes,
        "start": link.start,
        "state": link.state,
        "unreported": link.unreported,
        "end": link.end,
        "clean": link.clean,
    }

    def serve(request: Mapping[str, Any]) -> None:
        try:
            result = operations[request["do"]](**request["with"])
        except Exception as error:  # noqa: BLE001 (the boundary: the server raises it where it asked)
            known = isinstance(error, Refused | NoRoom)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            answer({"id": request["id"], "error": text, "no_room": isinstance(error, NoRoom)})
            if isinstance(error, ConnectionError):
                os._exit(1)  # the way to the cluster is lost: the server starts another of us
        else:
            answer({"id": request["id"], "result": result})

    with ThreadPoolExecutor(_THREADS) as pool:
        for line in sys.stdin:
            pool.submit(serve, json.loads(line))
        os._exit(0)


class _Link:
    """The cluster as one server sees it.

    Args:
        address: Ray's, as `ray.init` takes it: "HOST:PORT", "ray://HOST:PORT", "auto".
        owner: what the names of this server's placement groups begin with.
        version: of Clary.
        command: see `ray_actor.HostActor`.
    """

    def __init__(self, address: str, owner: str, version: str, command: list[str] | None) -> None:
        # Started by `uv run`, Ray would have its workers run in a copy of this folder, by uv.
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        import ray

        self._ray: Any = ray
        self._owner, self._version, self._command = owner, version, command
        ray.init(address=address, namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=False)
        from ray import cloudpickle

        from clary.cluster import ray_actor

        cloudpickle.register_pickle_by_value(ray_actor)  # a node without Clary can read it
        self._actors = ray.remote(ray_actor.HostActor)
        self._by_way_of = str(ray.get_runtime_context().get_node_id())
        self._starting = threading.Lock()
        self._sweep()

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive and have something.

        Raises:
            ConnectionError: the one through which this process speaks with the others is not among them.
        """
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        if all(node["NodeID"] != self._by_way_of for node in alive):
            raise ConnectionError("the Ray node that it was reached by has left the cluster")
        return [
            {
                "id": node["NodeID"],
                "address": node["NodeManagerAddress"],
                "hostname": node["NodeManagerHostname"],
                "cpus": node["Resources"].get("CPU", 0.0),
                "memory_bytes": int(node["Resources"].get("memory", 0)),
                "gpus": node["Resources"].get("GPU", 0.0),
            }
            for node in alive
            if node["Resources"].get("CPU")
        ]

    def start(
        self,
        group: str,
        actor: str,
        bundles: list[dict[str, float]],
        nodes: list[str],
        index: int,
        spec: str,
        home: str | None,
        room_seconds: float,
    ) -> str:
        """Start one host in its job's placement group, which is made with the first; the host's handle on its node.

        The places of a job are waited for `room_seconds` long.
        """
        with self._starting:
            reserved = self._reserve(group, bundles, nodes, room_seconds)
            found = self._find(actor) or self._make(actor, reserved, index, bundles[index], home)
        try:
            return self._call(found, "start", spec, seconds=START_SECONDS)["handle"]
        except Exception:
            self._kill(actor, found)
            self._leave(group)
            raise

    def state(self, actor: str, node: str, handle: str) -> dict[str, str]:
        """What has become of a host's supervisor."""
        found = self._find(actor)
        if found is None:
            return {"status": "lost", "detail": self._how_it_went(node)}
        try:
            return self._call(found, "state", handle, seconds=_LOOK_SECONDS)
        except self._ray.exceptions.RayActorError:
            return {"status": "lost", "detail": self._how_it_went(node)}
        except self._ray.exceptions.GetTimeoutError:
            return {"status": "running", "detail": ""}  # a node that is gone is told of by Ray before long

    def unreported(self, actor: str, handle: str) -> str | None:
        """What a host had to report, where its actor is still there."""
        return (self._ask(actor, "unreported", handle) or {"report": None})["report"]

    def end(self, actor: str, handle: str) -> None:
        """Kill a host. One whose actor is gone has ended with it."""
        self._ask(actor, "end", handle)

    def clean(self, group: str, actor: str, handle: str) -> None:
        """Remove what a host leaves, its actor, and with the last host the job's placement group."""
        self._ask(actor, "clean", handle)
        found = self._find(actor)
        if found is not None:
            self._kill(actor, found)
        self._leave(group)

    def _reserve(self, group: str, bundles: list[dict[str, float]], nodes: list[str], seconds: float) -> Any:
        """A job's placement group: all of its places, or none."""
        from ray.util.placement_group import get_placement_group, placement_group, remove_placement_group

        try:
            return get_placement_group(group)
        except ValueError:
            pass
        selectors = [{"ray.io/node-id": node} for node in nodes]
        made = placement_group(bundles, name=group, lifetime="detached", bundle_label_selector=selectors)
        if not made.wait(seconds):
            remove_placement_group(made)
            raise NoRoom(
                f"Ray did not give the {len(bundles)} place(s) of this job within {seconds:g} s: other "
                "programs on the cluster hold what Clary took to be free, or a node has just gone; see `ray status`."
            )
        return made

    def _make(self, name: str, group: Any, index: int, bundle: Mapping[str, float], home: str | None) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return self._actors.options(
            name=name,
            lifetime="detached",
            max_restarts=0,
            max_concurrency=8,
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            memory=bundle.get("memory", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        ).remote(self._version, home, self._command)

    def _find(self, actor: str) -> Any:
        try:
            return self._ray.get_actor(actor)
        except ValueError:
            return None

    def _ask(self, actor: str, what: str, handle: str) -> dict[str, Any] | None:
        """An actor's answer; None when it is gone."""
        found = self._find(actor)
        try:
            return None if found is None else self._call(found, what, handle)
        except self._ray.exceptions.RayActorError:
            return None

    def _call(self, actor: Any, what: str, *arguments: str, seconds: float = _ANSWER_SECONDS) -> dict[str, Any]:
        answer = self._ray.get(getattr(actor, what).remote(*arguments), timeout=seconds)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def _how_it_went(self, node: str) -> str:
        """Why a host's actor is gone. That its node is gone, Ray may say a moment later."""
        deadline = time.monotonic() + _NODE_SECONDS
        while True:
            known = next((found for found in self._ray.nodes() if found["NodeID"] == node), None)
            if known is None or not known["Alive"]:
                where = known["NodeManagerAddress"] if known else "that it was on"
                return f"the Ray node {where} ({node[:8]}) left the cluster"
            if time.monotonic() > deadline:
                return f"its actor on the Ray node {known['NodeManagerAddress']} is gone"
            time.sleep(0.1)

    def _kill(self, name: str, actor: Any) -> None:
        """Kill an actor and wait until Ray names it no more, so that its job's last host is known to be the last."""
        self._ray.kill(actor)
        deadline = time.monotonic() + _GONE_SECONDS
        while name in self._ray.util.list_named_actors() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _leave(self, group: str) -> None:
        """Give a job's places back when no host of it is left."""
        from ray.util.placement_group import get_placement_group, remove_placement_group

        if any(name.startswith(f"{group}/") for name in self._ray.util.list_named_actors()):
            return
        try:
            remove_placement_group(get_placement_group(group))
        except ValueError:
            return

    def _sweep(self) -> None:
        """Give back what an earlier server reserved and had not used when it was killed."""
        from ray.util.placement_group import placement_group_table

        for entry in placement_group_table().values():
            if entry["name"].startswith(self._owner) and entry["state"] != "REMOVED":
                self._leave(entry["name"])


if __name__ == "__main__":
    main()
