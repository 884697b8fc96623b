"""Post-training from one YAML file: `accelerate launch -m lm_eval_llada.posttrain config.yaml`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval_llada.engine import preemption

if TYPE_CHECKING:
    from lm_eval_llada.posttrain.options import PosttrainOptions

# torch and transformers are imported where they are needed: the command line imports this file.

DESCRIPTION = "Post-train a masked diffusion model for long context, as a YAML file says."


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after one sentence on what is wrong, or `preemption.EXIT_CODE` if stopped.

    Args:
        argv: arguments; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lm_eval_llada.posttrain", description=DESCRIPTION
    )
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except preemption.Preempted as stop:
        print(stop, file=sys.stderr)
        return preemption.EXIT_CODE
    except KeyboardInterrupt:
        print("stopped by Ctrl-C.", file=sys.stderr)
        return preemption.INTERRUPTED
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of post-training to a parser."""
    parser.add_argument("config", help="YAML file, or a shipped one: tiny_ultra.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="name=value", help="such as training.max_steps=10"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the estimate and stop")
    parser.add_argument(
        "--tflops", type=float, help="sustained speed of a device, for the estimate"
    )
    parser.add_argument("--memory_gb", type=float, help="memory of a device, for the estimate")
    parser.add_argument("--num_ranks", type=int, help="devices to estimate for")


def run(namespace: argparse.Namespace) -> None:
    """Print what the run will do and take, and train unless that is all.

    Args:
        namespace: Of a parser with `add_arguments`.

    Raises:
        ValueError: If the file or an override is wrong.
        FileNotFoundError: If a file is not there.
        ImportError: If a library is missing.
    """
    from lm_eval_llada.posttrain.options import read_options
    from lm_eval_llada.posttrain.shipped import find_config

    options = read_options(find_config(namespace.config), namespace.overrides)
    if namespace.dry_run or os.environ.get("RANK", "0") == "0":
        print("\n".join(_plan(options, namespace)), flush=True)
    if not namespace.dry_run:
        # Here, so that a dry run needs none of it.
        from lm_eval_llada.posttrain import trainer

        preemption.watch()
        trainer.run(options)


def _plan(options: PosttrainOptions, namespace: argparse.Namespace) -> list[str]:
    """What the run will do and take."""
    from lm_eval_llada.modeling import find_config
    from lm_eval_llada.posttrain.estimate import estimate, this_machine
    from lm_eval_llada.posttrain.model import extended_config
    from lm_eval_llada.rope import describe

    machine = this_machine(
        tflops=namespace.tflops, memory_gb=namespace.memory_gb, num_ranks=namespace.num_ranks
    )
    _, resolved = extended_config(options)
    _, note = find_config(options.pretrained, options.revision)
    return [*([note] if note else []), *describe(resolved), *estimate(options, machine).lines()]


if __name__ == "__main__":
    preemption.watch_start()
    sys.exit(main())
