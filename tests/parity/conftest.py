"""With ``-v``, the largest deviation of each stage from the reference implementation, after the tests."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    from fixture import DEVIATIONS

    if config.option.verbose > 0 and DEVIATIONS:
        terminalreporter.section("largest deviation from the reference implementation")
        width = max(map(len, DEVIATIONS))
        for stage, (deviation, tolerance) in DEVIATIONS.items():
            terminalreporter.write_line(f"{stage:<{width}}  {deviation:8.1e}  (tolerance {tolerance:.0e})")
