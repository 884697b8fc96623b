"""The house keeps its shape: imports run one way, and no file grows past what one can read."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "lm_eval_llada"
ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400

# Each room: the files or folders of the package that make it up, and the rooms it may import.
# Rooms come in the order of the house: a room may only name rooms above it, None being all of them.
ROOMS: dict[str, tuple[set[str], set[str] | None]] = {
    "errors": ({"errors"}, set()),
    "registration": ({"__init__", "registration"}, set()),
    "rope": ({"rope", "rope_formulas"}, {"errors"}),
    "checkpoints": ({"checkpoints"}, {"errors"}),
    "diffusion": ({"denoising", "diffusion"}, {"errors"}),
    "modeling": ({"modeling"}, {"errors", "rope", "checkpoints"}),
    "sampler": ({"sampler", "sampling_options"}, {"errors", "diffusion"}),
    "likelihood": ({"likelihood", "mask_passes", "mask_plans", "duel"}, {"errors", "diffusion"}),
    "cost": ({"cost"}, {"errors", "diffusion", "modeling", "sampler", "likelihood"}),
    "data": ({"data"}, {"errors", "checkpoints"}),
    "metrics": ({"metrics"}, {"errors"}),
    "harness": (
        {
            *("harness", "hf_rope", "answers", "arguments", "batching", "cache_keys"),
            *("device_memory", "dispatch", "distributed", "jobs", "longbench_task", "preemption"),
            *("protocols", "provenance", "requests", "runlog", "runner", "sharding"),
            "tokenization",
        },
        None,
    ),
    "report": ({"report"}, {"errors", "metrics", "rope"}),
    "curves": ({"curves", "curve_files", "curve_scores"}, None),
    "tiny": ({"tiny"}, {"errors", "checkpoints", "modeling", "diffusion", "data"}),
    "posttrain": (
        {"posttrain"},
        {
            *("errors", "rope", "checkpoints", "modeling", "diffusion", "sampler", "data"),
            *("metrics", "tiny"),
        },
    ),
    "command line": (
        {"__main__", "demo", "plan", "prefetch_command", "prefetching", "rope_command", "verify"},
        None,
    ),
}


def rooms_open_to(room: str) -> set[str]:
    """Rooms that a room may import, itself included."""
    order = list(ROOMS)
    named = ROOMS[room][1]
    return {room} | (set(order[: order.index(room)]) if named is None else named)


FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name of a file, the package's own name included."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, module: str, is_package: bool, known: set[str]) -> set[str]:
    """Modules of ``known`` that some import statement of ``source`` names, at whatever depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + is_package
                base = ".".join([*parents[:keep], *([node.module] if node.module else [])])
            children = {f"{base}.{alias.name}" for alias in node.names}
            found |= {child if child in known else base for child in children}
    return found & known


def room_of(module: str) -> str:
    """Name of the room that a module belongs to."""
    _, _, inner = module.partition(".")
    top = inner.split(".")[0] or "__init__"
    for room, (members, _) in ROOMS.items():
        if top in members:
            return room
    raise AssertionError(f"{module} is in no room of the house: give it one in ROOMS.")


@cache
def import_graph() -> dict[str, set[str]]:
    """For each module of the package, the modules of the package it imports."""
    known = {module_name(path) for path in FILES}
    graph = {}
    for path in FILES:
        name, source = module_name(path), path.read_text(encoding="utf-8")
        graph[name] = imported_modules(source, name, path.name == "__init__.py", known)
    return graph


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_the_rooms_it_may(path: Path) -> None:
    module = module_name(path)
    allowed = rooms_open_to(room_of(module))
    # The package itself holds nothing but its version, which anyone may read.
    rooms = {room_of(name) for name in import_graph()[module] - {PACKAGE}}
    assert rooms <= allowed, f"{module} imports {sorted(rooms - allowed)}"


def test_no_two_modules_import_each_other() -> None:
    TopologicalSorter(import_graph()).prepare()  # raises CycleError, which names the cycle


def test_rooms_only_name_rooms_above_them() -> None:
    so_far: set[str] = set()
    for room in ROOMS:
        so_far.add(room)
        assert rooms_open_to(room) <= so_far


@pytest.mark.parametrize(
    "source",
    [
        "import lm_eval_llada.rope",
        "from lm_eval_llada.rope import reach",
        "from lm_eval_llada import rope",
        "from ..rope import reach",
        "from .. import rope",
        "def late():\n    from ..rope import reach",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    known = {"lm_eval_llada", "lm_eval_llada.rope", "lm_eval_llada.report.rows"}
    found = imported_modules(source, "lm_eval_llada.report.rows", False, known)
    assert found == {"lm_eval_llada.rope"}


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in (PACKAGE, "tests", "ppl")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    num_lines = path.read_text(encoding="utf-8").count("\n")
    assert num_lines < MAX_LINES
