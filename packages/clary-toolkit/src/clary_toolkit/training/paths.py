"""Where things lie in a training container: /opt/ml, or the folder that SAGEMAKER_BASE_DIR names."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Paths:
    """The folders of one job, all below `base`."""

    def __init__(self, base: str = "/opt/ml") -> None:
        self.base = base
        self.code = os.path.join(base, "code")
        self.model = os.path.join(base, "model")
        self.input = os.path.join(base, "input")
        self.input_config = os.path.join(self.input, "config")
        self.input_data = os.path.join(self.input, "data")
        self.output = os.path.join(base, "output")
        self.output_data = os.path.join(self.output, "data")
        self.output_intermediate = os.path.join(self.output, "intermediate")
        self.failure = os.path.join(self.output, "failure")
        self.success = os.path.join(self.output, "success")

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Paths:
        """The folders that this process environment asks for."""
        return cls(environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml")
