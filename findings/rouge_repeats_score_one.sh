#!/usr/bin/env bash
# rouge 1.0.1, the scorer behind LongBench's summaries, gives an answer that repeats itself full marks.
#
# Versions: rouge 1.0.1, rouge-chinese 1.0.3, rouge-score 0.1.2.
# Expected: saying the reference five times over costs precision; the three packages differ in small change only.
# Seen: rouge-l F is 1.0 for the text repeated five times, since counts run over distinct words; the
#   other two give 1/3. Two sentences in the wrong order cost nothing either (1.0, against 0.556).
# Why it matters: looping is how a diffusion model fails on a long summary with few steps, and LongBench's
#   rouge columns cannot see it. Look at the lengths of answers beside the score, and do not set a rouge-l
#   from another package beside a LongBench one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rouge==1.0.1 rouge-score==0.1.2 rouge-chinese==1.0.3
cd "$work"
"$work/venv/bin/python" - <<'PY'
from rouge import Rouge
from rouge_chinese import Rouge as RougeChinese
from rouge_score.rouge_scorer import RougeScorer

reference = "the council agreed a smaller budget for the new harbour"
first, second = "the council agreed a budget.", "the harbour stays closed."
scorer = RougeScorer(["rougeL"])


def scores(answer, gold):
    return tuple(
        round(value, 3)
        for value in (
            Rouge().get_scores(answer, gold)[0]["rouge-l"]["f"],
            RougeChinese().get_scores(answer, gold)[0]["rouge-l"]["f"],
            scorer.score(gold, answer)["rougeL"].fmeasure,
        )
    )


repeated = scores(" ".join([reference] * 5), reference)
swapped = scores(f"{second} {first}", f"{first} {second}")
print("five times over:", repeated, "sentences swapped:", swapped)
assert repeated == (1.0, 0.333, 0.333), repeated
assert swapped[0] == 1.0 and max(swapped[1:]) < 0.8, swapped
PY
