"""Perplexity against context length: `lm-eval-llada curve`, which lists its arguments with -h."""

import sys

from lm_eval_llada.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["curve", *sys.argv[1:]]))
