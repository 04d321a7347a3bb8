"""Names of files and classes do no harm on a screen, in a file or in a spreadsheet."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.text import csv_line, encodable, plain_cell, printable


@pytest.mark.parametrize(
    "name", ["=1+1.png", "+1+1", "-2+3", "@SUM(1)", "\tx", "\r=1", "\n=1", "'=1", "''-x", "=", "-"]
)
def test_no_cell_begins_like_a_formula(name):
    (cells,) = csv.reader(io.StringIO(csv_line([name, 1]), newline=""))
    assert cells[0][0] == "'"
    assert plain_cell(cells[0]) == name


@pytest.mark.parametrize("value", [-1, -1.5, 1e-30, "-1", "+2.5", "cat", "'tis", "", None])
def test_other_cells_stay_as_they_are(value):
    (cells,) = csv.reader(io.StringIO(csv_line([value, ""])))
    assert cells[0] == ("" if value is None else str(value))
    assert plain_cell(cells[0]) == cells[0]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_texts_are_one_row_and_come_back(texts):
    (cells,) = csv.reader(io.StringIO(csv_line([*texts, 1]), newline=""))
    assert [plain_cell(cell) for cell in cells] == [*texts, "1"]


@given(st.text())
def test_any_text_can_be_written_and_printed(text):
    encodable(text).encode()
    assert printable(text).isprintable() or "\xa0" in text
    assert "\x1b" not in printable(text)


def test_a_file_name_that_is_no_utf8_tells_its_bytes():
    assert encodable("caf\udce9.png") == "caf\\xe9.png"
    assert printable("caf\udce9\x1b]0;x\x07.png") == "caf\\xe9\\x1b]0;x\\x07.png"
    assert printable("a\u202egnp.exe") == "a\\u202egnp.exe"
