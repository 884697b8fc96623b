"""Reports: results of lm-eval as rows, text tables and pictures."""

from __future__ import annotations

from lm_eval_llada.report.heatmap import draw_heatmaps, save_heatmaps
from lm_eval_llada.report.rows import (
    Cell,
    RopeFacts,
    Run,
    find_results,
    read_run,
    run_from_results,
)
from lm_eval_llada.report.tables import FRONTIER_NOTE, depth_table

__all__ = [
    "FRONTIER_NOTE",
    "Cell",
    "RopeFacts",
    "Run",
    "depth_table",
    "draw_heatmaps",
    "find_results",
    "read_run",
    "run_from_results",
    "save_heatmaps",
]
