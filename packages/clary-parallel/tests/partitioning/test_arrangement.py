"""Pictures of graphs: no box over another, no line across a box."""

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from clary_parallel.graph import Graph, Operation
from clary_parallel.partitioning.arrangement import TALL, WIDE, Arrangement, arrange


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 25))
    inputs = [tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))) if i else () for i in range(count)]
    return Graph(tuple(Operation(f"op{i}", sources) for i, sources in enumerate(inputs)), (count - 1,))


def crossed(arranged: Arrangement) -> list[tuple[tuple[int, int], int]]:
    """Lines that run through the row of a box where the box is; between rows there are no boxes."""
    found: list[tuple[tuple[int, int], int]] = []
    for route, points in arranged.routes.items():
        for (x, y), (x2, y2) in pairwise(points):
            for box, (left, top) in enumerate(arranged.spots):
                within = min(y, y2) < top + TALL and max(y, y2) > top
                if within and left < max(x, x2) and min(x, x2) < left + WIDE:
                    found.append((route, box))
    return found


@given(graph=graphs())
@settings(max_examples=150, deadline=None)
def test_boxes_stand_apart_and_lines_run_beside_them(graph: Graph):
    arranged = arrange(graph)

    for (x, y), (x2, y2) in combinations(arranged.spots, 2):
        assert abs(x - x2) >= WIDE or abs(y - y2) >= TALL
    assert crossed(arranged) == []
    assert set(arranged.routes) == {
        (source, index) for index, op in enumerate(graph.operations) for source in op.inputs
    }
    for (source, taker), points in arranged.routes.items():
        assert points[0] == (arranged.spots[source][0] + WIDE / 2, arranged.spots[source][1] + TALL)
        assert points[-1] == (arranged.spots[taker][0] + WIDE / 2, arranged.spots[taker][1])
        assert all(y <= y2 for (_, y), (_, y2) in pairwise(points))
    assert min(x for x, _ in arranged.spots) >= 0
    assert max(x for x, _ in arranged.spots) + WIDE <= arranged.width


def test_a_chain_is_one_straight_column():
    chain = Graph(tuple(Operation(f"op{i}", (i - 1,) if i else ()) for i in range(30)), (29,))

    assert {x for x, _ in arrange(chain).spots} == {0.0}


def test_a_skip_runs_beside_what_it_skips():
    block = Graph((Operation("a"), Operation("b", (0,)), Operation("c", (1,)), Operation("add", (2, 0))), (3,))

    points = arrange(block).routes[0, 3]

    assert len(points) == 6
    lane = points[1][0]
    assert all(x == lane for x, _ in points[1:-1])
    assert not arrange(block).spots[1][0] <= lane <= arrange(block).spots[1][0] + WIDE
