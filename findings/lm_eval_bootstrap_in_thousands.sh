#!/usr/bin/env bash
# lm-eval's bootstrap of 1,999 resamples is one of 1,000.
#
# Version: lm_eval 0.4.13.
# Expected: bootstrap_iters is the number of resamples.
# Seen: over 1,000 it is cut to whole thousands: 1,500 and 1,999 run 1,000, 2,000 run 2,000.
# Why it matters: two papers that say "1,500" and "1,000 resamples" did the same; the interval of a median
#   or corpus score needs the number that was run. Ask for thousands.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check lm_eval==0.4.13 datasets==5.2.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import os

os.environ["DISABLE_MULTIPROC"] = "1"
from lm_eval.api.metrics import bootstrap_stderr


def resamples(asked):
    calls = []

    def mean(values):
        calls.append(1)
        return sum(values) / len(values)

    bootstrap_stderr(mean, [0.0, 1.0, 1.0], iters=asked)
    return len(calls)


seen = {asked: resamples(asked) for asked in (100, 1000, 1500, 1999, 2000)}
print("asked: run", seen)
assert seen == {100: 100, 1000: 1000, 1500: 1000, 1999: 1000, 2000: 2000}
PY
