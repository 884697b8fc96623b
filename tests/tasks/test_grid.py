"""The language of grids: axes, placeholders, includes, and a sentence with a place for mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_llada.tasks.expansion import expand_grid, top_names
from lm_eval_llada.tasks.grid import grids_path, user_configs, write_configs


@pytest.fixture
def expand(tmp_path):
    """Expands a grid that is given as text."""

    def call(text: str) -> dict[str, dict]:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return expand_grid(tmp_path / "mine.yaml", grids_path())

    return call


def test_a_block_is_made_once_for_each_combination_of_its_axes(expand) -> None:
    configs = expand(
        "tasks:\n"
        "- task: mine_${length}_$num\n"
        "  axes: {length: [300, 400], num: [0, 2]}\n"
        "  metadata: {length: $length, note: 'of $length, $$num'}\n"
    )
    assert list(configs) == ["mine_300_0", "mine_300_2", "mine_400_0", "mine_400_2"]
    # A placeholder alone keeps the value's type; two dollar signs are one.
    assert configs["mine_300_2"]["metadata"] == {"length": 300, "note": "of 300, $num"}


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
)
def test_names_are_the_product_of_the_axes(tmp_path_factory, numbers, letters) -> None:
    path = tmp_path_factory.mktemp("grids") / "mine.yaml"
    path.write_text(f"tasks:\n- {{task: t_$n$x, axes: {{n: {numbers}, x: {letters}}}}}\n")
    expected = [f"t_{n}{x}" for n, x in itertools.product(numbers, letters)]
    assert list(expand_grid(path, grids_path())) == expected


def test_the_values_of_an_axis_bring_settings(expand) -> None:
    configs = expand(
        "tasks:\n"
        "- task: mine_$kind\n"
        "  axes:\n"
        "    kind: {short: {size: 8}, odd: {size: 9, metadata: {settings: {n: $size}}}}\n"
        "  generation_kwargs: {gen_length: $size}\n"
        "  metadata: {version: 1}\n"
    )
    short, odd = configs.values()
    assert (short["generation_kwargs"], odd["generation_kwargs"]) == (
        {"gen_length": 8},
        {"gen_length": 9},
    )
    assert short["metadata"] == {"version": 1}
    assert odd["metadata"] == {"version": 1, "settings": {"n": 9}}


def test_axes_are_shared_narrowed_and_changed(expand) -> None:
    configs = expand(
        "use: ruler.yaml\n"
        "tasks:\n"
        "- task: mine_${ruler_task}_$size\n"
        "  axes:\n"
        "    ruler_task: {from: ruler_tasks, only: [vt, cwe], vt: {output: 7}}\n"
        "    size: sizes\n"
        "  generation_kwargs: {gen_length: $output}\n"
        "shared:\n"
        "  sizes: [1, 2]\n"
    )
    assert list(configs) == ["mine_vt_1", "mine_vt_2", "mine_cwe_1", "mine_cwe_2"]
    lengths = [config["generation_kwargs"]["gen_length"] for config in configs.values()]
    assert lengths == [7, 7, 120, 120]


def test_a_group_has_a_member_for_each_value_it_goes_over(expand) -> None:
    configs = expand(
        "groups:\n"
        "- group: all\n"
        "  task: [kind_a, kind_b, extra]\n"
        "- group: kind_$kind\n"
        "  axes: {kind: {a: {members: [x, y]}, b: {members: [z]}}}\n"
        "  over: {member: $members}\n"
        "  task: t_$member\n"
        "tasks:\n"
        "- {task: t_$x, axes: {x: [x, y, z]}}\n"
        "- task: alone\n"
    )
    assert configs["kind_a"]["task"] == ["t_x", "t_y"]
    assert configs["kind_b"]["task"] == ["t_z"]
    assert top_names(configs) == ["alone", "all"]


def test_templates_of_lm_eval_and_prompts_need_no_escape(expand) -> None:
    text = "Read: {context} {{question}} 5$ {x:>3}"
    (config,) = expand(f"tasks:\n- {{task: mine, doc_to_text: '{text}'}}\n").values()
    assert config["doc_to_text"] == text


# --- includes -----------------------------------------------------------------------------------


def test_shipped_templates_are_found_by_name_unless_the_user_has_one(expand, tmp_path) -> None:
    text = "tasks:\n- {task: mine, include: _niah.yaml, doc_to_text: other}\n"
    (config,) = expand(text).values()
    assert (config["doc_to_text"], config["doc_to_target"]) == ("other", "answer")
    (tmp_path / "_niah.yaml").write_text("include: _ruler.yaml\ntest_split: mine\n")
    (config,) = expand(text).values()
    assert (config["doc_to_target"], config["test_split"]) == ("outputs", "mine")


def test_functions_beside_a_users_file_are_found_from_another_folder(tmp_path) -> None:
    folder = tmp_path / "with.dots in it"
    folder.mkdir()
    (folder / "own.py").write_text("def results(doc, results):\n    return {'score': 1}\n")
    (folder / "mine.yaml").write_text(
        "include: _niah.yaml\ntask: mine\nprocess_results: !function own.results\n"
    )
    write_configs(tmp_path / "out", user_configs(folder / "mine.yaml"), "a test")
    config = load_yaml(tmp_path / "out" / "mine.yaml")
    assert config["process_results"]({}, []) == {"score": 1}
    assert config["custom_dataset"].__name__ == "niah_dataset"


@pytest.mark.parametrize(
    "text",
    [
        "task: mine\ndoc_to_text: x\n",
        "task: mine\ninclude: _own.yaml\n",
        "- 1\n",
        "Ref: !Unknown tag\n",
        "services:\n  tasks: [1]\n",
    ],
)
def test_what_the_harness_reads_by_itself_is_left_to_it(tmp_path, text) -> None:
    (tmp_path / "_own.yaml").write_text("doc_to_text: x\n")
    (tmp_path / "mine.yaml").write_text(text)
    assert user_configs(tmp_path / "mine.yaml") == {}


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks:\n- task: a_$lenght\n  axes: {length: [1]}\n",
         "line 2: the placeholder \\$lenght has no value; the nearest is 'length'"),
        ("tasks:\n- task: a\n  metadata: {n: '${n m}'}\n",
         "line 2: the placeholder .* has no value. For a dollar sign write \\$\\$"),
        ("tasks:\n- task: a\n\n- task: b\n- task: a\n",
         "line 5: the name 'a' is made twice, first by the entry in line 2"),
        ("tasks:\n- task: a\n  axes: {n: [1, 2]}\n", "line 2: the name 'a' is made twice"),
        ("tasks:\n- task: a\n  metdata: {}\n",
         "line 2: a task has no key 'metdata'. Did you mean 'metadata'"),
        ("tasks:\n- task: a\n  over: {n: [1]}\n", "line 2: a task has no key 'over'"),
        ("tasks:\n- task: a\ntask: b\n", "line 1: a grid has no key 'task'. Did you mean 'tasks'"),
        ("tasks:\n- group: a\n", "line 2: each entry of tasks must have the key task"),
        ("tasks:\n- a\n", "each entry of tasks must have the key task"),
        ("tasks:\n- task: a_$n\n  axes: {n: ns}\nshared: {n: [1]}\n",
         "line 2: the axis 'n' is to be the shared axis 'ns', which is unknown; the nearest"),
        ("tasks:\n- task: a_$n\n  axes: {n: {from: ms}}\n", "shared axis 'ms', which is unknown"),
        ("tasks:\n- task: a_$n\n  axes: {n: {from: s, only: [3]}}\nshared: {s: [1, 2]}\n",
         "line 2: the axis 'n' has no 3; there are 1, 2"),
        ("tasks:\n- task: a_$n\n  axes: {n: []}\n", "line 2: the axis 'n' has no values"),
        ("tasks:\n- task: a_$n\n  axes: {n: 4}\n", "line 2: the axis 'n' must list values"),
        ("tasks:\n- task: a_$n\n  axes: {n: [[1]]}\n", "line 2: the axis 'n' must list values"),
        ("tasks:\n- task: a_$n\n  axes: {n: {b: 3}}\n", "'b' of the axis 'n' must have names"),
        ("tasks:\n- task: a_$n\n  axes: [n]\n", "line 2: axes must be names with lists"),
        ("tasks:\n- task: a_$n$m\n  axes: {n: {b: {m: 1}}, m: [2]}\n",
         "line 2: two axes bring the name 'm'; rename one"),
        ("tasks:\n- task: a\n  include: _nia.yaml\n",
         "line 2: include '_nia.yaml' is neither a file in .* Did you mean '_niah.yaml'"),
        ("use: rulers.yaml\ntasks:\n- task: a\n", "use names 'rulers.yaml'"),
        ("tasks:\n- task: a\n  task: b\n", "line 3: the key 'task' stands twice"),
        ("tasks:\n- task: [a\n- b: }\n", "line 3: "),
        ("tasks:\n- task: a\n  metadata: !Own x\n", "line 3: could not determine a constructor"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_file_and_line(expand, text, message) -> None:
    with pytest.raises(ValueError, match=f"mine.yaml.*{message}") as error:
        expand(text)
    assert "\n" not in str(error.value)


def test_files_that_include_each_other_are_refused(expand, tmp_path) -> None:
    (tmp_path / "_one.yaml").write_text("include: _two.yaml\n")
    (tmp_path / "_two.yaml").write_text("include: _one.yaml\n")
    with pytest.raises(ValueError, match="includes itself"):
        expand("tasks:\n- {task: a, include: _one.yaml}\n")
    (tmp_path / "_one.yaml").write_text("[1]\n")
    with pytest.raises(ValueError, match="_one.yaml must hold keys with values"):
        expand("tasks:\n- {task: a, include: _one.yaml}\n")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"tasks:\n- task: \xff\n")
    with pytest.raises(ValueError, match="mine.yaml is no text in UTF-8"):
        user_configs(tmp_path / "mine.yaml")
