"""Run the benchmarks and write one file a machine into benchmarks/results.

    python -m benchmarks.run [--device cuda] [--only scoring] [--quick]

On a GPU everything takes less than 10 minutes, on a CPU about as long, in one thread.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks import models
from benchmarks.end_to_end import end_to_end
from benchmarks.measure import Row, machine
from benchmarks.scoring import SHAPES, scoring
from benchmarks.selection import SIZES, greedy, selection

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1
QUICK = ((1, 48, 64, 0.75), (2, 48, 64, 0.25), (1, 96, 64, 0.75))
PARTS = ("scoring", "selection", "greedy", "end to end")


def main(argv: list[str] | None = None) -> Path:
    """Run the chosen parts; parts that a file of this machine already has stay in it."""
    args = parse(argv)
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
        threadpool_limits(1)  # NumPy's
    info = machine(device)
    path = args.out / f"{_slug(info['device'])}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    found = found if found.get("schema") == SCHEMA else {"schema": SCHEMA, "parts": {}}
    for name, part in parts(device, args.quick).items():
        if args.only in (None, name):
            print(f"{name} ...", flush=True)
            before = machine(device)["load"]
            rows = part()
            loads = {"load_before": before, "load_after": machine(device)["load"]}
            found["parts"][name] = {"machine": machine(device) | loads, "rows": rows}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)
    return path


def parts(device: torch.device, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    """Name each part and say how to run it; ``quick`` is the rehearsal, in small shapes."""
    cuda = device.type == "cuda"
    repeats = 1 if quick else 9
    shapes = QUICK if quick else SHAPES
    sizes = (48, 96) if quick else SIZES

    def whole() -> list[Row]:
        model, maker = models.shipped(device)
        few = (1,) if quick else (1, 8, 32)
        rows = end_to_end("SceneVLM", model, maker, device, repeats, few, [144])
        if cuda or quick:
            dtype, shrink = (torch.float32, 32) if quick else (torch.bfloat16, 1)
            for name, make in (("LLaVA-1.5-7B", models.llava), ("Qwen2.5-VL-7B", models.qwen)):
                model, maker = make(device, dtype, shrink)
                tokens = [576] if quick else [576, 2880]
                rows += end_to_end(name, model, maker, device, min(repeats, 3), few, tokens, 8)
                del model
        return rows

    return {
        "scoring": lambda: scoring(device, repeats, shapes),
        "selection": lambda: selection(device, repeats, sizes, 64 if quick else 1024),
        "greedy": lambda: greedy(device, repeats, *((2, 48) if quick else ())),
        "end to end": whole,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"default: {default}")
    parser.add_argument(
        "--only", choices=("scoring", "selection", "greedy", "end to end"), help="one part"
    )
    parser.add_argument("--quick", action="store_true", help="small shapes: does it all run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    return parser.parse_args(argv)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
