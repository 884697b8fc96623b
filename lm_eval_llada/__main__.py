"""``python -m lm_eval_llada``: the command line, for launchers that start a module."""

import sys

from lm_eval_llada.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
