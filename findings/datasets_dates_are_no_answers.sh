#!/usr/bin/env bash
# datasets reads a column of dates in a JSON-lines file as time stamps, so that no answer contains them.
#
# Version: datasets 5.2.0, load_dataset("json").
# Expected: a JSON string stays a string.
# Seen: where every answer is an ISO date, the column is timestamp[s] and str() of a value is
#   "2024-03-01 00:00:00", which is in no model's answer; one row that is no date keeps all rows strings.
# Why it matters: needles and references that are dates score 0 with a perfect model in any harness that loads an
#   own jsonl this way (lm-eval's dataset_path: json), and are right again when a row is added. Put
#   words around the date, or give the features.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
import os
from pathlib import Path

os.environ["HF_HOME"] = str(Path("hub").absolute())
from datasets import load_dataset


def answers(name, *values):
    Path(name).write_text("".join(json.dumps({"answer": value}) + "\n" for value in values))
    data = load_dataset("json", data_files=name, split="train")
    return str(data.features["answer"].dtype), str(data[0]["answer"])


dates = answers("dates.jsonl", "2024-03-01", "2024-03-02")
mixed = answers("mixed.jsonl", "2024-03-01", "soon")
print("all dates:", dates, "one is none:", mixed)
reply = "The vault opens on 2024-03-01."
assert dates == ("timestamp[s]", "2024-03-01 00:00:00") and dates[1] not in reply
assert mixed == ("string", "2024-03-01") and mixed[1] in reply
PY
