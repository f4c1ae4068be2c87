"""What is written of a profile: page, charts, trace, Markdown, JSON."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import plotly.graph_objects as go
import pytest

from fastconv.files import require_writable
from fastconv.profiling.record import NO_GPU, RESTLESS, Profile
from fastconv.profiling.reports import (
    as_json,
    as_markdown,
    as_page,
    as_trace,
    writer_of,
)
from fastconv.profiling.reports.charts import MOST_BARS, charts
from tests.helpers import ROOT
from tests.profiles import layer, sample


def test_json_is_the_record():
    assert Profile.from_dict(json.loads(as_json(sample()))) == Profile.from_dict(
        json.loads(json.dumps(sample().to_dict()))
    )


def test_markdown_has_a_row_for_each_layer():
    text = as_markdown(sample())
    assert "torch channels_last 4.40 ms, fastconv 1.10 ms: 4.00 times as fast." in text
    assert "add up to 4.20 ms, -4.5% beside the whole" in text
    assert "Hidden reorders in torch: 8, 0.20 ms" in text
    assert NO_GPU in text
    assert len(re.findall(r"inverted_residual", text)) == 4
    assert "| convolution ref:any" in text


def test_the_trace_lays_the_layers_end_to_end():
    trace = json.loads(as_trace(sample()))
    for process in (0, 1):
        events = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == process]
        assert [event["name"] for event in events] == ["stem", "block.1", "block.2", "<head>"]
        for before, after in pairwise(events):
            assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
        assert events[0]["dur"] == (2000, 500)[process]
    names = [event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"]
    assert names == ["torch channels_last", "layers", "fastconv", "layers"]
    assert trace["otherData"]["gpu"] == NO_GPU


class Page(HTMLParser):
    """The texts of a page's cells, and whatever would ask a network for something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)
        self.links += [given[name] for name in ("src", "href", "action") if name in given]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_asks_for_nothing():
    page = Page(as_page(sample()))
    assert page.open == []
    assert page.links == ["data:,"]


def test_the_page_says_what_was_measured():
    text = as_page(sample())
    assert NO_GPU in text
    assert "4.00<small>" in text
    assert "&lt;head&gt;" in text
    assert "<head>.0" not in text
    assert "convolution ref:any" in text
    assert "<b>8 times</b>" in text
    assert "-4.5 %" in text
    assert "interrupted" not in text
    assert len(text) < 2_200_000  # plotly.js is all but 60 KB of it


def test_an_interrupted_profile_is_marked_everywhere():
    stopped = replace(
        sample(), interrupted=True, roofs=None, starts={}, lacking={"roofs": "interrupted"}
    )
    assert 'id="interrupted"' in as_page(stopped)
    assert "The run was interrupted" in as_markdown(stopped)
    assert json.loads(as_json(stopped))["interrupted"]
    assert "interrupted" in json.loads(as_trace(stopped))["otherData"]["times"]


def test_the_page_shows_the_longest_slow_paths():
    (alarm,) = sample().alarms
    many = replace(sample(), alarms=[alarm] * 11)
    assert as_page(many).count(alarm.what) == 8
    assert "3 more, each shorter" in as_page(many)
    assert as_markdown(many).count(alarm.what) == 11


def test_the_record_beside_the_manual_can_still_be_shown():
    kept = Profile.from_dict(json.loads((ROOT / "docs" / "profile.json").read_text()))
    assert kept.lacking == {}
    assert len(charts(kept)) == 3


def test_times_that_vary_widely_are_told():
    whole = replace(sample().wholes["fastconv"], quartiles_ms=(1.0, 1.6))
    busy = replace(sample(), wholes={**sample().wholes, "fastconv": whole})
    for write in (as_page, as_markdown):
        assert RESTLESS in write(busy)
        assert RESTLESS not in write(sample())


def test_a_page_of_next_to_nothing_has_no_charts():
    empty = replace(
        sample(), interrupted=True, layers=[], memory={}, roofs=None, starts={}, wholes={}
    )
    text = as_page(empty)
    assert charts(empty) == {}
    assert 'id="plotly"' not in text
    assert as_markdown(empty)


@pytest.mark.parametrize("name", ["times", "roofline", "memory"])
def test_plotly_knows_every_property_of_the_charts(name):
    """Its Python side refuses unknown ones; plotly.js would pass over them."""
    figure = json.dumps(charts(sample())[name])
    go.Figure(json.loads(re.sub(r"var\(--\w+\)", "#123456", figure)))


def test_charts_have_a_point_a_layer_that_says_what_it_is():
    figures = charts(sample())
    points = [trace for trace in figures["roofline"]["data"] if trace["mode"] == "markers"]
    assert [trace["name"] for trace in points] == ["torch channels_last", "fastconv"]
    for trace in points:
        assert len(trace["x"]) == len(trace["y"]) == len(trace["hovertext"]) == 4
    text = points[1]["hovertext"][3]
    for words in ("&lt;head&gt;", "0.12 ms", "rows", "1x16x56x56", "40.0 MFLOP", "781 KB", "60%"):
        assert words in text, text
    assert points[1]["x"][0] == 10_000_000 / 800_000
    assert points[1]["y"][0] == pytest.approx(10e6 / 0.5e-3 / 1e9)


def test_many_layers_leave_one_bar_for_the_rest():
    many = replace(sample(), layers=[layer(f"block.{i}", i) for i in range(1, MOST_BARS + 6)])
    for trace in charts(many)["times"]["data"]:
        assert len(trace["y"]) == MOST_BARS + 1
        assert trace["y"][-1] == "5 others"
        part = [getattr(row, trace["name"].split()[0]) for row in many.layers]
        assert sum(trace["x"]) == pytest.approx(sum(one.ms for one in part))


def test_layers_of_one_name_keep_their_own_bars():
    double = replace(sample(), layers=[layer("same", 1), layer("same", 2)])
    assert len(set(charts(double)["times"]["data"][0]["y"])) == 2


@pytest.mark.parametrize(
    ("name", "writer"),
    [("a.html", as_page), ("a.md", as_markdown), ("a.json", as_json), ("a.trace.json", as_trace)],
)
def test_the_suffix_chooses_the_form(tmp_path, name, writer):
    assert writer_of(tmp_path / name) is writer


def test_an_unknown_suffix_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.trace\.json, \.json, \.md, \.html"):
        writer_of(tmp_path / "a.pdf")


def test_a_page_without_plotly_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ModuleNotFoundError, match="pip install plotly"):
        writer_of(tmp_path / "a.html")
    assert writer_of(tmp_path / "a.md") is as_markdown


def test_asking_whether_a_file_can_be_written_leaves_it_alone(tmp_path):
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text("kept")
    require_writable(old)
    require_writable(new)
    assert old.read_text() == "kept"
    assert not new.exists()
    with pytest.raises(ValueError, match="cannot write"):
        require_writable(old / "new.html")
