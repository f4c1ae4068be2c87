"""The README's tables: those that the files of results give."""

import pytest

from bench import readme

README = (readme.ROOT / "README.md").read_text()


def figure(value, unit="x", parts=(), **rivals):
    shapes = {str(part): part for part in parts}
    return {"what": "batch 1", "value": value, "unit": unit, "parts": shapes, "rivals": rivals}


def results(processor, *figures, name="mobilenet-v2"):
    row = {"name": name, "item": "MobileNetV2", "goal": ">= 1.5x", "figures": figures}
    return {"machine": {"processor": processor, "isa": "avx2"}, "rows": [row]}


def test_the_tables_are_those_of_the_files_that_they_name():
    assert {match["kind"] for match in readme.BLOCK.finditer(README)} == set(readme.KINDS)
    assert readme.renewed(README) == README


def test_a_machine_is_a_column_of_the_goals():
    abacus = results("Abacus", figure(1.5), figure(12.345), figure(0.5, "of peak", (0.5, 2.0)))
    assert readme.reached(abacus["rows"][0]) == "1.50 / 12.3 x; 0.50 (1.00) of peak"
    table = readme.goals(abacus, results("Slide rule", figure(2.0)))
    assert [column.header for column in table.columns][2:] == ["Abacus, avx2", "Slide rule, avx2"]
    assert list(table.columns[3].cells) == ["2.00 x"]
    with pytest.raises(ValueError, match="other rows than mobilenet-v2"):
        readme.goals(abacus, results("Slide rule", figure(2.0), name="memory"))


def test_a_network_is_a_row_with_an_entry_a_rival():
    table = readme.networks(results("Abacus", figure(1.5, fastconv=6.0, openvino=4.0)))
    row = [next(iter(column.cells)) for column in table.columns]
    assert row == ["mobilenet_v2", "1", "6.00", "", "4.00"]
