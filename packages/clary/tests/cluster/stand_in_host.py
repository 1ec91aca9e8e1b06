"""A supervisor's stand-in: starts a family of processes that try not to be found, says who they are, and waits.

Like the supervisor it waits for its folder on standard input and ends when none comes. What it does after that the
name of the job in host.json tells.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

line = sys.stdin.readline().strip()
if not line:
    sys.exit(0)
folder = Path(line)
log = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(log, 1)
os.dup2(log, 2)
spec = json.loads((folder / "host.json").read_text())
if spec.get("job_name") == "ends-well":
    sys.exit(0)
if spec.get("job_name") == "fails":
    print("RuntimeError: the stand-in was told to fail")
    sys.exit(3)
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleeper)
daemon = subprocess.Popen(sleeper, env={**os.environ, "CLARY_HOST_ID": spec["host_id"]}, start_new_session=True)
nameless = subprocess.Popen(sleeper, env={"PATH": os.environ["PATH"]})
(folder / "family.part").write_text(json.dumps([os.getpid(), child.pid, daemon.pid, nameless.pid]))
(folder / "family.part").rename(folder / "family.json")
time.sleep(600)
