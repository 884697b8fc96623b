#!/usr/bin/env bash
# haystackbench counts a wrong number within one per cent as found, and hands out part marks for the rest.
#
# Version: haystackbench 0.1.0, single retrieval, the default scoring "auto".
# Expected: a retrieved code is right or wrong; 84700 for 84729 is wrong.
# Seen: 84700 for 84729 scores 1.0 and counts as correct (numbers within 1 %), 80000 scores 0.442,
#   and the right code after a longer number ("Section 123456: 84729") scores 0: the longest number in the
#   reply is taken for the answer. As a string ("substring") all three come out as one would think.
# Why it matters: a needle of digits is chosen so that chance cannot hit it. Diffusion models with few steps
#   get single digits wrong, the failure such a test is for, and here it reads as a hit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps haystackbench==0.1.0
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check tiktoken==0.14.0 pydantic==2.14.4 pyyaml==6.0.4 python-dotenv==1.2.4 numpy==2.4.6 pandas==3.1.1 rich==15.0.0 click==8.5.1 httpx==0.28.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import asyncio

from haystackbench.core.evaluator import Evaluator
from haystackbench.tasks.single_retrieval import SingleRetrievalTask

task, judge = SingleRetrievalTask(None), Evaluator()


def score(reply, method="auto"):
    result = asyncio.run(task.evaluate_response(reply, "84729", judge, None, method))
    return round(result.score, 3), result.is_correct


replies = ("84729", "84700", "80000", "Section 123456: 84729")
auto = {reply: score(reply) for reply in replies}
substring = {reply: score(reply, "substring")[0] for reply in replies}
print("auto:", auto)
print("substring:", substring)
assert task.default_scoring_method == "auto"
assert auto == {
    "84729": (1.0, True),
    "84700": (1.0, True),
    "80000": (0.442, False),
    "Section 123456: 84729": (0.0, False),
}
assert list(substring.values()) == [1.0, 0.0, 0.0, 1.0]
PY
