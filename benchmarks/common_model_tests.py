"""Transformers' own common model tests, run on `LLaDAForMaskedLM`.

    pip download --no-deps --no-binary :all: transformers==5.23.0
    tar xzf transformers-5.23.0.tar.gz
    pip install parameterized
    python -m benchmarks.common_model_tests --transformers transformers-5.23.0

The tests are read from the folder that is named, a checkout or an unpacked source archive of the
release that is installed; none of their text is kept here. Their file imports two others, with
tests of generation and of export; neither is asked of a masked model, and empty classes stand in
for them. `--only NAME` runs the tests that have it in their names, `--tied` a model whose head is
its embedding. The last line is JSON: how many tests passed, were skipped (for lack of a GPU or a
package, or because they are for another kind of model) and failed, by name. The exit code is 1 if
one failed that is not in `EXPLAINED`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import torch
import transformers

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM

EXPLAINED = {
    "test_can_set_attention_dynamically": (
        "asks for the words of transformers' error; ours names the implementations there are"
    ),
    "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": (
        "asks sdpa for attention weights, which it never holds; ours is an error that names eager"
    ),
    "test_model_outputs_equivalence": (
        "holds without attention weights, then asks sdpa for them as the one above"
    ),
}
"""Tests that fail on purpose, each with the reason."""

_PACKAGE = "transformers_tests"
_TEST_FILE = "tests/test_modeling_common.py"
_STAND_INS: dict[str, dict[str, Any]] = {
    "exporters": {},
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation": {},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
}


class ModelTester:
    """A small model and a batch for it, as the common tests ask for them."""

    batch_size = 3
    seq_length = 9
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    is_training = True

    def __init__(self, is_tied: bool) -> None:
        """Of a model with a head of its own, or with the embedding for a head."""
        self.is_tied = is_tied

    def get_config(self) -> LLaDAConfig:
        """Two layers with grouped queries."""
        return LLaDAConfig(
            vocab_size=99,
            d_model=self.hidden_size,
            n_layers=self.num_hidden_layers,
            n_heads=self.num_attention_heads,
            n_kv_heads=2,
            mlp_hidden_size=48,
            max_sequence_length=64,
            weight_tying=self.is_tied,
            mask_token_id=98,
            pad_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LLaDAConfig, dict[str, Any]]:
        """The config, with random tokens that are all real."""
        ids = torch.randint(1, 98, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def load_common_tests(folder: Path) -> Any:
    """The module of the common tests in a folder of transformers' sources.

    Raises:
        ValueError: if the folder does not hold that file.
    """
    if not (folder / _TEST_FILE).is_file():
        raise ValueError(f"{folder} has no {_TEST_FILE}; name a folder of transformers' sources.")
    _add_package(_PACKAGE, [str(folder / "tests")])
    for name, classes in _STAND_INS.items():
        vars(_add_package(f"{_PACKAGE}.{name}", [])).update(classes)
    return importlib.import_module(f"{_PACKAGE}.test_modeling_common")


def case_for(mixin: Any, is_tied: bool) -> type[unittest.TestCase]:
    """The tests of a mixin as a test case of our class."""

    def prepare(self: Any, inputs: Any, model_class: Any, return_labels: bool = False) -> Any:
        # They know by the class' name which labels it takes; ours is not in their lists.
        prepared = mixin._prepare_for_class(self, inputs, model_class)
        return prepared | ({"labels": prepared["input_ids"]} if return_labels else {})

    members = {
        "all_model_classes": (LLaDAForMaskedLM,),
        "model_tester": ModelTester(is_tied),
        "_prepare_for_class": prepare,
    }
    return type("CommonModelTest", (mixin, unittest.TestCase), members)


def counts_of(result: unittest.TestResult) -> dict[str, Any]:
    """How a run's tests ended, a test with several failing parts counted once."""
    bad = (getattr(test, "test_case", test) for test, _ in (*result.failures, *result.errors))
    failed = sorted({test.id().rpartition(".")[2] for test in bad})
    skipped = len({test.id() for test, _ in result.skipped})
    return {
        "passed": result.testsRun - skipped - len(failed),
        "skipped": skipped,
        "failed": {name: EXPLAINED.get(name, "not explained") for name in failed},
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the tests and prints how they ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--transformers", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="NAME")
    parser.add_argument("--tied", action="store_true")
    options = parser.parse_args(arguments)
    mixin = load_common_tests(options.transformers).ModelTesterMixin
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{options.only}*"]
    suite = loader.loadTestsFromTestCase(case_for(mixin, options.tied))
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    counts = counts_of(result)
    print(json.dumps({"transformers": transformers.__version__, **counts}))
    return int(not set(counts["failed"]) <= set(EXPLAINED))


def _add_package(name: str, path: list[str]) -> types.ModuleType:
    package = types.ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package
    return package


if __name__ == "__main__":
    sys.exit(main())
