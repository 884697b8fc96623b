"""Hypothesis strategies, one section for each room of the package."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# --- rope ---------------------------------------------------------------------------------------


def rope_heads() -> st.SearchStrategy[dict[str, Any]]:
    """Trained RoPE geometries, as the first three arguments of every formula."""
    return st.fixed_dictionaries(
        {
            "rope_theta": st.floats(100, 1e8) | st.sampled_from([10_000, 500_000, 1_000_000]),
            "head_dim": st.integers(4, 128).map(lambda half: 2 * half),
            # Ten turns of the fastest pair or more: with fewer, λ of a distant target overflows.
            "train_length": st.integers(64, 131_072),
        }
    )
