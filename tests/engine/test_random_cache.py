"""The harness' cache of answers keeps no drawn text, whose repeats it cannot tell apart."""

from __future__ import annotations

import pytest
from lm_eval.api.model import CachingLM

from tests.helpers.toy_requests import PROMPTS, generations


@pytest.mark.parametrize("drawn", [{"temperature": 0.9}, {"remasking": "random"}])
def test_drawn_texts_are_refused_or_passed_over(make, tmp_path, drawn) -> None:
    lm = make(batch_size=4)
    caching = CachingLM(lm, str(tmp_path / "cache.db"))
    with pytest.raises(ValueError, match="add do_sample=true"):
        caching.generate_until(generations(PROMPTS[1:2], repeats=3, **drawn) * 3)
    assert len(caching.dbdict) == 0
    expected = lm.generate_until(generations(PROMPTS[1:2], repeats=3, do_sample=True, **drawn) * 3)
    assert len(set(expected)) > 1
    for _ in range(2):
        asked = generations(PROMPTS[1:2], repeats=3, do_sample=True, **drawn) * 3
        assert caching.generate_until(asked) == expected


def test_texts_without_a_draw_are_cached(make, tmp_path) -> None:
    caching = CachingLM(make(), str(tmp_path / "cache.db"))
    texts = caching.generate_until(generations(PROMPTS))
    assert len(caching.dbdict) == len(PROMPTS)
    assert caching.generate_until(generations(PROMPTS)) == texts
