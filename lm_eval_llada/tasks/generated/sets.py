"""The generated sets by name: what makes a sample, and what scores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lm_eval_llada.tasks.generated import facts, graphs, ladders, retrieval, scores
from lm_eval_llada.tasks.generated.puzzle import Puzzle


@dataclass(frozen=True)
class GeneratedSet:
    """One set.

    Attributes:
        puzzle: Makes the puzzle of a seed.
        score: Scores an output against references, 0 to 100.
    """

    puzzle: Callable[[str], Puzzle]
    score: Callable[[str, Sequence[str]], float]


SETS: dict[str, GeneratedSet] = {
    "passkey": GeneratedSet(retrieval.passkey, scores.first_number),
    "number_string": GeneratedSet(retrieval.number_string, scores.first_number),
    "key_value": GeneratedSet(retrieval.key_value, scores.any_word),
    "graph_bfs": GeneratedSet(graphs.breadth_first, scores.node_f1),
    "graph_parents": GeneratedSet(graphs.parents, scores.node_f1),
    "facts_1": GeneratedSet(facts.one_fact, scores.only_place),
    "facts_2": GeneratedSet(facts.two_facts, scores.only_place),
    **{
        f"{name}_{rung}": GeneratedSet(partial(make, rung=rung), scores.copied)
        for name, make in (
            ("multikey", ladders.several_keys),
            ("multivalue", ladders.several_values),
        )
        for rung in ladders.RUNGS
    },
}
"""In the manner of InfiniteBench (the first three), GraphWalks, BABILong and RULERv2 (the rest)."""


def generated_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one output for lm-eval, by the set of the sample.

    Args:
        doc: A sample of ``build_generated``.
        results: The output, alone in a list.
    """
    chosen = SETS[doc["set"]]
    text = results[0]
    if chosen.score is scores.node_f1:
        # The list was opened by the prompt, unless a chat model opens one of its own.
        text = doc["gen_prefix"] + text
    return {"score": chosen.score(text, doc["outputs"])}
