"""A limit on the memory of a process, for the programs beside this one."""

from __future__ import annotations

import resource
from pathlib import Path

import keras
import numpy as np


def limit_memory(mebibytes: int) -> None:
    """Let this process take so much more memory than TensorFlow itself takes once it runs."""
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    small.compile("adam", "mse")
    small.train_on_batch(np.ones((4, 4)), np.ones((4, 4)))
    now = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (now + (mebibytes << 20),) * 2)
