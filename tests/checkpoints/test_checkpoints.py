"""Names of checkpoints: what each kind resolves to, and what each mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_llada.checkpoints import names as checkpoints
from lm_eval_llada.checkpoints.names import resolve_checkpoint


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """Stand-ins for the packaged models, so that the tests hold whatever is shipped."""
    folder = tmp_path / "package" / "tiny"
    for name in ("tiny-llada", "tiny-llama"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "_TINY_FOLDER", folder)
    monkeypatch.setattr(checkpoints, "TINY_MODELS", ("tiny-llada", "tiny-llama"))
    return folder


def test_shipped_names_are_the_packaged_folders_with_a_config():
    folder = Path(checkpoints.__file__).parents[1] / "tiny"
    on_disk = sorted(path.name for path in folder.glob("*") if (path / "config.json").is_file())
    assert list(checkpoints.TINY_MODELS) == on_disk
    for name in checkpoints.TINY_MODELS:
        assert (Path(resolve_checkpoint(name)) / "config.json").is_file()


def test_a_shipped_name_is_its_packaged_folder_and_the_default(shipped):
    assert resolve_checkpoint("tiny-llama") == str(shipped / "tiny-llama")
    assert resolve_checkpoint() == str(shipped / "tiny-llada")


def test_a_shipped_name_wins_over_a_folder_of_that_name_here(shipped, tmp_path, monkeypatch):
    (tmp_path / "tiny-llada").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("tiny-llada") == str(shipped / "tiny-llada")
    assert Path(resolve_checkpoint("./tiny-llada")).resolve() == tmp_path / "tiny-llada"


def test_an_existing_folder_is_itself(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_checkpoint(str(folder)) == str(folder)
    assert resolve_checkpoint(folder) == str(folder)
    assert resolve_checkpoint("models/mine") == "models/mine"
    assert resolve_checkpoint("~/models/mine") == str(folder)


@pytest.mark.parametrize("name", ["GSAI-ML/LLaDA-8B-Base", "openai-community/gpt2", "gpt2"])
def test_a_hub_id_is_returned_as_written(name, shipped):
    assert resolve_checkpoint(name) == name


@pytest.mark.parametrize("name", ["./tiny-lada", "/nowhere/tiny-lada", "~/no/tiny-lada", "a/b/c"])
def test_a_missing_path_is_named_and_nothing_is_looked_up(name, shipped):
    with pytest.raises(ValueError) as caught:
        resolve_checkpoint(name)
    assert f"Checkpoint folder {name!r} does not exist." in str(caught.value)
    assert "(tiny-llada, tiny-llama)" in str(caught.value)
    assert ("Did you mean 'tiny-llada'?" in str(caught.value)) == ("lada" in name)


def test_a_missing_path_object_is_never_a_hub_id(shipped):
    with pytest.raises(ValueError, match="Checkpoint folder 'GSAI-ML/LLaDA-8B-Base' does not"):
        resolve_checkpoint(Path("GSAI-ML/LLaDA-8B-Base"))


def test_a_missing_path_suggests_its_nearest_neighbour(tmp_path, shipped):
    (tmp_path / "LLaDA-8B-Base").mkdir()
    (tmp_path / "Dream-7B").mkdir()
    with pytest.raises(ValueError) as caught:
        resolve_checkpoint(tmp_path / "LLaDA-8B-Bas")
    assert f"Did you mean {str(tmp_path / 'LLaDA-8B-Base')!r}?" in str(caught.value)


@pytest.mark.parametrize("name", ["tiny-lada", "Tiny-LLaDA", "tiny_llada"])
def test_a_misspelt_shipped_name_is_not_taken_for_a_hub_id(name, shipped):
    with pytest.raises(ValueError, match="Did you mean 'tiny-llada'"):
        resolve_checkpoint(name)


def test_a_file_is_refused_with_its_folder(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.touch()
    with pytest.raises(ValueError, match="is a file; give the folder") as caught:
        resolve_checkpoint(str(weights))
    assert repr(str(tmp_path)) in str(caught.value)


@pytest.mark.parametrize("name", ["", "GSAI-ML/LLaDA 8B", "GSAI-ML/", "GSAI-ML/-x", "a//"])
def test_what_cannot_be_a_hub_id_is_refused(name, shipped):
    with pytest.raises(ValueError, match=r"tiny-llada, tiny-llama"):
        resolve_checkpoint(name)
