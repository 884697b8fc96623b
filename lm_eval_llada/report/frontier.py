"""What a run says about its rope: its name in tables, and the frontier predicted from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_llada.rope import predicted_frontier


@dataclass(frozen=True)
class RopeFacts:
    """What the predicted frontier depends on.

    Attributes:
        rope_theta: Base of the checkpoint, before λ.
        head_dim: Dimensions of one attention head.
        train_length: Trained context in tokens.
        rope_scale: λ, 1 when unscaled.
        bidirectional: Whether λ was chosen by diffusion-aware NTK.
        d_crit: Critical dimension λ was chosen with; None means the one of the formula.
    """

    rope_theta: float
    head_dim: int
    train_length: int
    rope_scale: float = 1.0
    bidirectional: bool = False
    d_crit: float | None = None

    def frontier(self, length: int) -> float:
        """Shallowest depth in per cent predicted to be retrieved at a context of ``length`` tokens.

        A heuristic; see ``lm_eval_llada.rope.predicted_frontier``.
        """
        frontier = predicted_frontier(
            length,
            self.rope_theta,
            self.head_dim,
            self.train_length,
            self.rope_scale,
            bidirectional=self.bidirectional,
            d_crit=self.d_crit,
        )
        # λ and reach invert each other up to the last bits; without this a λ made for `length`
        # could leave depth 0 just outside.
        return round(100 * frontier, 6)


def rope_facts(config: Mapping[str, Any]) -> RopeFacts | None:
    """What the model adapter wrote about its rope, as far as a frontier can be predicted from it.

    Args:
        config: The ``config`` entry of lm-eval's results, to which our adapter adds ``rope``, the
            fields of ``lm_eval_llada.rope.ResolvedRope``.

    Returns:
        The facts, or None for other models and for methods that have no critical dimension.
    """
    rope = config.get("rope")
    if not rope or rope["d_crit"] is None:
        return None
    return RopeFacts(
        rope_theta=rope["rope_theta"] / rope["rope_scale"],
        head_dim=rope["head_dim"],
        train_length=rope["train_length"],
        rope_scale=rope["rope_scale"],
        bidirectional=rope["method"] == "diffusion_ntk",
        d_crit=rope["d_crit"],
    )


def rope_label(rope: Mapping[str, Any]) -> str:
    """How tables and pictures call a rope: ``unscaled``, ``λ = 2.656 (ntk)`` or ``yarn x4``.

    Args:
        rope: The fields of ``lm_eval_llada.rope.ResolvedRope``.
    """
    method = rope.get("method", "none")
    if method == "none":
        return "unscaled"
    if rope.get("d_crit") is not None:
        return f"λ = {rope['rope_scale']:.4g} ({method})"
    return f"{method} x{rope.get('factor') or 1:.4g}"
