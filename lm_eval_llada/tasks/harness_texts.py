"""Raw prompt texts out of the installed lm-eval, each compared with the checksum known of it.

A text that differs is used as it is, with a warning and a note for the results.

LongBench's texts are in YAML files. RULER's are in Python modules that download data when they are
imported, so they are parsed and never run. ``prompts.py`` turns these raw texts into templates.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lm_eval_llada.errors import unknown_choice

PINNED_VERSION = "0.4.13"
"""Release of lm-eval whose texts the checksums were taken of."""

_logger = logging.getLogger("lm_eval_llada")
# Names and digests of differing texts that were read since `noted_changes` was entered.
_changes: ContextVar[dict[str, str] | None] = ContextVar("changed_prompt_texts", default=None)
_warned: set[tuple[str, str]] = set()

_ADVICE = (
    f'Install the pinned release with: pip install "lm_eval=={PINNED_VERSION}", or give the '
    "template in a task file of your own."
)

LONGBENCH_CHECKSUMS: dict[str, str] = {
    "narrativeqa": "f715a4e4720fbf86e7cf864de80e54f96f719cedc8d985f3165ba89e226d0003",
    "qasper": "20bfb86ba8784ca75ef6e0adc493e27ec35405cfb3b031024d646f5ef95b7270",
    "multifieldqa_en": "db6e0c1a86852552291cff5e16d4ea8b4d6b4a8e240199b3844d40e881db9fb9",
    "multifieldqa_zh": "52a4c3871964341502cbf2c4a992b807fe9f05c33b12524764b8c26bce3d4075",
    "hotpotqa": "c72f49ff6d0034ad9caf8d8c7d1c6b8630d286662db5a4ef77cc2e5bbdf40fc8",
    "2wikimqa": "c72f49ff6d0034ad9caf8d8c7d1c6b8630d286662db5a4ef77cc2e5bbdf40fc8",
    "musique": "c72f49ff6d0034ad9caf8d8c7d1c6b8630d286662db5a4ef77cc2e5bbdf40fc8",
    "dureader": "4d2dc0fb90de81c5ef5066407fbf2bf4243f6ff9cf1b7d7c7f17f205fc8b1940",
    "gov_report": "e4e4159a4d923ef5dbb8cb81da72ba608562478517640678e5421c281bc5f7fa",
    "qmsum": "0eca1bfd34c6331bbe4f5324785ffe5c3b44446e5a478b1eeedfe4cbdde16b2f",
    "multi_news": "e729eda84ccf49360b28fca14567e4805c9ce07fb87ccaa20ff5bdcacf2c7fc7",
    "vcsum": "f44becb06365a1b11767c8e9ba31e53789fed2214eac6ffe729baec99b9e249c",
    "trec": "6996b8cabb29bc138aa3e9d8214a6a668f85d1af60d386a263219e719c80bfa6",
    "triviaqa": "568c383d2ecc5dac50b61efc320ccac03a0750d281bfab8048a5dfb6296e448d",
    "samsum": "4e78e20bf4e90c335808ffb6368dcce7468010411c624432da10299f1dc986a4",
    "lsht": "2a057c99cfaa1fb369c1b06545507bbf06feb1170a9272104a7d73a86854c5a0",
    "passage_count": "00be9a597997833a847874738ba1c19f35d01f70921105fcc50287c7f08d3646",
    "passage_retrieval_en": "9cd070d1f127cec9a92d2b46d6a19a0400efd147268057dff6badb8604061544",
    "passage_retrieval_zh": "ddf89344c63e7804f89bf0a9ca32b0f7567a8c6ade237c2a4ec29dfc89d16672",
    "lcc": "f81f5a5d241411f388fa34a33ff28958e5e891b6c9d9299c3ee9860d9d5aee28",
    "repobench-p": "54984b16bc8207a9bda96322c7e14a1f7ef16cd83d5b17bd215eac65352699f0",
}
"""SHA-256 of each dataset's ``doc_to_text``, in the order of the original's list of datasets."""


@dataclass(frozen=True)
class Source:
    """Where in lm-eval's RULER folder a text is written.

    Attributes:
        file: Name of the Python file.
        path: Steps from the module to the text, joined by ``/``: a function, a variable, a key of a
            dict, or a call such as ``lines.append``, which stands for its first argument.
        checksum: SHA-256 of the raw text, in hexadecimal.
    """

    file: str
    path: str
    checksum: str


RULER_SOURCES: dict[str, Source] = {
    "niah_template": Source(
        "niah_utils.py",
        "TEMPLATE",
        "b373c00e238df12bea974d3fdc4ffebcc0f04600885640250040e3c27169216f",
    ),
    "niah_answer_prefix": Source(
        "prepare_niah.py",
        "generate_samples/formatted_output/gen_prefix",
        "b34f1d2c8a60870c839c07c4b2d649d57049da1d1e423edab3507d71059afcc5",
    ),
    "niah_needle": Source(
        "prepare_niah.py",
        "NEEDLE",
        "8b1728a938426e426c307f6c79fc57662c827cb42865cd1630410cd7009cf524",
    ),
    "niah_noise": Source(
        "prepare_niah.py",
        "get_haystack/haystack",
        "c2fcf70de6081e6fb364c3e5e9a7c0a335a05837a0832ae7a33a1cfe7414bd09",
    ),
    "vt_template": Source(
        "vt_utils.py",
        "CONFIG/variable_tracking/template",
        "fcfaf2eab2bc3e35a119b13fe42e5902800291c4d6101c60be93ecf8b031fefa",
    ),
    "vt_answer_prefix": Source(
        "vt_utils.py",
        "CONFIG/variable_tracking/answer_prefix",
        "4652e8514a4f6d88dc2a24ca3198e8b568d7e9ec1c2dafb5bedb60936e947e54",
    ),
    "vt_noise": Source(
        "vt_utils.py",
        "generate_input_output/noise",
        "929df76a728833f33a324a3e2289ee4b05364babdae000402ab6e05edc048923",
    ),
    "vt_number": Source(
        "vt_utils.py",
        "generate_chains/this_chain",
        "fd1a84843f9b70f3b267d51ecae829943ceba4b349f29b062f38804088da8e1d",
    ),
    "vt_copy": Source(
        "vt_utils.py",
        "generate_chains/this_chain.append",
        "5b8560e8c2501d686cc85f1bf0907582a5c9c7b56b0b96fa474ee4e0d793e31d",
    ),
    "cwe_template": Source(
        "cwe_utils.py",
        "CONFIG/template",
        "45fff5d17627b65ac12c8bf0e60380cbb05966878794a18ec394c2df9bea19b1",
    ),
    "cwe_answer_prefix": Source(
        "cwe_utils.py",
        "CONFIG/answer_prefix",
        "8ee526599bbc73726f19bb07da106d143a194667cf52e08434c44ce652e08028",
    ),
    "fwe_template": Source(
        "fwe_utils.py",
        "CONFIG/template",
        "a0c7b873cf500d6ce65950a91baecd810ce34d151939da916a43fa5014178f9c",
    ),
    "fwe_answer_prefix": Source(
        "fwe_utils.py",
        "CONFIG/answer_prefix",
        "9a72271c5762c96d9adbf480f21e621c5855e48cc029605c1c422135c4db7a92",
    ),
    "qa_template": Source(
        "qa_utils.py",
        "CONFIG/template",
        "18a659c9723f24f172004ab1692ae88efaf0c07417b6d7326f813c7169011d28",
    ),
    "qa_answer_prefix": Source(
        "qa_utils.py",
        "CONFIG/answer_prefix",
        "64f89cf423ee1a167e9c8142a340d7aaef3605a56c73d30275fbdd94d098e36c",
    ),
    "qa_document": Source(
        "qa_utils.py",
        "DOCUMENT_PROMPT",
        "ce8bd2851618becfb57dffd626111f577bb4ba0d18e5704dcedcddd227c66098",
    ),
}
"""Places and checksums of RULER's texts, keyed by the name they have in this package."""


def longbench_text(dataset: str) -> str:
    """Return the raw prompt of a LongBench dataset, with lm-eval's own ``{{...}}`` fields.

    Args:
        dataset: A key of ``LONGBENCH_CHECKSUMS``.

    Raises:
        ValueError: If the dataset is unknown, or if the installed lm-eval lacks the text.
        ImportError: If lm-eval is not installed.
    """
    if dataset not in LONGBENCH_CHECKSUMS:
        raise unknown_choice("dataset", dataset, LONGBENCH_CHECKSUMS)
    name, path = f"longbench/{dataset}", tasks_folder() / "longbench" / f"{dataset}.yaml"
    task = yaml.load(_read(name, path), Loader=_TaskLoader)
    text = task.get("doc_to_text") if isinstance(task, dict) else None
    return _checked(name, path, text, LONGBENCH_CHECKSUMS[dataset])


def ruler_source_text(name: str) -> str:
    """Return a raw text of RULER. The fields of an f-string read as its expressions in braces.

    Args:
        name: A key of ``RULER_SOURCES``.

    Raises:
        ValueError: If the name is unknown, or if the installed lm-eval lacks the text.
        ImportError: If lm-eval is not installed.
    """
    if name not in RULER_SOURCES:
        raise unknown_choice("name", name, RULER_SOURCES)
    source = RULER_SOURCES[name]
    path = tasks_folder() / "ruler" / source.file
    text = _text_at(_read(f"ruler/{name}", path), source.path)
    return _checked(f"ruler/{name}", path, text, source.checksum)


@contextmanager
def noted_changes() -> Iterator[dict[str, str]]:
    """Collect the texts read inside that differ from those known: their digests by their names."""
    noted: dict[str, str] = {}
    token = _changes.set(noted)
    try:
        yield noted
    finally:
        _changes.reset(token)


def note_text(name: str, value: str, line: str) -> None:
    """Note a text that is not the known one for the results, and warn of it once a process.

    Args:
        name: What the text is for.
        value: Its digest, or what else tells it from the known one.
        line: The warning.
    """
    noted = _changes.get()
    if noted is not None:
        noted[name] = value
    if (name, value) not in _warned:
        _warned.add((name, value))
        _logger.warning(line)


# Each sample asks for its texts again, and parsing takes 4 ms.
@lru_cache(maxsize=32)
def _text_at(source: str, path: str) -> str | None:
    """The text that a module has at a path, or None."""
    node: ast.AST | None = _parse(source)
    for step in path.split("/"):
        node = None if node is None else _descend(node, step)
    return literal_text(node)


@lru_cache(maxsize=8)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def literal_text(node: ast.AST | None) -> str | None:
    """Return the text that an expression spells out, or None where it computes something.

    Fields of an f-string are their expressions in braces; its own braces are doubled.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_part, node.values))
    if isinstance(node, ast.IfExp):  # NIAH's answer prefix: `else` holds the plural wording
        return literal_text(node.orelse)
    if isinstance(node, ast.List) and len(node.elts) == 1:
        return literal_text(node.elts[0])
    return None


def tasks_folder() -> Path:
    """Return the folder of the task files in the installed lm-eval, without importing lm-eval.

    Raises:
        ImportError: If lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "The prompts of RULER and LongBench come from lm-eval, which is not installed. Install "
            'it with: pip install "lm_eval>=0.4.13".'
        )
    return Path(spec.submodule_search_locations[0]) / "tasks"


class _TaskLoader(yaml.SafeLoader):
    """Reads a task file without importing the functions that it names."""


def _name_of_function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_TaskLoader.add_constructor("!function", _name_of_function)


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _missing(name, path) from error


def _checked(name: str, path: Path, text: object, expected: str) -> str:
    if not isinstance(text, str):
        raise _missing(name, path)
    found = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if found != expected:
        _note_change(name, path, found, expected)
    return text


def _note_change(name: str, path: Path, found: str, expected: str) -> None:
    note_text(
        name,
        found,
        f"The prompt text {name} in {path} has the SHA-256 {found}; {expected} is the one of "
        f"lm-eval {PINNED_VERSION}. lm-eval {_version()} words it differently, so scores do "
        "not compare with earlier ones; the results say so under prompt_digest.",
    )


def _missing(name: str, path: Path) -> ValueError:
    return ValueError(
        f"lm-eval {_version()} has no prompt text {name} where lm-eval {PINNED_VERSION} has it, in "
        f"{path}. {_ADVICE}"
    )


def _version() -> str:
    return importlib.metadata.version("lm_eval")


def _descend(node: ast.AST, step: str) -> ast.AST | None:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == step:
                return value
        return None
    # Breadth first: a module's variable comes before one of the same name inside a function.
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef) and child.name == step:
            return child
        if isinstance(child, ast.Call) and child.args and ast.unparse(child.func) == step:
            return child.args[0]
        if isinstance(child, ast.Assign) and step in map(ast.unparse, child.targets):
            value = child.value
            if isinstance(value, ast.Dict) or literal_text(value) is not None:
                return value  # otherwise it is computed, as the essays are: look further
    return None


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return "{" + ast.unparse(part.value) + "}"
    text = literal_text(part) or ""
    return text.replace("{", "{{").replace("}", "}}")
