"""Loss and accuracy curves of a training run as one picture."""

from __future__ import annotations

import csv
from pathlib import Path

from groma_eval.core import HarnessError

STAGES = ("detect", "align", "instruct")


def draw_curves(run: Path, save: Path) -> None:
    """Plot ``RUN/{detect,align,instruct}/log.csv``: losses above, accuracies below, one column a stage.

    Raises:
        HarnessError: ``run`` holds no log, or matplotlib is not installed.
    """
    logs = {stage: run / stage / "log.csv" for stage in STAGES if (run / stage / "log.csv").is_file()}
    if not logs:
        raise HarnessError(f"{run} holds no training logs (looked for {', '.join(f'{s}/log.csv' for s in STAGES)})")
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise HarnessError("curves need matplotlib: pip install 'groma-eval[plots]'") from None
    figure, axes = plt.subplots(2, len(logs), figsize=(4.2 * len(logs), 6), squeeze=False, sharex="col")
    for column, (stage, path) in enumerate(logs.items()):
        with path.open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        steps = [int(row["step"]) for row in rows]
        for name in rows[0]:
            if name in ("step", "seconds", "lr", "grad_norm"):
                continue
            axis = axes[1 if name.startswith("acc_") else 0][column]
            axis.plot(steps, [float(row[name] or "nan") for row in rows], label=name.removeprefix("acc_"))
        axes[0][column].set_title(stage)
        axes[0][column].set_yscale("log")
        axes[1][column].set_xlabel("step")
        for row in (0, 1):
            axes[row][column].legend(fontsize=7)
            axes[row][column].grid(alpha=0.3)
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("accuracy on training batches")
    figure.tight_layout()
    figure.savefig(save, dpi=90)
    plt.close(figure)
