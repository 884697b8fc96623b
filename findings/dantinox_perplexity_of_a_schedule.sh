#!/usr/bin/env bash
# dantinox gives one model another perplexity with another noise schedule: knowing nothing scores 32, 63 or 5,325.
#
# Version: dantinox 0.4.14 (jax 0.9.2, flax 0.12.6, CPU), its PerplexityTask on a model whose weights are all zero.
# Expected: such a model holds all 64 words alike, so its perplexity is 64: exactly for "ar", and within the
#   noise of the draw for "discrete" (an estimate of the bound) under each of the three schedules.
# Seen: 64.0 for ar, 62.6 for linear, 32.4 for cosine, 5,325 for sqrt (8,192 sequences of 32 tokens each).
# Why it matters: the package is for comparing paradigms, and "cosine" is what its quick start trains with: there
#   knowing nothing looks twice as good as in "ar". The weight is 1/t, said to be right for linear, under all
#   three, whatever share is masked at t: in expectation ln 64 times 0.82 for cosine and times 2 for sqrt.
#   Two models trained under two schedules cannot be compared by this number, nor one of them with "ar".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    jax==0.9.2 jaxlib==0.9.2 flax==0.12.6 optax==0.2.8 numpy==2.4.6 tokenizers==0.23.3 pyyaml msgpack tqdm
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps dantinox==0.4.14
cd "$work"
"$work/venv/bin/python" - <<'PY'
import dantinox
import jax
import jax.numpy as jnp
from dantinox.benchmarking.base import BenchmarkConfig
from dantinox.benchmarking.tasks.perplexity import PerplexityTask
from flax import nnx

WORDS = 64
with open("held_out.txt", "w") as file:
    file.write("the quick brown fox jumps over the lazy dog. " * 200)


def perplexity(paradigm, **more):
    config = dantinox.ModelConfig(
        paradigm=paradigm, dim=16, n_heads=1, head_size=16, num_blocks=1, vocab_size=WORDS, max_context=64, **more
    )
    built = dantinox.Paradigm(config)
    model = built.build_model(nnx.Rngs(0))
    nnx.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    size = BenchmarkConfig(eval_batches=8, eval_seq_len=32, eval_batch_size=1024)
    return PerplexityTask("held_out.txt").run(built, model, size, jax.random.PRNGKey(0)).metrics["perplexity"]


seen = {"ar": perplexity("ar")}
for schedule in ("linear", "cosine", "sqrt"):
    seen[schedule] = perplexity("discrete", noise_schedule=schedule, mask_token_id=WORDS - 1)
print("perplexity of a model that holds 64 words alike:", {name: round(value, 1) for name, value in seen.items()})
assert abs(seen["ar"] - 64) < 0.1 and 56 < seen["linear"] < 72, seen
assert 28 < seen["cosine"] < 37 and 3000 < seen["sqrt"] < 8000, seen
PY
