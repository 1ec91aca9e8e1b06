"""Serving TensorFlow models: Clary beside LitServe, BentoML, Ray Serve and MLServer, and a bare loop as the limit.

The same SavedModels, the same machine, the same client (serving_load.c, compiled at the start with cc), in rounds:
each server in turn, then again. Clary is a real server with a real endpoint, SigV4 on; a signed request is sent again
and again within its validity, so that signing by the client is not measured. Images are sent in binary, small inputs as
JSON.

Run: make bench NAME=serving. A part of it: python benchmarks/serving.py --models dense --peers litserve --seconds 1.
A part replaces the rows of its models in the results, and leaves those of other models.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np

import serving_clary
from measure import RESULTS, Measurement, report
from serving_targets import PEERS, BareLoop, ServedModel, Target, ask, held, make_models, peer, python_of, wait_for

MODELS = ("dense", "mobilenet_v2", "resnet50")
OVERHEAD_MEDIAN_MS, OVERHEAD_P99_MS = 1.0, 4.0
SMALL_BAR, LARGE_BAR = 2.0, 1.5
GOODPUT_BAR = 0.9
DEPLOY_BAR_S = 3.0
DEPLOYS = 3
OVERLOAD_CONNECTIONS = 640
OVERLOAD_ROUNDS = 3
LOADS = (0.6, 0.7, 0.8, 0.9, 1.0)  # of the requests that a closed loop has answered
TOLERANCE = 1e-4  # of the largest value
Values = dict[tuple[str, str], list[float]]  # (what, whose) → the rounds' figures


class Client:
    """The compiled load generator."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if not compiler:
            raise SystemExit("The client is written in C: install a compiler (apt-get install gcc libc6-dev).")
        self._folder, self._program = folder, folder / "serving_load"
        source = Path(__file__).parent / "serving_load.c"
        subprocess.run([compiler, "-O2", "-o", self._program, source], check=True)

    def __call__(self, target: Target, connections: int, seconds: float, rate: float = 0) -> dict[str, float]:
        """What came back: see serving_load.c. A closed loop must have had good answers alone."""
        request = self._folder / f"{target.name}.request"
        request.write_bytes(target.request())
        command = [self._program, "127.0.0.1", str(target.port), request, str(connections), str(seconds), str(rate)]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if not rate and (said["refused"] or said["failed"] or not said["good"]):
            raise SystemExit(f"{target.name} did not answer all requests of {connections} connections: {said}")
        return said


def busy_share(seconds: float) -> float:
    """How much of all processors is in use, in per cent."""

    def ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    (total, idle), _ = ticks(), time.sleep(seconds)
    later, later_idle = ticks()
    return 100 * (1 - (later_idle - idle) / max(1, later - total))


@contextmanager
def targets(
    model: ServedModel, names: list[str], clary: serving_clary.Clary, folder: Path
) -> Iterator[tuple[list[Target], str]]:
    """Clary and the peers, ready and with the right answer; and what Clary's log says of what computes."""
    endpoint = f"bench-{model.name.replace('_', '-')}"
    with ExitStack() as stack:
        started: list[Target] = []
        for name in names:  # one after the other: Ray gives up when its processes start slowly
            started.append(stack.enter_context(peer(name, model, folder / name)))
            wait_for(started[-1], folder / name)
        clary.upload(model)
        own, _ = clary.deploy(model, endpoint)
        stack.callback(clary.delete, endpoint)
        engine = clary.settle(own, endpoint)
        yield [own, *started], engine


def differs_by(target: Target, model: ServedModel) -> float:
    """The largest difference to TensorFlow's own answer, as a share of its largest value."""
    answer = ask(target).reshape(model.expected.shape)
    return float(np.abs(answer - model.expected).max() / np.abs(model.expected).max())


def measure(
    model: ServedModel, servers: list[Target], loops: dict[str, BareLoop], client: Client, rounds: int, seconds: float
) -> Values:
    """Each server and loop in turn, `rounds` times, after a warm-up. The other servers stand still meanwhile."""
    connections = 16 if model.images else 64
    values: Values = defaultdict(list)
    for server in servers:
        client(server, connections, seconds)
    for _ in range(rounds):
        for server in servers:
            with held(other for other in servers if other is not server):
                alone, many = client(server, 1, seconds), client(server, connections, seconds)
            for what, figure in (("latency", "p50"), ("latency p99", "p99")):
                values[what, server.name].append(alone[figure])
            values["throughput", server.name].append(many["rate"])
            values["p99 under load", server.name].append(many["p99"])
        for name, loop in loops.items():
            with held(servers):
                alone, many = loop.measure(seconds, 1), loop.measure(seconds, 16)
            values["latency", name].append(alone["p50"])
            values["latency p99", name].append(alone["p99"])
            values["throughput", name].append(max(alone["rate"], many["rate"]))
    return values


def rows_of(model: ServedModel, values: Values) -> Iterator[Measurement]:
    """The medians of the rounds, and Clary's beside the best peer's."""
    middle = {key: median(figures) for key, figures in values.items()}
    bar = LARGE_BAR if model.images else SMALL_BAR
    connections = 16 if model.images else 64
    for what, kind, unit in (
        ("latency", "one client, median", "ms"),
        ("latency p99", "one client, p99", "ms"),
        ("throughput", f"{connections} connections", "1/s"),
        ("p99 under load", f"{connections} connections, p99", "ms"),
    ):
        for (named, whose), value in middle.items():
            if named == what:
                yield Measurement(f"{model.name}: {kind}", value, unit, whose)
    rivals = [whose for whose in PEERS if ("latency", whose) in middle]
    if rivals:
        best = max(rivals, key=lambda whose: middle["throughput", whose])
        ratio = middle["throughput", "clary"] / middle["throughput", best]
        yield Measurement(f"{model.name}: throughput, times the best peer's", ratio, "ratio", best, bar, ratio >= bar)
        best = min(rivals, key=lambda whose: middle["latency", whose])
        ratio = middle["latency", best] / middle["latency", "clary"]
        asked = (bar, ratio >= bar) if model.images else (None, None)
        yield Measurement(f"{model.name}: the best peer's latency, times Clary's", ratio, "ratio", best, *asked)
    if not model.images:
        for loop in [whose for what, whose in middle if what == "latency" and whose.startswith("bare")]:
            for what, kind, most in (
                ("latency", "median", OVERHEAD_MEDIAN_MS),
                ("latency p99", "p99", OVERHEAD_P99_MS),
            ):
                added = middle[what, "clary"] - middle[what, loop]
                yield Measurement(
                    f"{model.name}: router and server add, {kind}", added, "ms", loop, most, added <= most
                )


def overload(model: ServedModel, clary: Target, client: Client, seconds: float) -> Iterator[Measurement]:
    """Twice as many requests a second as Clary can answer, whether or not it does, beside the loads around its most.

    The most is that of requests which come at their own times, as those of the double load do. Those of a closed loop
    come in step with the answers, many at once, which costs less a request; it says here what the double load is.
    """
    in_step = median(client(clary, 64, seconds)["rate"] for _ in range(OVERLOAD_ROUNDS))
    said: dict[float, list[dict[str, float]]] = defaultdict(list)
    for _ in range(OVERLOAD_ROUNDS):
        for load in (*LOADS, 2.0):
            length = (5 if load == 2.0 else 2) * seconds  # the connections' first requests are to be few among all
            said[load].append(client(clary, OVERLOAD_CONNECTIONS, length, rate=load * in_step))
    answered = {load: median(each["rate"] for each in rounds) for load, rounds in said.items()}
    for load, rate in answered.items():
        yield Measurement(f"{model.name}: answers to {load:g} times a closed loop's requests", rate, "1/s")
    most, double = max(answered.values()), said[2.0]
    share = answered[2.0] / most
    what = f"{model.name}: answers under twice the load, share of the most"
    yield Measurement(what, share, "ratio", None, GOODPUT_BAR, share >= GOODPUT_BAR)
    share = answered[2.0] / in_step
    yield Measurement(f"{model.name}: answers under twice the load, share of a closed loop's", share, "ratio")
    bound, p99 = 2 * 1000 * OVERLOAD_CONNECTIONS / most, median(each["p99"] for each in double)
    yield Measurement(f"{model.name}: p99 under twice the load", p99, "ms", None, bound, p99 <= bound)
    refused, broken = (sum(each[what] for each in double) for what in ("refused", "failed"))
    yield Measurement(f"{model.name}: refused under twice the load", refused, "requests")
    yield Measurement(f"{model.name}: broken connections under twice the load", broken, "requests", None, 0, not broken)


def deploys(model: ServedModel, clary: serving_clary.Clary) -> Iterator[Measurement]:
    """From CreateModel to the first answer, without what TensorFlow takes to start, load and compute once."""
    clary.upload(model)
    totals, loads = [], []
    for number in range(DEPLOYS):
        name = f"deploy-{number}"
        totals.append(clary.deploy(model, name)[1])
        clary.delete(name)
        loop = BareLoop(clary.python, "tensorflow", model)
        loads.append(loop.load_seconds)
        loop.close()
    yield Measurement(f"{model.name}: deploy to the first answer", median(totals), "s")
    yield Measurement(f"{model.name}: TensorFlow's start, load and first call in a bare process", median(loads), "s")
    own = median(total - load for total, load in zip(totals, loads, strict=True))
    yield Measurement(
        f"{model.name}: deploy to the first answer, Clary's own time", own, "s", None, DEPLOY_BAR_S, own <= DEPLOY_BAR_S
    )


def run(given: argparse.Namespace, folder: Path, record: Callable[[list[Measurement]], None]) -> None:
    client = Client(folder)
    models = make_models(given.models, folder / "models")
    with serving_clary.running(folder / "home") as clary:
        for model in models:
            rows: list[Measurement] = []
            with targets(model, given.peers, clary, folder / model.name) as (servers, engine), ExitStack() as stack:
                print(engine, flush=True)
                loops = {"bare tensorflow": BareLoop(python_of("plain"), "tensorflow", model)}
                if "OpenVINO" in engine and "computes from now on" in engine:
                    loops["bare openvino"] = BareLoop(clary.python, "openvino", model, clary.serving_packages)
                for loop in loops.values():
                    stack.callback(loop.close)
                with held(servers):
                    busy = busy_share(3.0)
                rows.append(Measurement(f"{model.name}: processors in use by what is not measured", busy, "%"))
                for server in servers:
                    off = differs_by(server, model)
                    name = f"{model.name}: largest difference to TensorFlow"
                    rows.append(Measurement(name, off, "ratio", server.name, TOLERANCE, off <= TOLERANCE))
                values = measure(model, servers, loops, client, given.rounds, given.seconds)
                rows += rows_of(model, values)
                if model.name in given.overload:
                    with held(servers):
                        rows += overload(model, servers[0], client, given.seconds)
            if not model.images:
                rows += deploys(model, clary)
            record(rows)


def record(rows: list[Measurement]) -> None:
    """Print the table, and put a model's rows in place of its earlier ones: figures of two runs do not compare."""
    path = RESULTS / "serving.json"
    earlier = [Measurement(**row) for row in json.loads(path.read_text())] if path.exists() else []
    measured = {row.name.split(":")[0] for row in rows}
    report("serving", [*(row for row in earlier if row.name.split(":")[0] not in measured), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--overload", nargs="*", default=["dense", "mobilenet_v2"], choices=MODELS, help="models")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; the servers too"))
    with tempfile.TemporaryDirectory(prefix="clary-") as folder:
        run(given, Path(folder), record)


if __name__ == "__main__":
    main()
