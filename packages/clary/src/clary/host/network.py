"""The network of a host: how it reaches the other hosts of its job, Clary's server and the internet.

One host alone shares the machine's network. Several hosts of one job each get a network namespace on a bridge of
their own where this process may make them; otherwise each gets a loopback address.

A namespace is never named: a thread of the supervisor holds it, so it and its interfaces end with the supervisor,
however that ends. Only the bridge and its address translation remain to be removed: `clean` does.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from clary.host.relay import serve
from clary.host.sandbox import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from clary.host.spec import HostSpec

Result = TypeVar("Result")

INTERFACE = "eth0"
PORTS_VARIABLE = (
    "CLARY_PORTS"  # "shared" where other programs use the addresses of a job's hosts too: see cluster_ports
)
_BRIDGE = "clbr"
_CLONE_NEWNET = 0x40000000
_NET = Path("/sys/class/net")
_LOCK = Path("/tmp/clary-network.lock")
_NFT_RULES = """table ip {bridge} {{
  chain post {{
    type nat hook postrouting priority srcnat;
    ip saddr {network} oifname != "{bridge}" masquerade
  }}
}}
"""


@dataclass(frozen=True)
class Network:
    """How one host is connected.

    `hosts` are the names of the job's hosts with their addresses, `interface` is for resourceconfig.json, `namespace`
    the path of a network namespace to join (None: the machine's own), `notice` a line for the job's log.
    """

    interface: str
    hosts: dict[str, str]
    namespace: str | None = None
    resolv_conf: Path = Path("/etc/resolv.conf")
    notice: str = ""


def needs_namespace(spec: HostSpec) -> bool:
    """Whether this host is to have a network namespace of its own."""
    return len(spec.peers) > 1 and all(peer.address is None for peer in spec.peers) and not unavailable()


def unavailable() -> str:
    """Why this process cannot make namespaces that see each other; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces that see each other need root"
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return "the programs ip (iproute2) and nsenter (util-linux) are needed"
    return ""


def shared(spec: HostSpec) -> Network:
    """The machine's own network: for a job with one host, or of several with loopback addresses or their machines'."""
    if len(spec.peers) == 1:
        interface = "lo" if spec.network_isolation else _first_interface()
        return Network(interface, {spec.host: spec.peers[0].address or "127.0.0.1"})
    addresses = {peer.name: peer.address for peer in spec.peers if peer.address is not None}
    if len(addresses) == len(spec.peers):
        return Network(_interface_with(addresses[spec.host]), addresses)
    return Network("lo", {peer.name: peer.address or loopback_address(spec, peer.name) for peer in spec.peers})


def loopback_address(spec: HostSpec, host: str) -> str:
    """An address in 127.0.0.0/8 that every host of the job works out for itself."""
    digest = _digest(spec)
    rank = [peer.name for peer in spec.peers].index(host)
    return f"127.{64 + digest[0] % 128}.{digest[1]}.{1 + (digest[2] + rank) % 250}"


def connect(spec: HostSpec) -> Network:
    """Make this host's namespace, joined to the other hosts' by a bridge. Takes about 20 ms.

    The calling process holds it until it ends. Raises `SandboxError` when the kernel refuses.
    """
    job, rank = _digest(spec).hex()[:8], [peer.name for peer in spec.peers].index(spec.host)
    if len(spec.peers) > 250:
        raise SandboxError(f"A job can have at most 250 hosts on one machine. Received: {len(spec.peers)} hosts.")
    holder = _Holder()
    inner = "clv" + hashlib.sha256(spec.host_id.encode()).hexdigest()[:10]
    outer = inner.replace("clv", "clh")
    with _locked():
        network = _bridge(_BRIDGE + job, translate=not spec.network_isolation)
        _ip(
            f"link add {outer} type veth peer name {inner} netns {holder.thread_id}",
            f"link set {outer} master {_BRIDGE + job} up",
        )
    lines = [
        "link set lo up",
        f"link set {inner} name {INTERFACE}",
        f"addr add {network}.{rank + 1}/24 dev {INTERFACE}",
        f"link set {INTERFACE} mtu {_mtu()} up",
    ]
    if not spec.network_isolation:
        lines.append(f"route add default via {network}.254")
    holder.call(lambda: _ip(*lines))
    if not spec.network_isolation:
        for port in sorted(local_ports(spec)):
            serve(holder.call(lambda port=port: _listen(port)), port)
    notice = ""
    if not spec.network_isolation and not _translates(_BRIDGE + job):
        notice = "This job's hosts cannot reach the internet: that needs nftables or iptables on this machine."
    return Network(
        interface=INTERFACE,
        hosts={peer.name: f"{network}.{index + 1}" for index, peer in enumerate(spec.peers)},
        namespace=f"/proc/{os.getpid()}/task/{holder.thread_id}/ns/net",
        resolv_conf=_reachable_resolv_conf(),
        notice=notice,
    )


def clean(host_id: str) -> None:
    """Remove what a host left: its interfaces if they are still there, and bridges that no host is on."""
    outer = "clh" + hashlib.sha256(host_id.encode()).hexdigest()[:10]
    if (_NET / outer).exists() and not unavailable():
        with suppress(SandboxError):
            _ip(f"link del {outer}")
    if any(_NET.glob(_BRIDGE + "*")) and not unavailable():
        with _locked():
            for bridge in _NET.glob(_BRIDGE + "*"):
                if not any((bridge / "brif").iterdir()):
                    _remove_bridge(bridge.name)


def local_ports(spec: HostSpec) -> set[int]:
    """Ports of this machine's loopback that the job is to reach: Clary's own, wherever a variable names it."""
    return loopback_ports((spec.report_url, *spec.environment.values()))


def loopback_ports(values: Iterable[str]) -> set[int]:
    """The ports of this machine's loopback that URLs among some values name."""
    ports: set[int] = set()
    for value in values:
        if value.startswith(("http://", "https://")):
            with suppress(ValueError):
                url = urlsplit(value)
                if url.hostname in {"127.0.0.1", "localhost"} and url.port:
                    ports.add(url.port)
    return ports


class _Holder:
    """A thread in a network namespace of its own, that runs what must be done inside."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], object], SimpleQueue[object]]] = SimpleQueue()
        ready: SimpleQueue[object] = SimpleQueue()
        threading.Thread(target=self._run, args=(ready,), name="network", daemon=True).start()
        answer = ready.get()
        if isinstance(answer, Exception):
            raise answer
        self.thread_id = int(str(answer))

    def call(self, function: Callable[[], Result]) -> Result:
        """Run `function` in the namespace."""
        answers: SimpleQueue[object] = SimpleQueue()
        self._work.put((function, answers))
        answer = answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer  # pyright: ignore[reportReturnType]

    def _run(self, ready: SimpleQueue[object]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            ready.put(SandboxError(f"This machine's kernel refused a network namespace for the host: {reason}."))
            return
        ready.put(threading.get_native_id())
        while True:
            function, answers = self._work.get()
            try:
                answers.put(function())
            except (OSError, SandboxError) as error:
                answers.put(error)


def _bridge(name: str, translate: bool) -> str:
    """Make a job's bridge, or find the one that another of its hosts made; returns its network's first three octets."""
    if not (_NET / name).exists():
        taken = subprocess.run(["ip", "-4", "addr"], capture_output=True, text=True, check=False).stdout
        taken += subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=False).stdout
        seed = int(name.removeprefix(_BRIDGE), 16)
        candidates = (f"10.{192 + (seed + step) // 256 % 64}.{(seed + step) % 256}" for step in range(16384))
        network = next(candidate for candidate in candidates if f" {candidate}." not in f" {taken}")
        _ip(f"link add {name} type bridge", f"addr add {network}.254/24 dev {name}", f"link set {name} up")
        if translate:
            _translate(name, f"{network}.0/24")
        return network
    shown = subprocess.run(["ip", "-4", "-o", "addr", "show", name], capture_output=True, text=True, check=False).stdout
    found = re.search(r"inet (\d+\.\d+\.\d+)\.254/", shown)
    if found is None:
        raise SandboxError(f"The bridge {name} has lost its address. Remove it with: ip link del {name}")
    return found.group(1)


def _remove_bridge(name: str) -> None:
    with suppress(SandboxError):
        _ip(f"link del {name}")
    if shutil.which("nft"):
        subprocess.run(["nft", "delete", "table", "ip", name], capture_output=True, check=False)
    elif shutil.which("iptables"):
        for table, rule in _iptables_rules(name):
            while not subprocess.run(
                ["iptables", "-t", table, "-D", *rule], capture_output=True, check=False
            ).returncode:
                pass


def _translate(bridge: str, network: str) -> None:
    """Let the bridge's hosts reach what this machine reaches; a machine that cannot is no reason to fail."""
    program = _translator()
    if program is None:
        return
    with suppress(OSError):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if program == "nft":
        rules = _NFT_RULES.format(bridge=bridge, network=network)
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False)
        return
    for table, rule in _iptables_rules(bridge):
        subprocess.run(["iptables", "-t", table, "-I", *rule], capture_output=True, check=False)


def _translates(bridge: str) -> bool:
    """Whether the bridge's hosts really can reach what this machine reaches."""
    program = _translator()
    if program == "nft":
        return not subprocess.run(["nft", "list", "table", "ip", bridge], capture_output=True, check=False).returncode
    if program == "iptables":
        table, rule = _iptables_rules(bridge)[1]
        return not subprocess.run(["iptables", "-t", table, "-C", *rule], capture_output=True, check=False).returncode
    return False


def _iptables_rules(bridge: str) -> list[tuple[str, list[str]]]:
    return [
        ("mangle", ["PREROUTING", "-i", bridge, "-j", "MARK", "--set-mark", "0xc1a7"]),
        ("nat", ["POSTROUTING", "-m", "mark", "--mark", "0xc1a7", "!", "-o", bridge, "-j", "MASQUERADE"]),
        ("filter", ["FORWARD", "-i", bridge, "-j", "ACCEPT"]),
        ("filter", ["FORWARD", "-o", bridge, "-j", "ACCEPT"]),
    ]


def _translator() -> str | None:
    return next((program for program in ("nft", "iptables") if shutil.which(program)), None)


def _reachable_resolv_conf() -> Path:
    """A resolver on this machine's loopback cannot be reached from a namespace: the one behind it is used."""
    upstream = Path("/run/systemd/resolve/resolv.conf")
    with suppress(OSError):
        if re.search(r"^nameserver\s+127\.", Path("/etc/resolv.conf").read_text(), re.MULTILINE) and upstream.exists():
            return upstream
    return Path("/etc/resolv.conf")


def _mtu() -> int:
    """What the machine's own interface carries: more would be cut on the way out."""
    with suppress(OSError, ValueError):
        return min(int((_NET / _first_interface() / "mtu").read_text()), 1500)
    return 1500


def _first_interface() -> str:
    """eth0 as on AWS when there is one, else the interface of the default route, else loopback."""
    if (_NET / INTERFACE).exists():
        return INTERFACE
    with suppress(OSError):
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return fields[0]
    return "lo"


def _interface_with(address: str) -> str:
    """The interface that has an address; a machine behind address translation knows its address by hearsay only."""
    import psutil

    for name, items in psutil.net_if_addrs().items():
        if any(item.address == address for item in items):
            return name
    return _first_interface()


def _digest(spec: HostSpec) -> bytes:
    """The same for every host of one attempt of a job, and hardly ever for two jobs."""
    return hashlib.sha256(f"{spec.job_arn} {spec.attempt} {spec.images_home}".encode()).digest()


def _ip(*lines: str) -> None:
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SandboxError(f"The network of this host could not be made: {done.stderr.strip()}")


def _listen(port: int) -> int:
    import socket

    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    return listener.detach()


@contextmanager
def _locked() -> Generator[None]:
    """One process at a time makes and removes bridges, so that none is removed between its making and its first use."""
    file = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
