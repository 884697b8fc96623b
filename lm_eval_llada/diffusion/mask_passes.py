"""Partly masked targets in as few forward passes as their scores and the greedy check allow."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lm_eval_llada.diffusion.choices import NOT_FINITE, choose_tokens, most_confident
from lm_eval_llada.diffusion.denoiser import TargetReader

Pair = tuple[Tensor, Tensor]
"""(prefix, target): int64 (length,) each; either may be empty."""


def read_masks(
    denoiser: TargetReader,
    pairs: Sequence[Pair],
    masks: Sequence[Tensor],
    batch_size: int,
    *,
    check_greedy: bool,
) -> tuple[list[Tensor], list[bool]]:
    """The score of each pair under each of its masks, and whether greedy decoding gives its target.

    A sequence that several masks or pairs come down to is read once: options of one length share
    their fully masked form, and each finds its own tokens in the same logits. Greedy decoding that
    is right so far has revealed a part of the target, which is one more mask of it: the check
    reads only those that no score asks for.

    Args:
        denoiser: the model.
        pairs: targets with what precedes them.
        masks: for each pair bool (num_masks, target length), each hiding at least one token.
        batch_size: sequences in a forward pass.
        check_greedy: whether to decode; without, every match is False.

    Returns:
        The summed log p of the hidden tokens under each mask, float64 (num_masks,) for each pair;
        and for each pair whether revealing the most confident token, pass by pass, gives the
        target. An empty target matches.

    Raises:
        ValueError: if a needed logit is NaN or infinite.
    """
    reading = _Reading(
        denoiser,
        pairs,
        scores=[torch.zeros(len(some), dtype=torch.float64) for some in masks],
        matches=[check_greedy and not len(target) for _, target in pairs],
    )
    for pair, some in enumerate(masks):
        for slot, mask in enumerate(some):
            reading.ask(pair, mask, slot)
    if check_greedy:
        reading.start_decoding()
    while reading.queue:
        reading.read(batch_size)
    return reading.scores, reading.matches


class _Reader(NamedTuple):
    """Who wants a sequence: a mask of a pair, and where its score goes (None: only decoding)."""

    pair: int
    mask: Tensor
    slot: int | None


@dataclass(order=True)
class _State:
    """A sequence to read. States compare by `rank`, the order they are read in.

    rank: longest first, so that neighbours need little padding; within a length most masks first,
    so that greedy decoding passes its states in the order they are read; then first come.
    """

    rank: tuple[int, int, int]
    key: bytes = field(compare=False)
    readers: list[_Reader] = field(compare=False)


@dataclass
class _Reading:
    """The books of `read_masks`.

    Attributes:
        denoiser: the model.
        pairs: targets with what precedes them.
        scores: filled as sequences are read.
        matches: final once a pair is no longer in `hidden`, which all are when the queue is empty.
        queue: a heap of states to read.
        pending: those states and the ones of the batch at work, by key.
        hidden: for each pair still decoding, the target positions it has not revealed yet.
        choices: what greedy decoding reveals next, (position in the sequence, token), by key.
    """

    denoiser: TargetReader
    pairs: Sequence[Pair]
    scores: list[Tensor]
    matches: list[bool]
    queue: list[_State] = field(default_factory=list)
    pending: dict[bytes, _State] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)
    choices: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    num_states: int = 0

    def ask(self, pair: int, mask: Tensor, slot: int | None) -> None:
        """Puts a mask of a pair in the queue, unless its sequence is there already."""
        key = self._key(pair, mask)
        state = self.pending.get(key)
        if state is None:
            length = sum(map(len, self.pairs[pair]))
            state = _State((-length, -int(mask.sum()), self.num_states), key, [])
            self.num_states += 1
            self.pending[key] = state
            heapq.heappush(self.queue, state)
        state.readers.append(_Reader(pair, mask, slot))

    def start_decoding(self) -> None:
        """Starts to decode every target from its fully masked form."""
        for pair, (_, target) in enumerate(self.pairs):
            if len(target):
                self.hidden[pair] = torch.ones_like(target, dtype=torch.bool)
                self.ask(pair, self.hidden[pair], None)

    def read(self, batch_size: int) -> None:
        """Reads the next batch."""
        states = self._next_states(batch_size)
        sequences, positions, prompt_lengths = [], [], []
        for state in states:
            pair, mask, _ = state.readers[0]
            sequences.append(self._sequence(pair, mask))
            positions.append(self._positions(pair, mask))
            prompt_lengths.append(len(self.pairs[pair][0]))
        logits = self.denoiser.logits(sequences, positions, prompt_lengths)
        parts = logits.split([len(rows) for rows in positions])
        self._score(states, logits)
        for state, rows, part in zip(states, positions, parts, strict=True):
            del self.pending[state.key]
            self._decode(state, rows, part)

    def _next_states(self, batch_size: int) -> list[_State]:
        """A full batch, or one without padding where as few passes are enough for the rest."""
        capacity_after = (math.ceil(len(self.queue) / batch_size) - 1) * batch_size
        states: list[_State] = []
        while self.queue and len(states) < batch_size:
            needs_padding = bool(states) and self.queue[0].rank[0] != states[0].rank[0]
            if needs_padding and len(self.queue) <= capacity_after:
                break
            states.append(heapq.heappop(self.queue))
        return states

    def _score(self, states: Sequence[_State], logits: Tensor) -> None:
        """Gives every reader the log probabilities of its own tokens."""
        places, rows, truths, first = [], [], [], 0
        for state in states:
            end = first + int(state.readers[0].mask.sum())
            for pair, mask, slot in state.readers:
                if slot is not None:
                    places.append((pair, slot))
                    rows.append(torch.arange(first, end))
                    truths.append(self.pairs[pair][1][mask])
            first = end
        if not places:
            return
        row, truth = torch.cat(rows).to(logits.device), torch.cat(truths).to(logits.device)
        log_probs = (logits[row, truth] - logits.logsumexp(dim=-1)[row]).double().cpu()
        if bool(log_probs.isnan().any()):
            raise ValueError(NOT_FINITE)
        parts = log_probs.split([len(truth) for truth in truths])
        for (pair, slot), part in zip(places, parts, strict=True):
            self.scores[pair][slot] = part.sum()

    def _decode(self, state: _State, positions: Tensor, logits: Tensor) -> None:
        """Notes what greedy decoding reveals here, if a pair is here or may still come by."""
        if not any(self._may_reach(reader) for reader in state.readers):
            return
        tokens, confidence = choose_tokens(logits, [self.denoiser.mask_token_id])
        best = int(most_confident(confidence, 1))
        self.choices[state.key] = int(positions[best]), int(tokens[best])
        for pair, mask, _ in state.readers:
            if pair in self.hidden and torch.equal(mask, self.hidden[pair]):
                self._advance(pair)

    def _may_reach(self, reader: _Reader) -> bool:
        hidden = self.hidden.get(reader.pair)
        return hidden is not None and not bool((reader.mask & ~hidden).any())

    def _advance(self, pair: int) -> None:
        """Reveals tokens as far as is known; asks for the next sequence where it is not."""
        prefix, target = self.pairs[pair]
        hidden = self.hidden.pop(pair).clone()
        while (choice := self.choices.get(self._key(pair, hidden))) is not None:
            position, token = choice[0] - len(prefix), choice[1]
            hidden[position] = False
            self.matches[pair] = int(target[position]) == token
            if not self.matches[pair] or not bool(hidden.any()):
                return
        self.hidden[pair] = hidden
        self.ask(pair, hidden, None)

    def _sequence(self, pair: int, mask: Tensor) -> Tensor:
        prefix, target = self.pairs[pair]
        return torch.cat([prefix, target.masked_fill(mask, self.denoiser.mask_token_id)])

    def _positions(self, pair: int, mask: Tensor) -> Tensor:
        return mask.nonzero().squeeze(1) + len(self.pairs[pair][0])

    def _key(self, pair: int, mask: Tensor) -> bytes:
        """What the logits depend on: tokens, positions asked for and, with guidance, the prompt.

        A digest, since a long context would otherwise be kept once for each of its masks.
        """
        sequence = self._sequence(pair, mask)
        prompt_length = len(self.pairs[pair][0]) if self.denoiser.cfg_scale else -1
        digest = hashlib.blake2b(sequence.numpy().tobytes(), digest_size=16)
        digest.update(self._positions(pair, mask).numpy().tobytes())
        digest.update(repr((len(sequence), prompt_length)).encode())
        return digest.digest()
