"""LongBench's metrics: cases worked by hand, with the reason beside each, and laws."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.tasks.longbench.scores import (
    CATEGORIES,
    DATASETS,
    classification,
    code_similarity,
    count,
    longbench_averages,
    longbench_results,
    longbench_score,
    qa_f1,
    qa_f1_zh,
    retrieval,
    retrieval_zh,
    rouge_l,
    rouge_l_zh,
)

# Those whose prompts are rows of worked examples.
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
CLASSES = ["Food", "Date", "City", "City name"]
ZH_CLASSES = ["体育", "教育", "法律、司法"]

# Metric, prediction, reference, score, why. F1 is 2 shared / (words of one + words of the other).
PAIRS = [
    (qa_f1, "", "Paris", 0, "an empty output shares nothing"),
    (qa_f1, "", "", 0, "two empty texts share nothing either"),
    (qa_f1, "PARIS", "paris", 100, "case is ignored"),
    (qa_f1, "The Paris.", "Paris", 100, "article and full stop go"),
    (qa_f1, "the", "a", 0, "nothing remains of articles"),
    (qa_f1, "It is Paris", "Paris", 50, "2*1 / (3+1)"),
    (qa_f1, "red red", "red", 200 / 3, "2*1 / (2+1): the second red finds no partner"),
    (qa_f1, "red red blue", "red red green", 200 / 3, "2*2 / (3+3)"),
    (qa_f1, "U.S.A.", "USA", 100, "punctuation goes without leaving a gap"),
    (qa_f1, "well-known", "well known", 0, "wellknown is one word"),
    (qa_f1, "blue, red", "red blue", 100, "order is ignored"),
    (qa_f1, "another", "other", 0, "an is an article only as a word"),
    (qa_f1, "a-b", "b", 0, "punctuation goes before articles: ab"),
    (qa_f1, "don't", "dont", 100, "apostrophes are punctuation"),
    (qa_f1, "“Paris”", "Paris", 0, "only ASCII punctuation goes"),
    (qa_f1_zh, "", "北京", 0, "an empty output"),
    (qa_f1_zh, "北京", "北京", 100, "equal"),
    (qa_f1_zh, "我来到北京清华大学", "清华大学", 40, "我 来到 北京 清华大学: 2*1 / (4+1)"),
    (qa_f1_zh, "北京。", "北京", 100, "a Chinese full stop goes"),
    (qa_f1_zh, "北京，清华大学", "北京", 200 / 3, "2*1 / (2+1)"),
    (qa_f1_zh, "《北京》", "北京", 200 / 3, "the original keeps 《, so 2*1 / (2+1)"),
    (qa_f1_zh, "。，！", "。", 0, "nothing remains"),
    (qa_f1_zh, "NBA", "nba", 100, "case is ignored"),
    (qa_f1_zh, "清华 大学", "清华大学", 0, "the space makes two words"),
    (qa_f1_zh, "北京 。\n", "北京", 100, "white space is no word"),
    (rouge_l, "", "a b", 0, "an empty output"),
    (rouge_l, "a b", "", 0, "an empty reference"),
    (rouge_l, "...", "a", 0, "no sentence in it"),
    (rouge_l, "a b c", "a b c", 100, "equal"),
    (rouge_l, "a b", "a b c d", 200 / 3, "P 1, R 1/2"),
    (rouge_l, "the cat sat", "the cat", 80, "P 2/3, R 1"),
    (rouge_l, "b a", "a b", 50, "a common subsequence of one word: P = R = 1/2"),
    (rouge_l, "a a a", "a", 100, "distinct words count"),
    (rouge_l, "A b", "a b", 50, "case counts"),
    (rouge_l, "a, b", "a b", 50, "a comma belongs to its word"),
    (rouge_l, "a b. c d", "c d. a b", 100, "the best of every sentence, united"),
    (rouge_l, "x y", "a b", 0, "nothing shared"),
    (rouge_l, "a.", "a", 100, "nothing follows the full stop"),
    (rouge_l, "a. ", "a", 200 / 3, "a space after the stop makes an empty word: P 1/2, R 1"),
    (rouge_l, "  a \n b ", "a b", 100, "runs of white space are one"),
    (rouge_l_zh, "", "北京", 0, "an empty output"),
    (rouge_l_zh, "我来到北京", "我来到北京", 100, "equal"),
    (rouge_l_zh, "我来到北京", "我来到北京清华大学", 600 / 7, "P 1, R 3/4"),
    (rouge_l_zh, "清华大学北京", "北京清华大学", 50, "two words in the other order"),
    (rouge_l_zh, "北京。", "北京", 200 / 3, "the full stop is a word: P 1/2, R 1"),
    (retrieval, "Paragraph 3", "Paragraph 3", 100, "equal"),
    (retrieval, "3", "Paragraph 3", 100, "the number is enough"),
    (retrieval, "3 and 4", "Paragraph 3", 50, "one of two numbers"),
    (retrieval, "3, 3, 4", "Paragraph 3", 200 / 3, "two of three: repeats count"),
    (retrieval, "", "Paragraph 3", 0, "an empty output"),
    (retrieval, "three", "Paragraph 3", 0, "no digits"),
    (retrieval, "13", "Paragraph 3", 0, "whole numbers are compared"),
    (retrieval, "03", "Paragraph 3", 0, "as written"),
    (retrieval_zh, "段落14", "段落14", 100, "equal"),
    (retrieval_zh, "14", "段落14", 100, "the number is enough"),
    (retrieval_zh, "段落1、段落14", "段落14", 50, "one of two numbers"),
    (retrieval_zh, "段落一", "段落1", 0, "no digits"),
    (retrieval_zh, "", "段落1", 0, "an empty output"),
    (count, "5", "5", 100, "equal"),
    (count, "There are 5 of 10.", "5", 50, "one of two numbers"),
    (count, "5.0", "5", 50, "5 and 0 are two numbers"),
    (count, "-5", "5", 100, "a sign is no digit"),
    (count, "15", "5", 0, "whole numbers are compared"),
    (count, "", "5", 0, "an empty output"),
    (code_similarity, "return x", "return x", 100, "equal"),
    (code_similarity, "```python\nreturn x", "return x", 100, "a fence is skipped"),
    (code_similarity, "# note\nreturn x", "return x", 100, "a comment is skipped"),
    (code_similarity, "// note\nreturn x", "return x", 100, "a comment is skipped"),
    (code_similarity, "\n\nreturn x\ny = 1", "return x", 100, "leading line breaks are skipped"),
    (code_similarity, "return x # note\nfoo", "foo", 100, "a mark anywhere skips the line"),
    (code_similarity, "# note\n\nreturn x", "return x", 0, "the blank line is the first of code"),
    (code_similarity, "# only", "", 100, "no line of code is an empty one"),
    (code_similarity, "# only", "x", 0, "no line of code"),
    (code_similarity, "", "x", 0, "an empty output"),
    (code_similarity, "abcd", "abxy", 50, "2*2 / (4+4)"),
    (code_similarity, "abc", "abd", 67, "2*2 / (3+3), in whole percent"),
    (code_similarity, " x", "x", 67, "indentation counts: 2*1 / (2+1)"),
    (code_similarity, "AB", "ab", 0, "case counts"),
    (code_similarity, "abcdexyz", "abcdeuvw", 62, "2*5 / (8+8): a half goes to the even percent"),
    (code_similarity, "abcvwxyz", "abcdefgh", 38, "2*3 / (8+8): a half goes to the even percent"),
    (code_similarity, "ab1", "1ab", 67, "the longest subsequence is ab: 2*2 / (3+3)"),
]

# Prediction, reference, classes, score, why.
CLASSED = [
    ("Food", "Food", CLASSES, 100, "the right one alone"),
    ("It is Food.", "Food", CLASSES, 100, "anywhere in the output"),
    ("Foods", "Food", CLASSES, 100, "inside a word too"),
    ("", "Food", CLASSES, 0, "an empty output"),
    ("food", "Food", CLASSES, 0, "case counts"),
    ("Date", "Food", CLASSES, 0, "a wrong one"),
    ("Food or Date", "Food", CLASSES, 50, "a tie of two"),
    ("Food Date City", "Date", CLASSES, 100 / 3, "a tie of three"),
    ("City name", "City name", CLASSES, 100, "City is part of the right name"),
    ("City name", "City", CLASSES, 50, "the longer name is not part of the right one"),
    ("Food", "Sport", CLASSES, 0, "a right class that is not listed"),
    ("体育", "体育", ZH_CLASSES, 100, "Chinese"),
    ("体育和教育", "教育", ZH_CLASSES, 50, "a tie in Chinese"),
    ("法律", "法律、司法", ZH_CLASSES, 0, "half a name"),
]

# Dataset, prediction, references, classes, score, why.
OUTPUTS = [
    (
        "trec",
        "\n\nFood\nDate",
        ["Food"],
        CLASSES,
        100,
        "the first line, line breaks before it gone",
    ),
    ("trec", "Food\nDate", ["Date"], CLASSES, 0, "the second line does not count"),
    ("trec", " \nFood", ["Food"], CLASSES, 0, "a line of one space is a line"),
    ("trec", "", ["Food"], CLASSES, 0, "an empty output"),
    ("lsht", "体育\n教育", ["体育"], ZH_CLASSES, 100, "the first line"),
    ("triviaqa", "Paris\nLondon", ["London", "Paris"], None, 100, "any reference, first line"),
    ("samsum", "a b\nc d", ["a b"], None, 100, "the first line"),
    ("narrativeqa", "Paris\nLondon", ["Paris"], None, 200 / 3, "all lines: 2*1 / (2+1)"),
    ("qasper", "x", ["y", "x z"], None, 200 / 3, "the better of 0 and 2*1 / (1+2)"),
    ("multifieldqa_zh", "北京", ["上海", "北京。"], None, 100, "the better of two"),
    ("gov_report", "a b\nc", ["a b"], None, 80, "all lines: P 2/3, R 1"),
    ("vcsum", "我来到北京", ["我来到北京清华大学"], None, 600 / 7, "P 1, R 3/4"),
    ("dureader", "北京", ["上海", "北京"], None, 100, "ROUGE over jieba's words"),
    ("passage_count", "5 or 6", ["5"], None, 50, "one of two numbers"),
    ("passage_retrieval_en", "Paragraph 9", ["Paragraph 9"], None, 100, "equal"),
    ("passage_retrieval_zh", "段落9", ["段落9"], None, 100, "equal"),
    ("lcc", "\n    x = 1\n", ["    x = 1"], None, 100, "indentation is kept"),
    ("repobench-p", "// a\n", ["b"], None, 0, "an empty line after the comment"),
    ("hotpotqa", "", ["Paris", "London"], None, 0, "an empty output"),
]


@pytest.mark.parametrize(("metric", "prediction", "reference", "score", "why"), PAIRS)
def test_metric_has_the_value_worked_by_hand(metric, prediction, reference, score, why):
    # ROUGE adds 1e-8 below the fraction bar, which is 5e-7 of 100.
    assert metric(prediction, reference) == pytest.approx(score, abs=2e-6), why


@pytest.mark.parametrize(("prediction", "reference", "classes", "score", "why"), CLASSED)
def test_classification_has_the_value_worked_by_hand(prediction, reference, classes, score, why):
    assert classification(prediction, reference, classes) == pytest.approx(score), why


@pytest.mark.parametrize(
    ("dataset", "prediction", "references", "classes", "score", "why"), OUTPUTS
)
def test_output_has_the_score_worked_by_hand(dataset, prediction, references, classes, score, why):
    found = score_of(dataset, prediction, references, classes)
    assert found == pytest.approx(score, abs=2e-6), why


def score_of(dataset: str, *arguments) -> float:
    return longbench_score(dataset, *arguments, first_line=dataset in FIRST_LINE)


TEXTS = st.text("ab the.,#/`\n35北京清华大学。《", max_size=14)
ANSWERS = {
    "trec": st.sampled_from(CLASSES),
    "lsht": st.sampled_from(ZH_CLASSES),
    "passage_count": st.integers(0, 60).map(str),
    "passage_retrieval_en": st.integers(1, 30).map("Paragraph {}".format),
    "passage_retrieval_zh": st.integers(1, 30).map("段落{}".format),
}


def classes_of(dataset: str) -> list[str] | None:
    return {"trec": CLASSES, "lsht": ZH_CLASSES}.get(dataset)


@pytest.mark.parametrize("dataset", DATASETS)
@settings(deadline=None, max_examples=20)
@given(st.data())
def test_scores_are_bounded_and_the_order_of_references_does_not_matter(dataset, data):
    answers = ANSWERS.get(dataset, TEXTS)
    references = data.draw(st.lists(answers, min_size=1, max_size=4))
    prediction = data.draw(TEXTS | answers)
    classes = classes_of(dataset)
    score = score_of(dataset, prediction, references, classes)
    assert 0 <= score <= 100
    shuffled = data.draw(st.permutations(references))
    assert score_of(dataset, prediction, shuffled, classes) == score
    more = [*references, data.draw(answers)]
    assert score_of(dataset, prediction, more, classes) >= score


# Texts of which every metric keeps something, on one line and without marks of a comment.
PLAIN = st.lists(st.sampled_from(["red", "Blue", "7", "x1", "北京"]), min_size=1, max_size=6)


@pytest.mark.parametrize("dataset", DATASETS)
@settings(deadline=None, max_examples=20)
@given(st.data())
def test_the_answer_itself_has_the_highest_score(dataset, data):
    if dataset in ("trec", "lsht"):
        answer = data.draw(ANSWERS[dataset])
    else:
        answer = data.draw(ANSWERS.get(dataset, PLAIN.map(" ".join)))
    score = score_of(dataset, answer, [answer], classes_of(dataset))
    assert score == pytest.approx(100, abs=2e-6)


def test_a_long_sentence_is_scored_whatever_the_recursion_limit():
    limit = sys.getrecursionlimit()
    words = ["a"] + ["b"] * (limit + 500)
    # Distinct words a and b, of which a is shared: P 1/2, R 1. The original's answer is 0.
    assert rouge_l(" ".join(words), "a") == pytest.approx(200 / 3, abs=2e-6)
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize(
    ("package", "metric"),
    [("jieba", qa_f1_zh), ("jieba", rouge_l_zh), ("rouge", rouge_l), ("rouge", rouge_l_zh)],
)
def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch, package, metric):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}.*pip install -e "\.\[longbench\]"'):
        metric("北京", "北京")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hotpot", "x", ["x"]), "dataset must be one of .*'hotpotqa'"),
        (("hotpotqa", "x", []), r"at least one answer; got \[\]"),
        (("hotpotqa", "x", "x"), "list of at least one answer; got 'x'"),
        (("trec", "x", ["Food"]), "all_classes must list"),
        (("passage_retrieval_en", "3", ["段落3"]), "Paragraph 7; got '段落3'"),
        (("passage_retrieval_zh", "3", ["Paragraph 3"]), "段落7; got 'Paragraph 3'"),
    ],
)
def test_a_wrong_sample_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        score_of(*arguments)


def test_every_sample_reports_the_same_metrics():
    sample = {"dataset": "triviaqa", "answers": ["Rome", "Paris"], "all_classes": None}
    output = ["\n\nParis\nLondon"]
    cut = longbench_results({**sample, "first_line": True, "num_dropped": 7}, output)
    whole = longbench_results({**sample, "first_line": False, "num_dropped": 0}, output)
    assert cut == {"score": 100, "truncated": 100, "dropped_tokens": 7}
    # All lines count, and one of the two words is the answer: 2*1 / (2+1).
    assert whole == {"score": pytest.approx(200 / 3), "truncated": 0, "dropped_tokens": 0}
    assert list(cut) == list(whole)


def test_there_are_fourteen_english_five_chinese_and_two_code_datasets():
    languages = [rule.language for rule in DATASETS.values()]
    assert [languages.count(each) for each in ("en", "zh", "code")] == [14, 5, 2]
    sizes = [sum(rule.category == each for rule in DATASETS.values()) for each in CATEGORIES]
    assert sizes == [4, 4, 4, 4, 3, 2]


# GPT-3.5-Turbo-16k in the tables of LongBench's first release (README at 0697c97), which had nq
# (73.0) where samsum is now, and no multi_news: the mean of the two other English summaries
# stands in for it and leaves their mean as it was.
PUBLISHED = {
    **{"narrativeqa": 23.6, "qasper": 43.3, "multifieldqa_en": 52.3, "multifieldqa_zh": 61.2},
    **{"hotpotqa": 51.6, "2wikimqa": 37.7, "musique": 26.9, "dureader": 28.7},
    **{"gov_report": 29.5, "qmsum": 23.4, "multi_news": 26.45, "vcsum": 16.0},
    **{"trec": 68.0, "triviaqa": 87.1, "samsum": 73.0, "lsht": 29.2},
    **{"passage_count": 4.5, "passage_retrieval_en": 71.0, "passage_retrieval_zh": 77.5},
    **{"lcc": 54.7, "repobench-p": 54.3},
}


def test_averages_by_language_are_those_of_the_published_table():
    averages = longbench_averages(PUBLISHED)
    # Printed there: 45.5 and 44.5, from categories that are rounded to one digit themselves.
    assert averages["english"] == pytest.approx(45.5, abs=0.1)
    assert averages["chinese"] == pytest.approx(44.5, abs=0.1)


def test_averages_of_categories_and_of_all_are_the_plain_means():
    scores = {name: float(place) for place, name in enumerate(DATASETS)}  # 0 to 20 in order
    averages = longbench_averages(scores)
    # Places 0-3, 4-7, 8-11, 12-15, 16-18 and 19-20.
    expected = dict(zip(CATEGORIES, (1.5, 5.5, 9.5, 13.5, 17.0, 19.5), strict=True))
    assert {name: averages[name] for name in CATEGORIES} == expected
    assert averages["datasets"] == 10
    assert averages["categories"] == pytest.approx(66.5 / 6)
    # English leaves out 3, 7, 11, 15 and 18; Chinese is those five; code is 19.5 in both.
    assert averages["english"] == pytest.approx((1 + 5 + 9 + 13 + 16.5 + 19.5) / 6)
    assert averages["chinese"] == pytest.approx((3 + 7 + 11 + 15 + 18 + 19.5) / 6)


def test_an_average_over_missing_datasets_is_none():
    averages = longbench_averages({"lcc": 10.0, "repobench-p": 20.0})
    assert averages.pop("code") == 15
    assert set(averages.values()) == {None}
    with pytest.raises(ValueError, match="Did you mean 'qmsum'"):
        longbench_averages({"qmsun": 1.0})
