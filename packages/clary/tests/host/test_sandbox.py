"""What a job can see and reach, and what not; as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (the program bwrap)")

MakeHost = Callable[..., "Host"]  # noqa: F821 (of conftest, which tests do not import)


def test_a_job_sees_nothing_of_the_machine_s_people(make_host: MakeHost, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root keys")
    host = make_host(
        f"""
import os
secrets = {str(secret)!r}, {str(tmp_path)!r} + "/host-0/host.json", "/etc/shadow", os.path.expanduser("~/.clary")
for path in secrets:
    print(os.path.exists(path))
print([sorted(os.listdir(path)) for path in ("/root", "/tmp", "/dev/shm", "/")])
print(len([name for name in os.listdir("/proc") if name.isdigit()]) < 5)
print("hidden" in str(os.environ))
for path in ("/usr/x", "/opt/clary/image/x", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    try:
        os.close(os.open(path, os.O_WRONLY | (0 if path.startswith("/proc") else os.O_CREAT))); print("wrote", path)
    except OSError:
        pass
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
"""
    )
    ending = host.run()
    assert ending.cause == "Completed", host.server.messages
    assert host.server.messages[:4] == ["False"] * 4
    assert ".ssh" not in host.server.messages[4]
    assert "'home'" not in host.server.messages[4]
    assert host.server.messages[5:] == ["True", "False", "['0000000000000000']"]


def test_without_network_only_loopback_is_there(make_host: MakeHost) -> None:
    host = make_host(
        "import socket\nprint([name for _, name in socket.if_nameindex()])\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(s.getsockname())\nprint('loopback works')",
        network_isolation=True,
    )
    assert host.run().cause == "Completed"
    assert host.server.messages == ["['lo']", "loopback works"]


def test_pip_installs_for_the_job_alone(make_host: MakeHost, image_root: Path, tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "data")
    host = make_host(
        f"""
import subprocess, sys
subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "/opt/ml/code/{wheel.name}"], check=True)
subprocess.run(["pip", "show", "-q", "pip"], check=True)
subprocess.run(["python", "-c", "import tiny; print(tiny.VALUE, tiny.__file__)"], check=True)
"""
    )
    shutil.copy(wheel, host.folder / "opt" / "ml" / "code")
    ending = host.run()
    assert ending.cause == "Completed", host.server.messages
    assert host.server.messages[-1].startswith(f"42 {image_root}/lib/python")
    assert not list(image_root.glob("lib/python*/site-packages/tiny*"))


def test_the_image_s_programs_come_first(make_host: MakeHost, image_root: Path) -> None:
    train = image_root / "bin" / "train"
    train.write_text(f"#!{image_root}/bin/python\nimport sys; print('trains with', sys.prefix)\n")
    train.chmod(0o755)
    host = make_host(arguments=())
    assert host.run().cause == "Completed"
    assert host.server.messages == [f"trains with {image_root}"]


def test_without_bubblewrap_a_framework_job_runs_relocated(make_host: MakeHost, image_root: Path) -> None:
    train = image_root / "bin" / "train"
    train.write_text(
        f"#!{image_root}/bin/python\nimport os, sys, subprocess\n"
        "base = os.environ['SAGEMAKER_BASE_DIR']; open(base + '/model/m', 'w').write('x'); print(sys.prefix)\n"
        "subprocess.Popen(['sleep', '999'], start_new_session=True)\n"
    )
    train.chmod(0o755)
    host = make_host(arguments=())
    assert host.run(TEST_WITHOUT_BUBBLEWRAP="1").cause == "Completed", host.server.messages
    assert host.server.messages == [str(host.folder / "layer")]
    assert (host.folder / "opt" / "ml" / "model" / "m").exists()
    assert not host.leftovers()


def test_without_bubblewrap_a_job_that_needs_opt_ml_says_what_to_install(make_host: MakeHost) -> None:
    ending = make_host("print(1)").run(TEST_WITHOUT_BUBBLEWRAP="1")
    assert ending.cause == "ClientError"
    assert "apt-get install bubblewrap" in ending.message
    assert "/opt/ml" in ending.message


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_an_ordinary_user_s_jobs_are_as_isolated(make_host: MakeHost, nobodys_folder: Path) -> None:
    interpreter = Path("/usr/bin/python3")
    become = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    paths = ":".join(path for path in sys.path if path)
    probe = [*become, "env", f"PYTHONPATH={paths}", str(interpreter), "-c", "import clary.host.supervisor"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"needs a /usr/bin/python3 of version {sys.version_info[0]}.{sys.version_info[1]}")
    image = nobodys_folder / "image"
    subprocess.run([*become, str(interpreter), "-m", "venv", "--without-pip", str(image)], check=True)
    script = """
import os
print(os.getuid(), os.path.exists("/home"), "CapEff:\\t0000000000000000" in open("/proc/self/status").read())
"""
    host = make_host(script, image=str(image))
    folder = nobodys_folder / "host"
    shutil.copytree(host.folder, folder)
    host.folder = folder
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    host.command = (*become, "env", f"PYTHONPATH={paths}", str(interpreter))
    assert host.run().cause == "Completed", (host.server.messages, host.log)
    assert host.server.messages == ["0 False True"]


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """A folder that every user can reach: pytest's own are private to who runs it."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


def _wheel(folder: Path) -> Path:
    """A package of one module, as pip takes it."""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "VALUE = 42\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\ntiny-1.0.dist-info/METADATA,,\n")
    return path
