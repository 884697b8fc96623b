"""Walks on a directed graph, in the manner of OpenAI's GraphWalks: breadth first, and parents.

The graphs are our own. As there, a walk of depth d gives the nodes that are first reached after d
edges, and what is asked for never contains the node that is asked about.
"""

from __future__ import annotations

import random

from lm_eval_llada.tasks.generated.puzzle import Puzzle

_DEPTH = 2
_CHILDREN = (1, 2)  # of each node on the way
_PARENTS = (2, 4)
_NODES_PER_EDGE = 0.5
_OPENING = (
    "Each line below is an edge of a directed graph: from the node on the left to the node on the "
    "right. Carry out what is asked behind the list, and end in one line of the form "
    "Final Answer: [node, node]"
)


def breadth_first(seed: str) -> Puzzle:
    """The nodes at a distance of two edges from a node."""
    rng = random.Random(f"{seed}/walk")
    root = _node(f"{seed}/asked")
    edges, level = [], [root]
    for step in range(_DEPTH):
        reached = []
        for place, node in enumerate(level):
            for child in range(rng.randint(*_CHILDREN)):
                reached.append(_node(f"{seed}/{step}/{place}/{child}"))
                edges.append((node, reached[-1]))
        level = reached
    question = (
        f"Walk breadth first from {root}. Which nodes are reached after exactly {_DEPTH} edges, "
        "and not sooner?"
    )
    return _puzzle(seed, rng, edges, question, level, into=[root, *(n for _, n in edges)])


def parents(seed: str) -> Puzzle:
    """The nodes with an edge to a node."""
    rng = random.Random(f"{seed}/parents")
    asked = _node(f"{seed}/asked")
    found = [_node(f"{seed}/parent/{i}") for i in range(rng.randint(*_PARENTS))]
    edges = [(node, asked) for node in found]
    question = f"Which nodes have an edge that leads to {asked}?"
    return _puzzle(seed, rng, edges, question, found, into=found)


def _puzzle(
    seed: str,
    rng: random.Random,
    edges: list[tuple[str, str]],
    question: str,
    answer: list[str],
    *,
    into: list[str],
) -> Puzzle:
    """A puzzle whose other edges begin at other nodes, and lead to others or to those of `into`.

    So they change neither a walk from the node that is asked about nor the edges that lead there.
    """

    def filler(number: int) -> str:
        draw = random.Random(f"{seed}/edge/{number}")
        pool = 2 + int(_NODES_PER_EDGE * number)
        start, end = draw.sample(range(pool), 2) if pool > 2 else (0, 1)
        # An edge now and then leads into what is asked about: more than a search for a name.
        target = draw.choice(into) if draw.random() < 0.1 else _node(f"{seed}/other/{end}")
        return _edge(_node(f"{seed}/other/{start}"), target)

    rng.shuffle(edges)
    return Puzzle(
        statements=tuple(_edge(*edge) for edge in edges),
        filler=filler,
        opening=_OPENING,
        question=question,
        answer_prefix=" Final Answer: [",
        references=tuple(sorted(set(answer))),
        unit="edge",
    )


def _edge(start: str, end: str) -> str:
    return f"{start} -> {end}"


def _node(seed: str) -> str:
    """A name of ten hexadecimal digits."""
    return f"{random.Random(seed).getrandbits(40):010x}"
