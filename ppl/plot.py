"""Perplexity curves as a picture: `lm-eval-llada plot`, which lists its arguments with -h."""

import sys

from lm_eval_llada.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
