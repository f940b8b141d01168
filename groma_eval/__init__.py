"""Evaluation harness for grounded multimodal language models."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate"]


def evaluate(model: Any, benchmarks: Any, **options: Any) -> Any:
    """Run ``model`` over ``benchmarks``; see :func:`groma_eval.run.evaluate` (imported on first use)."""
    from groma_eval.run import evaluate as run_evaluate

    return run_evaluate(model, benchmarks, **options)
