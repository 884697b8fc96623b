#!/usr/bin/env bash
# OpenCompass scores InfiniteBench math_calc by right numbers per answer, times 100: 1,000 right ones are 100,000 "per cent".
#
# Version: opencompass 0.5.4, the evaluator that its InfiniteBench configuration names for math_calc.
# Expected: 100 for a perfect answer, and for 10 right numbers out of 1,000 the share of them, 1.0: InfiniteBench
#   counts the leading numbers that are right and divides by the length of the reference. OpenCompass averages
#   the twelve InfiniteBench tasks in one group; a right answer to retrieve_kv has 100.
# Seen: 100,000 for a perfect answer of 1,000 numbers and 1,000 for one with its first 10 right. The length of the
#   reference is no part of it: with 10 numbers a perfect answer has 1,000 too.
# Why it matters: the score stands in one column with percentages, and a mean over the InfiniteBench tasks is this
#   one task. 10 right numbers of 1,000 score like all of 10.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps opencompass==0.5.4
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib
import importlib.util
import sys
import types

# One evaluator file of the package; its parents stay unopened, for they ask for every backend.
root = importlib.util.find_spec("opencompass").submodule_search_locations[0]
for name in ("opencompass", "opencompass.datasets", "opencompass.datasets.infinitebench"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [root + name.removeprefix("opencompass").replace(".", "/")]


class Registry:
    def register_module(self, *args, **kwargs):
        return lambda thing: thing


def stand_in(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)


stand_in("datasets", Dataset=object)
stand_in("opencompass.datasets.base", BaseDataset=object)
stand_in("opencompass.openicl", BaseEvaluator=object)
stand_in("opencompass.utils", get_data_path=None)
stand_in("opencompass.registry", **{name: Registry() for name in (
    "LOAD_DATASET", "TEXT_POSTPROCESSORS", "ICL_EVALUATORS")})
part = "opencompass.datasets.infinitebench.infinitebench_"
judge = importlib.import_module(part + "mathcalc").InfiniteBenchmathcalcEvaluator()
other = importlib.import_module(part + "retrievekv").InfiniteBenchretrievekvEvaluator()

long, short = [[n % 90 for n in range(count)] for count in (1000, 10)]
answers = {
    "perfect, 1000 numbers": (str(long), long),
    "first 10 of 1000": (str(long[:10]), long),
    "perfect, 10 numbers": (str(short), short),
    "empty": ("", long),
}
scores = {name: judge.score([answer], [gold])["score"] for name, (answer, gold) in answers.items()}
print("math_calc:", scores)
print("retrieve_kv, right:", other.score(["it is ab-12"], ["ab-12"])["score"])
assert list(scores.values()) == [100000.0, 1000.0, 1000.0, 0.0]
assert other.score(["it is ab-12"], ["ab-12"])["score"] == 100.0
PY
