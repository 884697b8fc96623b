#!/usr/bin/env bash
# OpenCompass' NeedleBench gives the same answer 20 in its first version and 0 in its second.
#
# Versions: opencompass 0.4.2 (needlebench), 0.5.4 (needlebench_v2), their single-needle evaluators.
# Expected: a new version of the data keeps the score of an answer.
# Seen: an answer with the needle's words but a wrong keyword has 18.9 under v1 (0.2 times edit similarity)
#   and 0 under v2. An unrelated answer has 4.5 under v1.
# Why it matters: LongLLaDA's heatmaps use v1: a few points in a dark cell are edit similarity, not
#   retrieval. Averages of the two versions cannot be set side by side.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps --target "$work/old" opencompass==0.4.2
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps --target "$work/new" opencompass==0.5.4
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 tiktoken==0.14.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib
import sys
import types

needle = "The favourite dish of the captain is baked apple with cinnamon."
gold = ["\n" + needle + "\n*baked apple"]
answers = {
    "right": "It is baked apple.",
    "near": "The favourite dish of the captain is boiled apple with cinnamon.",
    "unrelated": "The weather was fine.",
}


def evaluator(folder, module):
    """One evaluator file of the package; its parents stay unopened, for they ask for every backend."""
    for name in [name for name in sys.modules if name.split(".")[0] == "opencompass"]:
        del sys.modules[name]
    for name in ("opencompass", "opencompass.datasets", f"opencompass.datasets.{module}"):
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [f"{folder}/{name.replace('.', '/')}"]

    class Registry:
        def register_module(self, *args, **kwargs):
            return lambda thing: thing

    def stand_in(name, **members):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)

    stand_in("opencompass.datasets.base", BaseDataset=object)
    stand_in("opencompass.openicl", BaseEvaluator=object)
    stand_in("opencompass.utils", get_data_path=None)
    stand_in("opencompass.registry", **{name: Registry() for name in (
        "LOAD_DATASET", "TEXT_POSTPROCESSORS", "ICL_EVALUATORS", "DICT_POSTPROCESSORS")})
    return importlib.import_module(f"opencompass.datasets.{module}.origin").NeedleBenchOriginEvaluator()


result = {}
for folder, module in (("old", "needlebench"), ("new", "needlebench_v2")):
    judge = evaluator(folder, module)
    result[module] = {name: round(judge.score([answer], gold)["score"], 1) for name, answer in answers.items()}
for module, scores in result.items():
    print("RESULT", module, scores)
first, second = result["needlebench"], result["needlebench_v2"]
assert second == {"right": 100, "near": 0, "unrelated": 0}
assert first["right"] == 100 and 15 < first["near"] < 20 and 0 < first["unrelated"] < 10
PY
