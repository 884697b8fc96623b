#!/usr/bin/env bash
# lm-eval reads --limit 1.0 as one document, where 0.999 is all ten.
#
# Version: lm_eval 0.4.13.
# Expected: a limit below 1 is a share; 1.0, written with a point, is the whole.
# Seen: 0.5 of ten documents is 5, 0.999 is 10, 1.0 is 1.
# Why it matters: a script that sweeps shares (0.1, 0.5, 1.0) ends with a table whose last row rests on one
#   document, with the standard error of nothing.
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
generation_kwargs: {until: ["."]}
metric_list: [{metric: exact_match}]
"""
)


class Constant(LM):
    def generate_until(self, requests, **kwargs):
        return ["a" for _ in requests]

    loglikelihood = loglikelihood_rolling = generate_until


def documents(limit):
    manager = TaskManager(include_path=".", include_defaults=False)
    done = lm_eval.simple_evaluate(
        Constant(), tasks=["own"], task_manager=manager, limit=limit, bootstrap_iters=0
    )
    return done["n-samples"]["own"]["effective"]


seen = {limit: documents(limit) for limit in (0.5, 0.999, 1.0)}
print(seen)
assert seen == {0.5: 5, 0.999: 10, 1.0: 1}
PY
