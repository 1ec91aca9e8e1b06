"""The flow of one host: what a job sees, and how its end is told whatever it does."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clary.host.layout import HostFolder
from clary.host.report import remaining
from clary.host.spec import Channel, Checkpoint, MetricDefinition

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (the program bwrap)")

MakeHost = Callable[..., "Host"]  # noqa: F821 (of conftest, which tests do not import)


def test_a_script_runs_and_its_model_is_kept(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("1,2")
    host = make_host(
        """
import json, os, socket
print("host", socket.gethostname(), os.getcwd(), os.getuid())
print("epochs", json.load(open("/opt/ml/input/config/hyperparameters.json"))["epochs"])
print("data", open("/opt/ml/input/data/train/x.csv").read())
open("/opt/ml/input/data/train/mine", "w").write("writable")
open("/opt/ml/model/weights", "w").write("w")
print("loss: 0.25 accuracy=0.5")
""",
        channels=(Channel(name="train", s3_uri=f"file://{tmp_path}/data", content_type="text/csv"),),
        metric_definitions=(MetricDefinition(name="loss", regex="loss: ([0-9.]+)"),),
        notices=("A line of the platform.",),
    )
    ending = host.run()
    assert ending.cause == "Completed", (ending, host.log)
    assert ending.exit_code == 0
    assert ending.model_artifact == "s3://b/model.tar.gz"
    assert ending.peak_memory_bytes
    assert host.server.messages == [
        "A line of the platform.",
        "host algo-1 / 0",
        "epochs 5",
        "data 1,2",
        "loss: 0.25 accuracy=0.5",
    ]
    assert list(dict.fromkeys(host.server.phases)) == [
        "Starting",
        "PreparingImage",
        "Downloading",
        "Ready",
        "Training",
        "Uploading",
        "Ended",
    ]
    assert (tmp_path / "results-job" / "model" / "weights").read_text() == "w"
    names = {point["name"]: point for point in host.server.metrics}
    assert names["loss"]["value"] == 0.25
    assert not names["loss"]["instance"]
    assert {"CPUUtilization", "MemoryUtilization", "DiskUtilization"} <= set(names)
    config = json.loads((host.folder / "opt/ml/input/config/inputdataconfig.json").read_text())
    assert config["train"]["ContentType"] == "text/csv"
    assert not host.leftovers()


def test_a_traceback_is_told_with_the_ending(make_host: MakeHost, tmp_path: Path) -> None:
    ending = make_host("import sys\nopen('/opt/ml/output/data/x','w').write('y')\nraise ValueError('too few')").run()
    assert (ending.cause, ending.exit_code, ending.signal) == ("ScriptFailed", 1, None)
    assert ending.last_lines[0] == "Traceback (most recent call last):"
    assert ending.last_lines[-1] == "ValueError: too few"
    assert ending.model_artifact is None
    assert (tmp_path / "results-job" / "output" / "x").exists()  # output is kept of failed jobs, too
    assert not (tmp_path / "results-job" / "model").exists()


def test_the_failure_file_is_told(make_host: MakeHost) -> None:
    ending = make_host("open('/opt/ml/output/failure','w').write('é'*3000)\nraise SystemExit(3)").run()
    assert (ending.cause, ending.exit_code, ending.failure_text) == ("ScriptFailed", 3, "é" * 1024)


def test_a_killed_script_names_the_signal(make_host: MakeHost) -> None:
    ending = make_host("import os\nprint('before', flush=True)\nos.kill(os.getpid(), 9)").run()
    assert (ending.cause, ending.exit_code, ending.signal) == ("ScriptFailed", 137, "SIGKILL")
    assert ending.last_lines == ("before",)


def test_too_much_memory_is_told_with_the_peak(make_host: MakeHost) -> None:
    ending = make_host("x=[]\nwhile True: x.append(bytearray(b'1')*2**20)", limits={"memory_bytes": 100 * 2**20}).run()
    assert ending.cause == "OutOfMemory"
    assert ending.peak_memory_bytes
    assert ending.peak_memory_bytes >= 90 * 2**20


def test_too_much_disk_is_told(make_host: MakeHost) -> None:
    script = "import os\nwith open('/opt/ml/model/x','wb') as f:\n  while True: f.write(b'1'*2**20); f.flush()"
    host = make_host(script, limits={"disk_bytes": 20 * 2**20})
    ending = host.run()
    assert ending.cause == "ClientError"
    assert "VolumeSizeInGB" in ending.message
    assert not host.leftovers()


def test_children_and_daemons_do_not_outlive_the_script(make_host: MakeHost) -> None:
    host = make_host("""
import os, subprocess, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
subprocess.Popen(["sleep", "1000"], start_new_session=True, env={})
print("done", flush=True)
""")
    assert host.run().cause == "Completed"  # in a part of the time that those would take
    assert host.server.messages == ["done"]
    assert not host.leftovers()


def test_ten_megabytes_on_one_line_arrive_whole(make_host: MakeHost) -> None:
    host = make_host("import sys\nsys.stdout.write('x'*10_000_000)\nsys.stdout.write('end')")
    assert host.run().cause == "Completed"
    assert "".join(host.server.messages) == "x" * 10_000_000 + "end"
    assert max(map(len, host.server.messages)) <= 262_144


def test_bytes_that_are_no_text_are_replaced(make_host: MakeHost) -> None:
    host = make_host("import os\nos.write(1, b'a\\xff\\xfeb\\x00\\n')\nos.write(2, 'é\\r\\n'.encode())")
    assert host.run().cause == "Completed"
    assert host.server.messages == ["a\ufffd\ufffdb\ufffd", "é"]


def test_a_stopped_script_may_save_its_model(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("""
import signal, sys, time
def stop(*_):
    open("/opt/ml/model/saved", "w").write("m"); print("saving"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(1000)
""")
    host.start()
    host.server.wait_for_line("ready")
    host.server.wanted = "stop"
    ending = host.server.wait_for_ending()
    assert ending.cause == "Stopped"
    assert host.server.messages == ["ready", "saving"]
    assert (tmp_path / "results-job" / "model" / "saved").exists()


def test_a_stop_reaches_a_script_below_a_shell(make_host: MakeHost) -> None:
    host = make_host(
        """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("told"), sys.exit(0)))
print("ready", flush=True)
time.sleep(1000)
""",
        entrypoint=("/bin/bash",),
        arguments=("-c", "true && python /opt/ml/code/script.py; echo shell ends"),
    )
    host.start()
    host.server.wait_for_line("ready")
    host.server.wanted = "stop"
    assert host.server.wait_for_ending().cause == "Stopped"
    assert host.server.messages == ["ready", "told", "shell ends"]


def test_folders_that_go_to_the_store_may_lie_anywhere(make_host: MakeHost) -> None:
    host = make_host(
        "open('/opt/training/events', 'w').write('curve')\nopen('/srv/saved/weights', 'w').write('numbers')",
        checkpoint=Checkpoint(s3_uri="s3://b/c", local_path="/srv/saved"),
        tensorboard=Checkpoint(s3_uri="s3://b/t", local_path="/opt/training/"),
    )
    ending = host.run()
    assert ending.cause == "Completed", (ending, host.server.messages)
    folder = HostFolder(host.folder)
    assert (folder.of_checkpoints("/opt/training/") / "events").read_text() == "curve"
    assert (folder.of_checkpoints("/srv/saved") / "weights").read_text() == "numbers"


def test_a_script_that_ignores_the_stop_is_killed_after_its_grace(make_host: MakeHost) -> None:
    host = make_host(
        "import signal,time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready',flush=True)\nwhile True: time.sleep(1)",
        limits={"stop_grace_seconds": 1},
    )
    host.start()
    host.server.wait_for_line("ready")
    host.server.wanted = "stop"
    ending = host.server.wait_for_ending()
    assert (ending.cause, ending.signal) == ("Stopped", "SIGKILL")
    assert not host.leftovers()


def test_the_longest_runtime_is_kept_without_the_server(make_host: MakeHost) -> None:
    host = make_host("import time\nprint('ready', flush=True)\ntime.sleep(1000)", limits={"max_runtime_seconds": 1})
    host.start()
    host.server.wait_for_line("ready")
    host.server.close()
    deadline = time.monotonic() + 20
    while not (host.folder / "spool" / "ending.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    host.server.listen()
    ending = host.server.wait_for_ending()
    assert (ending.cause, ending.signal) == ("MaxRuntimeExceeded", "SIGTERM")


def test_a_server_that_comes_back_gets_every_line(make_host: MakeHost) -> None:
    host = make_host("import time\nfor n in range(40): print('line', n, flush=True); time.sleep(0.05)")
    host.start()
    host.server.wait_for_line("line 5")
    host.server.close()
    host.server.listen()
    assert host.server.wait_for_ending().cause == "Completed"
    assert host.server.messages == [f"line {n}" for n in range(40)]
    assert [at for at, _ in host.server.logs] == sorted(at for at, _ in host.server.logs)


def test_everything_dies_with_a_killed_supervisor(make_host: MakeHost) -> None:
    host = make_host(
        "import time,subprocess\nsubprocess.Popen(['sleep','999'])\nprint('ready',flush=True)\ntime.sleep(999)"
    )
    host.start()
    host.server.wait_for_line("ready")
    assert host.process is not None
    host.process.send_signal(signal.SIGKILL)
    host.process.wait()
    deadline = time.monotonic() + 5
    while host.leftovers():
        assert time.monotonic() < deadline, host.leftovers()
        time.sleep(0.02)
    report = remaining(HostFolder(host.folder), host.spec.host_id)
    assert [line.message for line in report.logs] == ["ready"]


def test_an_abort_ends_at_once_and_uploads_nothing(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("import signal,time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready',flush=True)\ntime.sleep(99)")
    host.start()
    host.server.wait_for_line("ready")
    host.server.wanted = "abort"
    assert host.server.wait_for_ending(5).cause == "Stopped"
    assert not (tmp_path / "results-job").exists()


def test_a_command_that_does_not_exist_is_named(make_host: MakeHost) -> None:
    ending = make_host(arguments=("nosuchprogram", "x")).run()
    assert ending.cause == "ClientError"
    assert "'nosuchprogram'" in ending.message


def test_a_missing_input_fails_before_the_command(make_host: MakeHost) -> None:
    ending = make_host("print(1)", channels=(Channel(name="train", s3_uri="file:///nosuch"),)).run()
    assert ending.cause == "ClientError"
    assert "file:///nosuch" in ending.message


def test_a_line_is_reported_within_a_quarter_of_a_second(make_host: MakeHost) -> None:
    host = make_host("import time\nfor n in range(20): print(time.time(), flush=True); time.sleep(0.11)")
    host.run()
    delays = [host.server.times[message] - float(message) for message in host.server.messages]
    assert sorted(delays)[len(delays) // 2] < 0.25
