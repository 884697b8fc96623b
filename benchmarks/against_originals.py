"""Counts where our scores and texts differ from those of the original programs, on made-up answers.

    python -m benchmarks.against_originals --opencompass FOLDER --longbench FOLDER --ruler FOLDER \
        --llada FOLDER

FOLDER is where you have unpacked or checked out, in this order, opencompass 0.4.2 (from its wheel;
without the option an installed one is taken), THUDM/LongBench, NVIDIA/RULER and ML-GSAI/LLaDA; an
original without a folder is left out. Their files are run as they are, from there: nothing of them
is part of this project. LongBench's need `pip install jieba fuzzywuzzy python-Levenshtein rouge`.

Answers are drawn by a seed (`benchmarks/originals/answers.py`): right, nearly right, wrong, empty,
with other marks, cases and scripts. They say nothing of what models really write, and leave out
where we differ on purpose, which `Differs from` marks in the code. Exit code 1 if any pair differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.originals import answers, texts
from benchmarks.originals.answers import Maker, Pair
from benchmarks.originals.modules import digest, first_folder, load_file
from lm_eval_llada.tasks.longbench import scores as longbench
from lm_eval_llada.tasks.niah.scores import niah_multi_results, niah_score
from lm_eval_llada.tasks.prompts import longbench_prompt
from lm_eval_llada.tasks.ruler.scores import string_match_all, string_match_part

_TOLERANCE = 1e-6
"""Of scores from 0 to 100: sums of floats in another order."""

_PACKAGES = ("jieba", "fuzzywuzzy", "python-Levenshtein", "rouge", "rapidfuzz", "torch")

Score = Callable[[Pair], float]


@dataclass(frozen=True)
class Case:
    """One metric in two programs.

    Attributes:
        name: What is compared.
        file: The original's.
        make: Draws an answer.
        theirs: The original's score of it, 0 to 100.
        ours: Our score of it, 0 to 100.
    """

    name: str
    file: Path
    make: Maker
    theirs: Score
    ours: Score


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        name: What was compared.
        file: The original's.
        count: Pairs.
        distinct: Different scores, or texts, of the original: few would make a weak comparison.
        different: Pairs whose scores differ, in order.
    """

    name: str
    file: Path
    count: int
    distinct: int
    different: tuple[str, ...]


def compare(case: Case, count: int, seed: int) -> Outcome:
    """Score made-up answers by both; the same answers for the same seed."""
    rng = random.Random(f"{seed}/{case.name}")
    different, values = [], set()
    for _ in range(count):
        pair = case.make(rng)
        # Some originals print every answer.
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = case.theirs(pair)
        ours = case.ours(pair)
        values.add(round(theirs, 6))
        if not abs(theirs - ours) <= _TOLERANCE:
            different.append(f"{case.name}: theirs {theirs}, ours {ours}, for {pair}")
    return Outcome(case.name, case.file, count, len(values), tuple(different))


def niah_cases(opencompass: Path) -> Iterator[Case]:
    """NeedleBench's evaluators of one needle and of several."""
    folder = opencompass / "opencompass" / "datasets" / "needlebench"
    one = load_file(folder / "origin.py").NeedleBenchOriginEvaluator()
    several = load_file(folder / "parallel.py").NeedleBenchParallelEvaluator()

    def score_of_one(pair: Pair) -> float:
        keyword, sentence = pair.references
        return one.score([pair.prediction], [f"{sentence}*{keyword}"])["score"]

    def score_of_several(pair: Pair) -> float:
        depths = "*".join(str(10 * n) for n in range(len(pair.references)))
        gold = f"{'*'.join(pair.references)}#{depths}"
        return several.score([pair.prediction], [gold])["average_score"]

    def our_score_of_several(pair: Pair) -> float:
        depths = [10 * n for n in range(len(pair.references))]
        doc = {"answers": list(pair.references), "depths": depths}
        return niah_multi_results(doc, [pair.prediction])["score"]

    yield Case(
        *("NIAH, one needle", folder / "origin.py", answers.needle_pair, score_of_one),
        lambda pair: niah_score(pair.prediction, *pair.references),
    )
    yield Case(
        *("NIAH, several needles", folder / "parallel.py", answers.needles_pair),
        *(score_of_several, our_score_of_several),
    )


def opencompass_ruler_cases(opencompass: Path) -> Iterator[Case]:
    """OpenCompass' evaluators of RULER's tasks."""
    folder = opencompass / "opencompass" / "datasets" / "ruler"
    for task in ("niah", "vt", "cwe", "fwe", "qa"):
        path = folder / f"ruler_{task}.py"
        evaluator = getattr(load_file(path), f"Ruler{task.capitalize()}Evaluator")()
        ours = string_match_part if task == "qa" else string_match_all
        theirs = _value_of(evaluator.score)
        yield Case(f"RULER {task}", path, answers.listed_pair, _listed(theirs), _one(ours))


def opencompass_longbench_cases(opencompass: Path) -> Iterator[Case]:
    """OpenCompass' evaluators of LongBench, by one reference: some add up over several."""
    path = opencompass / "opencompass" / "datasets" / "longbench" / "evaluators.py"
    module = load_file(path)
    made = [
        ("F1", module.LongBenchF1Evaluator("en"), "qasper"),
        ("F1, Chinese", module.LongBenchF1Evaluator("zh"), "multifieldqa_zh"),
        ("ROUGE-L", module.LongBenchRougeEvaluator("en"), "qmsum"),
        ("ROUGE-L, Chinese", module.LongBenchRougeEvaluator("zh"), "vcsum"),
        ("classification", module.LongBenchClassificationEvaluator(), "trec"),
        ("retrieval", module.LongBenchRetrievalEvaluator("en"), "passage_retrieval_en"),
        ("retrieval, Chinese", module.LongBenchRetrievalEvaluator("zh"), "passage_retrieval_zh"),
        ("count", module.LongBenchCountEvaluator(), "passage_count"),
        ("code similarity", module.LongBenchCodeSimEvaluator(), "lcc"),
    ]
    for name, evaluator, dataset in made:
        theirs = _first_reference(_value_of(evaluator.score))
        ours = _first_reference_ours(longbench.DATASETS[dataset].metric)
        yield Case(f"LongBench {name}", path, _maker_of(dataset), theirs, ours)


def ruler_cases(ruler: Path) -> Iterator[Case]:
    """NVIDIA's two measures."""
    path = ruler / "scripts" / "eval" / "synthetic" / "constants.py"
    module = load_file(path)
    for ours in (string_match_all, string_match_part):
        theirs = getattr(module, ours.__name__)
        yield Case(f"RULER {ours.__name__}", path, answers.listed_pair, _listed(theirs), _one(ours))


def _value_of(score: Callable[..., Mapping[str, float]]) -> Callable[..., float]:
    """What an evaluator of OpenCompass gives, which has it under a name."""
    return lambda predictions, references: score(predictions, references)["score"]


def _listed(score: Callable[..., float]) -> Score:
    """A score of many answers, of one."""
    return lambda pair: score([pair.prediction], [list(pair.references)])


def _one(score: Callable[[str, Sequence[str]], float]) -> Score:
    return lambda pair: score(pair.prediction, pair.references)


def _first_reference(score: Callable[..., float]) -> Score:
    def of(pair: Pair) -> float:
        first = list(pair.references[:1])
        gold = {"answers": first, "all_classes": list(pair.classes)} if pair.classes else first
        return score([pair.prediction], [gold])

    return of


def _first_reference_ours(metric: Callable[..., float]) -> Score:
    def of(pair: Pair) -> float:
        extra = (pair.classes,) if pair.classes else ()
        return metric(pair.prediction, pair.references[0], *extra)

    return of


def longbench_cases(checkout: Path) -> Iterator[Case]:
    """THUDM's program, with its own choice of metric and of lines for each of the 21 datasets."""
    folder = first_folder(checkout, ["LongBench"])
    metrics = load_file(folder / "metrics.py")
    program = load_file(folder / "eval.py", {"metrics": metrics})
    for dataset in longbench.DATASETS:

        def theirs(pair: Pair, dataset: str = dataset) -> float:
            texts = [pair.prediction], [list(pair.references)]
            return program.scorer(dataset, *texts, list(pair.classes))

        def ours(pair: Pair, dataset: str = dataset) -> float:
            return longbench.longbench_score(
                *(dataset, pair.prediction, pair.references, pair.classes or None),
                first_line=longbench_prompt(dataset).first_line,
            )

        yield Case(f"LongBench {dataset}", folder / "metrics.py", _maker_of(dataset), theirs, ours)


def _maker_of(dataset: str) -> Maker:
    """What answers to a dataset look like."""
    special = {
        "passage_count": answers.number_pair,
        "passage_retrieval_en": answers.paragraph_pair,
        "passage_retrieval_zh": answers.chinese_paragraph_pair,
        "trec": answers.class_pair,
        "lsht": answers.class_pair,
    }
    by_language = {
        "en": answers.english_pair,
        "zh": answers.chinese_pair,
        "code": answers.code_pair,
    }
    return special.get(dataset) or by_language[longbench.DATASETS[dataset].language]


def _outcomes(given: argparse.Namespace) -> Iterator[Outcome]:
    makers: list[tuple[Path | None, Callable[[Path], Iterator[Case]]]] = [
        (given.opencompass, niah_cases),
        (given.opencompass, opencompass_ruler_cases),
        (given.opencompass, opencompass_longbench_cases),
        (given.ruler, ruler_cases),
        (given.longbench, longbench_cases),
    ]
    for folder, cases in makers:
        for case in cases(folder) if folder else ():
            yield compare(case, given.pairs, given.seed)
    if given.llada:
        path = given.llada / "generate.py"
        for name, distinct, different in texts.compare(load_file(path), given.texts, given.seed):
            yield Outcome(name, path, given.texts, distinct, different)


def _print(outcome: Outcome) -> None:
    where = "/".join(outcome.file.parts[-2:])
    print(
        f"| {outcome.name} | {where} {digest(outcome.file)} | {outcome.count:,} | "
        f"{outcome.distinct:,} | {len(outcome.different)} |",
        flush=True,
    )


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join([f"Python {sys.version.split()[0]}", *found])


def _installed(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opencompass", type=Path, default=_installed("opencompass"))
    for name in ("longbench", "ruler", "llada"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--pairs", type=int, default=1000, help="answers a metric (1000)")
    parser.add_argument("--texts", type=int, default=100, help="texts an option of LLaDA's (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the answers (0)")
    given = parser.parse_args(arguments)
    if not any((given.opencompass, given.longbench, given.ruler, given.llada)):
        parser.error("give the folder of at least one original")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each comparison, then the first few pairs that differ."""
    given = parse(arguments)
    print(f"{_versions()}\n\n| compared | with | pairs | distinct | different |")
    print("|---|---|---:|---:|---:|")
    outcomes = []
    for outcome in _outcomes(given):
        _print(outcome)
        outcomes.append(outcome)
    different = [line for outcome in outcomes for line in outcome.different]
    print(f"\n{sum(o.count for o in outcomes):,} pairs, {len(different)} of them different.")
    for line in different[:10]:
        print(f"- {line}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
