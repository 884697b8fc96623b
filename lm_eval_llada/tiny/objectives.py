"""What a tiny model predicts, and from what: from all other tokens, from those before, or by block.

`tiny-llada` and `tiny-llama` differ in nothing else. They start from the same weights, see the
same samples in the same order and are scored on the same tokens; the causal model sees the tokens
before them unmasked, and none behind.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM
from lm_eval_llada.tiny.block_objective import block_inputs
from lm_eval_llada.tiny.curriculum import Batch
from lm_eval_llada.tiny.initialization import initialize

# Each tensor's name in LLaDA's layout, then in LLaMA's; the blocks hold the same computation.
_OUTER = {"model.transformer.wte": "model.embed_tokens", "model.transformer.ln_f": "model.norm"}
_INNER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def build_model(
    config: LLaDAConfig, seed: int, *, is_causal: bool, with_neighbours: bool = True
) -> PreTrainedModel:
    """A fresh model: LLaDA's, or a LLaMA of the same sizes and the same initial weights.

    Args:
        config: sizes, as of a LLaDA model with tied embeddings and as many KV heads as heads.
        seed: of the weights.
        is_causal: which of the two.
        with_neighbours: see `initialize`.
    """
    masked = LLaDAForMaskedLM(config)
    initialize(masked, seed, with_neighbours=with_neighbours)
    if not is_causal:
        return masked
    causal = LlamaForCausalLM(_llama_config(config))
    weights = {_llama_name(name): tensor for name, tensor in masked.state_dict().items()}
    # The head is the embedding.
    causal.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    return causal


def block_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The matrices inside the blocks of a model that `build_model` made."""
    is_causal = isinstance(model, LlamaForCausalLM)
    blocks = model.model.layers if is_causal else model.model.transformer["blocks"]
    return [parameter for parameter in blocks.parameters() if parameter.dim() == 2]


def predict(model: PreTrainedModel, batch: Batch, rng: np.random.Generator) -> Tensor:
    """Logits of the masked positions, (num_masked, vocab).

    Args:
        model: from `build_model`.
        batch: of samples. A causal model reads them with their masks taken off and is asked at the
            position before each masked one. Before the first position it reads the mask token,
            which then stands there, so that nothing of the answer leaks.
        rng: draws where blocks begin, where the model has any.
    """
    if isinstance(model, LLaDAForMaskedLM) and model.config.blocks is not None:
        return model(**vars(block_inputs(batch, model.config.blocks.block_length, rng))).logits
    if not isinstance(model, LlamaForCausalLM):
        return model(batch.input_ids, rows=batch.rows).logits
    sequence, position = batch.rows.unbind(dim=1)
    has_past = position > 0
    x0 = batch.input_ids.clone()
    x0[sequence[has_past], position[has_past]] = batch.targets[has_past]
    states = model.model(input_ids=x0).last_hidden_state
    return model.lm_head(states[sequence, (position - 1).clamp(min=0)])


def _llama_config(config: LLaDAConfig) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        intermediate_size=config.mlp_hidden_size,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_sequence_length,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _llama_name(name: str) -> str:
    for theirs, ours in _OUTER.items():
        name = name.replace(theirs, ours)
    if not name.startswith("model.transformer.blocks."):
        return name
    number, part, kind = name.removeprefix("model.transformer.blocks.").split(".")
    return f"model.layers.{number}.{_INNER[part]}.{kind}"
