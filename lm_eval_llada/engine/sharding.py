"""Requests dealt to ranks by what they cost, so that all ranks finish together.

On every rank, with its own requests:

    costs = [generation_work(config, len(item.prompt), options).flops for item in items]
    keys = [answer_key(owner, "generate_until", [...]) for item in items]
    own, give_back = redistribute(ranks, items, costs, keys, groups=keys)
    results = [run(item) for item in own]  # the cheapest first
    return give_back(results)  # those of `items`, in their order
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lm_eval_llada.engine.ranks import Ranks
from lm_eval_llada.errors import require_number, require_whole

Item = TypeVar("Item")


def deal(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """The indices of `costs` in one list for each rank, the loads as even as this rule makes them.

    The dearest goes first and to the rank with the least so far (longest processing time first), so
    that the greatest load exceeds the average by less than one item. Equal input gives equal output
    everywhere, ties going to the lower index and the lower rank.

    Each list ascends by cost: the shortest contexts run first, and a wrong setting shows early. A
    batcher that orders each of its groups by descending length (`batching.longest_first`, which
    shows at once whether memory suffices) undoes this within the requests that it gets together;
    to keep both, hand it the list in a few consecutive pieces.

    Args:
        costs: Finite, not negative, in any unit.
        num_ranks: Number of lists; some are empty where it exceeds the number of costs.

    Raises:
        ValueError: If a number is out of its range.
    """
    require_whole("num_ranks", num_ranks, 1)
    for value in costs:
        require_number("Each cost", value, 0, inclusive=True)
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + costs[index], rank))
        shares[rank].append(index)
    return [sorted(share, key=lambda i: (costs[i], i)) for share in shares]


def redistribute(
    ranks: Ranks,
    items: Sequence[Item],
    costs: Sequence[float],
    keys: Sequence[str],
    *,
    groups: Sequence[str],
) -> tuple[list[Item], Callable[[Sequence[Any]], list[Any]]]:
    """Deal the requests of all ranks anew; every rank calls this at the same point.

    Requests with equal keys are dealt once, and the answer goes to all of them: a rank that repeats
    its last request to be as long as the others costs nothing. Only keys and costs are known to all
    ranks; a request itself goes to the rank that runs it.

    Args:
        ranks: Of the run.
        items: Requests of this rank, of any type that can be pickled. A place among `items` that a
            request remembers means nothing on another rank.
        costs: Of each, as for `deal`.
        keys: Of each; equal for requests whose results are equal.
        groups: Of each; requests of one group go to one rank, as those that share their work do.

    Returns:
        The requests for this rank to run, the cheapest first, and a function to be called with
        their results, on every rank, that returns those of `items` in order.

    Raises:
        ValueError: If `items`, `costs`, `keys` and `groups`, or requests and results, differ in
            number.
    """
    if not len(items) == len(costs) == len(keys) == len(groups):
        raise ValueError(
            f"Expected a cost, a key and a group for each of {len(items)} requests; got "
            f"{len(costs)} costs, {len(keys)} keys and {len(groups)} groups."
        )
    tables = ranks.all_gather_object(list(zip(keys, costs, groups, strict=True)))
    shares, holder_of = _shares(tables)
    own_keys = shares[ranks.rank]
    item_of = dict(zip(keys, items, strict=True))
    held = [[key for key in share if holder_of[key] == ranks.rank] for share in shares]
    received = _exchanged(ranks, item_of, held)
    asked = [{key for key, _, _ in table} for table in tables]
    wanted = [[key for key in own_keys if key in theirs] for theirs in asked]

    def give_back(results: Sequence[Any]) -> list[Any]:
        if len(results) != len(own_keys):
            raise ValueError(f"Expected {len(own_keys)} results; got {len(results)}.")
        returned = _exchanged(ranks, dict(zip(own_keys, results, strict=True)), wanted)
        return [returned[key] for key in keys]

    return [received[key] for key in own_keys], give_back


def _shares(
    tables: Sequence[Sequence[tuple[str, float, str]]],
) -> tuple[list[list[str]], dict[str, int]]:
    """The keys for each rank to run, and the first rank that has a request of each key.

    Args:
        tables: Keys, costs and groups of the requests of each rank.
    """
    cost_of: dict[str, float] = {}
    holder_of: dict[str, int] = {}
    members: dict[str, list[str]] = {}
    for rank, table in enumerate(tables):
        for key, value, group in table:
            if key not in cost_of:
                cost_of[key], holder_of[key] = value, rank
                members.setdefault(group, []).append(key)
    parts = list(members.values())
    shares = deal([sum(cost_of[key] for key in part) for part in parts], len(tables))
    return [[key for i in share for key in parts[i]] for share in shares], holder_of


def _exchanged(
    ranks: Ranks, values: Mapping[str, Any], keys_for: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Send to each rank the values of its keys; returns what the ranks have sent to this one."""
    parts = ranks.exchange_objects([{key: values[key] for key in keys} for keys in keys_for])
    return {key: value for part in parts for key, value in part.items()}
