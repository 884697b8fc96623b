"""LongLLaDA's Figure 1 in miniature: `benchmarks/figure1.py`, which lists its arguments with -h."""

import sys

from benchmarks.figure1 import main

if __name__ == "__main__":
    sys.exit(main())
