#!/usr/bin/env bash
# dllm-reason marks a right GSM8K answer wrong when a full stop follows it.
#
# Version: dllm-reason 1.6.1, number extraction and exact match of its evaluation.
# Expected: "#### 42.", "Answer: 42." and "#### 42" are one answer.
# Seen: the stop is taken into the number ("42.") and survives normalisation, so exact match is 0 for both
#   with a stop; "#### 1,200.00" is no match for 1200 either.
# Why it matters: instruction-tuned diffusion models end their sentences, base models less so: the table ranks
#   punctuation. LLaDA's GSM8K measured here and in lm-eval's flexible-extract cannot be compared.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps dllm-reason==1.6.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib.util
import pathlib
import sysconfig

# The file alone: its package opens every model and trainer.
path = pathlib.Path(sysconfig.get_paths()["purelib"], "dllm_reason/eval/metrics.py")
spec = importlib.util.spec_from_file_location("metrics", path)
metrics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(metrics)

seen = {}
for reply, gold in (("#### 42", "42"), ("#### 42.", "42"), ("Answer: 42.", "42"), ("#### 1,200.00", "1200")):
    number = metrics.extract_number(reply)
    seen[reply] = number, metrics.exact_match(number, gold)
print(seen)
assert [score for _, score in seen.values()] == [1.0, 0.0, 0.0, 0.0], seen
PY
