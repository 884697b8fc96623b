"""LongBench: the 21 datasets' documents as prompts that keep to a budget of tokens."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.tasks.dataset import SampleOptions, make_dataset
from lm_eval_llada.tasks.longbench.truncation import Cut, make_cutter
from lm_eval_llada.tasks.prompts import (
    LONGBENCH_DATASETS,
    LongBenchPrompt,
    longbench_prompt,
)
from lm_eval_llada.tasks.text.sources import (
    Source,
    find_file,
    read_json_lines,
)

HUB_REPOSITORY = "THUDM/LongBench"
"""Data set on the hub that holds the archive; the hub forwards it to its new name, zai-org."""

HUB_REVISION = "5e628be450b7e67fb7ae6e201bd6d8f7056f7672"
"""Revision that is read where none is named."""

ARCHIVE = "data.zip"
"""The hub's file: one JSON-lines file a dataset, in a folder ``data``."""

# Datasets whose samples have to list the classes, which their metric needs.
_CLASSIFICATION = ("trec", "lsht")
_FIELDS = ("context", "input", "answers", "all_classes")


@dataclass(frozen=True, kw_only=True)
class LongBenchOptions(SampleOptions):
    """What a set of samples is made of. A ``data_dir`` is one with ``longbench/``.

    A chat format's tokens are part of ``prompt_length``, except in the datasets that take none.

    Attributes:
        dataset: One of ``LONGBENCH_DATASETS``.
        prompt_length: The most tokens a prompt may have, in ``length_unit``; the output comes on
            top.
        num_samples: How many samples to take, from the first one on; None takes all.
        template: Wording in place of the original's, with ``{context}`` and maybe ``{input}``. The
            next three then change nothing.
        wording: The dataset whose wording asks; None stands for ``dataset`` itself.
        part_words: A dataset in whose wording words stand apart that are run together in this one,
            where they are then parted.
        ending: What follows the wording, such as a newline.
        file: JSON-lines file of one's own documents, asked and scored as those of ``dataset``;
            None reads the official one.
        fields: What that file calls context, input, answers or all_classes, where it is not so.
    """

    dataset: str
    prompt_length: int
    num_samples: int | None = None
    template: str | None = None
    wording: str | None = None
    part_words: str | None = None
    ending: str = ""
    file: str | Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    hub_revision: str = HUB_REVISION

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind or out of range.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        super().__post_init__()
        if self.dataset not in LONGBENCH_DATASETS:
            raise unknown_choice("dataset", self.dataset, LONGBENCH_DATASETS)
        require_whole("prompt_length", self.prompt_length, 1)
        if self.num_samples is not None:
            require_whole("num_samples", self.num_samples, 1)
        if not isinstance(self.ending, str):
            raise ValueError(f"ending must be a text; got {self.ending!r}.")
        if not isinstance(self.fields, Mapping):
            raise ValueError(f"fields must be names with names; got {self.fields!r}.")
        for name in self.fields:
            if name not in _FIELDS:
                raise unknown_choice("A name among fields", name, _FIELDS)


def build_longbench(
    tokenizer: Any, *, dataset: str, prompt_length: int, **options: Any
) -> list[dict[str, Any]]:
    """Make the samples of one dataset, in the order of its file.

    Differs from LongBench's ``pred.py``, which cuts the prompt to its budget and then puts the chat
    format around it: here the budget holds for what the model reads.

    Args:
        tokenizer: A transformers tokenizer: the model's.
        dataset: One of ``LONGBENCH_DATASETS``.
        prompt_length: The most tokens a prompt may have.
        **options: The other fields of ``LongBenchOptions``.

    Returns:
        The samples. Each has the keys prompt; answers, any of which is right; all_classes (None in
        most datasets); dataset; first_line and chat_template, as in ``LongBenchPrompt``;
        num_tokens, the prompt's with the chat format where it is applied; num_dropped, the tokens
        that cutting took, 0 where the whole prompt fits; and id, the document's own.

    Raises:
        ValueError: If an option is wrong, the file is damaged or too short, or the budget too
            small to cut a prompt to.
        FileNotFoundError: If the file is neither there nor to be had from the hub.
        ImportError: If ``length_unit`` is ``cl100k`` and tiktoken is missing.
    """
    checked = LongBenchOptions(dataset=dataset, prompt_length=prompt_length, **options)
    prompt = longbench_prompt(
        dataset,
        checked.template,
        wording=checked.wording,
        part_words=checked.part_words,
        ending=checked.ending,
    )
    cutter = make_cutter(
        tokenizer,
        checked.length_unit,
        add_bos_token=checked.add_bos_token,
        apply_chat_template=prompt.chat_template and checked.apply_chat_template,
    )
    documents = longbench_documents(
        dataset,
        checked.data_dir,
        checked.hub_revision,
        file=checked.file,
        fields=checked.fields,
    )
    wanted = len(documents) if checked.num_samples is None else checked.num_samples
    if wanted > len(documents):
        raise ValueError(
            f"num_samples={wanted}, but the file of {dataset} has {len(documents)}; "
            f"use at most {len(documents)}, or leave num_samples out for all."
        )
    samples = []
    for document in documents[:wanted]:
        whole = prompt.render(context=document["context"], input=document["input"])
        samples.append(_sample(prompt, document, cutter.cut(whole, prompt_length)))
    return samples


def longbench_dataset(**given: Any) -> dict[str, Any]:
    """Make the data set of a task file; see ``make_dataset``, whose ``given`` lm-eval hands over.

    Args:
        **given: Fields of ``LongBenchOptions`` among others; ``dataset`` and ``prompt_length`` are
            required.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or as ``build_longbench`` does.
        FileNotFoundError: As ``build_longbench`` does.
        ImportError: As ``build_longbench`` does.
    """
    required = ("dataset", "prompt_length")
    return make_dataset(
        "a LongBench task", build_longbench, LongBenchOptions, given, required=required
    )


def longbench_documents(
    dataset: str,
    data_dir: str | Path | None = None,
    revision: str = HUB_REVISION,
    *,
    file: str | Path | None = None,
    fields: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Read the documents of a dataset, or of a file in its place.

    Args:
        dataset: One of ``LONGBENCH_DATASETS``.
        data_dir: Folder that holds, itself or in ``longbench/``, ``<dataset>.jsonl``, or else
            ``data/<dataset>.jsonl``, which the hub's archive unpacks to, or else the archive, or
            else another file of that dataset. None reads the hub.
        revision: Revision of the hub repository.
        file: JSON-lines file to read instead; an answer may be a text there, beside a list.
        fields: What it calls context, input, answers or all_classes, where it is not so.

    Returns:
        One dict a document, in order, with context, answers, input and all_classes at least.

    Raises:
        ValueError: If the file is damaged or empty or lacks a field; it names file and line.
        FileNotFoundError: If there is no such file, and none to be had from the hub.
    """
    path = Path(file).expanduser() if file is not None else _find(dataset, data_dir, revision)
    documents = read_json_lines(path)
    if file is not None:
        documents = [_renamed(document, fields or {}) for document in documents]
    if not documents:
        raise ValueError(f"{path} is empty; download it again.")
    for place, document in enumerate(documents):
        # Summaries and counting have no question. The official files then have an empty one.
        document.setdefault("input", "")
        document.setdefault("all_classes", None)
        if problem := _problem(dataset, document):
            raise ValueError(f"{path}, line {_line_number(path, place)}: {problem}.")
    return documents


def _sample(prompt: LongBenchPrompt, document: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    return {
        "prompt": cut.text,
        "answers": document["answers"],
        "all_classes": document["all_classes"],
        "dataset": prompt.dataset,
        "first_line": prompt.first_line,
        "chat_template": prompt.chat_template,
        "num_tokens": cut.num_tokens,
        "num_dropped": cut.num_dropped,
        "id": str(document.get("_id", "")),
    }


def _renamed(document: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """A document of a user's file under the names of LongBench's."""
    named = {name: document.get(theirs) for name, theirs in fields.items()}
    renamed = {**document, **named}
    if isinstance(renamed.get("answers"), str):
        renamed["answers"] = [renamed["answers"]]
    return renamed


def _problem(dataset: str, document: Mapping[str, Any]) -> str | None:
    """What is wrong with a document, or None."""
    for name in ("context", "input"):
        if not isinstance(document.get(name), str):
            return f"{name!r} must be a text; got {document.get(name)!r}"
    if not _is_list_of_texts(document.get("answers")):
        return f"'answers' must list at least one text; got {document.get('answers')!r}"
    classes = document["all_classes"]
    if not _is_list_of_texts(classes) and (classes is not None or dataset in _CLASSIFICATION):
        return f"'all_classes' must list the classes of {dataset}; got {classes!r}"
    return None


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _line_number(path: Path, place: int) -> int:
    with path.open(encoding="utf-8-sig") as lines:
        return [number for number, line in enumerate(lines, start=1) if line.strip()][place]


def _find(dataset: str, data_dir: str | Path | None, revision: str) -> Path:
    """The path of a dataset's file, be it a member of the archive."""
    name = f"{dataset}.jsonl"
    # The archive unpacks to a folder of its own.
    unpacked = (f"data/{name}",)
    source = Source("longbench", name, HUB_REPOSITORY, revision, hub_name=ARCHIVE, also=unpacked)
    path = find_file(source, data_dir, _holds(dataset))
    return _member(path, dataset) if data_dir is None or path.name == ARCHIVE else path


def _member(archive: Path, dataset: str) -> Path:
    name = f"data/{dataset}.jsonl"
    try:
        member = zipfile.Path(archive, name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not a zip archive ({error}); download it again.") from error
    if not member.is_file():
        raise ValueError(f"{archive} has no {name}; download it from {HUB_REPOSITORY} again.")
    # It opens and prints like a path, which is all that readers ask for.
    return cast(Path, member)


def _holds(dataset: str) -> Callable[[Path], bool]:
    """Return the test whether a file's first line is a document of the dataset."""

    def is_of_dataset(path: Path) -> bool:
        # Files that end in _e belong to LongBench-E, another choice of documents.
        if path.stem.endswith("_e"):
            return False
        try:
            with path.open(encoding="utf-8-sig") as lines:
                row = json.loads(next((line for line in lines if line.strip()), ""))
        except ValueError:
            return False
        return isinstance(row, dict) and row.get("dataset") == dataset

    return is_of_dataset
