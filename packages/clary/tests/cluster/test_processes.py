"""Processes by /proc."""

from __future__ import annotations

import os
import subprocess
import sys

from cluster_conformance import is_running

from clary.cluster.processes import ProcessIdentity, identify, is_alive, kill_tree, pids_with_environment

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_process_is_itself_until_it_ends() -> None:
    child = subprocess.Popen(SLEEP)
    identity = identify(child.pid)
    assert identity is not None
    assert is_alive(identity)
    child.kill()
    child.wait()
    assert not is_alive(identity)
    assert identify(child.pid) is None


def test_a_later_process_with_the_same_number_is_another() -> None:
    identity = identify(os.getpid())
    assert identity is not None
    assert not is_alive(ProcessIdentity(os.getpid(), "boot:1"))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(SLEEP)
    identity = identify(child.pid)
    assert identity is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(identity)
    child.wait()


def test_processes_are_found_by_what_they_were_started_with() -> None:
    child = subprocess.Popen(SLEEP, env={**os.environ, "CLARY_TEST_MARK": "one two"})
    try:
        assert pids_with_environment("CLARY_TEST_MARK=one two") == {child.pid}
        assert pids_with_environment("CLARY_TEST_MARK=one") == set()
    finally:
        child.kill()
        child.wait()


def test_a_stranger_that_took_over_the_number_is_spared() -> None:
    stranger = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        assert kill_tree(ProcessIdentity(stranger.pid, "boot:1"), set, 1) == set()
        assert is_running(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()
