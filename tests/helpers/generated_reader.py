"""Stands in for a model: a program that reads the prompt of a generated sample and answers it."""

from __future__ import annotations

import re


def answer(prompt: str) -> str:
    """Answer out of the prompt alone, answer prefix included."""
    if match := re.search(r"The (pass key|digit string) is$", prompt):
        found = re.search(rf"the {match[1]} is (\d+)\.", prompt)
        return f" {found[1] if found else 'unknown'}."
    if match := re.search(r'The value of "([^"]+)" is "$', prompt):
        found = re.search(rf'"{match[1]}": "([^"]+)"', prompt)
        return f'{found[1] if found else "unknown"}".'
    if prompt.endswith("Final Answer: ["):
        return ", ".join(sorted(_nodes(prompt))) + "]"
    if match := re.search(r"The (\w+) is in the$", prompt):
        holders = re.findall(rf"(\w+) took the {match[1]}\.", prompt)
        return _place(prompt, holders[-1]) if holders else " nowhere."
    if match := re.search(r"(\w+) is in the$", prompt):
        return _place(prompt, match[1])
    return _entries(prompt)


def second_half(prompt: str) -> str:
    """Forget the first half of the context, but not the words before it, as a short reach would."""
    opening, _, rest = prompt.partition("\n\n")
    return f"{opening}\n\n{rest[len(rest) // 2 :]}"


def _nodes(prompt: str) -> set[str]:
    edges = re.findall(r"([0-9a-f]{10}) -> ([0-9a-f]{10})", prompt)
    if match := re.search(r"an edge that leads to ([0-9a-f]{10})\?", prompt):
        return {start for start, end in edges if end == match[1]}
    match = re.search(r"breadth first from ([0-9a-f]{10})\..* exactly (\d+) edges", prompt)
    assert match is not None
    seen = level = {match[1]}
    for _ in range(int(match[2])):
        level = {end for start, end in edges if start in level} - seen
        seen = seen | level
    return level


def _place(prompt: str, person: str) -> str:
    moves = re.findall(rf"{person} went to the (\w+)\.", prompt)
    return f" {moves[-1]}." if moves else " nowhere."


def _entries(prompt: str) -> str:
    """Ladders: the question is the last line."""
    context, _, question = prompt.rpartition("\n\n")
    (key,) = re.findall(r"(?:of|of all entries of) ([a-z]+-[a-z]+(?:-\d+)?)[.?,]", question)[:1]
    if sums := re.findall(rf"The sum of {key} is (\d+) \+ (\d+)\.", context):
        first, second = sums[0]
        total = int(first) + int(second)
        if question.startswith("Copy"):
            return f" {first} + {second}."
        return f" {total}." if "comes to" in question else f" {first} + {second} = {total}."
    numbers = re.findall(rf"The number of {key} is (\d+)\.", context)
    if "entries" in question:
        return " ".join(f"The number of {key} is {number}." for number in numbers)
    largest = max(numbers, default="none")
    if question.startswith("Which"):
        return f" {largest}."
    return f" {', '.join(numbers)}; the largest is {largest}."
