"""Requests as lm-evaluation-harness sends them, and texts to send."""

from __future__ import annotations

import copy

from lm_eval.api.instance import Instance

PROMPTS = [
    "One.",
    "The rain fell on the old roof all night, and nobody spoke.",
    "A b c",
    "The key is",
]
PAIRS = [
    ("The key for", " rain"),
    ("Long before the others, the old house", " stood on the hill and nobody spoke of it."),
    ("", "A roof"),
    ("One ", "two three"),
]


def instance(
    kind: str, *args: object, doc_id: int = 0, task: str = "toy", repeats: int = 1
) -> Instance:
    return Instance(kind, {}, args, 0, (task, doc_id, repeats))


def generations(prompts: list[str], repeats: int = 1, **gen_kwargs: object) -> list[Instance]:
    kwargs = {"until": [], "gen_length": 8, **gen_kwargs}
    return [
        instance("generate_until", prompt, copy.deepcopy(kwargs), doc_id=i, repeats=repeats)
        for i, prompt in enumerate(prompts)
    ]


def choices(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [instance("loglikelihood", *pair, doc_id=i) for i, pair in enumerate(pairs)]
