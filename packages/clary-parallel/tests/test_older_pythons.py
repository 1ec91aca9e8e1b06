"""Ranks and fused reductions run on the Python of TensorFlow's images before 2.12."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

from clary_parallel.older_pythons import paired, pairwise
from parallel_lab import HOME, SOURCE

PROGRAM = """
import sys
import numpy as np
from clary_parallel.data.agreement import Agreement, Call
from clary_parallel.data.fusion import Pool, allreduce_fused, allreduce_half
from clary_parallel.data.ownership import owners
from clary_parallel.transport import mpi
from clary_parallel.transport.inprocess import run_threads

def program(transport):
    Agreement(transport).agree(Call("allreduce"))
    exact = allreduce_fused(transport, [np.full(5, transport.rank, np.float32)], 1.0, Pool())
    half = allreduce_half(transport, [np.full(5, transport.rank, np.float16)], 1.0)
    return float(exact[0][0]), float(half[0][0]), owners([1, 2], transport.size)

assert not mpi.launched()
print(run_threads(2, program), sys.version_info[:2])
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_ranks_reduce_on_an_older_python(version: str) -> None:
    uv = find_uv_bin()
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = next(map(str, pyenv), None) or shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"Python {version} is not on this machine")
    folder = HOME / f"numpy-{version}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", found, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), "numpy<1.25"], check=True)
        (folder / "ready").touch()
    done = subprocess.run(
        [str(python), "-c", PROGRAM], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[(0.5, 0.5, [1, 0]), (0.5, 0.5, [1, 0])]")


def test_pairs_are_those_of_newer_pythons() -> None:
    assert list(paired([1, 2], "ab")) == [(1, "a"), (2, "b")]
    assert list(pairwise([1, 2, 3])) == [(1, 2), (2, 3)]
    with pytest.raises(ValueError, match=r"Expected as many of each. Received: \[1, 2\]"):
        paired([1], [1, 2])
