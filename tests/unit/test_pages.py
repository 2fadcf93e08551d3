from __future__ import annotations

import pytest

from analysis.studies.pages import END, mark, markdown_table, renew


def test_tables_go_between_the_marks_of_their_command(tmp_path):
    page = tmp_path / "page.md"
    other = f"{mark('second')}\nuntouched\n{END}\n"
    page.write_text(f"before\n{mark('first')}\nold\n{END}\nbetween\n{other}")
    renew(page, "first", "new")
    assert page.read_text() == f"before\n{mark('first')}\n\nnew\n\n{END}\nbetween\n{other}"
    before = page.read_text()
    renew(page, "second", None)
    assert page.read_text() == before


@pytest.mark.parametrize("text", ["nothing", mark("first"), END, f"{mark('other')}\n{END}"])
def test_a_page_without_marks_is_refused(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page.md: the tables go between the lines '<!-- written by first -->'"):
        renew(page, "first", "new")
    assert page.read_text() == text


def test_a_table():
    assert markdown_table([["a", "b"], ["---", "---:"], ["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
