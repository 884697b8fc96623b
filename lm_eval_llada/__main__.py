"""``python -m lm_eval_llada``: the command line, for launchers that start a module."""

import sys

from lm_eval_llada.engine import preemption


def main() -> int:
    """Run the command line of this process; its exit code is that of `cli.main.main`."""
    # First of all, as the imports behind it take seconds.
    preemption.watch_start()
    from lm_eval_llada.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
