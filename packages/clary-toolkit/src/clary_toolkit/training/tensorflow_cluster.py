"""TensorFlow's own distributions: parameter servers and MultiWorkerMirroredStrategy, by TF_CONFIG on each host.

The layouts and ports are those of AWS's TensorFlow container (section 2.2 of the container contracts).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading

from clary_toolkit import server_join
from clary_toolkit.training import log, process, remote_start
from clary_toolkit.training.cluster_ports import port_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from clary_toolkit.training.environment import TrainingEnvironment
    from clary_toolkit.training.runners import Launch

_TASK_PORT, _SERVER_PORT, _MIRRORED_PORT = 2222, 2223, 8890
_POLL_SECONDS = 0.5
_SERVER = "clary_toolkit.training.parameter_server"


def run_with_parameter_servers(launch: Launch, run: Callable[[Launch], None]) -> None:
    """A parameter server and the script on every host; the first host is the master.

    Every host keeps its server until the scripts of all have ended, since one that began late may still need the
    variables of the others. Those beside the master's may serve it without end (`clary_toolkit.server_join`).
    """
    environment = launch.environment
    cluster = parameter_server_cluster(environment)
    token = remote_start.token_of(launch.variables, "Parameter servers on several hosts need")
    server = _start_server(launch, cluster)
    try:
        placed = launch.with_variables({"TF_CONFIG": tf_config(cluster, *_task(environment))})
        if environment.current_host == environment.distribution_hosts[0]:
            _run_as_master(placed, token, run)
        else:
            _run_beside_master(placed, token, run)
    finally:
        if server.poll() is not None:
            log.error("The parameter server of this host had ended early, with exit code {}".format(server.returncode))
        server.kill()
        server.wait()


def run_mirrored(launch: Launch, run: Callable[[Launch], None]) -> None:
    """The script on every host as a worker of MultiWorkerMirroredStrategy."""
    hosts = launch.environment.distribution_hosts
    cluster = {"worker": [_address(launch.environment, host, _MIRRORED_PORT) for host in hosts]}
    index = hosts.index(launch.environment.current_host)
    run(launch.with_variables({"TF_CONFIG": tf_config(cluster, "worker", index)}))


def parameter_server_cluster(environment: TrainingEnvironment) -> dict[str, list[str]]:
    """Job names to addresses: one `master`, a `ps` on every host, a `worker` on every host but the first."""
    hosts = environment.distribution_hosts
    cluster = {
        "master": [_address(environment, hosts[0], _TASK_PORT)],
        "ps": [_address(environment, host, _SERVER_PORT) for host in hosts],
    }
    if len(hosts) > 1:
        cluster["worker"] = [_address(environment, host, _TASK_PORT) for host in hosts[1:]]
    return cluster


def tf_config(cluster: dict[str, list[str]], task: str, index: int) -> str:
    """The value of TF_CONFIG for one task."""
    return json.dumps({"cluster": cluster, "environment": "cloud", "task": {"index": index, "type": task}})


def _task(environment: TrainingEnvironment) -> tuple[str, int]:
    index = environment.distribution_hosts.index(environment.current_host)
    return ("master", 0) if index == 0 else ("worker", index - 1)


def _address(environment: TrainingEnvironment, host: str, port: int) -> str:
    return "{}:{}".format(host, port_of(environment, host, port))


def _start_server(launch: Launch, cluster: dict[str, list[str]]) -> subprocess.Popen[bytes]:
    index = launch.environment.distribution_hosts.index(launch.environment.current_host)
    log.info("Starting a parameter server at {}".format(cluster["ps"][index]))
    command = [sys.executable, "-m", _SERVER, tf_config(cluster, "ps", index)]
    return subprocess.Popen(command, cwd=launch.folder, env=dict(launch.variables))


def _run_as_master(launch: Launch, token: str, run: Callable[[Launch], None]) -> None:
    environment = launch.environment
    others = environment.distribution_hosts[1:]
    ports = {host: port_of(environment, host, remote_start.PORT) for host in others}
    held = remote_start.Held(ports, token)
    try:
        run(launch)
        held.outlast()
    finally:
        held.release()


def _run_beside_master(launch: Launch, token: str, run: Callable[[Launch], None]) -> None:
    environment = launch.environment
    own, master = environment.current_host, environment.distribution_hosts[0]
    port = port_of(environment, own, remote_start.PORT)
    listener = remote_start.Listener(own, port, token, launch.variables, launch.folder)
    try:
        with tempfile.TemporaryDirectory(prefix="master-") as folder, _marked(listener, folder) as ended:
            run(launch.with_variables({server_join.VARIABLE: ended}))
            log.info("Waiting for the master at {} to end".format(_address(environment, master, _TASK_PORT)))
            while not process.is_stopping() and not listener.first_has_done(_POLL_SECONDS):
                pass
    finally:
        listener.close()


@contextlib.contextmanager
def _marked(listener: remote_start.Listener, folder: str) -> Generator[str, None, None]:
    """The path of a file that is in the folder once the master has done.

    After the block none is written any more: the folder can be removed.
    """
    path = os.path.join(folder, "ended")
    over = False
    writing = threading.Lock()

    def mark() -> None:
        while not listener.first_has_done(3600):
            pass
        with writing:
            if not over:
                with open(path, "w"):
                    pass

    threading.Thread(target=mark, name="marks the master's end", daemon=True).start()
    try:
        yield path
    finally:
        with writing:
            over = True
