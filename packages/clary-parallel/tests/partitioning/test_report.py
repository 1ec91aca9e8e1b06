"""Plans as tables and pictures, and where ranks are placed."""

import xml.etree.ElementTree as ET

import pytest

from clary_parallel.graph import Graph, Operation
from clary_parallel.partitioning import describe_plan, draw_plan, make_plan, place

SVG = "{http://www.w3.org/2000/svg}"


def branching() -> Graph:
    return Graph(
        (
            Operation("image", output_bytes=10, kind="InputLayer", replicated=True),
            Operation("stem<1>", (0,), 2048, 100, 100, 0.002, kind="Conv2D"),
            Operation("left", (1,), 1024, 100, 100, 0.001, kind="Conv2D"),
            Operation("right", (1,), 1024, 100, 100, 0.001, kind="Conv2D"),
            Operation("add", (2, 3), 0, 100, 100, 0.001, kind="Add"),
        ),
        (4,),
    )


def test_the_table_names_each_stage_and_what_it_costs():
    table = describe_plan(make_plan(branching(), 2)).splitlines()

    assert table[0].split() == ["stage", "operations", "weights", "activations", "time", "sends", "on", "from", "to"]
    assert table[2].split()[:2] == ["0", "1"]
    assert "2.0 KiB" in table[2]
    assert "100 B" in table[2]
    assert table[3].split()[-1] == "add"
    assert "× the mean load" in table[-1]


def test_the_picture_colours_every_operation():
    root = ET.fromstring(draw_plan(make_plan(branching(), 2)))
    boxes = {box.findtext(f"{SVG}title"): box.get("fill") for box in root.iter(f"{SVG}rect") if len(box)}

    assert len(boxes) == 5
    colours = {title.split(" ")[0]: fill for title, fill in boxes.items() if title}
    assert colours["left"] == colours["add"] != colours["stem<1>"]
    crossing = [path for path in root.iter(f"{SVG}path") if path.get("stroke") == "#c00"]
    assert len(crossing) == 2
    # What every program paints: not all know hsl().
    assert {(box.get("fill") or "")[0] for box in root.iter(f"{SVG}rect") if len(box)} == {"#"}
    assert {"image", "stem<1>", "left", "right", "add"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_a_picture_that_nobody_could_read_is_refused():
    graph = Graph(tuple(Operation(f"op{i}", (i - 1,) if i else ()) for i in range(3001)), (3000,))
    with pytest.raises(ValueError, match="3001"):
        draw_plan(make_plan(graph, 2))


def test_ranks_are_placed_as_sagemaker_places_them():
    assert place(8, 2, "cluster") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert place(8, 2, "spread") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert place(8, 2, "DPT") == place(8, 2, "cluster")
    assert place(8, 2, "PTD") == place(8, 2, "spread")
    assert place(2, 2) == [[0, 1]]


def test_ranks_that_make_no_whole_replicas_are_refused():
    with pytest.raises(ValueError, match="5 ranks cannot hold whole replicas of 2"):
        place(5, 2)
    with pytest.raises(ValueError, match="Received: 'near'"):
        place(4, 2, "near")
