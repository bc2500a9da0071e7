"""Train PhotoVLM's connector and adapters: ``python -m book.training.photo.train``.

The vision tower and the weights of the language model stay as they are. Three phases share one
loss, the cross entropy of the answers:

1. the connector alone, from a closed-form start: over random hidden features, the ridge regression
   of a caption's mean word embedding on the photo's mean feature;
2. connector and adapters on captions, on which of four captions fits, and on existence;
3. the same, and the photos' own questions.

Nothing is said about single patches. Batches depend on the seed and the step alone; a checkpoint is
written every few minutes, and the same command goes on from it.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from book.training.photo.adapters import add_adapters, save_trained, trained_weights
from book.training.photo.assemble import SHIPPED, base_model
from book.training.photo.features import Features
from book.training.photo.lessons import Nouns, lessons
from book.training.photo.packing import loss_of, pack_lessons
from book.training.photo.parts import cache_folder
from book.training.photo.photos import Photo, read_photos
from book.training.photo.validation import validate

__all__ = ["Recipe", "train"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the hardware's rounding."""

    seed: int = 0
    steps: int = 820
    batch: int = 4
    connector_steps: int = 60
    alignment_steps: int = 500
    rank: int = 16
    connector_rate: float = 1e-3
    adapter_rate: float = 5e-4


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak rate: warm-up, plateau, linear decay in the last third."""
    return min(1.0, (step + 1) / 40, (steps - step) / (steps / 3))


def warm_start(model: Any, features: Features, photos: list[Photo], tokenizer: Any) -> None:
    """Fit the connector's second layer to captions, in closed form, over a random first layer.

    Every patch h is asked for its photo's mean word embedding y, W = Y^T H (H^T H + lambda I)^-1
    about the means, and W is scaled so that outputs spread as word embeddings do.
    """
    connector = model.model.multi_modal_projector
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        X = features([photo.name for photo in photos[:64]]).flatten(0, 1)
        # Hidden units of unit variance about a mean of zero, whatever channels are large.
        connector.linear_1.weight.normal_(std=X.shape[1] ** -0.5).div_(X.std(0).clamp(min=1e-3))
        connector.linear_1.bias.copy_(-connector.linear_1.weight @ X.mean(0))
        n, width = len(connector.linear_1.weight), words.shape[1]
        count, sums, target = 0, torch.zeros(n), []
        outer, cross = torch.zeros(n, n), torch.zeros(n, width)
        for photo in photos:
            h = connector.act(connector.linear_1(features([photo.name])[0]))
            ids = tokenizer(photo.captions[0], add_special_tokens=False)["input_ids"]
            y = words[ids].mean(0)
            target.append(y)
            count, sums = count + len(h), sums + h.sum(0)
            outer, cross = outer + h.T @ h, cross + torch.outer(h.sum(0), y)
        mean_h, mean_y = sums / count, torch.stack(target).mean(0)
        C = outer / count - torch.outer(mean_h, mean_h)
        W = torch.linalg.solve(
            C + 0.1 * C.diagonal().mean() * torch.eye(len(C)),
            cross / count - torch.outer(mean_h, mean_y),
        ).T
        W *= words.std() / (W @ C @ W.T).diagonal().mean().sqrt()
        connector.linear_2.weight.copy_(W)
        connector.linear_2.bias.copy_(mean_y - W @ mean_h)


def train(recipe: Recipe, folder: Path, out: Path, photos: int | None, minutes: float) -> None:
    """Run in ``folder``, and write connector and adapters to ``out``.

    Parameters
    ----------
    recipe : Recipe
    folder, out : Path
    photos : int, optional
        Use the first so many training photos, for a rehearsal.
    minutes : float
        Between two checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model, processor = base_model()
    model.requires_grad_(False).train()
    model.set_attn_implementation("eager")  # which adds the mask to the scores
    add_adapters(model, recipe.rank)
    connector = model.model.multi_modal_projector.requires_grad_(True)
    features, data = Features(), list(read_photos("train")[:photos])
    captioned = [photo for photo in data if photo.captions]
    nouns = Nouns(captioned)
    adapters = [p for p in model.model.language_model.parameters() if p.requires_grad]
    groups = [
        {"params": list(connector.parameters()), "peak": recipe.connector_rate},
        {"params": adapters, "peak": recipe.adapter_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.01, betas=(0.9, 0.98))
    start = _resume(folder, model, optimizer)
    if not start:
        warm_start(model, features, captioned[:800], processor.tokenizer)

    saved = began = time.monotonic()
    for step in range(start, recipe.steps):
        rng = np.random.default_rng((recipe.seed, step))
        aligning = step < recipe.alignment_steps
        pool = captioned if aligning else data
        batch = [pool[i] for i in rng.choice(len(pool), recipe.batch, replace=False)]
        drawn = [lessons(photo, captioned, nouns, rng, not aligning) for photo in batch]
        batch = [photo for photo, asked in zip(batch, drawn, strict=True) if asked]
        drawn = [asked for asked in drawn if asked]
        rows = pack_lessons(drawn, processor.tokenizer, model.config.image_token_id, 196)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(step, recipe.steps)
        if step < recipe.connector_steps:
            optimizer.param_groups[1]["lr"] = 0.0
        with torch.autocast("cpu", torch.bfloat16):
            losses, _, _ = loss_of(model, rows, features([photo.name for photo in batch]))
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_([*connector.parameters(), *adapters], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        row: dict[str, Any] = {"step": step, "loss": losses.mean().item()}
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            row |= validate(model, processor.tokenizer, features, nouns)
        if step % 10 == 0 or len(row) > 2:
            _log(folder, row | {"seconds": round(time.monotonic() - began)})
        if time.monotonic() - saved > 60 * minutes or step + 1 == recipe.steps:
            saved = time.monotonic()
            _checkpoint(folder, model, optimizer, step + 1)
    save_trained(model, out, recipe.rank)
    (out / "recipe.json").write_text(json.dumps(vars(recipe), indent=1) + "\n")
    (out / "training-log.jsonl").write_text((folder / "log.jsonl").read_text())


def _log(folder: Path, row: dict[str, Any]) -> None:
    row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    print(json.dumps(row), flush=True)
    with (folder / "log.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def _checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"trained": trained_weights(model), "optimizer": optimizer.state_dict(), "step": step}
    part = folder / "checkpoint.part"
    torch.save(state, part)
    part.rename(folder / "checkpoint.pt")


def _resume(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Load the last checkpoint, if there is one; return the step to go on with."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    held: dict[str, Tensor] = dict(model.named_parameters())
    adapters = {k.replace(".default.weight", ".weight"): p for k, p in held.items() if "lora_" in k}
    for name, value in state["trained"].items():
        kind, _, rest = name.partition(".")
        if kind == "connector":
            held[f"model.multi_modal_projector.{rest}"].data.copy_(value)
        else:
            adapters[f"model.language_model.{rest}"].data.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.training.photo.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, value in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--folder", type=Path, default=cache_folder() / "photo" / "run")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--photos", type=int)
    parser.add_argument("--minutes", type=float, default=4.0, help="between checkpoints")
    options = vars(parser.parse_args(argv))
    folder, out, photos, minutes = (options.pop(k) for k in ("folder", "out", "photos", "minutes"))
    train(Recipe(**options), folder, out, photos, minutes)


if __name__ == "__main__":
    main()
