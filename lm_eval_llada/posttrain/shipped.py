"""The configurations that ship: found by their names where a user gives no file of that path."""

from __future__ import annotations

from pathlib import Path

from lm_eval_llada.errors import nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_configs() -> dict[str, Path]:
    """The YAML files that come with the package, by name.

    They lie in `configs/` beside the package in a checkout, or inside of an installed package.
    """
    for folder in (_PACKAGE.parent / "configs", _PACKAGE / "_configs"):
        # Another distribution may own a site-packages/configs; only ours holds this file.
        if (folder / "tiny_ultra.yaml").is_file():
            return {path.name: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_config(path: str) -> Path:
    """The file that a user means: the path, else a shipped one of that name.

    Args:
        path: such as `mine.yaml`, `configs/tiny_ultra.yaml` or `tiny_ultra.yaml`.

    Raises:
        ValueError: if there is neither; the message names the nearest shipped one.
    """
    given = Path(path)
    if given.is_file():
        return given
    shipped = shipped_configs()
    is_ours = given.parent in (Path(), Path("configs"))
    if is_ours and given.name in shipped:
        return shipped[given.name]
    guess = nearest(given.name, shipped)
    hint = f" Did you mean {guess!r}?" if guess is not None else ""
    raise ValueError(
        f"There is no file {path}; give a YAML file, or one that ships: {', '.join(shipped)}.{hint}"
    )
