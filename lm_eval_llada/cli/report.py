"""The command ``report``: folders of results to pages, pictures and a summary."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from lm_eval_llada.errors import require_whole
from lm_eval_llada.report.against import against_section, baseline_section
from lm_eval_llada.report.benchmark_sections import longbench_section, ruler_section
from lm_eval_llada.report.csv_file import to_csv
from lm_eval_llada.report.document import Picture, Section, without_pictures
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.failures import failures_section
from lm_eval_llada.report.figures import save_figure
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.kinds import kinds_section
from lm_eval_llada.report.markdown import to_markdown
from lm_eval_llada.report.matrix import benchmarks_of, matrix_section
from lm_eval_llada.report.needle_section import needle_section
from lm_eval_llada.report.perplexity import find_curves, measured_perplexities, perplexity_section
from lm_eval_llada.report.price import price_section
from lm_eval_llada.report.published import published_section
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.report.runs import (
    facts,
    other_tasks_section,
    overview_section,
    settings_section,
    speed_section,
)
from lm_eval_llada.report.settings import report_title
from lm_eval_llada.report.terminal import printable, to_text
from lm_eval_llada.report.webpage import to_html

_DEFAULT_FAILURES = 3


@dataclass(frozen=True)
class ReportOptions:
    """What to report and where to write it.

    Attributes:
        paths: Result files, or folders that are searched at every level.
        against: A file or folder of one run, which the runs of `paths` are held against, or a part
            of the name that one of them has in the report; or two files or folders, of one run
            each, which are compared; or nothing.
        output: Folder for the pages and pictures.
        failures: Failed samples to show of each task.
    """

    paths: tuple[Path, ...]
    against: tuple[Path, ...] = ()
    output: Path = Path("report")
    failures: int = _DEFAULT_FAILURES

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read.

        Raises:
            ValueError: If there is nothing to report, not two runs to compare, or the output is
                a file.
        """
        require_whole("failures", self.failures, 0)
        if len(self.against) > 2:
            raise ValueError(f"--against takes one run or two; got {len(self.against)}.")
        if not self.paths and len(self.against) < 2:
            raise ValueError(
                "report needs a folder of results, such as the one --output_path of an evaluation "
                f"named, or --against with two of them; got {len(self.against)} of those."
            )
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"--output must be a folder; {str(self.output)!r} is a file.")


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    help_text = "Turn folders of results into tables, pictures and pages"
    parser = subparsers.add_parser("report", help=help_text, description=help_text)
    parser.add_argument(
        "paths",
        metavar="DIR",
        type=Path,
        nargs="*",
        help="folder of results, samples and perplexity curves, searched at every level",
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        type=Path,
        nargs="+",
        default=(),
        help="one run, a folder, a file or a part of its name in the report: each other run is "
        "equal to it, better or worse by how much, or not told apart; two runs: their differences",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("report"), help="folder to write to (default: report)"
    )
    parser.add_argument(
        "--failures",
        type=int,
        default=_DEFAULT_FAILURES,
        help=f"failed samples to show of each task (default: {_DEFAULT_FAILURES})",
    )
    parser.set_defaults(func=run)


def run(namespace: argparse.Namespace) -> None:
    """Write a report and print its summary.

    Raises:
        ValueError: If nothing that was named can be reported, or ``--against`` names no two runs.
        OSError: If the output cannot be written.
    """
    options = ReportOptions(
        tuple(namespace.paths), tuple(namespace.against), namespace.output, namespace.failures
    )
    summary = write_report(options, bold=_shows_bold(sys.stdout))
    print(printable(summary, sys.stdout.encoding), end="")


@dataclass(frozen=True)
class Contents:
    """A report as data.

    Attributes:
        title: What is compared, on what.
        facts: Dates and versions, a line each.
        sections: In order.
        runs: What the sections are about.
    """

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    runs: tuple[Evaluation, ...]


def write_report(options: ReportOptions, *, bold: bool = False) -> str:
    """Write ``report.html``, ``report.md``, ``scores.csv`` and every picture as PNG, SVG and PDF.

    Without matplotlib there are no pictures, and the summary says so.

    Returns:
        The summary as plain text.

    Raises:
        ValueError: If nothing that was named can be reported, or ``against`` names no such run.
        OSError: If the output cannot be written.
    """
    contents = build_report(options)
    sections: Sequence[Section] = contents.sections
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [b for section in sections for b in section.blocks if isinstance(b, Picture)]
    try:
        pictures = {block.name: save_figure(block.draw(), folder, block.name) for block in drawn}
        kept = f"{len(pictures)} pictures as PNG, SVG and PDF"
    except ImportError as error:
        pictures, kept = {}, f"no picture. {error}"
        sections = [without_pictures(section) for section in sections]
    texts = {
        "report.md": to_markdown(contents.title, sections),
        "report.html": to_html(contents.title, sections, pictures, contents.facts),
        "scores.csv": to_csv(contents.runs),
    }
    for name, text in texts.items():
        # Names in foreign files may hold halves of characters, which UTF-8 cannot write.
        (folder / name).write_text(text, encoding="utf-8", errors="replace")
    written = f"Written: {', '.join(str(folder / name) for name in sorted(texts))} and {kept}"
    return f"{to_text(contents.title, sections, bold=bold)}\n{written}\n"


def build_sections(options: ReportOptions) -> list[Section]:
    """The parts of a report that there are data for; raises as ``build_report`` does."""
    return list(build_report(options).sections)


def build_report(options: ReportOptions) -> Contents:
    """A report as data, with the parts that there are data for.

    Raises:
        ValueError: If nothing that was named can be reported, or ``against`` names no such run.
    """
    folders = [path for path in options.against if path.exists() or len(options.against) > 1]
    found = find_files([*options.paths, *folders])
    reading, curves = read_evaluations(found), find_curves(found.curves)
    skipped = [*reading.skipped, *curves.skipped]
    if not reading.evaluations and not curves.series:
        reasons = "; ".join(map(str, skipped)) or "there is no .json or .jsonl file"
        raise ValueError(f"There is nothing to report: {reasons}.")
    runs = reading.evaluations
    baseline = _baseline(options.against[0], runs) if len(options.against) == 1 else None
    others = [run for run in runs if run is not baseline]
    sections = [
        matrix_section(runs, baseline.label if baseline else "") if runs else None,
        _compared(options.against) if len(options.against) == 2 else None,
        baseline_section(baseline, others) if baseline else None,
        needle_section(runs),
        ruler_section(runs),
        longbench_section(runs),
        perplexity_section(curves.series, runs),
        price_section(runs),
        kinds_section(runs),
        published_section(runs, measured_perplexities(curves.series)),
        other_tasks_section(runs),
        speed_section(runs),
        settings_section(runs),
        overview_section(reading, skipped),
        failures_section(runs, options.failures) if runs else None,
    ]
    benchmarks = benchmarks_of(runs) or ["perplexity"]
    kept = tuple(section for section in sections if section is not None)
    return Contents(report_title(runs, benchmarks), facts(runs), kept, runs)


def _baseline(wanted: Path, runs: Sequence[Evaluation]) -> Evaluation:
    """The run of a report that a folder or file holds, or that a part of its name means."""
    if not wanted.exists():
        named = [run for run in runs if str(wanted) == run.label] or [
            run for run in runs if str(wanted) in run.label
        ]
        if len(named) != 1:
            which = "; ".join(run.label for run in named or runs)
            raise ValueError(
                f"--against needs one run: a folder, a file, or a part of one name; "
                f"{str(wanted)!r} is {'several' if named else 'none'} of: {which}."
            )
        return named[0]
    paths = {file.path.resolve() for file in find_files([wanted]).results}
    held = [run for run in runs if paths & {file.path.resolve() for file in run.files}]
    if len(held) != 1:
        names = "; ".join(run.label for run in held) or "no run"
        raise ValueError(
            f"--against needs a file or folder with exactly one run; {str(wanted)!r} holds {names}."
        )
    return held[0]


def _compared(paths: Sequence[Path]) -> Section:
    first, second = (_only_run(path) for path in paths)
    return against_section(first, second)


def _only_run(path: Path) -> Evaluation:
    """The one run in a file or folder, read on its own: two runs of one setting stay two here."""
    runs = read_evaluations(find_files([path])).evaluations
    if len(runs) != 1:
        names = "; ".join(run.label for run in runs) or "no run"
        raise ValueError(
            f"--against needs a file or folder with exactly one run; {str(path)!r} holds {names}."
        )
    return replace(runs[0], label=f"{runs[0].label} ({path})")


def _shows_bold(stream: TextIO) -> bool:
    """Whether a stream is a terminal that takes codes, and the user has not declined them."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return stream.isatty()
