"""A report as Markdown, as a page and as plain text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.report.document import (
    Bullets,
    Excerpt,
    Paragraph,
    Picture,
    Section,
    Table,
    number,
    signed,
    table,
    with_error,
)
from lm_eval_llada.report.figures import new_figure, svg_bytes
from lm_eval_llada.report.inline_svg import inline_svg
from lm_eval_llada.report.markdown import to_markdown
from lm_eval_llada.report.terminal import aligned, printable, to_text
from lm_eval_llada.report.webpage import to_html

VOID = {"meta", "img", "br", "link", "hr", "input"}
HOSTILE = "</pre><script>alert('x')</script> & \"quotes\" | pipe ``` fence <img src=http://x>"


class Page(HTMLParser):
    """Checks that tags balance, and keeps texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    @property
    def tags(self) -> set[str]:
        return {*self.texts, *(tag for tag, _, _ in self.attributes)}


def picture() -> Picture:
    figure = new_figure(2, 2)
    figure.subplots().plot([1, 2])
    return Picture("one", "what it <shows>", lambda: figure)


def sections(text: str = HOSTILE) -> list[Section]:
    return [
        Section(
            f"Title {text}",
            (
                Paragraph(text),
                Bullets((text, "second")),
                table(["name", "score"], [[text, "1.0 ± 0.5"], ["b", "-"]], f"Caption {text}"),
                picture(),
                Excerpt(f"sample {text}", (("prompt", f"\n{text}\n  indented"), ("answer", text))),
            ),
        ),
        Section(f"Title {text}", (Paragraph("same heading"),)),
    ]


def page(text: str = HOSTILE) -> str:
    return to_html("report", sections(text), {"one": svg_bytes(picture().draw())})


def test_tags_balance_and_texts_come_back_unchanged() -> None:
    parsed = Page(page())
    assert parsed.texts["p"] == [HOSTILE, f"Caption {HOSTILE}", "same heading"]
    assert parsed.texts["td"][0] == HOSTILE
    assert "".join(parsed.texts["summary"]) == f"sample {HOSTILE}"
    # A browser drops one line break right after <pre>; ours comes before the text's own.
    assert parsed.texts["pre"][0] == f"\n\n{HOSTILE}\n  indented"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
def test_any_text_leaves_the_page_in_balance(text: str) -> None:
    block = (Paragraph(text), table([text], [[text]], text), Excerpt(text, ((text, text),)))
    parsed = Page(to_html(text, [Section(text, block)], {}))
    assert parsed.texts["td"] == [text]


def test_the_page_needs_nothing_from_outside_and_has_no_script_but_its_own() -> None:
    text = page("plain")
    parsed = Page(text)
    assert not parsed.tags & {"link", "iframe", "object", "embed"}
    assert text.count("<script>") == text.count("<script") == 1
    targets = [v or "" for _, name, v in parsed.attributes if name in ("src", "href", "srcset")]
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"https?:|@import|url\((?!#one-)", text)


def test_a_picture_follows_light_and_dark_and_keeps_its_names_to_itself() -> None:
    text = inline_svg(svg_bytes(picture().draw()), "one", "what it <shows>")
    assert text.startswith('<svg role="img" aria-label="what it &lt;shows&gt;"')
    assert "currentColor" in text and "#000000" not in text and "fill: #ffffff" not in text
    names = re.findall(r'\bid="([^"]*)"', text)
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', text)
    assert names and used and all(name.startswith("one-") for name in names)
    assert set(used) <= set(names)


def test_links_lead_to_sections_even_if_two_have_one_title() -> None:
    parsed = Page(page())
    anchors = [v for tag, name, v in parsed.attributes if (tag, name) == ("section", "id")]
    links = [v for tag, name, v in parsed.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{anchor}" for anchor in anchors] and len(set(anchors)) == 2


def test_pictures_have_alternatives() -> None:
    assert ("svg", "aria-label", "what it <shows>") in Page(page()).attributes


def test_the_same_figure_is_the_same_svg() -> None:
    assert svg_bytes(picture().draw()) == svg_bytes(picture().draw())


def test_numbers_are_set_to_the_right_and_words_to_the_left() -> None:
    cells = table(
        ["a", "b", "c", "d"], [["1.0 ± 0.5", "-", "x", "1,024"], ["-3", "+2 %", "1", "-"]]
    )
    assert [cells.is_numeric(column) for column in range(4)] == [True, True, False, True]


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 2 cells"):
        Table(("a", "b"), (("1",),))


def test_markdown_tables_have_one_line_a_row_whatever_is_in_them() -> None:
    text = to_markdown("t", [Section("s", (table(["a|b", "n"], [["x\ny|z", "1"]], "c"),))])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines == ["| a\\|b | n |", "| :--- | ---: |", "| x y\\|z | 1 |"]


def test_markdown_lets_no_tag_through_outside_of_fences() -> None:
    text = to_markdown("t", sections())
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "script" in outside and not re.search(r"(?<!\\)<", outside)
    # The fence is longer than the one inside of the text.
    assert f"````text\n{HOSTILE}\n````" in text


def test_markdown_links_pictures_by_name() -> None:
    assert "![what it \\<shows\\>](one.svg)" in to_markdown("t", sections())


def test_plain_text_has_no_codes_and_no_boxes() -> None:
    text = to_text("report", sections("plain"))
    assert "\033" not in text and not re.search(r"[\u2500-\u257f]", text)
    assert "plain" in text and "sample plain" not in text
    assert to_text("report", [], bold=True).startswith("\033[1mreport\033[0m")


def test_details_are_for_the_pages() -> None:
    detail = table(["name"], [["in detail"]], is_detail=True)
    assert "in detail" not in to_text("t", [Section("s", (Paragraph("x"), detail))])
    assert "in detail" in to_markdown("t", [Section("s", (detail,))])


def test_sections_with_nothing_to_print_are_left_out_of_plain_text() -> None:
    assert "Pictures" not in to_text("t", [Section("Pictures", (picture(),))])


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    text = aligned(["run", "n"], [["a", "1"], ["long name", "100"]], [False, True])
    assert text.splitlines() == ["run          n", "a            1", "long name  100"]


def test_what_a_terminal_cannot_write_becomes_ascii() -> None:
    assert printable("λ = 4 ± 1", "ascii") == "lambda = 4 +/- 1"
    assert printable("数", "ascii") == "?"
    assert printable("λ", "utf-8") == printable("λ", None) == "λ"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(None), "-"),
        (number(1234.56), "1,234.6"),
        (number(-0.04), "0.0"),
        (number(-0.06), "-0.1"),
        (with_error(1.0, None), "1.0"),
        (with_error(None, 2.0), "-"),
        (with_error(1.25, 0.333, 2), "1.25 ± 0.33"),
        (signed(2.0), "+2.0"),
        (signed(-2.0), "-2.0"),
        (signed(0.01), "0.0"),
        (signed(None), "-"),
    ],
)
def test_numbers_are_written_plainly(text: str, expected: str) -> None:
    assert text == expected
