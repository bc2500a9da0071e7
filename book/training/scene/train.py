"""Train SceneVLM from nothing: ``python -m book.training.scene.train``.

Two stages, as LLaVA: a CLIP first (`vision`), then, with the vision tower frozen, the projector and
the language model (`language`).  The latter has two parts: the second begins when the model knows
where to look, and adds a lesson on where things lie.  Batches depend on the seed and the step
alone, so a run that was killed resumes from its last checkpoint and ends in the same place.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from book.training.scene import build
from book.training.scene.language import LanguageData, language_loss
from book.training.scene.vision import PatchReadouts, supervision, vision_loss
from lofi_core.scenes.drawing import IMAGE_SIZE
from lofi_core.scenes.vqa import SceneVQA

Metrics = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the hardware's rounding."""

    seed: int = 0
    scenes: int = 20_480
    vision_steps: int = 1_800
    vision_batch: int = 64
    language_steps: int = 2_700
    relation_steps: int = 1_200
    language_batch: int = 16
    language_draws: int = 2
    vision_rate: float = 1.5e-3
    language_rate: float = 1e-3


def _draw(item: tuple[int, int]) -> np.ndarray:
    seed, i = item
    return np.asarray(SceneVQA("train", seed)[i].image)


def rendered(folder: Path, seed: int, n: int) -> np.ndarray:
    """Return the first ``n`` training images (n, S, S, 3) as a uint8 memory map, drawn once."""
    path = folder / f"images-{seed}-{n}.npy"
    if not path.exists():
        shape, part = (n, IMAGE_SIZE, IMAGE_SIZE, 3), path.with_suffix(".part")
        images = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        with Pool() as pool:
            drawn = pool.imap(_draw, ((seed, i) for i in range(n)), chunksize=64)
            for i, image in enumerate(tqdm(drawn, "drawing", n)):
                images[i] = image
        images.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def pixels(images: np.ndarray, index: Tensor, device: torch.device) -> Tensor:
    """Images (B, 3, S, S) in [-1, 1], exactly what the processor makes of them."""
    batch = torch.from_numpy(images[index.numpy()])
    return batch.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak rate: warm-up, plateau, linear decay in the last quarter.

    Until the decay begins it does not depend on ``steps``, so a run can be made longer.
    """
    return min(1.0, (step + 1) / 150, (steps - step) / (steps / 4))


def optimise(
    name: str,
    folder: Path,
    modules: nn.Module,
    step_loss: Callable[[int], tuple[Tensor, Metrics]],
    steps: int,
    peak: float,
) -> None:
    """AdamW with `schedule`; checkpoints, resume, and one log line in 50 steps."""
    weights = [p for p in modules.parameters() if p.requires_grad]
    decay = [p for p in weights if p.dim() > 1]
    rest = [p for p in weights if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=peak,
        betas=(0.9, 0.98),
        fused=True,
    )
    checkpoint, log, start = folder / f"{name}.pt", folder / "log.jsonl", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    forget(log, name, start)
    bar, began = tqdm(range(start, steps), name, steps, initial=start), time.monotonic()
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule(step, steps)
        loss, metrics = step_loss(step)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step + 1 == steps:
            row = {"step": step, "loss": loss.item(), **metrics}
            row = {k: round(v, 4) for k, v in row.items()}
            row |= {"stage": name, "seconds": round(time.monotonic() - began)}
            with log.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            bar.set_postfix(loss=row["loss"])
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step + 1}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)


def forget(log: Path, name: str, start: int) -> None:
    """Drop log lines of steps that a resumed stage is going to repeat."""
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    kept = [
        line for line, r in zip(lines, rows, strict=True) if r["stage"] != name or r["step"] < start
    ]
    log.write_text("".join(f"{line}\n" for line in kept))


def batch_index(recipe: Recipe, stage: int, step: int, size: int) -> Tensor:
    """Indices of a batch, from the seed, the stage and the step alone."""
    rng = np.random.default_rng((recipe.seed, stage, step))
    return torch.from_numpy(np.sort(rng.choice(recipe.scenes, size, replace=False)))


def draws_of(recipe: Recipe, step: int) -> range:
    """Question draws of a step: new ones each time the scenes have been through once."""
    turn = step * recipe.language_batch // recipe.scenes
    return range(turn * recipe.language_draws, (turn + 1) * recipe.language_draws)


def train(recipe: Recipe, folder: Path, out: Path, device: torch.device) -> None:
    """Run both stages in ``folder`` and write the model to ``out``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    data = SceneVQA("train", recipe.seed)
    images = rendered(folder, recipe.seed, recipe.scenes)

    clip = build.clip().to(device)
    model = build.llava(clip).to(device)  # both initialised before either is trained
    for part in (clip, model):  # on CPUs explicit attention has the faster backward pass
        part.set_attn_implementation("eager")
    readouts = PatchReadouts(clip.config.vision_config.hidden_size).to(device)
    centers = nn.Linear(model.config.text_config.hidden_size, 4).to(device)
    targets = supervision(data, recipe.scenes)

    def vision_step(step: int) -> tuple[Tensor, Metrics]:
        i = batch_index(recipe, 0, step, recipe.vision_batch)
        batch = {k: v[i].to(device) for k, v in targets.items()}
        with torch.autocast(device.type, torch.bfloat16):
            return vision_loss(clip, readouts, pixels(images, i, device), batch)

    both = nn.ModuleList([clip, readouts])
    optimise("vision", folder, both, vision_step, recipe.vision_steps, recipe.vision_rate)

    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    model.model.vision_tower.requires_grad_(False)
    language = LanguageData(data, recipe.scenes, model, lambda i: pixels(images, i, device))

    def language_step(step: int, lesson: nn.Linear | None = None) -> tuple[Tensor, Metrics]:
        i = batch_index(recipe, 1, step, recipe.language_batch)
        with torch.autocast(device.type, torch.bfloat16):
            return language_loss(model, language.batch(i, draws_of(recipe, step)), lesson)

    def relation_step(step: int) -> tuple[Tensor, Metrics]:
        return language_step(recipe.language_steps + step, centers)

    projector, lm = model.model.multi_modal_projector, model.model.language_model
    trained, rate = nn.ModuleList([projector, lm, model.lm_head]), recipe.language_rate
    optimise("language", folder, trained, language_step, recipe.language_steps, rate)
    trained.append(centers)
    optimise("relations", folder, trained, relation_step, recipe.relation_steps, rate)
    build.save(model.cpu(), clip.cpu(), out)
    (out / "recipe.json").write_text(json.dumps(vars(recipe), indent=1) + "\n")
    shutil.copy(folder / "log.jsonl", out / "training-log.jsonl")


def main(argv: list[str] | None = None) -> None:
    """Command line: recipe fields, the run's folder, where the model goes, and the device."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--folder", type=Path, default=Path("runs/scene-vlm"))
    parser.add_argument("--out", type=Path, default=Path("runs/scene-vlm/model"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = vars(parser.parse_args(argv))
    folder, out, device = (options.pop(k) for k in ("folder", "out", "device"))
    train(Recipe(**options), folder, out, torch.device(device))


if __name__ == "__main__":
    main()
