"""The picture of what each rotary dimension saw in training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lm_eval_llada.report.coverage import draw_coverage, save_coverage
from lm_eval_llada.rope import coverage

LLADA = (5e5, 128, 4096)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_pair_stands_at_its_period_and_is_marked_by_its_coverage(bidirectional: bool) -> None:
    theta, head_dim, train = LLADA
    upper, lower = draw_coverage(*LLADA, bidirectional=bidirectional).axes
    shares = coverage(*LLADA, bidirectional=bidirectional)
    whole, part, span = upper.lines[:3]
    for line, expected in ((whole, True), (part, False)):
        pairs = [n for n, share in enumerate(shares) if (share == 1) is expected]
        assert list(line.get_xdata()) == pairs
        periods = [2 * math.pi * theta ** (2 * n / head_dim) for n in pairs]
        np.testing.assert_allclose(line.get_ydata(), periods)
    assert f"{sum(share == 1 for share in shares)} of 64" in whole.get_label()
    assert whole.get_marker() != part.get_marker()
    assert set(span.get_ydata()) == {(train - 1) * (2 if bidirectional else 1)}
    heights = [bar.get_height() for bar in lower.patches]
    np.testing.assert_allclose(heights, [100 * share for share in shares])


@pytest.mark.parametrize(("bidirectional", "d_crit"), [(False, 64), (True, 70)])
def test_the_critical_dimension_is_marked_between_its_pairs(
    bidirectional: bool, d_crit: int
) -> None:
    upper, _ = draw_coverage(*LLADA, bidirectional=bidirectional).axes
    (line,) = [line for line in upper.lines if line.get_label().startswith("_child")]
    assert set(line.get_xdata()) == {d_crit / 2 - 0.5}
    labels = [text.get_text() for text in upper.get_legend().get_texts()]
    assert f"d_crit = {d_crit}" in labels


def test_a_scale_adds_the_periods_it_leads_to() -> None:
    plain, scaled = (draw_coverage(*LLADA, rope_scale=s).axes[0] for s in (1, 14))
    assert len(scaled.lines) == len(plain.lines) + 1
    (line,) = [line for line in scaled.lines if "λ = 14" in str(line.get_label())]
    assert line.get_ydata()[-1] == pytest.approx(2 * math.pi * (14 * 5e5) ** (126 / 128))


def test_it_is_written_where_asked(tmp_path: Path) -> None:
    path = save_coverage(tmp_path / "new" / "coverage.svg", draw_coverage(1e4, 64, 512))
    assert "<svg" in path.read_text()


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim"):
        draw_coverage(1e4, 63, 512)
