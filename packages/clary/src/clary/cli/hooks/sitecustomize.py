"""Runs at the start of every Python process under `clary run`, before its script.

It stands on its own: the process may be any Python from 3.7 on, in an environment that has nothing of Clary. What
another sitecustomize would have done still happens. A fault in here never reaches the script: it is told on stderr.
"""
# ruff: noqa: UP031, UP036

import os
import sys

if sys.version_info >= (3, 7):
    try:
        import _clary_hooks  # pyright: ignore[reportMissingImports]

        _clary_hooks.install(os.environ)
        _clary_hooks.run_shadowed_sitecustomize()
    except Exception as error:  # noqa: BLE001 - the boundary to a script that is not ours
        sys.stderr.write("clary: the hooks of `clary run` could not be installed: %r\n" % (error,))
