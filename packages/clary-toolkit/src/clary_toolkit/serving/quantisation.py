"""Quantises a model to 8-bit integers with NNCF, calibrated by requests that have come.

It happens in a process of its own: NNCF is large, writes to standard output, and would hold up the server's threads.
`python -m clary_toolkit.serving.quantisation FOLDER` reads model.xml and the arrays of samples.npz there (named by the
number of the sample and of the input: "3.0") and writes quantised.xml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import numpy as np

from clary_toolkit.serving.execution import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from clary_toolkit.serving.openvino_reading import ReadModel

SECONDS = 900.0
_MODEL, _SAMPLES, _QUANTISED = "model.xml", "samples.npz", "quantised.xml"
# NNCF asks for consent to telemetry, and sends some, unless it runs in somebody's continuous integration.
_NO_TELEMETRY = {"NNCF_CI": "1"}


def quantised(core: Any, read: ReadModel, samples: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """The openvino.Model with 8-bit integers where they serve.

    Args:
        core: the openvino.Core.
        read: the model at float32; it stays as it is.
        samples: inputs of requests, by name.

    Raises Unfit with NNCF's reason.
    """
    import openvino  # type: ignore[import-not-found]

    names = [spec.name for spec in read.inputs]
    with tempfile.TemporaryDirectory(prefix="clary-int8-") as folder:
        openvino.save_model(read.model, os.path.join(folder, _MODEL), compress_to_fp16=False)
        arrays: dict[str, Any] = {
            "{}.{}".format(number, index): sample[name]
            for number, sample in enumerate(samples)
            for index, name in enumerate(names)
        }
        np.savez(os.path.join(folder, _SAMPLES), **arrays)
        environ = {**os.environ, **_NO_TELEMETRY, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "clary_toolkit.serving.quantisation", folder]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unfit("NNCF has not quantised it within {:g} s.".format(SECONDS)) from None
        if done.returncode:
            lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise Unfit("NNCF cannot quantise it: {}".format(lines[-1][:300]))
        return core.read_model(os.path.join(folder, _QUANTISED))


def main() -> int:
    """Quantise the model in the folder that is the argument."""
    import nncf  # type: ignore[import-not-found]
    import openvino  # type: ignore[import-not-found]

    folder = sys.argv[1]
    os.nice(10)  # requests are answered meanwhile
    model = openvino.Core().read_model(os.path.join(folder, _MODEL))
    with np.load(os.path.join(folder, _SAMPLES)) as stored:
        count = 1 + max(int(name.split(".")[0]) for name in stored)
        samples = [
            [stored["{}.{}".format(number, index)] for index in range(len(model.inputs))] for number in range(count)
        ]
    quantised_model = nncf.quantize(model, nncf.Dataset(samples), subset_size=count)
    openvino.save_model(quantised_model, os.path.join(folder, _QUANTISED), compress_to_fp16=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
