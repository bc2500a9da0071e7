"""The command line of an evaluation: ``python -m lofi_core.evaluation --help``."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from lofi_core.errors import LofiError
from lofi_core.evaluation.arms import arms
from lofi_core.evaluation.benchmarks import BENCHMARKS, load_benchmark
from lofi_core.evaluation.questions import Scene
from lofi_core.evaluation.records import read_records
from lofi_core.evaluation.run import evaluate
from lofi_core.pruners import pruner_names
from lofi_core.scene_vlm import PATH
from lofi_core.scenes.vqa import SceneVQA

__all__ = ["load", "main"]

DESCRIPTION = """\
Ask a vision-language model the questions of SceneVQA or of a public benchmark, unpruned and under
every pruner, budget and seed named, and write one record for every single answer to
OUT/records.parquet.

  python -m lofi_core.evaluation runs/first --scenes 100 --pruners lofi random divprune
  accelerate launch --num_processes 8 -m lofi_core.evaluation runs/big --scenes 1000 --seeds 0 1 2
  python -m lofi_core.evaluation runs/floor --pruners --images-per-batch 1  # noise floor

Kill it whenever you like: the same command goes on where it was, and ends in the same table. A
folder belongs to one run; the command is refused if anything in it that matters has changed.
Processes started by accelerate (or with RANK and WORLD_SIZE set) share the blocks of images; on
several machines OUT has to be on a disk that all of them see. Then, in Python:

  from lofi_core.evaluation.consistency import compare
  from lofi_core.evaluation.records import read_records
  records = read_records("runs/first/records.parquet")
  print(compare(records[records.arm == 0], records[records.arm == 1]).table())
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("lofi_core.evaluation", description=DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("out", type=Path, help="folder of the run, made if it is not there")
    add("--model", default=str(PATH), help="folder or hub id (default: the shipped SceneVLM)")
    add(
        "--data",
        default="scenevqa",
        choices=["scenevqa", *BENCHMARKS],
        help="SceneVQA, or a benchmark streamed from the hub (default: %(default)s)",
    )
    add("--split", default="test", help="split of SceneVQA (default: %(default)s)")
    add("--data-seed", type=int, default=0, help="of SceneVQA, or of the order (default: 0)")
    add(
        "--scenes",
        type=int,
        default=200,
        help="images of SceneVQA, 7 questions each; questions of a benchmark (default: 200)",
    )
    add(
        "--pruners",
        nargs="*",
        default=["lofi", "random"],
        metavar="NAME",
        help=f"none or several of {', '.join(pruner_names())} (default: lofi random)",
    )
    add(
        "--budgets",
        nargs="+",
        type=float,
        default=[0.5, 0.25],
        metavar="KEEP",
        help="fractions of the visual tokens to keep, in (0, 1] (default: 0.5 0.25)",
    )
    add(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="SEED",
        help="for pruners that have a seed (default: 0)",
    )
    add("--images-per-batch", type=int, default=8, help="size of a block (default: %(default)s)")
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="of the model (default: %(default)s)",
    )
    add("--attention", default="sdpa", help="eager, sdpa or what else is installed (default: sdpa)")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, or cuda for one GPU a process (default here: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        # First what is cheap to check: a misspelt name must not cost the loading of a model.
        pruners = arms(options.pruners, options.budgets, options.seeds)
        if options.out.exists() and not options.out.is_dir():
            raise LofiError(f"evaluate: {options.out} is a file; expected a folder, or a new name")
        scenes, data = _data(options)
        n = options.scenes if options.data == "scenevqa" else None
        model, processor = load(options.model, options.dtype, options.attention, options.device)
        size = options.images_per_batch
        result = evaluate(model, processor, scenes, pruners, options.out, data, n, size)
    except LofiError as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt as stop:
        parser.exit(130, f"{stop or 'stopped; the same command goes on'}\n")
    if result is not None:
        records = read_records(result)
        print(f"{len(records):,} records of {records.arm.nunique()} arms in {result}")


def _data(options: argparse.Namespace) -> tuple[Sequence[Scene], str]:
    """Load the data; return them with a name that says how to get them again."""
    seed = options.data_seed
    if options.data == "scenevqa":
        return SceneVQA(options.split, seed), f"SceneVQA({options.split!r}, seed={seed})"
    scenes = load_benchmark(options.data, options.scenes, seed)
    return scenes, f"load_benchmark({options.data!r}, {options.scenes}, seed={seed})"


def load(name: str, dtype: str, attention: str, device: str) -> tuple[Any, Any]:
    """Load the model, on this process's GPU if there are several, and its processor.

    Raises
    ------
    LofiError
        If there is no such model, device or attention back-end. Weights are read from safetensors
        only, and no code of the model's own is run.
    """
    place = device
    if device == "cuda":
        place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
        processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)
        return model.to(place).eval(), processor
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise LofiError(
            f"evaluate: {name} on {device}, attention {attention}: "
            f"{reason}; expected a folder or hub id of an image-text-to-text model with "
            "safetensors, and a device and back-end that this machine has"
        ) from error


if __name__ == "__main__":
    main()
