"""The house keeps its shape: a room is a folder, imports run one way, a file is read in one go."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "lm_eval_llada"
ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400

# The floor of each room. A room imports rooms of lower floors, and its neighbours on its own floor
# as long as no circle comes of it. The rooms themselves are read from the folders.
FLOORS = {
    "errors": 1,
    **dict.fromkeys(("checkpoints", "diffusion", "rope"), 2),
    **dict.fromkeys(("modeling", "tasks"), 3),
    **dict.fromkeys(("engine", "report", "tiny"), 4),
    **dict.fromkeys(("harness", "posttrain", "verify"), 5),
    **dict.fromkeys(("curves", "plan"), 6),
    "cli": 7,
    "__main__": 8,
}
LOOSE = {"__init__", "__main__", "errors"}
# What opens the front door: the package itself only registers the models, by name, and hands on
# three functions to who asks for them.
ENTRIES = {f"{PACKAGE}.harness.registration", f"{PACKAGE}.harness.direct"}

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
    return module.partition(".")[2].split(".")[0] or "__init__"


@cache
def import_graph() -> dict[str, set[str]]:
    """For each module of the package, the modules of the package it imports."""
    known = {module_name(path) for path in FILES}
    graph = {}
    for path in FILES:
        name, source = module_name(path), path.read_text(encoding="utf-8")
        # Anyone may read the version from the package itself.
        graph[name] = imported_modules(source, name, path.name == "__init__.py", known) - {PACKAGE}
    return graph


def test_a_room_is_a_folder_and_nothing_lies_loose() -> None:
    assert {path.stem for path in (ROOT / PACKAGE).glob("*.py")} == LOOSE
    folders = {
        path.parent.relative_to(ROOT / PACKAGE).parts[0]
        for path in FILES
        if path.parent != ROOT / PACKAGE
    }
    assert folders | (LOOSE - {"__init__"}) == set(FLOORS)


def test_imports_never_run_up() -> None:
    graph = import_graph()
    assert graph[PACKAGE] == ENTRIES
    for module in map(module_name, FILES):
        if module != PACKAGE:
            own = FLOORS[room_of(module)]
            above = {name for name in graph[module] if FLOORS[room_of(name)] > own}
            assert not above, f"{module} on floor {own} imports {sorted(above)}"


def test_no_two_modules_import_each_other() -> None:
    TopologicalSorter(import_graph()).prepare()  # raises CycleError, which names the cycle


def test_no_two_rooms_import_each_other() -> None:
    rooms: dict[str, set[str]] = {}
    for module, imported in import_graph().items():
        room = room_of(module)
        if room != "__init__":
            rooms.setdefault(room, set()).update({room_of(name) for name in imported} - {room})
    TopologicalSorter(rooms).prepare()


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
    known = {"lm_eval_llada", "lm_eval_llada.rope", "lm_eval_llada.report.cells"}
    found = imported_modules(source, "lm_eval_llada.report.cells", False, known)
    assert found == {"lm_eval_llada.rope"}


def test_imports_within_the_package_are_absolute() -> None:
    relative = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_no_test_imports_another() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            others = [name for name in names if name.split(".")[-1].startswith("test_")]
            assert not others, f"{path} imports {others}"


def test_every_file_can_be_read_in_one_go() -> None:
    for folder in (PACKAGE, "tests", "ppl", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            num_lines = path.read_text(encoding="utf-8").count("\n")
            assert num_lines < MAX_LINES, f"{path} has {num_lines} lines"
