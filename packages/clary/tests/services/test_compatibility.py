"""The page on compatibility says what the code does."""

from __future__ import annotations

from pathlib import Path

from clary.services import compatibility, registry
from clary.wire.services import model

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "compatibility.md"


def test_the_committed_page_is_current():
    assert PAGE.read_text() == compatibility.page(), "run `make compatibility` and commit the page"


def test_every_registered_operation_exists_in_awss_model():
    compatibility.page()
    unknown = [name for name in registry.operations() if name[1] not in model(name[0]).operation_names]
    assert unknown == []


def test_members_without_effect_exist():
    compatibility.page()
    for (service, operation), members in registry.accepted_without_effect().items():
        for path in members:
            shape = model(service).operation_model(operation).input_shape
            for name in path.split("."):
                while shape.type_name in ("list", "map"):
                    shape = shape.member if shape.type_name == "list" else shape.value
                assert name in shape.members, f"{operation} has no {path}"
                shape = shape.members[name]
