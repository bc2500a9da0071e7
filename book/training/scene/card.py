"""Measure a SceneVLM on held-out scenes and write its model card.

Every figure of the card comes from this run: ``python -m book.training.scene.card FOLDER``.
"""

import argparse
import hashlib
import json
import platform
from pathlib import Path

import pandas as pd
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

from book.training.scene.language import PREFIX
from lofi_core.evaluation.asking import ask
from lofi_core.scenes.vqa import SceneVQA

WEIGHTS = ("model.safetensors", "clip/model.safetensors")


def by_family(records: pd.DataFrame) -> pd.DataFrame:
    """Questions, accuracy, blind chance, and share of answers of less than 90 % probability."""
    records = records.assign(unsure=records.probabilities.map(max) < 0.9)
    columns = {"right": "accuracy", "chance": "chance", "unsure": "unsure"}
    groups = records.groupby("family", sort=False)
    table = groups[list(columns)].mean().rename(columns=columns)
    table.insert(0, "questions", groups.size())
    overall = records[list(columns)].mean().rename(columns)
    table.loc["all"] = {"questions": len(records), **overall}
    return table.astype({"questions": int})


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_card(folder: Path, n: int) -> pd.DataFrame:
    """Measure the model in ``folder`` on ``n`` test scenes; write scores.json and README.md."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    data = SceneVQA("test")
    scenes = [data[i] for i in range(n)]
    table = by_family(ask(model, AutoProcessor.from_pretrained(folder), scenes))
    recipe = json.loads((folder / "recipe.json").read_text())
    hashes = {name: sha256(folder / name) for name in WEIGHTS}
    scores = {
        "split": "test",
        "scenes": n,
        "families": json.loads(table.round(4).to_json(orient="index")),
        "sha256": hashes,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": platform.machine(),
    }
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    lines = [
        f"| {family} | {int(r.questions):,} | {r.accuracy:.1%} | {r.chance:.1%} | {r.unsure:.1%} |"
        for family, r in table.iterrows()
    ]
    size = sum(p.numel() for p in model.parameters())
    (folder / "README.md").write_text(
        CARD.format(
            size=size / 1e6,
            scenes=n,
            table="\n".join(lines),
            recipe="\n".join(f"| {k.replace('_', ' ')} | {v:,} |" for k, v in recipe.items()),
            hashes="\n".join(f"- `{name}`: `{value}`" for name, value in hashes.items()),
            prompt=PREFIX.strip().replace("\n", " "),
        )
    )
    return table


CARD = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---

# SceneVLM

A LLaVA of {size:.1f} M parameters, made to study what visual-token pruning does to single answers.
It has what the big ones have: a CLIP vision tower (12 x 12 patches and a CLS token, features of the
layer before the last), an MLP projector, a Llama. It runs on any laptop, and its questions have
exact answers. It knows SceneVQA's words and pictures, and nothing else.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
from lofi_core.scene_vlm import PATH

model = AutoModelForImageTextToText.from_pretrained(PATH)
processor = AutoProcessor.from_pretrained(PATH)
```

`clip/` holds the CLIP (vision and text tower) that the vision tower comes from.

## How good it is

{scenes:,} held-out test scenes, greedy answers, exact match. *Chance* is what a model scores that
does not look; *unsure* is the share of answers given with less than 90 % of the probability.

| family | questions | accuracy | chance | unsure |
| :-- | --: | --: | --: | --: |
{table}

## How it was trained

From scratch on SceneVQA's training split, which shares neither images nor handwritten digits with
the test split. First the CLIP: contrast with exact captions, grounding of short texts in patches,
and linear read-outs of each patch's object. Then, with the vision tower frozen, projector and
language model on all questions of a scene at once; three attention heads of each of the two middle
layers were taught to look at the objects asked about. In a last part, what these heads gather also
had to tell where two related objects lie, by a linear read-out that was then dropped: without it,
spatial relations stayed at chance. AdamW, bfloat16 autocast, in each part a plateau and a linear
decay of the rate. `training-log.jsonl` is the log of that run, `recipe.json` its numbers:

| setting | value |
| :-- | --: |
{recipe}

`make scene-vlm` repeats it. How able the model becomes depends on the seed too: chapter 7 of the
book has a second training. The handwritten digits are scikit-learn's `load_digits` (UCI "Optical
Recognition of Handwritten Digits", CC BY 4.0).

## Files

Prompt: `{prompt} question ASSISTANT:`; one word, one token.

{hashes}
"""


def main(argv: list[str] | None = None) -> None:
    """Command line: the model's folder and the number of test scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=1000)
    options = parser.parse_args(argv)
    print(write_card(options.folder, options.scenes).round(3).to_string())


if __name__ == "__main__":
    main()
