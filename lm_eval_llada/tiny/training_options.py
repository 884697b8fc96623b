"""What identifies a run of a recipe: objective, start, sizes, steps."""

from __future__ import annotations

from dataclasses import dataclass

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.tiny.corpus import BOS_ID, EOS_ID, MASK_ID
from lm_eval_llada.tiny.recipes import RECIPES

TRAIN_LENGTH = 512
"""Trained context in tokens."""

ROPE_THETA = 1e4
"""With 512 tokens and heads of 64 the critical dimension is 32, half of head_dim as in LLaDA."""

_CHOICES = {
    "recipe": tuple(RECIPES),
    "objective": ("masked", "causal", "block"),
    "first_layer": ("neighbours", "random"),
    "first_token": ("text", "bos"),
}


@dataclass(frozen=True)
class TrainingOptions:
    """What identifies a run; a resumed run must have the same.

    Attributes:
        recipe: one of `RECIPES`.
        objective: `masked` as LLaDA is trained, `causal` as LLaMA is, or `block`.
        block_length: tokens of a block under `block`.
        start_from: checkpoint whose weights and tokenizer it begins with; empty for fresh ones.
        first_layer: `neighbours`, whose heads start as look-ups of neighbours, or `random`.
        first_token: `text`, or `bos` for a start-of-text token in the first place of each sample.
        reveal_share: share of batches in which `masked` training knows the tokens that the model is
            surest of, see `reveal_surest`.
        seed: of weights, samples and masks.
        width: hidden size; heads have 64 dimensions.
        layers: number of blocks.
        mlp_width: hidden size of the gated MLP.
        tokens_per_batch: about this many tokens a step of the curriculum.
        tail_tokens_per_batch: the same after it, where contexts are longest and samples fewest.
        learning_rate: peak, for both optimizers.
        weight_decay: of the matrices inside blocks.
        warmup_steps: linear rise at the start.
        constant_steps: steps after the curriculum, at the peak learning rate.
        decay_steps: steps after those, in which it falls linearly to zero.
        min_stage_steps: shortest stay in a stage.
        max_stage_steps: longest, so that an unlucky seed goes on as well.
    """

    recipe: str = "needles"
    objective: str = "masked"
    block_length: int = 8
    start_from: str = ""
    first_layer: str = "neighbours"
    first_token: str = "text"
    reveal_share: float = 0.0
    seed: int = 0
    width: int = 256
    layers: int = 4
    mlp_width: int = 512
    tokens_per_batch: int = 2048
    tail_tokens_per_batch: int = 4096
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup_steps: int = 50
    constant_steps: int = 1000
    decay_steps: int = 2000
    min_stage_steps: int = 60
    max_stage_steps: int = 2000

    def __post_init__(self) -> None:
        """Refuse unknown names.

        Raises:
            ValueError: naming the option and what it may be.
        """
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown_choice(name, getattr(self, name), choices)

    @property
    def is_causal(self) -> bool:
        """Whether tokens see only those before them."""
        return self.objective == "causal"

    def model_config(self, vocab_size: int = 1024) -> LLaDAConfig:
        """Config of the model to train, in LLaDA's terms."""
        return LLaDAConfig(
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.width // 64,
            n_kv_heads=self.width // 64,
            mlp_hidden_size=self.mlp_width,
            vocab_size=vocab_size,
            embedding_size=vocab_size,
            max_sequence_length=TRAIN_LENGTH,
            block_length=self.block_length if self.objective == "block" else None,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            weight_tying=True,
            mask_token_id=MASK_ID,
            eos_token_id=EOS_ID,
            pad_token_id=EOS_ID,
            bos_token_id=BOS_ID,
        )
