#!/usr/bin/env bash
# A quarter of wonderwords' words lie inside another of its words, and RULER scores by substring.
#
# Version: wonderwords 3.0.1, the lists from which RULER's common-words task (cwe) and word keys are drawn.
# Expected: 8,736 distinct single words, few of which contain one another.
# Seen: 8,166 distinct of 8,736 (481 are both noun and verb); 2,047 of them (25.1 %) occur within another
#   ("data" in "database", "art" in "apartment"); six hold a blank.
# Why it matters: a reference counts as found wherever its letters occur. A model that lists wrong words scores
#   above zero on cwe, and more the more it writes: a cwe score has a floor that grows with the output
#   budget. Compare models at one budget.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check wonderwords==3.0.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
from wonderwords import RandomWord

lists = RandomWord()._categories
entries = [word for kind in ("nouns", "adjectives", "verbs") for word in lists[kind]]
words = sorted(set(entries))
inside = [word for word in words if any(word in other and word != other for other in words)]
blank = [word for word in words if " " in word]
both = set(lists["nouns"]) & set(lists["verbs"])
print(len(entries), "entries,", len(words), "distinct,", len(both), "noun and verb,", len(blank), "with a blank")
print(len(inside), "inside another word, share", round(len(inside) / len(words), 3))
assert (len(entries), len(words), len(both), len(inside)) == (8736, 8166, 481, 2047)
assert len(blank) == 6, blank
PY
