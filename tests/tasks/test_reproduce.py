"""Names of the protocols' tasks, and the account of how to reproduce the papers with them."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from lm_eval_llada.cli import curve
from lm_eval_llada.tasks.grid import shipped_configs, tasks_path
from lm_eval_llada.tasks.papers.protocols import PROTOCOLS, protocols_of
from lm_eval_llada.tasks.text.long_texts import read_documents
from tests.helpers.command_line import call
from tests.helpers.longbench_documents import document

REPRODUCE = Path(__file__).resolve().parents[2] / "docs" / "reproduce.md"


def names_of_files() -> list[str]:
    """Names of all groups and tasks of the protocols, as the grid has them."""
    return sorted(shipped_configs()["papers"])


def test_names_are_those_of_the_files_and_nobody_elses():
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    ours = [name for name in manager.all_tasks if protocols_of([name])]
    assert sorted(ours) == names_of_files()
    assert len(ours) > 250
    prefixes = re.compile(r"\b(longllada|ultrallada|niah_multi_\d+|niah_multi)\b")
    theirs = list(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"))
    assert len(theirs) > 1000
    assert not [path for path in theirs if prefixes.search(path.read_text(encoding="utf-8"))]


def test_no_other_group_or_tag_runs_a_protocol():
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    for name, entry in manager.task_index.items():
        members = entry.tags or (entry.cfg or {}).get("task") or []
        named = [m for m in members if isinstance(m, str) and protocols_of([m])]
        assert not named or protocols_of([name]), f"{name} runs {named}"


def test_tasks_that_the_account_names_exist():
    known = set(names_of_files()) | {"niah_multi"}
    named = set(re.findall(r"`((?:longllada|ultrallada)_\w+(?:,\w+)*)`", REPRODUCE.read_text()))
    named |= set(re.findall(r"--tasks (\w+(?:,\w+)*)", REPRODUCE.read_text()))
    tasks = {name for entry in named for name in entry.split(",")} - {"TASKS", "longllada_"}
    assert len(tasks) >= 12
    assert not tasks - known


def test_what_the_account_says_is_filled_in_is_what_is_filled_in():
    text = REPRODUCE.read_text()
    for protocol in PROTOCOLS.values():
        said = ",".join(f"{name}={str(v).lower()}" for name, v in protocol.model_args.items())
        assert f"`{said}`" in text


def curve_commands() -> list[list[str]]:
    found = re.findall(r"^ {4}lm-eval-llada (curve .*)$", REPRODUCE.read_text(), re.MULTILINE)
    return [command.split() for command in found]


def test_perplexity_is_measured_as_in_the_release():
    parser = argparse.ArgumentParser()
    curve.add_parser(parser.add_subparsers())
    ours, causal = (curve._curve_of(parser.parse_args(line)) for line in curve_commands())
    # get_ppl_llada.py and get_ppl_llama.py of LongLLaDA: 255 chunks of 64, 8 masks each, bfloat16.
    assert (len(ours.options.lengths), ours.options.lengths[0]) == (255, 128)
    assert (ours.options.chunk_length, ours.options.mc_num) == (64, 8)
    assert ours.options.estimators == ("masked_mean",)
    assert ours.text == causal.text == "gov_report_001"
    assert {run.model_args["dtype"] for run in (ours, causal)} == {"bfloat16"}
    assert (causal.model, causal.options.context) == ("hf_rope", 251 * 64)


def test_the_command_reads_the_releases_document(monkeypatch, tmp_path, random_checkpoint):
    folder = tmp_path / "longbench"
    folder.mkdir()
    heldout = read_documents("heldout")[0].text
    rows = [document("gov_report", context=text) for text in (heldout, f"Not it. {heldout}")]
    (folder / "gov_report.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = curve_commands()[0]
    changes = {
        "--context": "256",
        "--model_args": f"pretrained={random_checkpoint},dtype=bfloat16,device=cpu",
        "--output": str(tmp_path / "found.jsonl"),
    }
    for name, value in changes.items():
        line[line.index(name) + 1] = value
    assert call(monkeypatch, *line, "--data_dir", str(tmp_path)) == 0
    settings, *scores = map(json.loads, (tmp_path / "found.jsonl").read_text().splitlines())
    assert sorted(row["length"] for row in scores) == [128, 192, 256]
    assert {row["document"] for row in scores} == {"gov_report_001"}
    digest = hashlib.sha256(f"Not it. {heldout}".encode()).hexdigest()
    assert digest[:16] in json.dumps(settings)


def test_commands_about_scales_print_the_papers_numbers(monkeypatch, capsys):
    commands = re.findall(r"^ {4}lm-eval-llada (rope .*)$", REPRODUCE.read_text(), re.MULTILINE)
    printed = []
    for command in commands:
        assert call(monkeypatch, *command.split()) == 0
        printed.append(capsys.readouterr().out)
    assert "14" in printed[0] and "561.9" in printed[1]
