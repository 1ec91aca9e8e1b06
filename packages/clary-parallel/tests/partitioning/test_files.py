"""Plans as files: used again where they fit, refused where they do not."""

from dataclasses import replace
from pathlib import Path

import pytest

from clary_parallel.graph import Graph, Operation
from clary_parallel.partitioning import PlanFileError, make_plan, pins_from_file, save_plan


def model(prefix: str = "dense", count: int = 6) -> Graph:
    inputs = Operation("input", (), output_bytes=8, kind="InputLayer", replicated=True)
    layers = [Operation(f"{prefix}_{i}", (i,), 100, 10, 10, 1.0, kind="Dense") for i in range(count)]
    return Graph((inputs, *layers), (count,))


def test_a_plan_is_read_as_it_was_written_though_names_are_others(tmp_path: Path):
    file = tmp_path / "plans" / "model.json"
    plan = make_plan(model(), 2, pins={"dense_1": 1})
    assert plan.stage_of == (-1, 0, 1, 1, 1, 1, 1)
    save_plan(plan, file)

    later = model("later")
    pins = pins_from_file(file, later, 2)

    assert pins == {"later_0": 0, **{f"later_{i}": 1 for i in range(1, 6)}}
    assert make_plan(later, 2, pins=pins, auto_partition=False).stage_of == plan.stage_of


def test_a_plan_that_does_not_fit_is_refused_with_what_differs(tmp_path: Path):
    file = tmp_path / "model.json"
    save_plan(make_plan(model(), 2), file)
    wider = model()
    operations = list(wider.operations)
    operations[3] = replace(operations[3], weight_bytes=200)

    with pytest.raises(PlanFileError, match=r"for 2 partitions. Expected: 3. Make the plan anew"):
        pins_from_file(file, model(), 3)
    with pytest.raises(
        PlanFileError, match=r"operation 3 is 'dense_2' \(Dense, 100 B of weights\) .* \(Dense, 200 B\)"
    ):
        pins_from_file(file, Graph(tuple(operations), (6,)), 2)
    with pytest.raises(PlanFileError, match="has 7 operations; the model has 6"):
        pins_from_file(file, model(count=5), 2)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2, "partitions": 2, "operations": []}', '{"operations": [1]}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "model.json"
    with pytest.raises(PlanFileError, match=r"cannot be read: No such file.*Run once without load_partition"):
        pins_from_file(file, model(), 2)
    file.write_text(text)
    with pytest.raises(PlanFileError, match="is no partition file of version 1"):
        pins_from_file(file, model(), 2)
