"""``verify --against``: texts of another engine beside those of the exact mode, task by task."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from lm_eval_llada.cli.run import task_names
from lm_eval_llada.cli.task_folders import lay_out
from lm_eval_llada.engine.stops import stops_of
from lm_eval_llada.tasks.output_length import output_length
from lm_eval_llada.verify.other_texts import (
    Asked,
    OtherTexts,
    ServedTexts,
    WrittenTexts,
    write_prompts,
)
from lm_eval_llada.verify.text_comparison import TaskComparison, TextPair, first_difference

if TYPE_CHECKING:
    from lm_eval_llada.harness.llada import LLaDALM


def run_against(namespace: argparse.Namespace, model_args: Mapping[str, Any]) -> bool:
    """Compare texts, and print what comes of it.

    Args:
        namespace: Of the command ``verify``.
        model_args: Of our side.

    Returns:
        Whether all texts are equal; True where prompts were written and nothing was compared.

    Raises:
        ValueError: If our side would not be exact, a task generates no texts, or the other side
            does not answer.
    """
    from lm_eval.tasks import TaskManager

    from lm_eval_llada.harness.llada import LLaDALM

    ours = LLaDALM(**model_args)
    if names := ours.arguments.sampling.approximations:
        raise ValueError(
            f"--against compares with the exact mode, and {', '.join(names)} among the model_args "
            "is an approximation; drop it."
        )
    theirs = _Other(ours, _other_texts(namespace))
    with tempfile.TemporaryDirectory(prefix="lm_eval_llada_") as folder:
        laid_out = lay_out(Path(folder), task_names(namespace.tasks), namespace.include_path)
        manager = TaskManager(include_path=laid_out.include_path, metadata=dict(model_args))
        evaluated = partial(_evaluated, laid_out.tasks, manager, namespace.limit)
        # Theirs first: a server that is not there is found out before ours has worked.
        other = evaluated(theirs)
        if namespace.write_prompts is not None:
            write_prompts(namespace.write_prompts, theirs.asked)
            print(f"Wrote {len(theirs.asked)} prompts to {namespace.write_prompts}.")
            return True
        own = evaluated(ours)
    comparisons = [_compared(task, own[task], other[task], ours) for task in own]
    for comparison in comparisons:
        print("\n".join(comparison.lines()))
    if namespace.output is not None:
        _write(namespace.output, comparisons)
    return all(one.num_equal == len(one.pairs) for one in comparisons)


class _Other(LM):
    """The other engine as the harness sees a model: texts, and the lengths of ours."""

    def __init__(self, ours: LLaDALM, texts: OtherTexts | None) -> None:
        super().__init__()
        self._ours, self._texts = ours, texts
        self.asked: list[Asked] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        from lm_eval.models.utils import postprocess_generated_text

        answers = []
        for request in requests:
            prompt, gen_kwargs = request.args
            length = output_length(gen_kwargs) or self._ours.max_gen_toks
            asked = Asked(prompt, length, stops_of(gen_kwargs.get("until")))
            self.asked.append(asked)
            text = "" if self._texts is None else self._texts.text(asked)
            answers.append(postprocess_generated_text(text, list(asked.stop), None))
        return answers

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise ValueError("--against compares texts; name --tasks that generate them.")

    def loglikelihood_rolling(self, requests: list[Any]) -> Any:
        return self.loglikelihood(requests)


def _other_texts(namespace: argparse.Namespace) -> OtherTexts | None:
    """The other side; None where only prompts are wanted."""
    against: str = namespace.against or ""
    if namespace.write_prompts is not None:
        return None
    if against.startswith(("http://", "https://")):
        return ServedTexts(against, namespace.served_model)
    path = Path(against).expanduser()
    if not path.is_file():
        raise ValueError(
            f"--against {against}: neither a URL such as http://localhost:8000/v1 nor a file."
        )
    return WrittenTexts(path)


def _evaluated(
    tasks: Sequence[str], manager: Any, limit: int | None, lm: Any
) -> dict[str, list[dict[str, Any]]]:
    """The logged samples of each task, in the order of their numbers."""
    from lm_eval.evaluator import simple_evaluate

    results = simple_evaluate(
        lm, tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=0
    )
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    # A task with several filters logs a sample once for each.
    return {
        task: sorted(
            {row["doc_id"]: row for row in reversed(rows)}.values(), key=lambda row: row["doc_id"]
        )
        for task, rows in samples.items()
    }


def _compared(
    task: str,
    own: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    lm: LLaDALM,
) -> TaskComparison:
    def encode(text: str) -> list[int]:
        return lm.tok_encode(text, add_special_tokens=False)

    pairs = []
    for one, two in zip(own, other, strict=True):
        ours, theirs = str(one["resps"][0][0]), str(two["resps"][0][0])
        place, tokens = first_difference(
            ours, theirs, encode, lambda token: str(lm.tokenizer.decode([token]))
        )
        doc = one["doc"]
        cluster = doc.get("needle_id", one["doc_id"]) if isinstance(doc, Mapping) else one["doc_id"]
        pair = TextPair(
            task, one["doc_id"], ours, theirs, _score(one), _score(two), cluster, place, tokens
        )
        pairs.append(pair)
    return TaskComparison(task, tuple(pairs))


def _score(sample: Mapping[str, Any]) -> float | None:
    """The sample's `score`, else its first metric that is a number."""
    names = [name for name in ("score", *sample["metrics"]) if name in sample]
    values = [sample[name] for name in names]
    return next((float(v) for v in values if isinstance(v, int | float)), None)


def _write(path: Path, comparisons: Sequence[TaskComparison]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(pair) for one in comparisons for pair in one.pairs]
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    print(f"All texts: {path}")
