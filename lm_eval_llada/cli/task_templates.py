"""The texts of new task files: grids of one block, with what a user sets written out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.tasks.niah.own_needles import NUMBER, own_needles
from lm_eval_llada.tasks.text.haystacks import HAYSTACKS, check_haystack
from lm_eval_llada.tasks.text.long_texts import TEXTS

NewFiles = dict[str, str]
"""Texts by the names of their files."""

_NEEDLE = "The number on the harbour crane is {number}."
_QUESTION = "What is the number on the harbour crane?"
_DOCUMENTS = (
    {
        "context": "Ida keeps bees behind the mill. Her brother Tomas sells their honey in town.",
        "input": "What does Tomas sell?",
        "answers": ["honey"],
    },
    {
        "context": "The ferry leaves at noon. The last bus to the harbour leaves at eleven.",
        "input": "When does the ferry leave?",
        "answers": ["noon", "at noon"],
    },
)


def niah(
    name: str,
    *,
    lengths: Sequence[int],
    needle: str | None,
    question: str | None,
    answer: str | None,
    haystack: str,
    depths: Sequence[float],
    repeats: int,
    output_length: int | None,
) -> NewFiles:
    """A NIAH grid, checked as its samples will be.

    Args:
        name: Of the group; tasks have the length behind it.
        lengths: Tokens of prompt and output.
        needle: Sentence to hide; None takes an example.
        question: About it.
        answer: Keyword in it; None is the number.
        haystack: As of ``NiahOptions``.
        depths: Percent.
        repeats: At each depth.
        output_length: Tokens; None estimates what the answer needs.

    Raises:
        ValueError: If the needle has no answer, or too few numbers for the repeats.
    """
    row = {
        "needle": needle or _NEEDLE,
        "question": question or _QUESTION,
        "answer": answer or NUMBER,
    }
    if answer is None and NUMBER not in row["needle"]:
        raise ValueError(
            f"Give --answer, the words of the needle that a right answer holds, or write {NUMBER} "
            "into the needle."
        )
    check_haystack(haystack)
    if NUMBER not in row["needle"]:
        repeats = 1  # The same needle again is the same sample.
    own_needles([row], 0, repeats - 1, 0)
    # A word is seldom more than three tokens, whatever the tokenizer.
    output = output_length or max(16, -(-3 * len(row["answer"].split()) // 8) * 8)
    where = haystack if haystack in HAYSTACKS else _absolute(haystack)
    lines = f"""
        # Needles of your own. What else can be set: _niah.yaml in the folder that
        # `lm-eval-llada tasks-path` prints, and docs/customise.md.
        tasks:
        - task: {name}_$length
          axes: {{length: {_list(lengths)}}}
          include: _niah.yaml
          generation_kwargs:
            {{until: ["\\n"], do_sample: false, gen_length: {output}, block_length: {output},
             steps: {output}}}
          metadata:
            version: 1
            length: $length
            depths: {_list(depths)}
            repeats: {repeats}
            haystack: {_text(where)}
            # One entry for each needle; repeats take them in turn. {NUMBER} is five digits.
            needles:
            - needle: {_text(row["needle"])}
              question: {_text(row["question"])}
              answer: {_text(row["answer"])}

        groups:
        - group: {name}
          over: {{length: {_list(lengths)}}}
          task: {name}_$length
          include: _niah_group.yaml
        """
    return {f"{name}.yaml": _dedented(lines)}


def ruler(name: str, lengths: Sequence[int], tasks: Sequence[str], num_samples: int) -> NewFiles:
    """A RULER grid of some tasks at some lengths, with the original's output lengths."""
    lines = f"""
        # RULER at lengths of your own. What else can be set: _ruler.yaml in the folder that
        # `lm-eval-llada tasks-path` prints, and docs/customise.md.
        use: ruler.yaml
        tasks:
        - task: {name}_${{ruler_task}}_$length
          axes:
            ruler_task: {{from: ruler_tasks, only: {_list(tasks)}}}
            length: {_list(lengths)}
          include: _ruler.yaml
          generation_kwargs:
            {{until: [], do_sample: false, gen_length: $output, block_length: $output,
             steps: $output}}
          metadata:
            {{version: 1, ruler_task: $ruler_task, length: $length, num_samples: {num_samples}}}

        groups:
        - group: {name}
          over: {{length: {_list(lengths)}}}
          task: {name}_$length
          include: _ruler_group.yaml
        - group: {name}_$length
          axes: {{length: {_list(lengths)}}}
          over: {{ruler_task: {_list(tasks)}}}
          task: {name}_${{ruler_task}}_$length
          include: _ruler_group.yaml
        """
    return {f"{name}.yaml": _dedented(lines)}


def longbench(
    name: str, file: Path | None, dataset: str, fields: Mapping[str, str], prompt_length: int
) -> NewFiles:
    """A LongBench task over a JSON-lines file of one's own, with an example where there is none.

    Raises:
        ValueError: If there is no such file.
    """
    if file is not None and not file.expanduser().is_file():
        raise ValueError(f"--file {file}: there is no such file.")
    where = _absolute(file or f"{name}.jsonl")
    pairs = ", ".join(f"{_text(ours)}: {_text(theirs)}" for ours, theirs in fields.items())
    lines = f"""
        # Documents of your own, asked in the wording of {dataset} and scored as it. `template` has
        # another wording; what else can be set: _longbench.yaml in the folder that
        # `lm-eval-llada tasks-path` prints, and docs/customise.md.
        use: longbench.yaml
        tasks:
        - task: {name}
          axes: {{dataset: {{from: longbench_datasets, only: [{dataset}]}}}}
          include: _longbench.yaml
          generation_kwargs:
            {{until: [], do_sample: false, gen_length: $output, block_length: 32, steps: $output}}
          metadata:
            version: 1
            dataset: $dataset
            prompt_length: {prompt_length}
            file: {_text(where)}
            fields: {{{pairs}}}
        """
    files = {f"{name}.yaml": _dedented(lines)}
    if file is None:
        rows = (json.dumps(row, ensure_ascii=False) for row in _DOCUMENTS)
        files[f"{name}.jsonl"] = "".join(f"{row}\n" for row in rows)
    return files


def perplexity(name: str, text: str, lengths: Sequence[int]) -> NewFiles:
    """A perplexity task with a metric for each length.

    Raises:
        ValueError: If there is no such text.
    """
    if text not in TEXTS and not Path(text).expanduser().exists():
        error = unknown_choice("--text", text, TEXTS)
        raise ValueError(f"{error} Else it is a text file or a folder of *.txt, and neither is.")
    where = text if text in TEXTS else _absolute(text)
    scores = "!function lm_eval_llada.tasks.perplexity.scores"
    metrics = [
        f"  - {{metric: ppl_{length:06d}, aggregation: *at_length, higher_is_better: false}}"
        for length in sorted(lengths)
    ]
    lines = f"""
        # Perplexity of your own text. What else can be set: _perplexity.yaml in the folder that
        # `lm-eval-llada tasks-path` prints, and docs/customise.md.
        tasks:
        - task: {name}
          include: _perplexity.yaml
          metadata:
            {{version: 1, lengths: {_list(sorted(lengths))}, text: {_text(where)}, num_chunks: 4}}
          metric_list:
          - {{metric: nats_per_token, aggregation: mean, higher_is_better: false}}
          - metric: nats_per_token_clustered_se
            aggregation: !function lm_eval_llada.tasks.statistics.clustered_stderr_of_pairs
            higher_is_better: false
          - metric: perplexity
            aggregation: &at_length {scores}.perplexity_of_pairs
            higher_is_better: false
          - metric: bits_per_byte
            aggregation: {scores}.bits_per_byte_of_pairs
            higher_is_better: false
        """
    return {f"{name}.yaml": _dedented(lines) + "\n".join(metrics) + "\n"}


def require_one_of(what: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ``ValueError`` that names the choices unless a value is among them."""
    if value not in choices:
        raise unknown_choice(what, value, choices)


def _dedented(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def _absolute(path: str | Path) -> str:
    return str(Path(path).expanduser().resolve())


def _list(values: Sequence[object]) -> str:
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return f"[{', '.join(shown)}]"


def _text(value: str) -> str:
    """A text as YAML and as a grid reads it: in quotes, and a dollar sign twice."""
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")
