"""`LLaDAForMaskedLM`: a bidirectional transformer whose tensors have the official names."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple, is_flash_attn_2_available

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.errors import missing_package, unknown_choice
from lm_eval_llada.modeling.attention import attention_mask_for, locate_rows, window_rows
from lm_eval_llada.modeling.block import LLaDABlock, LLaDARMSNorm
from lm_eval_llada.modeling.block_cache import BlockCache
from lm_eval_llada.modeling.cache import KeyValueCache
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.copies import mesh_of_copies
from lm_eval_llada.modeling.inputs import check_shapes
from lm_eval_llada.modeling.outputs import HiddenStatesChoice, Recorded
from lm_eval_llada.modeling.packing import PreparedAttention
from lm_eval_llada.modeling.pairwise import is_pairwise
from lm_eval_llada.modeling.prompt_cache import PromptCache
from lm_eval_llada.modeling.prompt_pass import read_with_prompts
from lm_eval_llada.modeling.rotary import LLaDARotaryEmbedding
from lm_eval_llada.modeling.weight_files import EMBEDDING, HEAD, check_loaded_head

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention", "flash_attention_2")


def check_attention(implementation: str) -> None:
    """Stops if an attention implementation is unknown or not installed.

    Raises:
        ValueError: if the name is not one of `ATTENTION_IMPLEMENTATIONS`.
        ImportError: if flash-attn, or a GPU for it, is missing.
    """
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise unknown_choice("attn_implementation", implementation, ATTENTION_IMPLEMENTATIONS)
    if implementation == "flash_attention_2" and not is_flash_attn_2_available():
        what, instead = f"attn_implementation={implementation!r}", "use attn_implementation=sdpa"
        raise missing_package(what, "flash-attn and a CUDA device", "flash", instead)


class LLaDABackbone(nn.Module):
    """Holds the weights under `transformer`, as the official checkpoints name them."""

    def __init__(self, config: LLaDAConfig) -> None:
        """All modules with weights; `ff_out`, the LM head, only where it is not tied."""
        super().__init__()
        modules: dict[str, nn.Module] = {
            "wte": nn.Embedding(config.embedding_size, config.d_model),
            "blocks": nn.ModuleList(LLaDABlock(config, n) for n in range(config.n_layers)),
            "ln_f": LLaDARMSNorm(config.d_model, config.rms_norm_eps, config.norm_bias),
        }
        if not config.weight_tying:
            modules["ff_out"] = nn.Linear(
                config.d_model, config.embedding_size, bias=config.include_bias
            )
        self.transformer = nn.ModuleDict(modules)


class LLaDAForMaskedLM(PreTrainedModel):
    """A LLaDA masked diffusion model: logits of every position from all positions.

    Differs from the official code in interface only: attention goes through transformers'
    functions, padding and documents are masked, and logits are computed for `rows` alone.
    """

    config: LLaDAConfig
    config_class = LLaDAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LLaDABlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Experts are chosen by it, and half precision would choose others.
    _keep_in_fp32_modules_strict = ["expert_bias"]
    # The embedding is whole on every rank, since a tied LM head needs all of it.
    _tp_plan = {
        "model.transformer.blocks.*.q_proj": "colwise",
        "model.transformer.blocks.*.k_proj": "colwise",
        "model.transformer.blocks.*.v_proj": "colwise",
        "model.transformer.blocks.*.attn_out": "rowwise",
        "model.transformer.blocks.*.ff_proj": "colwise",
        "model.transformer.blocks.*.up_proj": "colwise",
        "model.transformer.blocks.*.ff_out": "rowwise",
        "model.transformer.ff_out": "colwise_gather_output",
    }

    def __init__(self, config: LLaDAConfig) -> None:
        """A model with fresh weights.

        Raises:
            ImportError: if the config asks for an attention implementation that is not installed.
        """
        if config._attn_implementation is not None:
            check_attention(config._attn_implementation)
        super().__init__(config)
        self.model = LLaDABackbone(config)
        self.rotary = LLaDARotaryEmbedding(config)
        self.post_init()
        if config.weight_tying:
            # `from_pretrained` compares a head that is stored all the same with the embedding.
            self._keys_to_ignore_on_load_unexpected = {r"^model\.transformer\.ff_out\.weight$"}
        # A training run goes on from what `save_pretrained` wrote.
        self.register_load_state_dict_pre_hook(_rename_to_native)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        config: Any = None,
        is_checked: bool = False,
        **kwargs: Any,
    ) -> LLaDAForMaskedLM:
        """As transformers' own, for checkpoints of any family.

        Args:
            pretrained_model_name_or_path: as there.
            args: as there.
            config: as there.
            is_checked: whether `check_weights` has passed already.
            kwargs: as there.

        Raises:
            ValueError: if a tied checkpoint stores a head that is not its embedding.
        """
        named = {k: kwargs[k] for k in ("revision", "subfolder", "cache_dir") if k in kwargs}
        if not isinstance(config, LLaDAConfig):
            config = LLaDAConfig.from_pretrained(config or pretrained_model_name_or_path, **named)
        if mapping := config.row.key_mapping:
            kwargs["key_mapping"] = mapping
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, *args, config=config, **kwargs
        )
        if config.weight_tying and not is_checked:
            names = (config.row.own_name(HEAD), config.row.own_name(EMBEDDING))
            check_loaded_head(pretrained_model_name_or_path, *names, **named)
        return loaded

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, *, state_dict: Any = None, **kwargs: Any
    ) -> None:
        """As transformers' own, under the names of the checkpoint's family."""
        row = self.config.row
        if row.tensors:
            named = self.state_dict() if state_dict is None else state_dict
            state_dict = {row.own_name(name): tensor for name, tensor in named.items()}
            kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)

    @classmethod
    def prepare_distribute_model(cls, distributed_config: Any, device_map: Any = None) -> Any:
        """The config, device and mesh by which `from_pretrained` spreads a model over ranks.

        Differs from transformers', which refuses more ranks than one copy has.
        """
        copies = None if distributed_config is None else mesh_of_copies(distributed_config.tp_size)
        if copies is None:
            return super().prepare_distribute_model(distributed_config, device_map)
        return (distributed_config, *copies)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, `wte`."""
        return self.model.transformer["wte"]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding."""
        self.model.transformer["wte"] = value

    def get_output_embeddings(self) -> nn.Module | None:
        """The LM head, or None where it is the token embedding."""
        return None if self.config.weight_tying else self.model.transformer["ff_out"]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replaces the LM head."""
        self.model.transformer["ff_out"] = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Changes the number of tokens as transformers does, `embedding_size` included."""
        embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.embedding_size = embedding.num_embeddings
        return embedding

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, str], allow_all_kernels: bool = False
    ) -> None:
        """Switches the attention function, which must be one of `ATTENTION_IMPLEMENTATIONS`."""
        if isinstance(attn_implementation, str):
            check_attention(attn_implementation)
        super().set_attn_implementation(attn_implementation, allow_all_kernels)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | PreparedAttention | None = None,
        position_ids: Tensor | None = None,
        rows: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: KeyValueCache | PromptCache | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: HiddenStatesChoice = None,
        output_attentions: bool | None = None,
    ) -> MaskedLMOutput:
        """Logits of the original token at each position, or at the rows asked for.

        The result of a row does not depend on which other rows are asked for. Logits at padded
        positions mean nothing.

        Args:
            input_ids: int64 (batch, seq); or `inputs_embeds` in their place.
            attention_mask: (batch, seq), 1 = real, 0 = padding on either side; None if all real. Or
                (batch or 1, 1, seq, seq), which keys each query sees, under sdpa and eager. Or
                attention laid out already, for a pass of `BlockCache`.
            position_ids: int64 (batch, seq), (1, seq) or (seq,); None means 0, 1, 2, ...
            rows: int64 (num_rows, 2) of (batch, position), in any order; None means all positions.
                The last layer computes everything after its keys and values for these only.
            document_ids: int64 (batch, seq); attention stays inside equal ids of a sequence.
            labels: int64, the shape of the logits without their last dimension; -100 is ignored.
                The loss is the plain mean cross-entropy, without the 1/t weight of training.
            cache: an empty one is filled. With a filled one, `input_ids` are windows of the
                sequences it was filled from, all of one width: `position_ids` (batch, seq) say
                where they are, consecutive in each; `attention_mask` is (batch, key_length) and
                the positions in `rows` are those in the sequences. A `PromptCache` does the same,
                with windows behind what it keeps, and needs `rows`.
            inputs_embeds: (batch, seq, d_model), what the token embedding would give.
            output_hidden_states: True for all, or one number or several of those to keep, the
                others being None; None takes the config's.
            output_attentions: only with attn_implementation=eager; None takes the config's.

        Returns:
            `logits` (batch, seq, embedding_size), or (num_rows, embedding_size) with `rows`, in
            the model's dtype; `loss` in float32 if labels are given. `hidden_states`, n_layers + 1
            of (batch, seq, d_model): the embeddings, then what each block gives, the last after the
            final norm. `attentions`, n_layers of (batch, n_heads, seq, keys), 0 where no key is
            seen. With `rows`, the last of either has (num_rows, ...) in place of (batch, seq). With
            `return_dict=False`, a tuple.

        Raises:
            ValueError: if shapes do not fit, documents or a cache come with a rotation that depends
                on the length of a sequence, or attentions are asked of a function without them.
        """
        for name, value in (("document_ids", document_ids), ("cache", cache)):
            if value is not None and self.rotary.depends_on_length:
                raise ValueError(
                    f"{name} cannot be combined with rope type {self.rotary.rope_type!r}, whose "
                    "frequencies depend on the length of a sequence; use rope_method=ntk."
                )
        given = (attention_mask, position_ids, rows, document_ids)
        check_shapes(input_ids, inputs_embeds, self.config.d_model, *given, cache)
        recorded = Recorded.for_call(self.config, output_hidden_states, output_attentions)
        # A cache is filled whatever is asked for.
        is_kept = cache is not None or isinstance(attention_mask, PreparedAttention)
        if isinstance(cache, PromptCache):
            recorded.require_none("a PromptCache")
            logits = self._head(read_with_prompts(self, input_ids, *given[:3], cache))
        elif rows is not None and rows.shape[0] == 0 and not is_kept and recorded.is_empty:
            logits = self.model.transformer["wte"].weight.new_zeros(0, self.config.embedding_size)
        else:
            logits = self._head(self._encode(input_ids, inputs_embeds, *given, cache, recorded))
        flat = None if labels is None else (logits.flatten(0, -2).float(), labels.flatten())
        loss = None if flat is None else F.cross_entropy(*flat)
        return MaskedLMOutput(loss=loss, logits=logits, **recorded.outputs())

    def _encode(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | PreparedAttention | None,
        position_ids: Tensor | None,
        rows: Tensor | None,
        document_ids: Tensor | None,
        cache: KeyValueCache | None,
        recorded: Recorded,
    ) -> Tensor:
        """What the head reads, (batch, seq, d_model), or (num_rows, d_model) with rows."""
        # Only this frame holds what the embedding made, so that the first block frees it.
        hidden_states = inputs_embeds
        if hidden_states is None:
            hidden_states = self.model.transformer["wte"](input_ids)
        batch_size, seq_length, _ = hidden_states.shape
        is_window = cache is not None and cache.is_filled
        padding = None
        if isinstance(attention_mask, Tensor):
            attention_mask = attention_mask.bool()
            # Without a mask attention can take its fastest kernel.
            if not torch.compiler.is_compiling() and bool(attention_mask.all()):
                attention_mask = None
            padding = None if is_window or is_pairwise(attention_mask) else attention_mask
        if position_ids is not None:
            position_ids = position_ids.view(-1, seq_length)
        window = position_ids if is_window else None
        located = None if rows is None else locate_rows(rows, batch_size, seq_length, window)
        cos, sin = self.rotary(seq_length, hidden_states.device, position_ids, padding)
        if not self.config.rope_full_precision:
            cos, sin = cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)
        implementation = self.config._attn_implementation
        key_length = cache.key_length if is_window and cache is not None else seq_length
        masking = (implementation, hidden_states, key_length, attention_mask, document_ids)
        blocks = self.model.transformer["blocks"]
        keywords: dict[str, Any] = {}
        if cache is not None:
            keywords = {"cache": cache, "window": window}
        scale = self.rotary.query_scale(seq_length, hidden_states.device, position_ids)
        if scale is not None:
            keywords["query_scale"] = scale
        if recorded.with_attentions:
            keywords["with_weights"] = True
        if len(blocks) > 1:
            mask = attention_mask_for(*masking, window_rows(window, None))
            for block in blocks[:-1]:
                recorded.add_hidden(hidden_states)
                hidden_states, weights = block(hidden_states, cos, sin, mask, **keywords)
                recorded.add_weights(weights)
        if located is not None or len(blocks) == 1:
            mask = attention_mask_for(*masking, window_rows(window, located))
        recorded.add_hidden(hidden_states)
        hidden_states, weights = blocks[-1](hidden_states, cos, sin, mask, located, **keywords)
        recorded.add_weights(weights)
        hidden_states = self.model.transformer["ln_f"](hidden_states)
        recorded.add_hidden(hidden_states)
        return hidden_states

    def _head(self, hidden_states: Tensor) -> Tensor:
        transformer = self.model.transformer
        if self.config.weight_tying:
            return F.linear(hidden_states, transformer["wte"].weight)
        return transformer["ff_out"](hidden_states)


def as_denoiser(
    model: LLaDAForMaskedLM,
    *,
    mask_token_id: int | None = None,
    pad_token_id: int | None = None,
    device: torch.device | str | None = None,
    stats: DenoiserStats | None = None,
) -> Denoiser:
    """The model as samplers and likelihoods take it: float32 logits, a `KeyValueCache` if asked.

    Args:
        model: on its device, wrapped or not.
        mask_token_id: id of the mask token; None takes that of the config.
        pad_token_id: see `Denoiser`.
        device: of the model; None asks it.
        stats: to count into; None makes new ones.

    Raises:
        ValueError: if neither the config nor the caller names a mask token.
    """
    mask_token_id = model.config.mask_token_id if mask_token_id is None else mask_token_id
    if mask_token_id is None:
        raise ValueError("The config of the model has no mask_token_id; add it to config.json.")

    def forward(input_ids: Tensor, **keywords: Any) -> Tensor:
        return model(input_ids, **keywords).logits.flatten(0, -2).float()

    return Denoiser(
        forward,
        mask_token_id,
        pad_token_id,
        model.device if device is None else device,
        shift=model.config.shift,
        new_cache=KeyValueCache,
        blocks=model.config.blocks,
        new_block_cache=partial(BlockCache, model),
        new_prompt_cache=PromptCache,
        stats=DenoiserStats() if stats is None else stats,
    )


def _rename_to_native(
    model: LLaDAForMaskedLM, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Gives tensors of a state the names that modules here have."""
    row = model.config.row
    for name in list(state_dict) if row.tensors else ():
        if (native := row.native_name(name)) != name:
            state_dict[native] = state_dict.pop(name)


# The official code maps AutoModel to the model with its LM head as well.
AutoModel.register(LLaDAConfig, LLaDAForMaskedLM, exist_ok=True)
AutoModelForMaskedLM.register(LLaDAConfig, LLaDAForMaskedLM, exist_ok=True)
