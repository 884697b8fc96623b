"""Samples of the generated sets, filled to a length, and the data set of a task file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.tasks.dataset import SampleOptions, make_dataset
from lm_eval_llada.tasks.generated.puzzle import PuzzleMaker
from lm_eval_llada.tasks.generated.sets import SETS
from lm_eval_llada.tasks.ruler.fitting import fit
from lm_eval_llada.tasks.token_counts import make_counter


@dataclass(frozen=True, kw_only=True)
class GeneratedOptions(SampleOptions):
    """What a set of samples is made of.

    Attributes:
        set: One of ``SETS``.
        length: Tokens of prompt, answer prefix and output together, in ``length_unit``.
        gen_length: Tokens reserved for the output.
        num_samples: How many samples.
        seed: Seed of everything random.
    """

    set: str
    length: int
    gen_length: int
    num_samples: int = 100
    seed: int = 2025

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind or out of range.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        super().__post_init__()
        if self.set not in SETS:
            raise unknown_choice("set", self.set, SETS)
        for name in ("length", "gen_length", "num_samples"):
            require_whole(name, getattr(self, name), 1)
        require_whole("seed", self.seed, 0)
        if self.gen_length >= self.length:
            raise ValueError(
                f"length={self.length} must be more than the output's {self.gen_length} tokens, "
                "which are a part of it."
            )


def build_generated(
    tokenizer: Any, *, set: str, length: int, gen_length: int, **options: Any
) -> list[dict[str, Any]]:
    """Make the samples of one set at one length.

    A sample holds the largest number of units (lines, sentences, edges) with which prompt, answer
    prefix and reserved output stay within the length. It is a function of the options and its index
    alone, and what is asked is the same at every length.

    Args:
        tokenizer: A transformers tokenizer: the model's.
        set: One of ``SETS``.
        length: Tokens of prompt, answer prefix and output together.
        gen_length: Tokens reserved for the output.
        **options: The other fields of ``GeneratedOptions``.

    Returns:
        The samples, with the keys input (the prompt), gen_prefix (the answer's beginning), outputs
        (all references), set, index, length, gen_length, num_tokens (of prompt and answer prefix),
        num_units and depths (percent of the context before each statement).

    Raises:
        ValueError: If an option is wrong, or a puzzle without any filler is too long.
    """
    checked = GeneratedOptions(set=set, length=length, gen_length=gen_length, **options)
    counter = make_counter(
        tokenizer,
        checked.length_unit,
        add_bos_token=checked.add_bos_token,
        apply_chat_template=checked.apply_chat_template,
    )
    samples = []
    for index in range(checked.num_samples):
        seed = f"{checked.seed}/{checked.set}/{index}"
        maker = PuzzleMaker(SETS[checked.set].puzzle(seed), seed)
        fitted = fit(maker, checked.length - checked.gen_length, counter.count)
        prefix = fitted.draft.answer_prefix
        samples.append(
            {
                "input": fitted.draft.prompt,
                # As in RULER's samples: no answer of a chat begins with a space.
                "gen_prefix": prefix.lstrip() if checked.apply_chat_template else prefix,
                "outputs": list(fitted.draft.references),
                "set": checked.set,
                "index": index,
                "length": checked.length,
                "gen_length": checked.gen_length,
                "num_tokens": fitted.num_tokens,
                "num_units": fitted.num_units,
                **fitted.draft.details,
            }
        )
    return samples


def generated_dataset(**given: Any) -> dict[str, Any]:
    """Make the data set of a task file; see ``make_dataset``, whose ``given`` lm-eval hands over.

    Args:
        **given: Fields of ``GeneratedOptions`` among others; ``set`` and ``length`` are required.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or the length is too short.
    """
    required = ("set", "length")
    return make_dataset(
        "a generated task", build_generated, GeneratedOptions, given, required=required
    )
