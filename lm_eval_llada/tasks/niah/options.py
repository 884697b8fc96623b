"""What a set of NIAH samples is made of: the options, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.tasks.dataset import SampleOptions
from lm_eval_llada.tasks.niah.needlebench import FIXED_HAYSTACKS
from lm_eval_llada.tasks.niah.own_needles import check_needles
from lm_eval_llada.tasks.niah.scores import DEPTHS
from lm_eval_llada.tasks.text.haystacks import HUB_REVISION, check_haystack

NEEDLES: tuple[str, ...] = ("auto", "numbers", "needlebench")
"""Generated numbers, NeedleBench's facts, or (auto) those that belong to the haystack."""

WORDINGS: tuple[str, ...] = ("own", "needlebench")
"""The package's own words, or those of NeedleBench as the papers' releases ran it."""


@dataclass(frozen=True, kw_only=True)
class NiahOptions(SampleOptions):
    """What a set of samples is made of. A ``data_dir`` is one with ``needlebench/``.

    Attributes:
        length: Tokens of prompt and output together, in ``length_unit``. With a ``buffer``, those
            of the context and the buffer.
        gen_length: Tokens of the output.
        buffer: Tokens of ``length`` that the context leaves for question and output. Contexts are
            then those of OpenCompass' NeedleBench: exactly ``length - buffer`` tokens, needles put
            between tokens without moving to a sentence, and its own needles and order of documents
            for each repeat, whatever the ``seed``. None: the prompt is measured as a whole.
        depths: Places of the needle in percent of the haystack: 0 is its start, 100 its end.
        repeats: Samples at each depth, each with another needle and another haystack.
        haystack: One of ``HAYSTACKS``, a text file, or a folder of ``*.txt``.
        needles: One of ``NEEDLES``, or one's own as ``own_needles`` takes them: in a list, or in a
            ``.jsonl`` file.
        num_distractors: Needles of other keys, at random depths, beside the one asked for.
        wording: One of ``WORDINGS``.
        template: The prompt in place of either, as a format string with ``{context}`` and with
            ``{question}`` (``{questions}`` where there are several), ``{stem}`` or both.
        seed: Seed of everything random.
    """

    length: int
    gen_length: int
    buffer: int | None = None
    depths: tuple[float, ...] = DEPTHS
    repeats: int = 10
    haystack: str = "noise"
    needles: str | Sequence[Mapping[str, Any]] = "auto"
    num_distractors: int = 0
    wording: str = "own"
    template: str | None = None
    seed: int = 2025
    hub_revision: str = HUB_REVISION

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind or out of range.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        super().__post_init__()
        for name, least in (
            ("length", 1), ("gen_length", 1), ("repeats", 1), ("num_distractors", 0), ("seed", 0)
        ):  # fmt: skip
            require_whole(name, getattr(self, name), least)
        if self.wording not in WORDINGS:
            raise unknown_choice("wording", self.wording, WORDINGS)
        check_haystack(self.haystack)
        self._check_needles()
        if self.gen_length >= self.length:
            raise ValueError(
                f"length={self.length} must be more than gen_length={self.gen_length}, "
                "which is a part of it."
            )
        if self.buffer is not None:
            self._check_buffer()
        object.__setattr__(self, "depths", checked_depths(self.depths))

    def _check_needles(self) -> None:
        is_name = isinstance(self.needles, str) and not self.needles.endswith(".jsonl")
        if not is_name:
            check_needles(self.needles)
        elif self.needles not in NEEDLES:
            raise unknown_choice("needles", self.needles, NEEDLES)

    def _check_buffer(self) -> None:
        require_whole("buffer", self.buffer, 0)
        if self.buffer is not None and self.buffer >= self.length:
            raise ValueError(
                f"length={self.length} must be more than buffer={self.buffer}, which is a part of "
                "it."
            )
        if self.haystack not in FIXED_HAYSTACKS:
            raise ValueError(
                "A context with a buffer has a haystack of documents, one of "
                f"{', '.join(FIXED_HAYSTACKS)}; got haystack={self.haystack!r}. Leave out buffer "
                "for that one."
            )
        if self.num_distractors:
            raise ValueError(
                f"num_distractors={self.num_distractors} is not for contexts with a buffer, which "
                "follow NeedleBench and have none; leave out one of the two."
            )

    @property
    def needle_kind(self) -> str:
        """Return ``numbers``, ``needlebench`` or ``own``."""
        if self.needles not in NEEDLES:
            return "own"
        if self.needles != "auto":
            return str(self.needles)
        return "needlebench" if self.haystack in FIXED_HAYSTACKS else "numbers"


def checked_depths(depths: Any) -> tuple[float, ...]:
    """Return depths as a tuple, or raise a ``ValueError`` for an empty, unsorted or wrong one."""
    listed = isinstance(depths, Sequence) and not isinstance(depths, str) and len(depths) > 0
    if not listed or not all(
        isinstance(depth, int | float) and not isinstance(depth, bool) and 0 <= depth <= 100
        for depth in depths
    ):
        raise ValueError(f"depths must be a list of percentages from 0 to 100; got {depths!r}.")
    if any(one >= other for one, other in zip(depths, depths[1:], strict=False)):
        raise ValueError(f"depths must ascend, each one once; got {list(depths)!r}.")
    return tuple(depths)
