"""Scores of LongBench: the original's metric of each dataset, and the averages over datasets.

Every metric is 0 to 100, 100 times the original's. Chinese metrics need jieba and the ROUGE ones
need rouge, both of the extra ``longbench``.

Source of the definitions: LongBench (arXiv 2308.14508) and its released evaluation program.
"""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rapidfuzz import fuzz

from lm_eval_llada.errors import missing_package, unknown_choice

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_DIGITS = re.compile(r"\d+")
_ENGLISH_PARAGRAPH = re.compile(r"Paragraph (\d+)")
_CHINESE_PARAGRAPH = re.compile(r"段落(\d+)")
_CODE_COMMENT_MARKS = ("`", "#", "//")

# First and last code points of the marks which the original removes: full-width forms, CJK and
# general punctuation. U+FF0E (full stop) and U+300A (opening title mark) are not among them.
_CHINESE_MARKS = (
    *((0xFF01, 0xFF0D), (0xFF0F, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64)),
    *((0x3001, 0x3003), (0x300B, 0x3011), (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F)),
    *((0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0xFE4F, 0xFE4F)),
)
_REMOVE_ASCII_MARKS = dict.fromkeys(map(ord, string.punctuation))
_REMOVE_ALL_MARKS = _REMOVE_ASCII_MARKS | dict.fromkeys(
    code for first, last in _CHINESE_MARKS for code in range(first, last + 1)
)


def qa_f1(prediction: str, reference: str) -> float:
    """Return the F1 of the words two English texts share, 0 to 100.

    Both are lowered and lose their ASCII punctuation, then the articles a, an and the. A word
    counts as often as it occurs. Where nothing is shared, even of two empty texts, it is 0.
    """
    return _f1(_english_words(prediction), _english_words(reference))


def qa_f1_zh(prediction: str, reference: str) -> float:
    """Return the F1 of the words two Chinese texts share, 0 to 100.

    Words are those of jieba's exact mode, each lowered and without punctuation and white space;
    those of which nothing remains do not count.

    Raises:
        ImportError: If jieba is not installed.
    """
    return _f1(_chinese_words(prediction), _chinese_words(reference))


def rouge_l(prediction: str, reference: str) -> float:
    """Return the F measure of ROUGE-L as the package rouge has it, 0 to 100.

    That is the summary-level measure over sentences cut at full stops, with distinct words rather
    than occurrences counted. Case and commas matter. It is 0 where a text holds nothing but full
    stops, and a hair (5e-7) below 100 for equal texts.

    Raises:
        ImportError: If rouge is not installed.
    """
    rouge = _rouge_class()(metrics=["rouge-l"], stats=["f"])
    if not prediction.strip(".") or not reference.strip("."):
        return 0.0
    # Differs from the original, which scores 0 where the package recurses past Python's limit: a
    # score should not depend on how deep in the program it is asked for.
    with _recursion_room(len(prediction.split()) + len(reference.split())):
        return 100.0 * rouge.get_scores(prediction, reference)[0]["rouge-l"]["f"]


def rouge_l_zh(prediction: str, reference: str) -> float:
    """Return ``rouge_l`` of two Chinese texts over the words of jieba's exact mode, 0 to 100.

    Raises:
        ImportError: If jieba or rouge is not installed.
    """
    return rouge_l(" ".join(_jieba_words(prediction)), " ".join(_jieba_words(reference)))


def classification(prediction: str, reference: str, all_classes: Sequence[str]) -> float:
    """Return 100 over the number of classes the output names, or 0 if not the right one, 0 to 100.

    Args:
        prediction: What the model wrote; a class is named where its text occurs, in its own case.
        reference: The right class.
        all_classes: All classes. Those that are part of the right one's name do not count.

    Raises:
        ValueError: If there are no classes.
    """
    if not all_classes:
        raise ValueError(
            "all_classes must list the classes of the dataset; got none. Pass those of the sample."
        )
    # Differs from the original, which skips the class after each that it takes out. No class of
    # TREC or LSHT is part of another's name, so that the scores are the same.
    named = [
        name
        for name in all_classes
        if name in prediction and (name == reference or name not in reference)
    ]
    return 100.0 / len(named) if reference in named else 0.0


def retrieval(prediction: str, reference: str) -> float:
    """Return the share of the output's numbers that are the paragraph's, 0 to 100; 0 without any.

    Args:
        prediction: What the model wrote.
        reference: The answer, such as ``Paragraph 7``.

    Raises:
        ValueError: If the reference names no paragraph in that form.
    """
    return _share_of_numbers(prediction, _paragraph(reference, _ENGLISH_PARAGRAPH, "Paragraph 7"))


def retrieval_zh(prediction: str, reference: str) -> float:
    """Return ``retrieval`` for a Chinese answer, such as ``段落7``.

    Raises:
        ValueError: If the reference names no paragraph in that form.
    """
    return _share_of_numbers(prediction, _paragraph(reference, _CHINESE_PARAGRAPH, "段落7"))


def count(prediction: str, reference: str) -> float:
    """Return the share of the output's numbers that are the reference, 0 to 100; 0 without any.

    Numbers are compared as written: ``07`` is not ``7``.
    """
    return _share_of_numbers(prediction, reference)


def code_similarity(prediction: str, reference: str) -> float:
    """Return how alike the first line of code and the reference are, in whole percent, 0 to 100.

    The line is the first, after leading line breaks, that holds no backtick, ``#`` or ``//``
    anywhere; it may be blank. Where there is none, an empty line is compared. The likeness is
    twice the longest common subsequence over both lengths, rounded to whole percent with halves to
    the even one, as fuzzywuzzy gives it with python-Levenshtein installed.
    """
    # Differs from fuzzywuzzy alone, whose difflib fallback may find a shorter common subsequence.
    lines = prediction.lstrip("\n").split("\n")
    code = (line for line in lines if not any(mark in line for mark in _CODE_COMMENT_MARKS))
    return float(round(fuzz.ratio(next(code, ""), reference)))


@dataclass(frozen=True)
class Dataset:
    """How one dataset of LongBench is scored, and where it counts.

    Attributes:
        metric: Scores a prediction by one reference; ``classification`` takes all classes too.
        category: One of ``CATEGORIES``.
        language: ``en``, ``zh`` or ``code``.
    """

    metric: Callable[..., float]
    category: str
    language: str


DATASETS: dict[str, Dataset] = {
    "narrativeqa": Dataset(qa_f1, "single_doc", "en"),
    "qasper": Dataset(qa_f1, "single_doc", "en"),
    "multifieldqa_en": Dataset(qa_f1, "single_doc", "en"),
    "multifieldqa_zh": Dataset(qa_f1_zh, "single_doc", "zh"),
    "hotpotqa": Dataset(qa_f1, "multi_doc", "en"),
    "2wikimqa": Dataset(qa_f1, "multi_doc", "en"),
    "musique": Dataset(qa_f1, "multi_doc", "en"),
    "dureader": Dataset(rouge_l_zh, "multi_doc", "zh"),
    "gov_report": Dataset(rouge_l, "summary", "en"),
    "qmsum": Dataset(rouge_l, "summary", "en"),
    "multi_news": Dataset(rouge_l, "summary", "en"),
    "vcsum": Dataset(rouge_l_zh, "summary", "zh"),
    "trec": Dataset(classification, "few_shot", "en"),
    "triviaqa": Dataset(qa_f1, "few_shot", "en"),
    "samsum": Dataset(rouge_l, "few_shot", "en"),
    "lsht": Dataset(classification, "few_shot", "zh"),
    "passage_count": Dataset(count, "synthetic", "en"),
    "passage_retrieval_en": Dataset(retrieval, "synthetic", "en"),
    "passage_retrieval_zh": Dataset(retrieval_zh, "synthetic", "zh"),
    "lcc": Dataset(code_similarity, "code", "code"),
    "repobench-p": Dataset(code_similarity, "code", "code"),
}
"""The 21 datasets by their official names."""

CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(item.category for item in DATASETS.values()))
"""The six kinds of task, in the order of ``DATASETS``."""


def longbench_score(
    dataset: str,
    prediction: str,
    references: Sequence[str],
    all_classes: Sequence[str] | None = None,
    *,
    first_line: bool,
) -> float:
    """Return the score of one output: its dataset's metric by the reference it fits best, 0 to 100.

    Args:
        dataset: A key of ``DATASETS``.
        prediction: What the model wrote, as it is: white space counts in some metrics.
        references: Right answers, at least one.
        all_classes: The classes of the sample, for trec and lsht; others ignore them.
        first_line: Whether only the first line counts, leading line breaks aside, as the prompt of
            the dataset says.

    Raises:
        ValueError: If the dataset is unknown, there is no reference, or classes are missing.
        ImportError: If the metric needs a package of the extra ``longbench`` that is missing.
    """
    if dataset not in DATASETS:
        raise unknown_choice("dataset", dataset, DATASETS)
    if isinstance(references, str) or not references:
        raise ValueError(
            f"references must be a list of at least one answer; got {references!r} for {dataset}."
        )
    rule = DATASETS[dataset]
    if first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    extra = (all_classes or (),) if rule.metric is classification else ()
    return max(rule.metric(prediction, reference, *extra) for reference in references)


def longbench_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return what a LongBench task reports of one sample; lm-eval calls it for each.

    Args:
        doc: A sample with the keys dataset, answers, all_classes, first_line and num_dropped.
        results: The output of the sample's one request.

    Returns:
        The same keys for every sample: score (0 to 100), truncated (100 if the prompt was cut, else
        0, so that the mean is a percentage) and dropped_tokens (tokens that the cut took away).

    Raises:
        ValueError: As ``longbench_score`` does.
        ImportError: As ``longbench_score`` does.
    """
    score = longbench_score(
        doc["dataset"],
        results[0],
        doc["answers"],
        doc["all_classes"],
        first_line=doc["first_line"],
    )
    num_dropped = doc["num_dropped"]
    return {
        "score": score,
        "truncated": 100.0 if num_dropped else 0.0,
        "dropped_tokens": float(num_dropped),
    }


def longbench_averages(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Return the means over categories, languages and everything.

    Args:
        scores: Score of each dataset that was run, by the names of ``DATASETS``, in any unit.

    Returns:
        Means by name, None where a dataset it needs was not run: each of ``CATEGORIES`` over its
        datasets of all languages; ``english`` and ``chinese`` as LongBench lists them, the mean of
        the six categories' means in that language, code counting for both; ``datasets``, the
        mean over the 21; and ``categories``, the mean of the six categories.

    Raises:
        ValueError: If a dataset is unknown.
    """
    for name in scores:
        if name not in DATASETS:
            raise unknown_choice("dataset", name, DATASETS)
    every = ("en", "zh", "code")
    by_category = {category: _mean_of(scores, category, every) for category in CATEGORIES}
    return {
        **by_category,
        "english": _mean(_mean_of(scores, each, ("en", "code")) for each in CATEGORIES),
        "chinese": _mean(_mean_of(scores, each, ("zh", "code")) for each in CATEGORIES),
        "datasets": _mean(scores.get(name) for name in DATASETS),
        "categories": _mean(by_category.values()),
    }


def _mean_of(scores: Mapping[str, float], category: str, languages: Sequence[str]) -> float | None:
    return _mean(
        scores.get(name)
        for name, rule in DATASETS.items()
        if rule.category == category and rule.language in languages
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of values, or None where one is missing."""
    known = list(values)
    present = [value for value in known if value is not None]
    return fmean(present) if len(present) == len(known) else None


def _f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over shared words, which is 2 shared / (n + m)."""
    shared = (Counter(prediction) & Counter(reference)).total()
    return 200.0 * shared / (len(prediction) + len(reference)) if shared else 0.0


def _english_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_REMOVE_ASCII_MARKS)).split()


def _chinese_words(text: str) -> list[str]:
    words = (word.lower().translate(_REMOVE_ALL_MARKS) for word in _jieba_words(text))
    return [bare for word in words if (bare := "".join(word.split()))]


def _share_of_numbers(prediction: str, wanted: str) -> float:
    numbers = _DIGITS.findall(prediction)
    return 100.0 * numbers.count(wanted) / len(numbers) if numbers else 0.0


def _paragraph(reference: str, pattern: re.Pattern[str], example: str) -> str:
    match = pattern.search(reference)
    if match is None:
        raise ValueError(f"The reference must name a paragraph, as {example}; got {reference!r}.")
    return match.group(1)


@contextmanager
def _recursion_room(num_words: int) -> Iterator[None]:
    """Allow the calls of rouge, which recurses once for each word of both texts."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + num_words)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _jieba_words(text: str) -> list[str]:
    try:
        import jieba
    except ImportError as error:
        raise _missing("jieba") from error
    return jieba.lcut(text, cut_all=False)


def _rouge_class() -> Callable[..., Any]:
    try:
        from rouge import Rouge
    except ImportError as error:
        raise _missing("rouge") from error
    return Rouge


def _missing(package: str) -> ImportError:
    return missing_package("This metric of LongBench", package, "longbench")
