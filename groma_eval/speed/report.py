"""The speed bench's figures as a plain table."""

from __future__ import annotations

from typing import Any


def table(result: dict[str, Any]) -> str:
    """Lines of text from :func:`groma_eval.speed.bench.summary` and what the command adds to it."""
    work, model = result["workload"], result["model"]
    lines = [
        f"{model['name']}, {model['parameters'] / 1e6:.1f} M parameters, {model['weights']} weights, {model['dtype']} "
        f"on {model['device']}; {result['batch_size']} images a batch",
        f"{work['source']}: {work['images']} images, {work['expressions']} expressions; fixed: "
        f"{work['regions_per_image']} regions an image, {work['new_tokens_per_expression']} new tokens an expression",
        f"prompt: {work['prefix_tokens_per_image']} tokens an image, "
        f"{work['question_tokens_per_expression']:.1f} a question",
        "",
    ]
    lines += _aligned(
        [
            ("seconds", f"{result['seconds']:.2f}"),
            ("expressions/s", f"{result['expressions_per_second']:.2f}"),
            ("images/s", f"{result['images_per_second']:.2f}"),
            ("prefill tokens/s", f"{result['prefill_tokens_per_second']:.0f}"),
            (f"peak memory {result['peak_memory_of']}", f"{result['peak_memory_bytes'] / 2**20:.0f} MiB"),
            (f"{model['dtype']} matrix product", f"{result['matmul_flops_per_second'] / 1e12:.3f} TFLOP/s"),
        ]
    )
    rows = [("stage", "seconds", "share", "GFLOP", "s by FLOPs", "of what FLOPs allow")]
    for name, stage in result["stages"].items():
        seconds, flops, allowed = stage["seconds"], stage["flops"], stage["seconds_at_matmul_rate"]
        counted = (f"{flops / 1e9:.1f}", f"{allowed:.3f}", f"{allowed / seconds:.0%}") if flops else ("", "", "")
        rows.append((name, f"{seconds:.3f}", f"{seconds / result['seconds']:.0%}", *counted))
    lines += ["", *_aligned(rows)]
    for name, stage in result["stages"].items():
        if "below_half_because" in stage:
            lines.append(f"{name}: below half of what FLOPs allow: {stage['below_half_because']}")
    for key, dtype in (("reference", model["dtype"]), ("reference_float32", "float32")):
        if key in result:
            lines += ["", *_reference(result[key], work["expressions"], dtype)]
    return "\n".join(lines)


def _reference(found: dict[str, Any], expressions: int, dtype: str) -> list[str]:
    measured = found["expressions_measured"]
    how = "all expressions" if measured == expressions else f"{measured} expressions evenly drawn, scaled to all"
    rows = [
        ("seconds", f"{found['seconds_for_all']:.2f}"),
        ("expressions/s", f"{found['expressions_per_second']:.2f}"),
        ("P, an image", f"{1000 * found['seconds_per_image']:.2f} ms"),
        ("q, a question", f"{1000 * found['seconds_per_question']:.2f} ms"),
        ("ratio", f"{found['ratio']:.2f}"),
        ("ideal ratio", f"{found['ideal_ratio']:.2f}"),
        ("share of ideal", f"{found['share_of_ideal']:.0%}"),
        ("identical answers", f"{found['answers_identical']} of {measured}"),
    ]
    return [f"reference way, {dtype} ({how})", *_aligned(rows)]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns two spaces apart, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))).rstrip() for row in rows]
