"""Quantities of what pruning costs: operations of a shape, and times where they were measured.

Both are of the shape of LLaVA-1.5-7B: 576 visual tokens of width 4,096, and a text of 64 tokens. In
the world "fault", nothing is dropped, and the selection reads the whole prompt once.
"""

import json
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from book.ledger.evidence import Evidence
from book.ledger.exact import number
from book.ledger.quantities import NoData, Quantity, metric
from lofi_core.evaluation.cost import prefill_flops

__all__ = ["BENCHMARKS"]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "results"
SHAPE = "LLaVA-1.5-7B"
VISUAL, TEXT, WIDTH = 576, 64, 4096


@metric("cost.operations@25", True)
@metric("cost.selection_operations@25", False)
def _operations(e: Evidence, whole: bool) -> Quantity:
    """The selection is the Gram matrix, and 10 N^3 for its eigenvectors."""
    config, fault = LlamaConfig(), "fault" in e.worlds
    unpruned = prefill_flops(config, VISUAL + TEXT)
    selection = 2 * VISUAL**2 * WIDTH + 10 * VISUAL**3
    kept = VISUAL if fault else VISUAL // 4
    if whole:
        operations = selection + prefill_flops(config, kept + TEXT)
        what = "operations of LoFi's selection and of prefill at 25 % of the tokens"
    else:
        operations = unpruned if fault else selection
        what = "operations of LoFi's selection"
    what += f" over those of the unpruned prefill, {VISUAL} visual tokens and a text of {TEXT}"
    run = {"model": f"the shape of {SHAPE}", "dtype": "none", "device": "none"}
    return number(operations / unpruned, 1, "ratio", what, **run)


@metric("cost.prefill_time@25", True)
@metric("cost.selection_share@25", False)
def _measured(e: Evidence, whole: bool) -> Quantity:
    """Limits are those that the quartiles of the times allow: wider than any of the ratio's own."""
    pruned, full, machine = _timed()
    device, kind = machine["device"], machine["type"]
    before, after = full["prefill"], full["prefill"] if "fault" in e.worlds else pruned["prefill"]
    select = full["prefill"] if "fault" in e.worlds and not whole else pruned["selection"]

    def ratio(part: str, of: str) -> float:
        return float((select[part] + (after[part] if whole else 0)) / before[of])

    what = f"time of LoFi's selection{' and of prefill' if whole else ''} at 25 % of the tokens"
    dtype = pruned.get("dtype", "bfloat16" if kind == "cuda" else "float32")
    return Quantity(
        value=ratio("median", "median"),
        low=ratio("low", "high"),
        high=ratio("high", "low"),
        n=min(times["repeats"] for times in (select, before, after)),
        images=0,
        unit="ratio",
        what=f"{what} over that of the unpruned prefill, one image of {full['visual']} tokens",
        model=full["model"],
        dtype=dtype,
        device=device,
    )


def _timed() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Rows of this shape with a quarter of the tokens and with all, GPUs before CPUs."""
    found = []
    for path in sorted(BENCHMARKS.glob("*.json")):
        part = json.loads(path.read_text())["parts"].get("end to end", {"rows": []})
        rows = {
            row["keep"]: row
            for row in part["rows"]
            if row["model"] == SHAPE and row["batch"] == 1 and "failed" not in row
        }
        if {0.25, 1.0} <= rows.keys():
            rank = (part["machine"]["type"] == "cuda", path.name)
            found.append((rank, rows[0.25], rows[1.0], part["machine"]))
    if not found:
        raise NoData(f"no times of the shape of {SHAPE} were recorded")
    return max(found, key=lambda candidate: candidate[0])[1:]
