"""A saved config names no Python file that did not come along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, load_config
from lm_eval_llada.posttrain.model import save_weights
from lm_eval_llada.posttrain.options import options_from

MAP = {"AutoConfig": "configuration_x.Config", "AutoModel": "modeling_x.Model"}
HUB = {"AutoModel": "somewhere/else--modeling_x.Model"}


@pytest.fixture
def source(random_checkpoint: Path, tmp_path: Path) -> Path:
    model = LLaDAForMaskedLM.from_pretrained(random_checkpoint)
    model.save_pretrained(tmp_path / "source")
    return named(tmp_path / "source", MAP)


def named(folder: Path, auto_map: dict) -> Path:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "auto_map": auto_map}))
    return folder


def saved_map(folder: Path) -> dict | None:
    return json.loads((folder / "config.json").read_text()).get("auto_map")


def add_files(folder: Path) -> None:
    for name in ("configuration_x.py", "modeling_x.py", "imported_by_it.py"):
        (folder / name).write_text(f"# {name}")


def test_a_map_without_its_files_is_dropped(source: Path, tmp_path: Path) -> None:
    LLaDAForMaskedLM.from_pretrained(source).save_pretrained(tmp_path / "saved")
    assert saved_map(tmp_path / "saved") is None
    LLaDAConfig.from_pretrained(source).save_pretrained(tmp_path / "config")
    assert saved_map(tmp_path / "config") is None


def test_the_files_come_along_where_they_are_at_hand(source: Path, tmp_path: Path) -> None:
    add_files(source)
    model = LLaDAForMaskedLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved")
    assert saved_map(tmp_path / "saved") == MAP == model.config.auto_map
    assert (tmp_path / "saved" / "imported_by_it.py").read_text() == "# imported_by_it.py"
    # Into its own folder nothing needs to come.
    model.save_pretrained(source)
    assert saved_map(source) == MAP


def test_an_entry_on_the_hub_needs_no_file(source: Path, tmp_path: Path) -> None:
    LLaDAConfig.from_pretrained(named(source, HUB)).save_pretrained(tmp_path / "saved")
    assert saved_map(tmp_path / "saved") == HUB


@pytest.mark.parametrize("has_files", [False, True])
def test_post_training_keeps_what_is_at_hand(source: Path, tmp_path: Path, has_files: bool) -> None:
    if has_files:
        add_files(source)
    options = options_from(
        {"output": "out", "pretrained": str(source), "training": {"max_steps": 1}}
    )
    weights = LLaDAForMaskedLM.from_pretrained(source).state_dict()
    save_weights(options, weights, tmp_path / "trained")
    assert saved_map(tmp_path / "trained") == (MAP if has_files else None)
    assert load_config(str(tmp_path / "trained")).d_model == 32
