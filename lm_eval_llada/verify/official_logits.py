"""Logits of a checkpoint under the code that its authors published, from a process of its own.

That code is Python of someone else's, and is written for some release of transformers. It runs in a
child process, under an interpreter that need not have this package: the child is this very file,
read from its standard input. Hence nothing of the package is imported here, and what the child does
works with old releases as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_LAST_LINES = 8
_JOB, _RESULT = "job.json", "logits.safetensors"


@dataclass(frozen=True)
class OfficialJob:
    """What to compute.

    Attributes:
        pretrained: Absolute path of a folder, or hub id.
        revision: Branch, tag or commit on the hub, for weights and code.
        dtype: Name in torch, such as bfloat16.
        device: Where the model goes; None with a device_map.
        device_map: Spread over several devices by accelerate.
        config: Keys of the checkpoint's config to replace, such as rope_theta.
        prompts: Token ids, each sequence on its own.
        rows: Positions of each prompt whose logits are wanted.
    """

    pretrained: str
    revision: str | None
    dtype: str
    device: str | None
    device_map: str | None
    config: Mapping[str, Any]
    prompts: Sequence[Sequence[int]]
    rows: Sequence[Sequence[int]]


def official_logits(job: OfficialJob, python: str) -> tuple[Tensor, str]:
    """Run the published code and return its logits.

    Returns:
        float32 (rows of all prompts, vocabulary), and what computed it, such as
        `LLaDAModelLM, transformers 4.46.3`.

    Raises:
        RuntimeError: If the child fails; the message ends with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="official_logits_") as folder:
        job_file = Path(folder) / _JOB
        job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        with Path(__file__).open("rb") as source:
            # Run by its path, this file would have the package's folder first on the search path,
            # where `requests` is ours. From standard input that place is the empty folder's.
            ended = subprocess.run(
                [python, "-", _JOB, _RESULT],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                encoding="utf-8",
                errors="replace",
            )
        if ended.returncode:
            lines = [line for line in ended.stdout.splitlines() if line.strip()]
            raise RuntimeError(
                f"the official code ended with code {ended.returncode}; its last lines: "
                + "\n".join(lines[-_LAST_LINES:])
            )
        with safe_open(Path(folder) / _RESULT, framework="pt") as file:
            return file.get_tensor("logits"), file.metadata()["computed_by"]


def _load(job: dict[str, Any]) -> Any:
    """The model of the job by its own code, in evaluation mode."""
    import transformers

    shared = {"trust_remote_code": True, "revision": job["revision"]}
    config = transformers.AutoConfig.from_pretrained(job["pretrained"], **shared)
    for name, value in job["config"].items():
        setattr(config, name, value)
    # transformers 5 has another name for it, which its early releases did not know.
    is_new = int(transformers.__version__.split(".")[0]) >= 5
    placement = {"dtype" if is_new else "torch_dtype": getattr(torch, job["dtype"])}
    if job["device_map"] is not None:
        placement["device_map"] = job["device_map"]
    model = transformers.AutoModel.from_pretrained(
        job["pretrained"], config=config, **shared, **placement
    )
    return (model if job["device"] is None else model.to(job["device"])).eval()


@torch.no_grad()
def _compute(job: dict[str, Any]) -> tuple[Tensor, str]:
    """Logits of the job's rows and what computed them; see `official_logits`."""
    import transformers

    model = _load(job)
    device = next(model.parameters()).device
    parts = []
    for prompt, rows in zip(job["prompts"], job["rows"]):  # noqa: B905 - Python 3.9 runs this too
        output = model(input_ids=torch.tensor([prompt], device=device))
        parts.append(output.logits[0, torch.tensor(rows, device=device)].float().cpu())
    return torch.cat(parts), f"{type(model).__name__}, transformers {transformers.__version__}"


def _main(job_file: str, result_file: str) -> None:
    """What the child does."""
    logits, computed_by = _compute(json.loads(Path(job_file).read_text(encoding="utf-8")))
    save_file({"logits": logits}, result_file, metadata={"computed_by": computed_by})


if __name__ == "__main__":
    _main(*sys.argv[1:])
