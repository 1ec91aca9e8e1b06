"""The drawn charts."""

import xml.etree.ElementTree as ET

import pytest

from clary_parallel.schedule import draw_svg, draw_text, interleaved, simple, simulate, zero_bubble

SVG = "{http://www.w3.org/2000/svg}"


def test_the_text_chart_shows_each_device_and_its_cells():
    assert draw_text(simulate(interleaved(2, 2))).splitlines() == [
        "interleaved: 2 devices, 2 micro-batches, bubble 33.3 %",
        "device 0  F0F1....B0··..B1··",
        "device 1  ..F0B0··F1B1··....",
    ]


def test_a_chart_too_wide_for_the_terminal_is_squeezed():
    lines = draw_text(simulate(simple(4, 100)), columns=80).splitlines()

    assert {len(line) for line in lines[1:]} == {len("device 0  ") + 80}


def test_the_svg_has_one_cell_for_each_action():
    root = ET.fromstring(draw_svg(simulate(zero_bubble(3, 4))))

    cells = [rect.findtext(f"{SVG}title") for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(cells) == 3 * 4 * 3
    assert "W3 of stage 2" in cells
    labels = {text.text for text in root.iter(f"{SVG}text")}
    assert {"device 0", "device 1", "device 2", "F0", "B3", "W3"} <= labels
    assert {"F: forward", "B: backward", "W: gradients of weights"} <= labels
    assert all((rect.get("fill") or "").startswith(("#", "white")) for rect in root.iter(f"{SVG}rect"))


def test_a_chart_that_nobody_could_read_is_refused():
    with pytest.raises(ValueError, match="20000 cells"):
        draw_svg(simulate(simple(64, 512)))
