"""`lm-eval-llada` without the harness' own tasks, whose thousands of files take seconds to list."""

from __future__ import annotations

import functools
import sys

from lm_eval.tasks import TaskManager

from lm_eval_llada.cli.main import main

if __name__ == "__main__":
    TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)
    sys.exit(main())
