"""Measure a SceneVLM on held-out scenes and write its model card.

Every figure of the card comes from this run: ``python -m lofi_core.scene_vlm.card FOLDER``.
"""

import argparse
import hashlib
import json
import platform
from pathlib import Path

import pandas as pd
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from lofi_core.scene_vlm.build import tokenizer
from lofi_core.scene_vlm.language import IGNORE, PREFIX, pack
from lofi_core.scenes import SceneVQA

WEIGHTS = ("model.safetensors", "clip/model.safetensors")


@torch.inference_mode()
def measure(
    model: LlavaForConditionalGeneration, data: SceneVQA, n: int, batch: int = 16
) -> pd.DataFrame:
    """Ask every question of the first ``n`` scenes; one row a question.

    ``right`` is exact match of the greedy answer among all words; ``confidence`` is the
    probability of the most likely admissible answer, renormalised over the admissible ones.
    """
    tok, device = tokenizer(), model.device
    image_processor = AutoProcessor.from_pretrained(model.name_or_path).image_processor
    image_tokens, rows = model.config.image_seq_length, []
    for start in range(0, n, batch):
        scenes = [data[i] for i in range(start, min(n, start + batch))]
        packed = pack([s.questions for s in scenes], image_tokens)
        ids, positions, labels, mask = (p.to(device) for p in packed)
        pixels = image_processor([s.image for s in scenes], return_tensors="pt")["pixel_values"]
        logits = model(
            input_ids=ids,
            pixel_values=pixels.to(device),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).logits
        answers = (labels != IGNORE) & (labels != model.config.eos_token_id)
        asked = [(s, q) for s in scenes for q in s.questions]
        for (scene, q), row in zip(asked, logits[answers].float().cpu(), strict=True):
            choices = row[tok.convert_tokens_to_ids(list(q.choices))].softmax(-1)
            predicted = tok.convert_ids_to_tokens(int(row.argmax()))
            rows.append(
                {
                    "scene": scene.id,
                    "family": q.family,
                    "answer": q.answer,
                    "predicted": predicted,
                    "right": predicted == q.answer,
                    "chance": 1 / len(q.choices),
                    "confidence": float(choices.max()),
                }
            )
    return pd.DataFrame(rows)


def by_family(records: pd.DataFrame) -> pd.DataFrame:
    """Questions, accuracy, blind chance and share of unsure answers (confidence < 0.9)."""
    records = records.assign(unsure=records.confidence < 0.9)
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
    table = by_family(measure(model, SceneVQA("test"), n))
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
        f"| {family} | {r.questions:,} | {r.accuracy:.1%} | {r.chance:.1%} | {r.unsure:.1%} |"
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
language model on all seven questions of a scene at once. AdamW, cosine decay, bfloat16 autocast.
`training-log.jsonl` is the log of that run, `recipe.json` its numbers:

| setting | value |
| :-- | --: |
{recipe}

`make scene-vlm` repeats it. The handwritten digits are scikit-learn's `load_digits` (UCI
"Optical Recognition of Handwritten Digits", CC BY 4.0).

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
