#!/usr/bin/env bash
# A faster stand-in for jieba cuts everyday Chinese into other words, so Chinese F1 moves with the install.
#
# Versions: jieba 0.42.1, jieba-fast-dat 0.59 (sold as a way to speed jieba up, same functions).
# Expected: the same words in the same order for everyday sentences, only sooner.
# Seen: of six sentences one comes out alike; decimals ("42.5", "3.5%") stay whole in one and
#   fall into three or four pieces in the other.
# Why it matters: LongBench's Chinese F1 and rouge compare jieba's words. The same answers get other
#   scores where the fast package was swapped in, numbers above all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check jieba==0.42.1 jieba-fast-dat==0.59
cd "$work"
"$work/venv/bin/python" - <<'PY'
import logging

import jieba
import jieba_fast_dat

jieba.setLogLevel(logging.ERROR)
sentences = [
    "长春市长春节致辞",
    "乒乓球拍卖完了",
    "第123号文件规定3.5%的税率",
    "LongBench的得分是42.5分",
    "他来到了网易杭研大厦",
    "结婚的和尚未结婚的",
]
alike = 0
for sentence in sentences:
    slow, fast = list(jieba.cut(sentence)), list(jieba_fast_dat.cut(sentence))
    alike += slow == fast
    print(slow, fast if slow != fast else "same")
print("alike:", alike, "of", len(sentences))
assert alike == 1, alike
assert "42.5" in jieba.cut(sentences[3]) and "42.5" not in jieba_fast_dat.cut(sentences[3])
PY
