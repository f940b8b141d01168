"""Answers scored by a language model, as LLaVA-Bench has it: a judge reads context, question, reference and answer.

:func:`judge_run` judges a stored run; the scores stay with the run, so that ``groma-eval score`` keeps them. Module
``reviews`` reads and writes reviews in LLaVA's form, ``prompts`` is what the judge is sent, ``client`` sends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groma_eval.judge.judging import JudgeSummary as JudgeSummary
    from groma_eval.judge.judging import judge_run as judge_run
    from groma_eval.judge.settings import JudgeSettings as JudgeSettings

__all__ = ["JudgeSettings", "JudgeSummary", "judge_run"]


def __getattr__(name: str) -> Any:
    # On demand: the run loop reads reviews from here, and judging a run needs the run loop.
    if name == "JudgeSettings":
        from groma_eval.judge.settings import JudgeSettings

        return JudgeSettings
    if name in ("JudgeSummary", "judge_run"):
        from groma_eval.judge import judging

        return getattr(judging, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
