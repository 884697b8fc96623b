"""A module of NeedleBench's form with made words: what it says is found without running it."""

from __future__ import annotations

from pathlib import Path

ORIGIN = """
import a_package_that_nobody_has

raise RuntimeError("this module must not run")


class Dataset:
    @staticmethod
    def load(guide, language, position="End"):
        def _modify_retrieval_question(retrieval_question):
            if language == "Chinese":
                parts = retrieval_question.split("X")
                guide_retrieval_question = parts[0] + "not this" + parts[1]
                return guide_retrieval_question
            elif language == "English":
                parts = retrieval_question.split("Please answer in the format")
                guide_retrieval_question = (
                    parts[0] + "Think {twice}."
                    " Please answer in the format" + parts[1])
                return guide_retrieval_question

        def _generate_prompt(context, retrieval_question):
            if guide:
                retrieval_question = _modify_retrieval_question(retrieval_question)
            if language == "Chinese":
                if position == "End":
                    prompt = f"not this {context} {retrieval_question}"
            elif language == "English":
                if position == "End":
                    retrieval_question = retrieval_question.replace("Please", "")[:-10]
                    prompt = ("You read.\\n"
                              f"The text is {context}\\n\\n"
                              f"Asked is: {retrieval_question}")
                elif position == "Start":
                    prompt = f"not this {retrieval_question} {context}"
            return prompt
"""
"""Its source."""

BEFORE, BETWEEN, BEHIND = "You read.\nThe text is ", "\n\nAsked is: ", " Think {twice}. "
"""What its prompt has before the context, before the question, and between question and stem."""


def write_origin(folder: Path, source: str = ORIGIN) -> Path:
    """Put the module into ``folder/needlebench`` and return its path."""
    path = folder / "needlebench" / "origin.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path
