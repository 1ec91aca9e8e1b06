"""Several hosts of one job on one machine: they find each other by name, and nothing of their network stays behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clary.host import network
from clary.host.spec import HostSpec, Peer

MakeHost = Callable[..., "Host"]  # noqa: F821 (of conftest, which tests do not import)

with_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "bwrap"))),
    reason="needs root, iproute2 (ip), util-linux (nsenter) and bubblewrap (bwrap)",
)

PEERS = tuple(Peer(name=f"algo-{n}", instance_type="ml.m5.large", instance_group="g") for n in (1, 2))

TALK = """
import json, os, socket, time, urllib.request
me = socket.gethostname()
other = "algo-2" if me == "algo-1" else "algo-1"
interface = json.load(open("/opt/ml/input/config/resourceconfig.json"))["network_interface_name"]
listener = socket.create_server(("", 2222))  # the same port on every host, as TensorFlow's servers have it
deadline = time.monotonic() + 10
while True:
    try:
        out = socket.create_connection((other, 2222), timeout=5); break
    except OSError:
        assert time.monotonic() < deadline
        time.sleep(0.02)
incoming, _ = listener.accept()
out.sendall(me.encode()); print("heard", incoming.recv(100).decode(), flush=True)
print("interface", interface in [name for _, name in socket.if_nameindex()])
try:
    print("server", urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"], timeout=2).read().decode())
except OSError:
    print("server unreachable")
open("/opt/ml/model/" + me, "w").write(me)
"""


def test_hosts_on_several_machines_bear_the_machines_addresses(make_host: MakeHost) -> None:
    addresses = ("127.0.0.1", "10.1.2.3")
    peers = [peer.model_copy(update={"address": address}) for peer, address in zip(PEERS, addresses, strict=True)]
    spec = make_host("pass", host="algo-1", host_id="apart-1", peers=tuple(peers)).spec
    assert not network.needs_namespace(spec)
    connected = network.shared(spec)
    assert connected.hosts == {"algo-1": "127.0.0.1", "algo-2": "10.1.2.3"}
    assert connected.interface == "lo"  # the one that has the host's own address


@with_namespaces
def test_hosts_talk_on_fixed_ports_and_reach_the_server(make_host: MakeHost, servers: list, tmp_path: Path) -> None:
    first, second = _two(make_host, servers, TALK)
    for host in (first, second):
        host.start()
    assert second.server.wait_for_ending().cause == "Completed", (second.server.messages, second.log)
    first.server.wait(lambda: first.server.phases[-1:] == ["Uploading"])
    first.server.merge = True
    assert first.server.wait_for_ending().cause == "Completed"
    assert first.server.messages[-3:] == ["heard algo-2", "interface True", "server clary"]
    assert second.server.messages[-3:] == ["heard algo-1", "interface True", "server clary"]
    assert sorted(path.name for path in (tmp_path / "results-job" / "model").iterdir()) == ["algo-1", "algo-2"]
    for host in (first, second):
        assert host.process.wait(10) == 0
    assert _interfaces() == []


@with_namespaces
def test_an_isolated_job_s_hosts_reach_only_each_other(make_host: MakeHost, servers: list) -> None:
    first, second = _two(make_host, servers, TALK, network_isolation=True)
    for host in (first, second):
        host.server.merge = True
        host.start()
    assert first.server.wait_for_ending().cause == "Completed", (first.server.messages, first.log)
    assert first.server.messages[-3:] == ["heard algo-2", "interface True", "server unreachable"]


@with_namespaces
def test_hosts_wait_for_each_other_before_they_train(make_host: MakeHost, servers: list) -> None:
    first, _ = _two(make_host, servers, "print('runs')")
    first.server.start = False
    first.server.merge = True
    first.start()
    first.server.wait(lambda: first.server.phases[-1:] == ["Ready"])
    assert first.server.messages == []
    first.server.start = True
    assert first.server.wait_for_ending().cause == "Completed"


@with_namespaces
def test_a_killed_supervisor_leaves_no_network(make_host: MakeHost, servers: list) -> None:
    first, _ = _two(make_host, servers, "import time\nprint('ready', flush=True)\ntime.sleep(999)")
    first.start()
    first.server.wait_for_line("ready")
    assert _interfaces()
    first.process.kill()
    first.process.wait()
    deadline = time.monotonic() + 10
    while first.leftovers() or any(name.startswith("clh") for name in _interfaces()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    network.clean(first.spec.host_id)
    assert _interfaces() == []


def test_without_privileges_each_host_has_a_loopback_address(make_host: MakeHost) -> None:
    host = make_host(peers=PEERS)
    shared = network.shared(host.spec)
    other = network.shared(HostSpec.model_validate(host.spec.model_dump() | {"host": "algo-2", "host_id": "other"}))
    assert shared.interface == "lo"
    assert shared.hosts == other.hosts
    assert len(set(shared.hosts.values())) == 2
    assert all(address.startswith("127.") for address in shared.hosts.values())


def test_the_server_s_port_is_found_wherever_it_is_named(make_host: MakeHost) -> None:
    host = make_host(
        environment={"A": "http://127.0.0.1:7700", "B": "http://example.com:80", "C": "http://localhost:9"}
    )
    assert network.local_ports(host.spec) == {7700, 9, host.server.port}


def _two(make_host: MakeHost, servers: list, script: str, **changes: object) -> tuple:
    return tuple(
        make_host(script, server=server, host=peer.name, peers=PEERS, **changes)
        for peer, server in zip(PEERS, servers, strict=True)
    )


def _interfaces() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(("clbr", "clh", "clv"))]
