"""Under a rotation that follows length, `llada` gives each sequence that of its own."""

from __future__ import annotations

import pytest

from lm_eval_llada.harness.llada import LLaDALM
from tests.helpers.toy_requests import choices, generations

# One within the trained context, two beyond it.
CONTEXTS = ["The key is", "The rain fell on the old roof. " * 9, "Nobody spoke. " * 30]


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_method": "dynamic", "target_length": 512},
        {"rope_method": "longrope", "target_length": 512, "rope_long_factor": "FILE"},
    ],
    ids=lambda rope: rope["rope_method"],
)
def test_neither_batch_nor_order_changes_an_answer(random_checkpoint, tmp_path, rope):
    def build(batch_size: int) -> LLaDALM:
        settings = {"device": "cpu", "mc_num": 2, "answers_dir": "none"}
        return LLaDALM(pretrained=str(random_checkpoint), batch_size=batch_size, **settings, **rope)

    if "rope_long_factor" in rope:
        half = LLaDALM(pretrained=str(random_checkpoint)).rope.head_dim // 2
        path = tmp_path / "factors.csv"
        path.write_text("\n".join(str(1 + n) for n in range(half)), encoding="utf-8")
        rope = {**rope, "rope_long_factor": str(path)}
    pairs = [(context, " the old house.") for context in CONTEXTS]
    settings = {"gen_length": 8, "steps": 4, "block_length": 4}
    alone = [build(1).loglikelihood(choices([pair]))[0][0] for pair in pairs]
    texts = [build(1).generate_until(generations([c], **settings))[0] for c in CONTEXTS]
    for batch_size in (1, 3):
        model = build(batch_size)
        for way in (slice(None), slice(None, None, -1)):
            scores = [score for score, _ in model.loglikelihood(choices(pairs[way]))]
            assert scores == pytest.approx(alone[way], rel=1e-5)
            assert model.generate_until(generations(CONTEXTS[way], **settings)) == texts[way]
