"""Small tokenizers with the traps that those of other families have."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers.toy_tokenizer import toy_tokenizer


def write_toy_tokenizer(
    folder: Path, *added: str, mask_token: str | None = None, eos_token: str = "<|endoftext|>"
) -> PreTrainedTokenizerFast:
    """The toy tokenizer without a mask token of its own, with special tokens added behind it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=toy_tokenizer().backend_tokenizer.from_str(
            toy_tokenizer().backend_tokenizer.to_str()
        ),
        eos_token=eos_token,
        pad_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    if mask_token is not None:
        tokenizer.add_special_tokens({"mask_token": mask_token})
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_remote_tokenizer(folder: Path) -> None:
    """Files as of Dream: a vocabulary, merges, and a class that comes as remote code."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    words = [*letters, *("".join(pair) for pair in pairs)]
    vocabulary = {word: number for number, word in enumerate(words)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
    decoder = {
        str(len(words) + number): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for number, name in enumerate(special)
    }  # fmt: skip
    config = {
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
