"""Evaluation of LLaDA masked diffusion language models, with longer contexts, in lm-eval.

from lm_eval_llada import load_model, generate, log_likelihood
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_llada.harness.registration import register_models

if TYPE_CHECKING:
    from lm_eval_llada.harness.direct import generate, load_model, log_likelihood

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_model", "log_likelihood"]

# Any `!function` of our task files imports this package, so that is where plain `lm_eval` comes to
# know the model. Only its name is entered here, which takes milliseconds.
register_models()


def __getattr__(name: str) -> Any:
    # What takes seconds to import is imported by those who ask for it.
    if name in __all__:
        from lm_eval_llada.harness import direct

        return getattr(direct, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
