"""Likelihoods of a model that is causal between blocks, in natural logs.

log p(target | prefix) is a sum over the blocks that the target touches, exact between them, and
within each the bound of LLaDA's Eq. 14 from masks of that block's target tokens. One pass over
finished tokens gives all that the blocks see; then only rows of these blocks are read, however long
the prefix is. With one token a block the sum is the chain rule.

What of the last block lies behind the target is masked, as it is where the model generates: the
number is log p(target | prefix) and not that the text ends there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_masks import SHARED, AtWork, Branch, Span
from lm_eval_llada.diffusion.block_reader import TOKENS_OF_A_TEXT, BlockReader, Clean
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.choices import NOT_FINITE, choose_tokens
from lm_eval_llada.diffusion.denoiser import Denoiser
from lm_eval_llada.diffusion.estimates import (
    Estimate,
    LikelihoodOptions,
    TargetMasks,
    child_seeds,
    summed,
)
from lm_eval_llada.diffusion.mask_passes import Pair, read_masks


def check_block_likelihood(options: LikelihoodOptions, rules: BlockRules | None) -> None:
    """Refuses options that a model with such blocks does not have.

    Raises:
        ValueError: naming the option and what there is in its place.
    """
    if rules is None:
        return
    if options.cache != "none":
        raise ValueError(
            f"likelihood_cache={options.cache} is an approximation for models in which every token "
            "sees all others. This one is causal between blocks: it reads a context once whatever "
            "is scored behind it, and exactly; drop likelihood_cache."
        )
    if options.cfg_scale:
        raise ValueError(
            f"cfg_scale={options.cfg_scale} reads the prompt as masks, and a model that is causal "
            "between blocks has never seen a finished block of them; drop cfg_scale."
        )
    if options.method == "dream":
        raise ValueError(
            "likelihood=dream masks a whole target at once, and this model is causal between "
            "blocks; use likelihood=auto, mc or enumerate."
        )


def likelihood_rules(options: LikelihoodOptions, rules: BlockRules) -> BlockRules:
    """The blocks to score in: of one token where the model has an exact chain rule.

    `auto` takes it where there is one; `mc` and `enumerate` ask for the bound within blocks.
    """
    return rules.causal_mode if rules.has_causal_mode and options.method == "auto" else rules


def scored_by_blocks(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    seeds: Sequence[int] | None,
    *,
    check_greedy: bool,
) -> list[tuple[Estimate, bool]]:
    """As `likelihood.scored_pairs`, for a denoiser with blocks.

    Targets of one prefix share its pass. A block whose masks are no more than `mc_num` is
    enumerated, so that blocks of up to 7 tokens are exact at the default of 128. Greedy decoding
    reveals the most confident token of a block a pass, block after block.

    Args:
        denoiser: the model.
        pairs: (prefix, target), int64 (length,) each.
        options: how to estimate; batch_size counts prefixes.
        seeds: one for each pair; each block draws from a child of it.
        check_greedy: whether to decode greedily too.

    Raises:
        ValueError: as `check_block_likelihood` and `scored_pairs`.
    """
    assert denoiser.blocks is not None
    check_block_likelihood(options, denoiser.blocks)
    rules = likelihood_rules(options, denoiser.blocks)
    contexts: dict[bytes, list[int]] = {}
    for i, (prefix, _) in enumerate(pairs):
        contexts.setdefault(prefix.numpy().tobytes(), []).append(i)
    results: dict[int, tuple[Estimate, bool]] = {}
    waiting = iter(sorted(contexts.values(), key=lambda some: -len(pairs[some[0]][0])))
    while batch := list(islice(waiting, options.batch_size)):
        branches, members = [], []
        for text, some in enumerate(batch):
            for i in some:
                prefix, target = pairs[i]
                span = Span(
                    len(prefix), len(prefix) + len(target), None if seeds is None else seeds[i]
                )
                tokens = torch.cat([prefix, target])
                branches.append(Branch(text, tokens, len(prefix), (span,)))
                members.append(i)
        scored = _Scoring(denoiser, rules, options, branches).scores(check_greedy=check_greedy)
        results |= {i: one[0] for i, one in zip(members, scored, strict=True)}
    return [results[i] for i in range(len(pairs))]


def span_estimates(
    denoiser: Denoiser, tokens: Tensor, spans: Sequence[Span], options: LikelihoodOptions
) -> list[Estimate]:
    """Log-likelihood of spans of one text, each given all before it, from one pass over the text.

    Args:
        denoiser: the model, with blocks.
        tokens: int64 (length,).
        spans: not empty each, in any order.
        options: how to estimate.

    Raises:
        ValueError: as `scored_by_blocks`.
    """
    assert denoiser.blocks is not None
    check_block_likelihood(options, denoiser.blocks)
    rules = likelihood_rules(options, denoiser.blocks)
    if rules.grid == "prompt" and rules.block_length > 1:
        # The grid begins where each span does, so that they have no pass to share.
        pairs = [(tokens[: one.start], tokens[one.start : one.end]) for one in spans]
        seeds = [one.seed for one in spans if one.seed is not None]
        given = seeds if len(seeds) == len(spans) else None
        scored = scored_by_blocks(denoiser, pairs, options, given, check_greedy=False)
        return [estimate for estimate, _ in scored]
    branch = Branch(0, tokens, 0, tuple(spans))
    (scores,) = _Scoring(denoiser, rules, options, [branch]).scores(check_greedy=False)
    return [estimate for estimate, _ in scores]


class _Piece(NamedTuple):
    """What of a span lies in one block.

    Attributes:
        branch: number of it.
        span: number of it.
        block: where the block begins.
        start: where the piece begins.
        end: where it ends.
        is_read_before: whether its first token is read at the finished row before the block.
        seed: of its masks.
    """

    branch: int
    span: int
    block: int
    start: int
    end: int
    is_read_before: bool
    seed: int | None


@dataclass
class _Scoring:
    """The books of one call.

    Attributes:
        denoiser: the model.
        rules: how blocks lie.
        options: how to estimate.
        branches: what to score; those of one text follow each other.
    """

    denoiser: Denoiser
    rules: BlockRules
    options: LikelihoodOptions
    branches: Sequence[Branch]

    def scores(self, *, check_greedy: bool) -> list[list[tuple[Estimate, bool]]]:
        """Estimate of each span of each branch, and whether greedy decoding gives it."""
        num_texts = self.branches[-1].text + 1 if self.branches else 0
        most = [0] * num_texts
        for branch in self.branches:
            shared = self.rules.first_block(branch.prompt_length)
            most[branch.text] = max(most[branch.text], shared)
        for branch in self.branches:
            most[branch.text] += len(branch.tokens) - self.rules.first_block(branch.prompt_length)
        reader = BlockReader.of(self.denoiser, self.rules, num_texts, max(most, default=0))
        pieces = [piece for i in range(len(self.branches)) for piece in self._pieces(i)]
        before, slots = self._keep(reader, pieces)
        estimates, matches = self._read(reader, slots, pieces, check_greedy)
        parts: dict[tuple[int, int], list[tuple[Estimate, bool]]] = {}
        for piece, estimate, match in zip(pieces, estimates, matches, strict=True):
            found = parts.setdefault((piece.branch, piece.span), [])
            found.append((estimate, match))
            if piece.is_read_before:
                log_prob, token = before[piece.branch][piece.start]
                is_same = token == int(self.branches[piece.branch].tokens[piece.start])
                found.append((Estimate(log_prob, 0.0, 0), check_greedy and is_same))
        return [
            [self._total(parts.get((i, k), []), check_greedy) for k in range(len(branch.spans))]
            for i, branch in enumerate(self.branches)
        ]

    def _total(
        self, parts: Sequence[tuple[Estimate, bool]], check_greedy: bool
    ) -> tuple[Estimate, bool]:
        return summed([e for e, _ in parts]), check_greedy and all(match for _, match in parts)

    def _pieces(self, number: int) -> Iterator[_Piece]:
        branch, size = self.branches[number], self.rules.block_length
        for k, span in enumerate(branch.spans):
            offset = self.rules.offset(branch.prompt_length)
            start = span.start
            blocks = []
            while start < span.end:
                block = max(0, start - (start + offset) % size)
                end = min(span.end, start + size - (start + offset) % size)
                blocks.append((block, start, end))
                start = end
            seeds: Sequence[int | None] = [None] * len(blocks)
            if span.seed is not None:
                seeds = child_seeds(span.seed, len(blocks))
            for (block, start, end), seed in zip(blocks, seeds, strict=True):
                is_first = self.rules.first_token != "own" and 0 < start == block
                yield _Piece(number, k, block, start, end, is_first, seed)

    def _keep(
        self, reader: BlockReader, pieces: Sequence[_Piece]
    ) -> tuple[list[dict[int, tuple[float, int]]], list[tuple[range, ...]]]:
        """Reads finished tokens: first what branches share, then what each has of its own.

        Returns:
            For each branch the log probability and the greedy token at positions that are read at
            a finished row; and the slots of its tokens, in the order of these.
        """
        wanted: list[set[int]] = [set() for _ in self.branches]
        last = [0] * len(self.branches)
        for piece in pieces:
            last[piece.branch] = max(last[piece.branch], piece.block)
            if piece.is_read_before:
                wanted[piece.branch].add(piece.start - 1)
        found: list[dict[int, tuple[float, int]]] = [{} for _ in self.branches]
        shared: dict[int, Clean] = {}
        own: list[Clean] = []
        for i, branch in enumerate(self.branches):
            common = self.rules.first_block(branch.prompt_length)
            ids = branch.tokens[:common]
            is_wanted = common - 1 in wanted[i]
            given = shared.get(branch.text)
            if given is None or (is_wanted and not len(given.rows)):
                rows = torch.tensor([common - 1] if is_wanted else [], dtype=torch.int64)
                shared[branch.text] = Clean(branch.text, ids, 0, (), branch.prompt_length, rows)
            rest = sorted(row - common for row in wanted[i] if row >= common)
            more = branch.tokens[common : max(last[i], common)]
            rows = torch.tensor(rest, dtype=torch.int64)
            own.append(Clean(branch.text, more, common, (), branch.prompt_length, rows))
        texts = list(shared)

        def of_shared(number: int, rows: Tensor, logits: Tensor) -> Tensor:
            # Each branch has a token of its own behind the shared ones.
            for i, branch in enumerate(self.branches):
                if branch.text == texts[number] and len(branch.tokens) > int(rows[0]) + 1:
                    self._note(found[i], branch, rows, logits)
            return logits[:0, :0]

        def of_own(number: int, rows: Tensor, logits: Tensor) -> Tensor:
            branch = self.branches[number]
            self._note(found[number], branch, rows + own[number].start, logits)
            return logits[:0, :0]

        common_slots, _ = reader.keep([shared[text] for text in texts], of_shared)
        by_text = dict(zip(texts, common_slots, strict=True))
        own = [one._replace(seen=by_text[one.text]) for one in own]
        own_slots, _ = reader.keep(own, of_own)
        return found, [
            (*by_text[branch.text], *some)
            for branch, some in zip(self.branches, own_slots, strict=True)
        ]

    def _note(
        self, found: dict[int, tuple[float, int]], branch: Branch, rows: Tensor, logits: Tensor
    ) -> None:
        """Keeps what finished rows say of the tokens behind them."""
        truths = branch.tokens[rows + 1].to(logits.device)[:, None]
        log_probs = logits.gather(1, truths).squeeze(1) - logits.logsumexp(dim=-1)
        tokens, _ = choose_tokens(logits, [self.denoiser.mask_token_id])
        for row, value, token in zip(
            rows.tolist(), log_probs.double().tolist(), tokens.tolist(), strict=True
        ):
            if value != value:
                raise ValueError(NOT_FINITE)
            found[row + 1] = value, token

    def _read(
        self,
        reader: BlockReader,
        slots: Sequence[tuple[range, ...]],
        pieces: Sequence[_Piece],
        check_greedy: bool,
    ) -> tuple[list[Estimate], list[bool]]:
        """The bound of each piece, without a first token that is known already."""
        pairs, drawn = [], []
        for piece in pieces:
            branch = self.branches[piece.branch]
            start = piece.start + piece.is_read_before
            # Where a block begins that all branches of a text begin with, they share its masks.
            is_shared = piece.block <= self.rules.first_block(branch.prompt_length)
            address = [branch.text, SHARED if is_shared else piece.branch, piece.block]
            known = branch.tokens[piece.block : start]
            target = branch.tokens[start : piece.end]
            pairs.append((torch.cat([torch.tensor(address), known]), target))
            drawn.append(TargetMasks.made(len(target), self.options, piece.seed))
        at_work = AtWork(reader, self.rules, self.branches, slots, self.denoiser.mask_token_id)
        scores, matches = read_masks(
            at_work,
            pairs,
            [one.masks for one in drawn],
            max(1, TOKENS_OF_A_TEXT // self.rules.block_length),
            check_greedy=check_greedy,
        )
        return [one.elbo(score) for one, score in zip(drawn, scores, strict=True)], matches
