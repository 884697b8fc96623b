"""Post-training from one YAML file: `accelerate launch -m lm_eval_llada.posttrain config.yaml`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lm_eval_llada.engine import preemption
from lm_eval_llada.modeling import find_config
from lm_eval_llada.posttrain.estimate import estimate, this_machine
from lm_eval_llada.posttrain.model import extended_config
from lm_eval_llada.posttrain.options import PosttrainOptions, read_options
from lm_eval_llada.rope import describe


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after one sentence on what is wrong, or `preemption.EXIT_CODE` if stopped.

    Args:
        argv: arguments; those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        options = read_options(arguments.config, arguments.overrides)
        if arguments.dry_run or os.environ.get("RANK", "0") == "0":
            print("\n".join(_plan(options, arguments)), flush=True)
        if not arguments.dry_run:
            # Here, so that a dry run needs none of it.
            from lm_eval_llada.posttrain.trainer import run

            preemption.watch()
            run(options)
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


def _plan(options: PosttrainOptions, arguments: argparse.Namespace) -> list[str]:
    """What the run will do and take."""
    machine = this_machine(
        tflops=arguments.tflops, memory_gb=arguments.memory_gb, num_ranks=arguments.num_ranks
    )
    _, resolved = extended_config(options)
    _, note = find_config(options.pretrained, options.revision)
    return [*([note] if note else []), *describe(resolved), *estimate(options, machine).lines()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lm_eval_llada.posttrain",
        description="Post-train a masked diffusion model for long context, as a YAML file says.",
    )
    parser.add_argument("config", help="YAML file, such as configs/tiny_ultra.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="name=value", help="such as training.max_steps=10"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the estimate and stop")
    parser.add_argument(
        "--tflops", type=float, help="sustained speed of a device, for the estimate"
    )
    parser.add_argument("--memory_gb", type=float, help="memory of a device, for the estimate")
    parser.add_argument("--num_ranks", type=int, help="devices to estimate for")
    return parser


if __name__ == "__main__":
    sys.exit(main())
