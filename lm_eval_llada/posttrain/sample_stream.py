"""One rank's micro-batches of the stream that all ranks share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset

from lm_eval_llada.posttrain.loss import (
    ObjectiveOptions,
    collate,
    kept_length,
    noise_sample,
    sample_generator,
)
from lm_eval_llada.posttrain.packing import Packer

STATE = "stream_state"
"""Key of a micro-batch under which the place after it travels."""


@dataclass(frozen=True)
class Share:
    """Which samples of the stream a rank trains on.

    Attributes:
        batch_size: samples of a micro-batch.
        rank: of this process.
        num_ranks: processes with samples of their own.
    """

    batch_size: int
    rank: int = 0
    num_ranks: int = 1


class SampleStream(IterableDataset[dict[str, Any]]):
    """Micro-batches with the place in the stream after each.

    Every rank packs all samples and masks its own. Packing costs little beside training, and the
    samples of a step are then the same on any number of ranks.
    """

    def __init__(
        self,
        packer: Packer,
        objective: ObjectiveOptions,
        share: Share,
        *,
        seed: int,
        mask_token_id: int,
        pad_token_id: int,
    ) -> None:
        """A stream at its beginning.

        Args:
            packer: makes the samples, the same on each rank.
            objective: what to mask.
            share: of this rank.
            seed: of the masks.
            mask_token_id: id written over masked tokens.
            pad_token_id: id written into padding.
        """
        self._packer = packer
        self._objective = objective
        self._share = share
        self._seed = seed
        self._token_ids = {"mask": mask_token_id, "pad": pad_token_id}
        self._num_samples = 0
        self._shortened_tokens = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Micro-batches from the place on: those of `collate`, and the state under `STATE`.

        Raises:
            ValueError: if the documents are used up.
        """
        share = self._share
        wanted = share.batch_size * share.num_ranks
        first = share.rank * share.batch_size
        while True:
            group = list(islice(self._packer, wanted))
            if len(group) < wanted:
                raise ValueError(
                    f"The documents are used up after {self._num_samples + len(group)} samples; "
                    "lower training.max_steps, raise data.epochs, or give more documents."
                )
            samples = [
                noise_sample(
                    packed,
                    self._objective,
                    seed=self._seed,
                    index=self._num_samples + number,
                    mask_token_id=self._token_ids["mask"],
                )
                for number, packed in enumerate(group)
                if first <= number < first + share.batch_size
            ]
            for packed in group:
                self._count(len(packed.input_ids))
            yield {**collate(samples, self._token_ids["pad"]), STATE: self.state_dict()}

    def _count(self, length: int) -> None:
        """Moves past a sample, of whichever rank."""
        generator = sample_generator(self._seed, self._num_samples)
        self._shortened_tokens += length - kept_length(length, self._objective, generator)
        self._num_samples += 1

    def state_dict(self) -> dict[str, Any]:
        """The place of all ranks, in what JSON can hold."""
        return {
            "num_samples": self._num_samples,
            "shortened_tokens": self._shortened_tokens,
            "packer": self._packer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place that any rank of any number has saved.

        Raises:
            ValueError: if the place belongs to other documents or another packing.
        """
        self._num_samples = state["num_samples"]
        self._shortened_tokens = state["shortened_tokens"]
        self._packer.load_state_dict(state["packer"])
