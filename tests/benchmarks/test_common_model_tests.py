"""The command that runs transformers' common tests: what it loads, and how it counts."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import common_model_tests

TEST_FILE = """
from .exporters.test_export import ExportTesterMixin
from .generation.test_utils import GenerationTesterMixin


class ModelTesterMixin(ExportTesterMixin):
    all_model_classes = ()

    def _prepare_for_class(self, inputs, model_class):
        return dict(inputs)

    def test_forward(self):
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            output = model_class(config)(**inputs)
            self.assertEqual(output.logits.shape, (*inputs["input_ids"].shape, config.vocab_size))

    def test_labels(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs = self._prepare_for_class(inputs, self.all_model_classes[0], return_labels=True)
        self.assertGreater(self.all_model_classes[0](config)(**inputs).loss, 0)

    def test_of_others(self):
        self.skipTest("for another kind of model")

    def test_model_outputs_equivalence(self):
        raise ValueError

    def test_parts(self):
        for part in range(3):
            with self.subTest(part):
                self.assertEqual(part, 1 if BROKEN else part)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run_file(text: str, *arguments: str) -> tuple[int, dict]:
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_modeling_common.py").write_text(text)
        code = common_model_tests.main(["--transformers", str(tmp_path), *arguments])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    before = set(sys.modules)
    yield run_file
    for name in set(sys.modules) - before:
        if name.startswith("transformers_tests"):
            del sys.modules[name]


@pytest.mark.parametrize("arguments", [[], ["--tied"]])
def test_a_failure_with_a_reason_is_counted_and_forgiven(run, arguments):
    code, counts = run(f"BROKEN = False\n{TEST_FILE}", *arguments)
    assert code == 0
    assert (counts["passed"], counts["skipped"]) == (3, 1)
    assert set(counts["failed"]) == {"test_model_outputs_equivalence"}


def test_a_test_with_two_failing_parts_counts_once(run):
    code, counts = run(f"BROKEN = True\n{TEST_FILE}")
    assert code == 1
    assert (counts["passed"], counts["skipped"]) == (2, 1)
    assert counts["failed"]["test_parts"] == "not explained"


def test_some_can_be_run_alone(run):
    code, counts = run(f"BROKEN = False\n{TEST_FILE}", "--only", "forward")
    assert (code, counts["passed"], counts["skipped"], counts["failed"]) == (0, 1, 0, {})


def test_a_folder_without_the_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no tests/test_modeling_common.py"):
        common_model_tests.main(["--transformers", str(tmp_path)])
