"""The cells of the post-training ablation: what each is, in which order they run, their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.posttrain.options import PosttrainOptions, read_options
from lm_eval_llada.rope import RopeChoice

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "tiny_ultra.yaml"
"""What the cells share, apart from the overrides below."""

TARGET_LENGTH = 4096
"""Tokens that λ is made for, and of a training sample."""

FREE = "free"
"""The strategy of a cell without training."""

METHODS = ("none", "ntk", "diffusion_ntk")
STRATEGIES = ("adaptive", "concat", "eod")
D_CRITS = (32, 40, 44)
"""Instead of the 36 that follows from twice the trained context; 32 is what `ntk` has."""

TRAINING = (
    "training.max_steps=18",
    "training.warmup_steps=3",
    "training.logging_steps=3",
    "training.save_strategy=no",
    "training.disable_tqdm=true",
    "evaluation.every=null",
)
"""72 samples of 4,096 tokens: under five minutes of one core, whatever attends to what."""


@dataclass(frozen=True)
class Cell:
    """One model of the ablation.

    Attributes:
        method: a `rope_method`.
        strategy: of packing, or `FREE`.
        seed: of the training documents and masks.
        d_crit: critical dimension in place of the computed one.
        block_share: of the training samples, see `ObjectiveOptions`.
    """

    method: str
    strategy: str = FREE
    seed: int = 0
    d_crit: int | None = None
    block_share: float = 0.5

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to train."""
        return self.strategy != FREE

    @property
    def setting(self) -> str:
        """What two seeds of a cell share."""
        parts = [self.method, self.strategy]
        parts += [] if self.d_crit is None else [f"d{self.d_crit}"]
        parts += [] if self.block_share else ["plain"]
        return "-".join(parts)

    @property
    def name(self) -> str:
        """How the command line and the results call it."""
        return f"{self.setting}-seed{self.seed}" if self.is_trained else self.setting

    @property
    def rope(self) -> RopeChoice:
        """The position embeddings of a cell without training."""
        target = None if self.method == "none" else TARGET_LENGTH
        return RopeChoice(method=self.method, target_length=target, d_crit=self.d_crit)

    def training(self, runs: Path, overrides: Sequence[str] = ()) -> PosttrainOptions:
        """Its options of post-training.

        Args:
            runs: folder for the trained model, in a folder of its own.
            overrides: further ones, `name=value` each.
        """
        rope = self.rope
        own = {
            "output": runs / self.name,
            "seed": self.seed,
            "data.strategy": self.strategy,
            "data.length": TARGET_LENGTH,
            "objective.block_share": self.block_share,
            "rope.rope_method": rope.method,
            "rope.target_length": "null" if rope.target_length is None else rope.target_length,
            "rope.d_crit": "null" if rope.d_crit is None else rope.d_crit,
        }
        given = [f"{name}={value}" for name, value in own.items()]
        return read_options(CONFIG, [*TRAINING, *given, *overrides])


def all_cells() -> list[Cell]:
    """Every cell, those that conclusions rest on first."""
    free = [Cell(method) for method in METHODS]
    first = [Cell("diffusion_ntk", strategy) for strategy in STRATEGIES]
    first += [Cell("ntk", "adaptive"), Cell("none", "adaptive")]
    rest = [Cell(m, s) for m in ("ntk", "none") for s in ("concat", "eod")]
    again = [Cell("diffusion_ntk", strategy, seed=1) for strategy in STRATEGIES]
    again += [Cell("ntk", "adaptive", seed=1)]
    sweep = [Cell("diffusion_ntk", s, d_crit=d) for s in (FREE, "adaptive") for d in D_CRITS]
    plain = [Cell("diffusion_ntk", strategy, block_share=0) for strategy in STRATEGIES]
    return [*free, *first, *rest, *again, *sweep, *plain]


def chosen(names: Sequence[str] | None) -> list[Cell]:
    """The cells of some names, in the order of `all_cells`; all of them for None.

    Raises:
        ValueError: if there is no cell of a name.
    """
    cells = {cell.name: cell for cell in all_cells()}
    for name in names or ():
        if name not in cells:
            raise unknown_choice("A cell", name, cells)
    return [cell for name, cell in cells.items() if names is None or name in names]
