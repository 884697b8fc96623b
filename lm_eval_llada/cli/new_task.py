"""The command ``new-task``: a small task file of one's own that runs at once.

    lm-eval-llada new-task niah my_needles --needle "The gate opens at {number}." \
        --question "What does the gate open at?" --haystack my_book.txt --lengths 1000 2000
    lm-eval-llada new-task ruler my_ruler --lengths 6000
    lm-eval-llada new-task longbench my_papers --file papers.jsonl --fields context=paper
    lm-eval-llada new-task ppl my_text --text my_book.txt
    lm-eval-llada --tasks my_needles.yaml

It writes <name>.yaml, to run, to edit and to keep; docs/customise.md says what else can be in it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from lm_eval_llada.cli import task_templates
from lm_eval_llada.cli.task_templates import NewFiles
from lm_eval_llada.tasks.longbench.scores import DATASETS
from lm_eval_llada.tasks.niah.scores import DEPTHS
from lm_eval_llada.tasks.ruler.options import FILELESS_TASKS, RULER_TASKS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    parser = subparsers.add_parser(
        "new-task",
        help="Write a small task file of your own",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="niah|ruler|longbench|ppl")
    _add_niah(kinds)
    _add_ruler(kinds)
    _add_longbench(kinds)
    _add_ppl(kinds)


def _add_niah(kinds: Any) -> None:
    add = _parser_of(kinds, "niah", "needles in a haystack", _niah).add_argument
    add("--lengths", type=int, nargs="+", default=[512, 1024], help="tokens (512 1024)")
    add("--needle", help="sentence to hide; {number} is five digits, others in each repeat")
    add("--question", help="what is asked about it")
    add("--answer", help="keyword of a right answer, as it stands in the needle ({number})")
    add("--haystack", default="noise", help="noise, essays, needlebench, a text file or a folder")
    add("--depths", type=float, nargs="+", default=list(DEPTHS), help="percent (0 10 ... 100)")
    add("--repeats", type=int, default=10, help="samples at each depth (10)")
    add("--output_length", type=int, help="tokens that are generated (16, or what answers need)")


def _add_ruler(kinds: Any) -> None:
    add = _parser_of(kinds, "ruler", "RULER at lengths of your own", _ruler).add_argument
    add("--lengths", type=int, nargs="+", default=[1024], help="tokens (1024)")
    add("--ruler_tasks", nargs="+", default=list(FILELESS_TASKS), help="those without a corpus")
    add("--num_samples", type=int, default=20, help="of each task and length (20)")


def _add_longbench(kinds: Any) -> None:
    add = _parser_of(kinds, "longbench", "your documents, asked as LongBench", _lb).add_argument
    add("--file", type=Path, help="JSON lines with context, input and answers (writes an example)")
    add("--dataset", default="hotpotqa", help="whose wording and score are used (hotpotqa)")
    add("--fields", nargs="+", default=[], metavar="NAME=THEIRS", help="such as context=paper")
    add("--prompt_length", type=int, default=3500, help="the most tokens of a prompt (3500)")


def _add_ppl(kinds: Any) -> None:
    add = _parser_of(kinds, "ppl", "perplexity of your text", _ppl).add_argument
    add("--text", default="heldout", help="heldout, gov_report, pg19, a text file or a folder")
    add("--lengths", type=int, nargs="+", default=[256, 512, 1024], help="tokens (256 512 1024)")


def _parser_of(kinds: Any, kind: str, what: str, make: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(kind, help=what, description=f"Write {what}")
    parser.add_argument("name", help="of the task, and of its file")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (here)")
    parser.set_defaults(func=lambda namespace: _write(namespace, make(namespace)))
    return parser


def _niah(namespace: argparse.Namespace) -> NewFiles:
    given = (namespace.needle, namespace.question)
    if any(given) != all(given):
        raise ValueError("--needle and --question come together: one is hidden, the other asked.")
    return task_templates.niah(
        namespace.name,
        lengths=namespace.lengths,
        needle=namespace.needle,
        question=namespace.question,
        answer=namespace.answer,
        haystack=namespace.haystack,
        depths=namespace.depths,
        repeats=namespace.repeats,
        output_length=namespace.output_length,
    )


def _ruler(namespace: argparse.Namespace) -> NewFiles:
    for task in namespace.ruler_tasks:
        task_templates.require_one_of("--ruler_tasks", task, RULER_TASKS)
    return task_templates.ruler(
        namespace.name, namespace.lengths, namespace.ruler_tasks, namespace.num_samples
    )


def _lb(namespace: argparse.Namespace) -> NewFiles:
    task_templates.require_one_of("--dataset", namespace.dataset, tuple(DATASETS))
    fields = {}
    for pair in namespace.fields:
        name, equals, theirs = pair.partition("=")
        if not equals or not theirs:
            raise ValueError(f"--fields takes NAME=THEIRS, such as context=paper; got {pair!r}.")
        fields[name] = theirs
    return task_templates.longbench(
        namespace.name, namespace.file, namespace.dataset, fields, namespace.prompt_length
    )


def _ppl(namespace: argparse.Namespace) -> NewFiles:
    return task_templates.perplexity(namespace.name, namespace.text, namespace.lengths)


def _write(namespace: argparse.Namespace, files: NewFiles) -> None:
    if not _NAME.fullmatch(namespace.name):
        raise ValueError(
            f"A name has letters, digits, _ and - only, as it names a file; got {namespace.name!r}."
        )
    paths = {namespace.folder / name: text for name, text in files.items()}
    if there := [str(path) for path in paths if path.exists()]:
        raise ValueError(f"{', '.join(there)} is there already; choose another name or remove it.")
    namespace.folder.mkdir(parents=True, exist_ok=True)
    for path, text in paths.items():
        path.write_text(text, encoding="utf-8")
    task = namespace.folder / f"{namespace.name}.yaml"
    print(f"Wrote {', '.join(map(str, paths))}. Run it:\n\n    lm-eval-llada --tasks {task}\n")
