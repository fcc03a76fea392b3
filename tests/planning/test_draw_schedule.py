"""The picture of a pipeline schedule shows every box to scale, and is always the same."""

import re
from collections import Counter
from xml.etree import ElementTree as ET

import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.schedule import make_schedule
from fugaku_jax.planning.draw_schedule import draw_schedule

SVG = "{http://www.w3.org/2000/svg}"


def texts(path):
    return ["".join(text.itertext()) for text in ET.parse(path).iter(f"{SVG}text")]


def boxes(path):
    """Left and right edges of the boxes in points, by colour."""
    found = {}
    for shape in ET.parse(path).iter(f"{SVG}path"):
        style = shape.get("style", "")
        corners = re.findall(r"[ML] (\S+) (\S+)", shape.get("d", ""))
        if "stroke: #ffffff" in style and len(corners) >= 4:
            x = [float(corner[0]) for corner in corners]
            colour = re.search(r"fill: (#\w+)", style)[1]
            found.setdefault(colour, []).append((min(x), max(x)))
    return found


def test_every_work_is_a_box_and_a_backward_twice_as_wide(tmp_path):
    path = draw_schedule(make_schedule("1f1b", 3, 5), tmp_path / "schedule.svg")
    drawn = boxes(path)
    assert [len(each) for each in drawn.values()] == [15, 15]
    widths = [{round(right - left, 1) for left, right in each} for each in drawn.values()]
    (narrow,), (wide,) = sorted(widths, key=max)
    assert wide == pytest.approx(2 * narrow, abs=0.11)
    # Every box is wide enough for its number; 0 and 5 are also ticks of the time axis.
    numbers = Counter(text for text in texts(path) if text.isdigit())
    assert {m: numbers[str(m)] for m in range(1, 5)} == dict.fromkeys(range(1, 5), 6)


def test_title_axis_and_legend_say_what_is_drawn(tmp_path):
    path = draw_schedule(make_schedule("interleaved", 2, 4, 3), tmp_path / "schedule.svg")
    said = texts(path)
    assert "interleaved · 2 stages · 4 micro-batches · 3 chunks a stage" in said
    assert "modelled bubble 7.7%" in said  # 1 / (3·4 + 1)
    assert any("modelled time" in text for text in said)
    assert {"stage 0", "stage 1", "idle"} <= set(said)
    kinds = {f"{name}, chunk {chunk}" for name in ("forward", "backward") for chunk in range(3)}
    assert kinds <= set(said)
    assert len(boxes(path)) == 6


def test_the_halves_of_a_backward_have_names_and_colours_of_their_own(tmp_path):
    path = draw_schedule(make_schedule("zero_bubble", 2, 3), tmp_path / "schedule.svg")
    assert {"forward", "backward, input half", "backward, weight half"} <= set(texts(path))
    assert [len(each) for each in boxes(path).values()] == [6, 6, 6]


def test_numbers_that_do_not_fit_are_left_out_and_a_large_picture_stays_small(tmp_path):
    path = draw_schedule(make_schedule("1f1b", 16, 400), tmp_path / "schedule.svg")
    assert not any(text == "399" for text in texts(path))
    assert path.stat().st_size < 500_000


def test_the_same_schedule_gives_the_same_bytes(tmp_path):
    paths = [tmp_path / "a.svg", tmp_path / "new" / "b.svg"]
    first, second = (
        draw_schedule(make_schedule("gpipe", 2, 3), path).read_bytes() for path in paths
    )
    assert first == second


def test_a_wrong_path_is_refused(tmp_path):
    schedule = make_schedule("gpipe", 1, 1)
    with pytest.raises(InputError, match=r"schedule\.png is no name of this picture"):
        draw_schedule(schedule, tmp_path / "schedule.png")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        draw_schedule(schedule, tmp_path / "file" / "schedule.svg")
