#!/usr/bin/env bash
# accelerate launch --cpu --num_processes 2 starts one process and says nothing.
#
# Version: accelerate 1.15.0, torch 2.13.0.
# Expected: two ranks, as torchrun --nproc_per_node=2 gives them for the same script, or an error.
# Seen: one rank that counts one process, exit code 0. torchrun starts two. Asked for FSDP there
#   (ACCELERATE_USE_FSDP), the two ranks on CPU report plain MULTI_CPU, also without a word.
# Why it matters: a multi-rank evaluation or post-training rehearsed on a laptop tests nothing of what differs
#   between ranks: gathering, uneven shares, sharded saving.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import os
import subprocess
import sys
from pathlib import Path

Path("ranks.py").write_text(
    "from accelerate import Accelerator\n"
    "state = Accelerator(cpu=True)\n"
    "open(f'seen.{state.process_index}', 'w').write(f'{state.num_processes} {state.distributed_type.name}')\n"
)


def ranks(*command, **environment):
    for old in Path().glob("seen.*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", *command, "ranks.py"], check=True, env={**os.environ, **environment})
    return [path.read_text() for path in sorted(Path().glob("seen.*"))]


launch = ranks("accelerate.commands.launch", "--cpu", "--num_processes", "2")
torchrun = ranks("torch.distributed.run", "--nproc_per_node=2")
sharded = ranks("torch.distributed.run", "--nproc_per_node=2", ACCELERATE_USE_FSDP="true")
print("launch:", launch, "torchrun:", torchrun, "torchrun asking for FSDP:", sharded)
assert launch == ["1 NO"]
assert torchrun == ["2 MULTI_CPU"] * 2 == sharded
PY
