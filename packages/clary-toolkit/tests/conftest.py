"""Fixtures of the toolkit's tests; what they are made of is in `toolkit_lab`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# So that tests in any folder here can import toolkit_lab and the conformance cases.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "training"))

from toolkit_lab import SCRIPTS, SOURCE, VERSIONS, Ended, Tree, find_python, run_launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A shell starts what it puts into the background with SIGINT ignored, and launchers under test would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Ended]:
    """Run Clary's launcher, of the source tree, on a tree: `train(Tree(...), variables={...}, python=...)`."""

    def run(tree: Tree, variables: Mapping[str, str] | None = None, python: str = sys.executable) -> Ended:
        base = tree.lay_out(tmp_path / "ml")
        command = [python, "-m", "clary_toolkit.training.launcher"]
        return run_launcher(command, base, {"PYTHONPATH": str(SOURCE), **(variables or {})})

    return run


@pytest.fixture(scope="session")
def probe_source() -> str:
    """The script that writes down what it sees."""
    return (SCRIPTS / "probe.py").read_text()


@pytest.fixture(params=VERSIONS)
def each_python(request: pytest.FixtureRequest) -> str:
    """Every Python that the toolkit runs on, as far as this machine has it."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"Python {request.param} is not installed (pyenv install {request.param})")
    return python
