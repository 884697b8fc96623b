#!/usr/bin/env bash
# lm-eval's answer cache turns sampled repeats into copies when only a temperature says that they are sampled.
#
# Version: lm_eval 0.4.13, --use_cache, a task with repeats: 3 and temperature: 1.0.
# Expected: a second run gives the three draws of the first, or draws anew.
# Seen: all repeats share one key, so the second run reads the last draw three times and asks the model
#   for nothing; only do_sample: true would have kept them out of the cache.
# Why it matters: pass@k, majority votes and their spread come out differently when a run is resumed: k equal
#   draws. Diffusion models are sampled by temperature, and have no do_sample.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check lm_eval==0.4.13 datasets==5.2.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
import os
import random
from pathlib import Path

os.environ["HF_HOME"] = str(Path("hub").absolute())
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

Path("questions.jsonl").write_text("".join(json.dumps({"q": f"q{i}", "a": "a"}) + "\n" for i in range(10)))
Path("own.yaml").write_text(
    """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["."], temperature: 1.0}
repeats: 3
metric_list: [{metric: exact_match}]
"""
)
calls = []


class Sampling(LM):
    def generate_until(self, requests, **kwargs):
        calls.extend(requests)
        return [str(random.getrandbits(64)) for _ in requests]

    loglikelihood = loglikelihood_rolling = generate_until


def run():
    calls.clear()
    done = lm_eval.simple_evaluate(
        Sampling(),
        tasks=["own"],
        task_manager=TaskManager(include_path=".", include_defaults=False),
        use_cache="cache",
        bootstrap_iters=0,
    )
    draws = [sample["resps"][0] for sample in done["samples"]["own"]]
    return len(calls), draws


(asked, first), (asked_again, second) = run(), run()
print("requests:", asked, "then", asked_again)
print("first document:", first[0], "then", second[0])
assert (asked, asked_again) == (30, 0)
assert all(len(set(draws)) == 3 for draws in first)
assert all(set(again) == {draws[-1]} for draws, again in zip(first, second))
PY
