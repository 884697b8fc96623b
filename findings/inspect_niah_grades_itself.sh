#!/usr/bin/env bash
# inspect_evals' needle test lets a model grade its own answer, and takes any number it says as accuracy.
#
# Versions: inspect-evals 0.26.0 (0.28.0 has the same files), inspect-ai 0.3.285, its built-in mock model.
# Expected: a rule or another model grades; accuracy lies in 0 to 1.
# Seen: without a grader role the model under test is asked for the grade; a right answer and a grade of 10
#   is an "accuracy" of 10.0. A model that ignores the rubric and repeats its needle, "The vault code
#   is 4711.", has an accuracy of 4711.0: the first digits of the reply are the grade.
# Why it matters: base models and diffusion models without instruction tuning repeat rather than grade. The
#   heatmap cannot be compared with one in per cent, and its mean may be led by the needle's own digits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps inspect-evals==0.26.0
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check inspect-ai==0.3.285 openai==3.57.0 pandas==3.1.1 tiktoken==0.14.0 datasets==5.2.0 backoff==2.2.1 httpx==0.28.1 jinja2==3.1.6 pillow==13.0.0 toml==0.10.2
cd "$work"
"$work/venv/bin/python" - <<'PY'
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate
from inspect_evals.niah.utils.scoring import (
    custom_model_graded_qa_with_history_scorer,
    return_metadata_variable_as_history,
)

needle = "The vault code is 4711."
metadata = {
    "needle_question": "What is the vault code?",
    "target_context_length": 8000,
    "target_position": 50,
}


def accuracy(replies):
    remaining = list(replies)

    def reply(messages, tools, tool_choice, config):
        output = ModelOutput.from_content("mockllm/model", remaining.pop(0))
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

    task = Task(
        dataset=[Sample(input="document", target=needle, metadata=metadata)],
        solver=[generate()],
        scorer=custom_model_graded_qa_with_history_scorer(return_metadata_variable_as_history),
    )
    model = get_model("mockllm/model", custom_outputs=reply, memoize=False)
    log = eval(task, model=model, display="none", log_dir="logs")[0]
    assert not remaining, "the grade was asked of somebody else"
    return log.results.scores[0].metrics["overall_accuracy"].value


graded, repeated = accuracy([needle, "10"]), accuracy([needle, needle])
print("answer, then 10:", graded, "answer twice:", repeated)
assert (graded, repeated) == (10.0, 4711.0)
PY
