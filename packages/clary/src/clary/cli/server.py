"""`clary up`, `clary down`, `clary status`: the server of one home folder."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from clary.cli import server_process
from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError, emit_json, print_columns, say, working
from clary.cli.server_process import RunningServer


def up(
    home: HomeOption = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it answers; end it with `down`.")] = False,
    port: Annotated[int | None, typer.Option(help="The port.  [env: CLARY_PORT; default: 7700]", max=65535)] = None,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on.  [env: CLARY_HOST; default: 127.0.0.1]")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Where jobs run: local, ray (a Ray of this machine that Clary starts), ray:HOST:PORT, ray:auto or "
            "ray://HOST:PORT.  [env: CLARY_CLUSTER; default: local]"
        ),
    ] = None,
    hosts_url: Annotated[
        str | None,
        typer.Option(help="The server's address as the cluster's machines reach it.  [default: found from --host]"),
    ] = None,
    region: Annotated[str | None, typer.Option(help="An AWS region's name.  [default: us-east-1]")] = None,
    database_url: Annotated[
        str | None, typer.Option(help="The record's database, for instance postgresql://…  [default: SQLite in home]")
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option(help="An S3 server to keep objects in.  [default: one inside home]")
    ] = None,
    s3_access_key: Annotated[str | None, typer.Option(help="The access key of --s3-endpoint.")] = None,
    s3_secret_key: Annotated[
        str | None, typer.Option(help="Its secret key; better given as CLARY_S3_SECRET_KEY.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the server, in the foreground or with --detach in the background."""
    folder = resolve_home(home)
    running = server_process.find(folder)
    if running is not None:
        raise CliError(
            f"A server is already running for {folder}: {running.url} (process {running.pid}).",
            "Use it with `clary run -- COMMAND`, or stop it with `clary down`.",
        )
    given = {
        "CLARY_PORT": port,
        "CLARY_HOST": host,
        "CLARY_CLUSTER": cluster,
        "CLARY_HOSTS_URL": hosts_url,
        "CLARY_REGION": region,
        "CLARY_DATABASE_URL": database_url,
        "CLARY_S3_ENDPOINT": s3_endpoint,
        "CLARY_S3_ACCESS_KEY": s3_access_key,
        "CLARY_S3_SECRET_KEY": s3_secret_key,
    }
    settings = {name: str(value) for name, value in given.items() if value is not None}
    _check_cluster(settings.get("CLARY_CLUSTER") or os.environ.get("CLARY_CLUSTER") or "local")
    inherited = {name: os.environ[name] for name in given if os.environ.get(name)}
    with server_process.starting(folder):
        process = server_process.launch(folder, settings, detached=detach)
        server_process.remember_settings(folder, {**inherited, **settings})
        if detach:
            _announce(server_process.wait_until_ready(folder, process), as_json)
            return
    raise typer.Exit(_in_foreground(folder, process, as_json))


def _check_cluster(cluster: str) -> None:
    """Refuse what cannot be meant, before a server is started that could only say so in its log."""
    import importlib.util
    import re

    from clary.settings import CLUSTER_PATTERN

    if not re.match(CLUSTER_PATTERN, cluster):
        raise CliError(
            f"There is no such cluster: {cluster!r}.",
            "Expected local, ray, ray:auto, ray:HOST:PORT or ray://HOST:PORT (Ray's client port, 10001 by default).",
        )
    if cluster != "local" and importlib.util.find_spec("ray") is None:
        raise CliError("Ray is not installed beside Clary.", "Install it: pip install 'clary[ray]'")


def _in_foreground(home: Path, process: subprocess.Popen[bytes], as_json: bool) -> int:
    """Stay until the server ends; Ctrl-C and SIGTERM end it."""
    told_to_end = threading.Event()

    def end(_number: int, _frame: object) -> None:
        told_to_end.set()
        process.terminate()

    signal.signal(signal.SIGTERM, end)
    try:
        try:
            _announce(server_process.wait_until_ready(home, process), as_json)
        except CliError:
            if told_to_end.is_set():  # while it started
                return 0
            raise
        if not as_json:
            say("Press Ctrl-C to stop it.")
        return _shell_code(process.wait())
    except KeyboardInterrupt:
        # The terminal has sent the signal to the server as well.
        with working("Stopping Clary"):
            try:
                process.wait(server_process.STOP_TIMEOUT)
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                process.kill()
        return 0
    finally:
        if process.poll() is None:
            process.terminate()


def down(
    home: HomeOption = None,
    stop_jobs: Annotated[bool, typer.Option("--stop-jobs", help="Stop the running jobs first, and wait.")] = False,
    delete_endpoints: Annotated[
        bool, typer.Option("--delete-endpoints", help="Delete the endpoints first, so that no instance goes on.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the server. Running jobs and instances of endpoints go on; what they do is recorded when it starts again."""
    folder = resolve_home(home)
    server = server_process.find(folder)
    if server is None:
        if as_json:
            emit_json({"stopped": False, "home": str(folder)})
        else:
            say(f"No server is running for {folder}.")
        return
    from clary.cli import endpoints, jobs

    left: list[str] = []
    serving: list[str] = []
    try:
        left = jobs.stop_all(server) if stop_jobs else jobs.names_in_progress(server)
        serving = endpoints.delete_all(server) if delete_endpoints else endpoints.names(server)
    except CliError as error:
        say(f"The jobs and endpoints could not be looked at: {error.problem}")
    server_process.stop(server)
    if not left and not serving:
        _end_own_ray(folder)
    if as_json:
        kept = {"jobs_still_running": left, "endpoints": serving}
        emit_json({"stopped": True, "home": str(folder), "pid": server.pid, **kept})
        return
    say(f"Stopped {server.url}.")
    if left:
        say(f"Still running: {', '.join(left)}. What they do is recorded when the server starts again.")
    if serving:
        say(f"Instances of {', '.join(serving)} go on, so that they serve at once when the server starts again.")
        say("`clary down --delete-endpoints` ends them too.")


def _end_own_ray(home: Path) -> None:
    """End the Ray that `clary up --cluster ray` started for this home folder; nothing runs on it any more."""
    from clary.cluster import ray_local

    if ray_local.exists(home):
        with working("Stopping its Ray"):
            ray_local.end(home)


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """The server, its store, its jobs and what the machine has left. Exits with 3 when no server runs."""
    folder = resolve_home(home)
    server = server_process.find(folder)
    report: dict[str, Any] = {"home": str(folder), "running": server is not None, "machine": machine(folder)}
    if server is not None:
        from clary.cli import jobs

        report.update(url=server.url, pid=server.pid, started=server.started, **server.health)
        report["processes"] = dict(server.processes)
        report["memory_mib"] = _memory_of(server.pid)
        try:
            report["jobs"] = jobs.summary(server)
        except CliError as error:
            report["problem"] = error.problem
        report["cluster"] = _cluster_of(folder)
    if as_json:
        emit_json(report)
    else:
        _print_status(report)
    if server is None:
        raise typer.Exit(3)


def machine(home: Path) -> dict[str, Any]:
    """What the machine has and what of it is free."""
    import psutil

    memory = psutil.virtual_memory()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    disk = psutil.disk_usage(str(existing))
    return {
        "cpus": psutil.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
        "disk_free_gib": round(disk.free / 2**30, 1),
    }


def _cluster_of(home: Path) -> dict[str, Any]:
    from clary.front import handover

    try:
        return handover.ask(home, handover.CLUSTER, seconds=20)
    except OSError as error:
        return {"problem": f"The server does not tell: {error}"}


def _announce(server: RunningServer, as_json: bool) -> None:
    if as_json:
        emit_json({"url": server.url, "pid": server.pid, "home": str(server.home)})
        return
    say(f"Clary is ready at {server.url}; everything it keeps is in {server.home}.")
    say("Use it with `clary run -- python your_script.py`.")


def _print_status(report: dict[str, Any]) -> None:
    rows: list[tuple[str, str]] = []
    if report["running"]:
        rows.append(("server", f"{report['url']} (process {report['pid']}, since {_local_time(report['started'])})"))
        rows.append(("health", f"{report.get('status', '?')}, version {report.get('version', '?')}"))
        rows.append(("processes", _flat(report["processes"])))
        rows.append(("store", _flat(report.get("store", "?"))))
        rows.append(("memory", f"{report['memory_mib']} MiB, server and store"))
        if "jobs" in report:
            counts = report["jobs"]
            rows.append(("jobs", f"{counts['running']} running, {counts['queued']} queued, {counts['ended']} ended"))
            rows += [("", f"{j['name']}  {j['secondary_status']}  {j['instances']}") for j in counts["in_progress"]]
        else:
            rows.append(("jobs", report["problem"]))
        rows += _cluster_rows(report["cluster"])
    else:
        rows.append(("server", "not running; start it with `clary up`"))
    free = report["machine"]
    memory = f"{free['memory_free_gib']} of {free['memory_gib']} GiB memory free"
    rows.append(
        ("machine", f"{free['cpus']} CPUs (load {free['load']}), {memory}, {free['disk_free_gib']} GiB disk free")
    )
    rows.append(("home", report["home"]))
    print_columns(rows, bold_first=True)


def _cluster_rows(cluster: dict[str, Any]) -> list[tuple[str, str]]:
    """The machines of a cluster of several and what of each is taken; of one machine the row `machine` tells enough."""
    rows: list[tuple[str, str]] = []
    if cluster.get("kind") == "local":
        rows += [("GPUs", _gpu_line(node)) for node in cluster["nodes"] if node["gpus"]]
    if cluster.get("queue"):
        rows.append(("queue", ", ".join(cluster["queue"])))
    if cluster.get("kind", "local") != "local":
        rows.append(("cluster", f"{cluster['kind']}, {len(cluster['nodes'])} nodes in use"))
        rows += [("", _node_line(node)) for node in cluster["nodes"]]
    if cluster.get("problem"):
        rows.append(("", cluster["problem"]))
    return rows


def _gpu_line(node: dict[str, Any]) -> str:
    return f"{node['gpus_taken']:g} of {node['gpus']:g} taken"


def _node_line(node: dict[str, Any]) -> str:
    parts = [
        f"{node['cpus_taken']:g} of {node['cpus']:g} CPUs",
        f"{node['memory_gib_taken']:g} of {node['memory_gib']:g} GiB",
    ]
    if node["gpus"]:
        parts.append(f"{node['gpus_taken']:g} of {node['gpus']:g} GPUs")
    hosts = f": {', '.join(node['hosts'])}" if node["hosts"] else ""
    return f"{node['name']}  {', '.join(parts)} taken{hosts}"


def _local_time(moment: str) -> str:
    return dt.datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "?"


def _memory_of(pid: int) -> int:
    """Memory of the server's processes and the store, without jobs', in MiB; what they share is counted once."""
    import psutil

    try:
        server = psutil.Process(pid)
        processes = [server, *(p for p in server.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE)]
        hosts = [process for process in processes if "clary.host" in process.cmdline()]
        theirs = {process.pid for host in hosts for process in (host, *host.children(recursive=True))}
        own = (process for process in processes if process.pid not in theirs)
        return round(sum(process.memory_full_info().pss for process in own) / 2**20)
    except psutil.Error:
        return 0


def _flat(value: Any) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _shell_code(code: int) -> int:
    return 128 - code if code < 0 else code
