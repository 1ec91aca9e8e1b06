"""Progress is told in bounded numbers, and its last word is never lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host.layout import HostFolder
from clary.host.progress import Progress
from clary.host.report import Reporter
from clary.host.spec import Phase

if TYPE_CHECKING:
    from conftest import Host, ReportServer


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.changed = threading.Condition()

    def tell(self, phase: Phase, message: str) -> None:
        assert phase is Phase.PREPARING_IMAGE
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def hears(self, message: str) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: message in self.messages, 20)


def test_the_last_of_many_messages_is_told_though_none_follows() -> None:
    listener = Listener()
    progress = Progress(listener, Phase.PREPARING_IMAGE)
    for number in range(1000):
        progress(f"{number} files")
    progress("Compiling, which takes minutes")
    assert listener.hears("Compiling, which takes minutes")
    assert listener.messages[0] == "0 files"
    assert len(listener.messages) < 100


def test_news_of_a_phase_that_the_host_has_left_is_not_told(
    make_host: Callable[..., Host], tmp_path: Path, server: ReportServer
) -> None:
    folder = HostFolder(tmp_path / "reported")
    reporter = Reporter(make_host().spec, folder, lambda _: None)
    reporter.tell(Phase.PREPARING_IMAGE, "too early")
    reporter.enter(Phase.PREPARING_IMAGE)
    reporter.tell(Phase.PREPARING_IMAGE, "in time")
    reporter.enter(Phase.DOWNLOADING)
    reporter.tell(Phase.PREPARING_IMAGE, "too late")
    server.wait(lambda: server.phases[-1:] == ["Downloading"])
    noted = json.loads((folder.spool / "phases.json").read_text())
    assert [(entry["phase"], entry["message"]) for entry in noted] == [
        ("PreparingImage", ""),
        ("PreparingImage", "in time"),
        ("Downloading", ""),
    ]
