"""Makes `--model llada` known to lm-evaluation-harness, without importing what the model needs."""

from __future__ import annotations

MODELS = {
    "llada": "lm_eval_llada.harness.llada:LLaDALM",
    # The same model under a name that also says what checkpoints of other families are.
    "mdlm": "lm_eval_llada.harness.llada:LLaDALM",
    "diffusion_gemma": "lm_eval_llada.harness.diffusion_gemma:DiffusionGemmaLM",
    "hf_rope": "lm_eval_llada.harness.hf_rope:RopeLM",
}
"""Name of each model in the harness, and where its class is."""


def register_models() -> None:
    """Enter our models in the harness' registry, as names that are resolved on first use.

    Importing anything of the package calls this, so a `!function` of a task file is enough for
    `lm_eval --model llada` to work. A name that is already there is left alone: a release of the
    harness that reads the entry points of pyproject.toml may have entered it before.
    """
    # The harness fills its registry with its own models only if it is empty, so ours must come
    # second: otherwise `--model hf` no longer resolves.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)
