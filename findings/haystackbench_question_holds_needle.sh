#!/usr/bin/env bash
# haystackbench quotes an own needle in the question, so that the haystack need not be read.
#
# Version: haystackbench 0.1.0, single retrieval with a needle of one's own that has no question.
# Expected: the prompt asks for the value; the value stands in the document alone.
# Seen: the question repeats the needle's first 100 characters, value included: it stands twice in the
#   prompt, the second time in its last line, at every depth and length.
# Why it matters: a model whose context ends a hundred tokens back (local perception, which is what is
#   measured in diffusion models) scores 100 % at every depth.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps haystackbench==0.1.0
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check tiktoken==0.14.0 pydantic==2.14.4 pyyaml==6.0.4 python-dotenv==1.2.4 numpy==2.4.6 pandas==3.1.1 rich==15.0.0 click==8.5.1 httpx==0.28.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
from haystackbench.core.injector import InjectedDocument
from haystackbench.core.needle import Needle
from haystackbench.tasks.single_retrieval import SingleRetrievalTask

needle = Needle(text="The vault code of the harbour is 4711.", entity="", attribute="", value="4711")
filler = "Nothing happened that day.\n\n" * 200
document = InjectedDocument(text=filler + needle.text + "\n\n" + filler, token_count=0)
prompt = SingleRetrievalTask(None).build_prompt(document, [needle])
asked = prompt.split("</document>")[1].strip()
print("the question:", asked)
assert prompt.count("4711") == 2 and "4711" in asked
PY
