#!/usr/bin/env bash
# lm-eval's RULER QA gives a right answer 1/2 or 1/3 where the reference lists more spellings.
#
# Version: lm_eval 0.4.13 (ruler_qa_squad, ruler_qa_hotpot).
# Expected: as in RULER, 1 if any reference occurs in the answer.
# Seen: the share of references that occur: "Denver" for (Denver, Denver Colorado, the city of Denver) is 0.333.
#   Over two samples in one call it is the best one, divided by two.
# Why it matters: published QA columns (and the 13-task average) use "any". One answer, two scores: LongLLaDA's
#   82.5 on QA cannot be reproduced with this score.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lm_eval==0.4.13 datasets==5.2.0 transformers==5.23.0 numpy==2.4.6 wonderwords==3.0.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
from lm_eval.tasks.ruler.common_utils import process_results_part, string_match_part

references = ["Denver", "Denver, Colorado", "the city of Denver"]
one = process_results_part({"max_length": 4096, "outputs": references}, ["It is Denver."])["4096"]
two = string_match_part(["Denver", "no idea"], [["Denver"], ["Paris"]])
three = string_match_part(["Denver", "Paris"], [["Denver"], ["Paris"]])
print("right answer:", round(one, 3), "one of two right:", two, "two of two right:", three)
assert abs(one - 1 / 3) < 1e-9 and (two, three) == (0.5, 0.5)
PY
