"""Command line of the experiments."""

import argparse
import json
import multiprocessing
import os
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from book.build.provenance import commit
from book.experiments import plan as plans
from book.experiments.export import write_results
from book.experiments.plan import Planned
from book.experiments.results import FOLDER
from book.experiments.run import Models, run
from lofi_core.errors import LofiError
from lofi_core.evaluation.records import fingerprint
from lofi_core.scene_vlm import PATH

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = """\
Ask the shipped model thousands of questions under every pruner, budget and seed, and write what it
answered, what was kept and what became of its representations to book/results.

  python -m book.experiments                    everything; an hour or two on two cores
  python -m book.experiments --scenes 40 20 --out /tmp/try --folder /tmp/run    a small one

Kill it whenever you like: the same command goes on where it was. A folder belongs to one run. With
RANK and WORLD_SIZE in the environment, as accelerate launch sets them, this is one of several
processes; without, it starts its own.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.experiments", description=DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--folder", type=Path, default=ROOT / "_build/experiments", help="of the run")
    add("--out", type=Path, default=FOLDER, help="where the results go")
    add("--scenes", type=int, nargs=2, metavar=("TEST", "VALIDATION"), help="how many (all)")
    add("--groups", nargs="*", help="run these groups of arms only, and the unpruned model")
    add("--model", type=Path, default=PATH, help="another SceneVLM's folder, to see what is luck")
    add("--processes", type=int, default=os.cpu_count() or 1, help="one a core by default")
    options = parser.parse_args(argv)
    counts = options.scenes or plans.SCENES.values()
    scenes = dict(zip(plans.SCENES, counts, strict=True))
    arms = [arm for arm in plans.plan() if scenes[arm.split] and _wanted(arm, options.groups)]
    scenes = {split: n for split, n in scenes.items() if n}
    try:
        if "RANK" in os.environ:
            if not run(options.folder, arms, scenes, options.model):
                print("blocks are left to other processes")
                return 0
        else:
            _spread(options.processes, options.folder, arms, scenes, options.model)
        facts = _facts(arms, scenes, options.model)
        experiment = write_results(options.folder, options.out, arms, facts)
    except LofiError as error:
        parser.exit(2, f"error: {error}\n")
    sizes = {name: (options.out / name).stat().st_size for name in experiment["sha256"]}
    print(", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items()))
    return 0


def _wanted(arm: Planned, groups: list[str] | None) -> bool:
    return groups is None or arm.group in ("reference", *groups)


def _spread(
    world: int, folder: Path, arms: list[Planned], scenes: dict[str, int], model: Path
) -> None:
    """Share the blocks among processes of our own."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_one_of, args=(rank, world, folder, arms, scenes, model))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        raise LofiError(
            f"experiments: processes ended with {codes}; expected 0: see above, and run again"
        )


def _one_of(rank: int, world: int, *args: Any) -> None:
    """Run as process ``rank`` of ``world``."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    run(*args)


def _facts(arms: list[Planned], scenes: dict[str, int], model: Path) -> dict[str, Any]:
    """Say in experiment.json where the results come from."""
    models = Models.load(model)
    names = ("torch", "transformers", "numpy", "pyarrow")
    return {
        "data": {split: f"SceneVQA({split!r}, seed=0)" for split in scenes},
        "scenes": scenes,
        "site_scenes": min(plans.SITE_SCENES, scenes.get("test", 0)),
        "budgets": plans.BUDGETS,
        "seeds": plans.SEEDS,
        "arms": len(arms),
        "training_seed": json.loads((model / "recipe.json").read_text())["seed"],
        "weights": fingerprint(models.model),
        "clip_weights": fingerprint(models.clip.model),
        "dtype": "float32",
        "attention": models.model.config.get_text_config()._attn_implementation,
        "device": models.model.device.type,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "commit": commit(ROOT),
        "date": date.today().isoformat(),
    }


if __name__ == "__main__":
    sys.exit(main())
