"""A report in a browser: widths, light and dark, sorting, filtering and links.

They need Chromium, Debian's package `chromium`, and say so where it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_eval_llada.cli.report import ReportOptions, write_report
from tests.helpers.browser import Browser, find_browser
from tests.helpers.report_results import (
    longbench,
    niah,
    results,
    rope,
    ruler,
    sample,
    write,
    write_samples,
)

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium (apt-get install chromium): pages stay unopened"
)

_MOST_BYTES = 3_000_000
_SHOWN = "[...document.querySelectorAll('table.samples tbody tr')].filter(row => !row.hidden)"


def fill(folder: Path, num_runs: int, *, has_all: bool = True) -> None:
    """Runs of several models, λ and caches: RULER's 13 tasks, and more, with samples."""
    for run in range(num_runs):
        scale = 1.0 if run % 2 else 4.0
        score = 90.0 - 5 * run
        tasks = ruler(4096, lambda name, s=score: s - len(name))
        if has_all:
            for n in (512, 4096):
                tasks[f"niah_{n}"] = niah(n, lambda d, s=score: max(0.0, s - d / 2))
            tasks |= ruler(8192, lambda name, s=score: s - len(name))
            tasks |= longbench(lambda name, s=score: s - len(name))
        model = f"a-model-with-quite-a-long-name-{run // 2}"
        content = results(
            tasks,
            model_args={"pretrained": model, "cache": ("none", "prefix", "dual")[run % 3]},
            rope=rope(scale, "ntk" if scale > 1 else "none"),
        )
        write(folder / str(run), content)
        for name in tasks:
            lines = [sample(i, 0.0 if i < 6 else 100.0, depth=50 * (i % 2)) for i in range(12)]
            write_samples(folder / str(run), name, lines)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of six runs."""
    folder = tmp_path_factory.mktemp("page")
    fill(folder / "results", 6)
    write_report(ReportOptions((folder / "results",), output=folder / "out"))
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 800, 390])
def test_nothing_overflows_and_nothing_is_wrong(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    # What is wider than the window scrolls in a box of its own.
    outside = browser.run(
        "[...document.querySelectorAll('p, h1, h2, li, figcaption, select, .chip, .tools')]"
        f".filter(one => one.getBoundingClientRect().right > {width} && !one.closest('.wide'))"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert browser.errors == []
    ink, paper = (
        browser.run(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    is_dark = [sum(map(int, text[4:-1].split(", "))) < 384 for text in (ink, paper)]
    assert is_dark == [not dark, dark]


def test_a_click_on_a_heading_sorts_by_number_and_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    scores = (
        "[...document.querySelectorAll('.matrix tbody')].map(body => [...body.rows].slice(1)"
        ".map(row => parseFloat(row.cells[1].firstChild.textContent)))"
    )
    head = "document.querySelectorAll('.matrix thead th')[1].click()"
    browser.run(head)
    rising = browser.run(scores)
    browser.run(head)
    falling = browser.run(scores)
    assert len(rising) == 3 and len(rising[1]) > 20
    assert rising == [sorted(group) for group in rising]
    assert falling == [sorted(group, reverse=True) for group in rising]


def test_a_filter_hides_the_other_tasks(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "(box => { box.value = 'vt_8k'; box.dispatchEvent(new Event('input')); })"
        "(document.querySelector('.matrix').previousElementSibling.previousElementSibling"
        ".querySelector('input'))"
    )
    shown = browser.run(
        "[...document.querySelectorAll('.matrix tbody tr:not(.group)')].filter(r => !r.hidden)"
        ".map(row => row.cells[0].textContent)"
    )
    assert shown == ["ruler_vt_8k"]


def test_a_baseline_turns_intervals_into_differences(browser: Browser, page: Path) -> None:
    browser.open(page)
    cells = (
        "[...[...document.querySelectorAll('.matrix tbody tr')].find(row => "
        "row.cells[0].textContent === 'ruler_vt_4k').querySelectorAll('small')]"
        ".map(small => [small.textContent, small.className])"
    )
    before = browser.run(cells)
    choose = "(s => { s.value = '%s'; s.dispatchEvent(new Event('change')); })"
    select = "(document.querySelector('select[data-baseline]'))"
    browser.run(choose % "A" + select)
    after = browser.run(cells)
    assert before[0][0].count("–") == 1 and after[0] == ["baseline", "base"]
    assert {kind for _, kind in after[1:]} <= {"better", "worse", ""}
    assert any("±" in text for text, _ in after[1:])
    browser.run(choose % "" + select)
    assert browser.run(cells) == before


def test_a_click_on_a_cell_shows_its_samples_and_no_others(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run(f"{_SHOWN}.length") == 20
    link = browser.run(
        "(link => { link.click(); return link.getAttribute('href'); })"
        "(document.querySelector('.heat td a[href$=\".50\"]'))"
    )
    browser.run("new Promise(done => setTimeout(done, 50))")
    shown = browser.run(f"{_SHOWN}.map(row => [row.dataset.cell, row.cells[3].textContent])")
    assert shown == [[link[1:], "50"]] * 2
    # The needle and what is around it can be read at once.
    assert "is 10001." in browser.run(f"{_SHOWN}[0].querySelector('mark').textContent")
    browser.run("document.querySelector('[data-is=clear]').click()")
    assert browser.run(f"{_SHOWN}.length") == 20


def test_links_lead_somewhere_and_names_are_unique(browser: Browser, page: Path) -> None:
    browser.open(page)
    lost = browser.run(
        "[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))"
        ".filter(href => !document.getElementById(href.slice(1)))"
    )
    names = browser.run("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert lost == [] and len(names) == len(set(names))


def test_a_cell_of_a_link_from_elsewhere_is_shown(browser: Browser, page: Path) -> None:
    browser.open(page, hash="#x-B-niah_512")
    cells = set(browser.run(f"{_SHOWN}.map(row => row.dataset.cell)"))
    assert cells == {"x-B-niah_512.0", "x-B-niah_512.50"}


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True)
    assert browser.printed().startswith(b"%PDF")


def test_ten_runs_of_thirteen_tasks_stay_small(tmp_path: Path) -> None:
    fill(tmp_path / "results", 10, has_all=False)
    write_report(ReportOptions((tmp_path / "results",), output=tmp_path / "out"))
    assert (tmp_path / "out" / "report.html").stat().st_size < _MOST_BYTES
