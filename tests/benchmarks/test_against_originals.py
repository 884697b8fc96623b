"""The comparison with originals counts what differs, and loads a file without what is around it."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest
import torch

against = importlib.import_module("benchmarks.against_originals")
answers = importlib.import_module("benchmarks.originals.answers")
modules = importlib.import_module("benchmarks.originals.modules")
texts = importlib.import_module("benchmarks.originals.texts")

# A program of another kind, in the place where RULER has its own.
RIGHT = """
import requests
from opencompass.registry import LOAD
from opencompass.openicl import BaseEvaluator

@LOAD.register_module("name")
class Kept(BaseEvaluator):
    pass

def _shares(predictions, references):
    held = [[r.lower() in p.lower() for r in rs] for p, rs in zip(predictions, references)]
    return [100 * sum(each) / len(each) for each in held]

def string_match_all(predictions, references):
    return round(sum(_shares(predictions, references)) / len(predictions), 2)

def string_match_part(predictions, references):
    return round(100 * max(map(bool, _shares(predictions, references))), 2)
"""
WRONG = RIGHT.replace("r.lower() in p.lower()", "r in p")


def checkout(folder: Path, text: str) -> Path:
    path = folder / "scripts" / "eval" / "synthetic" / "constants.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return folder


@pytest.mark.parametrize(("text", "differ"), [(RIGHT, False), (WRONG, True)])
def test_pairs_that_differ_are_counted_and_shown(tmp_path, capsys, text, differ):
    folder = checkout(tmp_path, text)
    options = ["--ruler", str(folder), "--pairs", "200"]
    assert against.main(options) == int(differ)
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if "| RULER" in line]
    assert [row[0].strip() for row in rows] == [
        "RULER string_match_all",
        "RULER string_match_part",
    ]
    assert all(row[2].strip() == "200" for row in rows)
    assert all((int(row[4]) > 0) is differ for row in rows)
    assert ("- RULER string_match_all: theirs" in printed) is differ


def test_a_loaded_file_rounds_nothing_and_leaves_no_stand_in(tmp_path):
    before = {name: sys.modules.get(name) for name in ("requests", "opencompass", "datasets")}
    module = modules.load_file(
        checkout(tmp_path, RIGHT) / "scripts" / "eval" / "synthetic" / "constants.py"
    )
    assert module.Kept.__name__ == "Kept"
    assert module.string_match_all(["a"], [["a", "b", "c"]]) == pytest.approx(100 / 3, abs=1e-12)
    assert {name: sys.modules.get(name) for name in before} == before


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="constants.py is not there"):
        against.main(["--ruler", str(tmp_path)])


def test_texts_that_differ_are_counted():
    class Original:
        """Writes the same token everywhere."""

        @staticmethod
        def generate(model, prompt, *, gen_length, block_length, steps, mask_id):
            return torch.nn.functional.pad(prompt, (0, gen_length), value=9)

    for name, distinct, different in texts.compare(Original, 2, 0):
        assert (distinct, len(different)) == (1, 2)
        assert name.startswith("texts of tiny-llada, gen_length")


@pytest.mark.parametrize(
    "make",
    [
        *(answers.english_pair, answers.chinese_pair, answers.class_pair, answers.number_pair),
        *(answers.paragraph_pair, answers.code_pair, answers.listed_pair, answers.needle_pair),
    ],
)
def test_answers_follow_from_the_seed_and_vary(make):
    drawn = [[make(rng) for _ in range(30)] for rng in (random.Random(1), random.Random(1))]
    assert drawn[0] == drawn[1]
    assert len({pair.prediction for pair in drawn[0]}) > 15
    assert all(pair.references for pair in drawn[0])


def test_no_class_is_part_of_another():
    rng = random.Random(3)
    for _ in range(50):
        pair = answers.class_pair(rng)
        assert pair.references[0] in pair.classes
        assert not [a for a in pair.classes for b in pair.classes if a != b and a in b]


def test_the_21_datasets_have_a_maker_of_answers():
    for dataset in against.longbench.DATASETS:
        pair = against._maker_of(dataset)(random.Random(0))
        assert bool(pair.classes) == (dataset in ("trec", "lsht"))
