"""Lets a script that serves as a worker of TensorFlow's ParameterServerStrategy end once the first host's has ended.

Such a script waits in `tf.distribute.Server.join`, which never returns: on AWS its host runs until the job's time is
over. Here it ends the script, with exit code 0, when the file is there that CLARY_MASTER_ENDED names. It does not
return, as what stands behind it was never meant to run. Standard library only; the change is made when, and if, the
process itself imports TensorFlow's servers.
"""

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

VARIABLE = "CLARY_MASTER_ENDED"
"""A path: once there is such a file, the script of the job's first host has ended."""

_MODULE = "tensorflow.python.training.server_lib"
_POLL_SECONDS = 0.5


def install() -> None:
    """Have servers of TensorFlow joined this way in this process. Does nothing where the variable is not set."""
    if os.environ.get(VARIABLE):
        sys.meta_path.insert(0, _Finder())


def _join(server: object) -> None:
    """Wait for the end of the first host's script, then end this one."""
    while not os.path.exists(os.environ[VARIABLE]):
        time.sleep(_POLL_SECONDS)
    print("The script of the job's first host has ended: so does this one, which serves it.", flush=True)
    sys.exit(0)


class _Finder:
    """Stands first among the finders until the module is looked for, then has its loader changed and goes."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name != _MODULE:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            _change_after(spec.loader)
        return spec


def _change_after(loader: "Any") -> None:
    run = loader.exec_module

    def exec_module(module: "Any") -> None:
        run(module)
        module.Server.join = _join

    loader.exec_module = exec_module
