"""The tables of the post-training ablation, and the paper's numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.ablation_cells import TARGET_LENGTH, all_cells
from lm_eval_llada.report.document import GAP, Paragraph, Section, Table, number, signed, table
from lm_eval_llada.report.markdown import to_markdown
from lm_eval_llada.report.published import published_numbers

Record = Mapping[str, Any]

COMPARISONS = (
    ("diffusion_ntk-free", "ntk-free"),
    ("diffusion_ntk-adaptive", "ntk-adaptive"),
    ("diffusion_ntk-concat", "ntk-concat"),
    ("diffusion_ntk-eod", "ntk-eod"),
    ("diffusion_ntk-adaptive", "diffusion_ntk-free"),
    ("diffusion_ntk-adaptive", "none-adaptive"),
    ("diffusion_ntk-adaptive", "diffusion_ntk-concat"),
    ("diffusion_ntk-adaptive", "diffusion_ntk-eod"),
    ("diffusion_ntk-concat", "diffusion_ntk-eod"),
    ("diffusion_ntk-adaptive-plain", "diffusion_ntk-concat-plain"),
    ("diffusion_ntk-adaptive-plain", "diffusion_ntk-eod-plain"),
    ("diffusion_ntk-adaptive", "diffusion_ntk-adaptive-plain"),
)
"""Settings whose difference is a conclusion, the first minus the second."""

_ROTATIONS = {"none": "none", "ntk": "NTK", "diffusion_ntk": "diffusion NTK"}
_PAPERS_PREFIX = "UltraLLaDA ("


def tables(records: Sequence[Record]) -> str:
    """All results as Markdown."""
    settings = by_setting(records)
    if not settings:
        return "No cell has been measured yet."
    sections = [
        Section("Needles", (needle_table(settings),)),
        Section("Perplexity", (perplexity_table(settings),)),
        Section("Differences", (difference_table(settings),)),
        Section("The paper", (paper_table(), Paragraph("UltraLLaDA (arXiv 2510.10481)."))),
    ]
    return to_markdown("Post-training of tiny-llada for 4,096 tokens", sections)


def by_setting(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records that differ in their seed alone, by ascending seed, in the order of the cells."""
    found = {record["cell"]: record for record in records}
    settings: dict[str, list[Record]] = {}
    for cell in sorted(all_cells(), key=lambda cell: cell.seed):
        settings.setdefault(cell.setting, [])
        if cell.name in found:
            settings[cell.setting].append(found[cell.name])
    order = dict.fromkeys(cell.setting for cell in all_cells())
    return {setting: settings[setting] for setting in order if settings[setting]}


def percent_found(record: Record, length: str) -> float:
    """Needles found at a length, all depths, 0-100."""
    return fmean(_depths(record, length))


def nats(record: Record, length: str) -> tuple[float, float]:
    """Cross entropy at a length and its standard error, nats per token."""
    return _mean(record["chunk_nats"][length])


def needle_table(settings: Mapping[str, Sequence[Record]]) -> Table:
    """Needles by setting and length, with the worst depth and what training took."""
    any_record = next(iter(settings.values()))[0]
    lengths = list(any_record["found"])

    def row(found: Sequence[Record]) -> list[str]:
        cells = []
        for length in lengths:
            pooled = _each(number(percent_found(record, length), 0) for record in found)
            worst = _each(number(min(_depths(record, length)), 0) for record in found)
            cells.append(f"{pooled} ({worst})")
        seconds = _each(number(record["train_seconds"], 0) for record in found)
        return [*_names(found[0]), *cells, seconds]

    return table(
        ["rotation", "masking", "λ", *map(_thousands, lengths), "training, s"],
        map(row, settings.values()),
        f"Per cent of needles found at all depths, and at the worst one; {any_record['samples']} "
        "samples at each of five depths. Two numbers are two seeds of training.",
    )


def perplexity_table(settings: Mapping[str, Sequence[Record]]) -> Table:
    """Perplexity by setting and context, and the loss at the trained length."""
    any_record = next(iter(settings.values()))[0]
    lengths = list(any_record["chunk_nats"])
    errors = [nats(record, length)[1] for found in settings.values() for record in found
              for length in lengths]  # fmt: skip

    def row(found: Sequence[Record]) -> list[str]:
        cells = [
            _each(number(math.exp(nats(record, length)[0])) for record in found)
            for length in lengths
        ]
        loss = _each(number(fmean(record["window_nats"]), 3) for record in found)
        return [*_names(found[0]), *cells, loss]

    return table(
        ["rotation", "masking", "λ", *map(_thousands, lengths), "loss at 512"],
        map(row, settings.values()),
        f"Perplexity of {len(any_record['chunk_nats'][lengths[0]])} chunks of held-out text given "
        "the text before them, by length of both; loss in nats per token. The values have standard "
        f"errors of {100 * min(errors):.0f} to {100 * max(errors):.0f} %, which all cells and "
        "lengths share for the most part.",
    )


def difference_table(settings: Mapping[str, Sequence[Record]]) -> Table:
    """Differences at the target length, seed by seed, with paired standard errors."""
    length = str(TARGET_LENGTH)
    rows = []
    for first, second in COMPARISONS:
        pairs = _same_seeds(settings.get(first, ()), settings.get(second, ()))
        if not pairs:
            continue
        points = [percent_found(one, length) - percent_found(two, length) for one, two in pairs]
        changes = [perplexity_change(one, two, length) for one, two in pairs]
        rows.append(
            [
                f"{_words(settings[first][0])} against {_words(settings[second][0])}",
                _each(signed(point, 0) for point in points),
                _each(f"{signed(change)} ± {error:.1f}" for change, error in changes),
            ]
        )
    return table(
        ["comparison", "needles, points", "perplexity, %"],
        rows,
        f"At {_thousands(length)} tokens. Errors are standard errors over chunks, of the paired "
        "differences. Two numbers are two seeds.",
    )


def perplexity_change(one: Record, two: Record, length: str) -> tuple[float, float]:
    """Perplexity of the first over that of the second, less 1, and its paired error, per cent."""
    pairs = zip(one["chunk_nats"][length], two["chunk_nats"][length], strict=True)
    mean, error = _mean([mine - theirs for mine, theirs in pairs])
    return 100 * math.expm1(mean), 100 * math.exp(mean) * error


def paper_table() -> Table:
    """The paper's own ablation: RULER averages of LLaDA-8B by length in K tokens."""
    numbers = [n for n in published_numbers() if n.model.startswith(_PAPERS_PREFIX)]
    lengths = sorted({n.length for n in numbers if n.length is not None})
    values = {(n.model, n.length): n.value for n in numbers}
    return table(
        ["variant of the paper", *(f"{length}K" for length in lengths)],
        [
            [
                model.removeprefix(_PAPERS_PREFIX).rstrip(")"),
                *(number(values.get((model, length)), 2) for length in lengths),
            ]
            for model in dict.fromkeys(n.model for n in numbers)
        ],
        "RULER averages of post-trained LLaDA-8B-Base, second-hand; direct is concat.",
    )


def _names(record: Record) -> list[str]:
    return [*_rotation_and_masking(record), number(record["rope_scale"])]


def _rotation_and_masking(record: Record) -> tuple[str, str]:
    d_crit = "" if record["d_crit"] is None else f", d_crit {record['d_crit']}"
    masking = "no training" if record["strategy"] == "free" else record["strategy"]
    plain = "" if record["block_share"] else ", plain loss"
    return f"{_ROTATIONS[record['method']]}{d_crit}", f"{masking}{plain}"


def _words(record: Record) -> str:
    return " + ".join(_rotation_and_masking(record))


def _depths(record: Record, length: str) -> list[float]:
    """Needles found at each depth, 0-100."""
    return [100 * right / record["samples"] for right in record["found"][length].values()]


def _same_seeds(ones: Sequence[Record], twos: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pairs of one seed; where one side has no training it stands beside every seed."""
    if twos and twos[0]["strategy"] == "free":
        return [(one, twos[0]) for one in ones]
    theirs = {two["seed"]: two for two in twos}
    return [(one, theirs[one["seed"]]) for one in ones if one["seed"] in theirs]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    return fmean(values), stdev(values) / math.sqrt(len(values))


def _each(texts: Iterable[str]) -> str:
    return " / ".join(texts) or GAP


def _thousands(length: str) -> str:
    return f"{int(length):,}"
