"""Evaluation of LLaDA masked diffusion language models, with longer contexts, in lm-eval."""

from __future__ import annotations

from lm_eval_llada.harness.registration import register_models

__version__ = "0.1.0"

# Any `!function` of our task files imports this package, so that is where plain `lm_eval` comes to
# know the model. Only its name is entered here, which takes milliseconds.
register_models()
