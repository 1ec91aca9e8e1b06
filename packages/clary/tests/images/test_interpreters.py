"""Pythons are found where people have them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clary.images import interpreters

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_a_python_on_the_path_is_found_by_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(sys.base_prefix, "bin", f"python{HERE}").resolve()
    (tmp_path / f"python{HERE}").symlink_to(base)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(interpreters, "_MANAGED", ())
    found = interpreters.find(HERE)
    assert found is not None
    assert found.resolve() == base
    assert HERE in interpreters.at_hand([HERE, "3.99"])


def test_a_version_that_is_nowhere_is_not_found() -> None:
    assert interpreters.find("3.99") is None
