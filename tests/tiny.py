"""Tiny vision-language models with random weights, from the real configurations and classes.

A prompt is described by rows of segments: a number stands for that many random text tokens, "a" and
"b" for images (of different shapes, where a family has them), "v" for a video.
"""

from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Tensor

PAD, IMAGE, VIDEO, VOCAB = 0, 120, 121, 128
TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=512,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
)
VISION = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=24,
    patch_size=4,
)

Row = list[int | str]


class Tiny:
    """One family: how to build its model, its placeholders and its pixels."""

    kinds: tuple[str, ...] = ("a",)
    answer_type = 0  # token_type_ids of generated tokens

    def config(self) -> Any:
        raise NotImplementedError

    def tokens(self, kind: str) -> list[int]:
        """What stands in the prompt for a picture."""
        return [IMAGE] * 36

    def patches(self, n: int) -> list[int]:
        """Which of a picture's n placeholders are patches, not separators."""
        return list(range(n))

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        """What the processor gives for the pictures of one row, at least one."""
        return {"pixel_values": torch.randn(len(kinds), 3, 24, 24, generator=g)}

    def collate(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Batch the pixels of several rows."""
        names = {name: None for row in rows for name in row}
        return {name: torch.cat([row[name] for row in rows if name in row]) for name in names}

    def extras(self, ids: Tensor) -> dict[str, Tensor]:
        """What else the processor gives, one entry a token."""
        return {}

    def model(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        """Build a model whose attention is far from uniform, so that dropped tokens matter."""
        return _model(type(self), dtype, attention)

    def inputs(
        self, rows: list[Row], side: str = "left", seeds: list[int] | None = None
    ) -> dict[str, Tensor]:
        """Make the inputs that a processor would give; row b depends on its segments and seed."""
        prompts, pixels = [], []
        for row, seed in zip(rows, seeds or range(len(rows)), strict=True):
            g = torch.Generator().manual_seed(seed)
            ids: list[int] = []
            for segment in row:
                if isinstance(segment, int):
                    ids += torch.randint(3, 100, (segment,), generator=g).tolist()
                else:
                    ids += self.tokens(segment)
            prompts.append(ids)
            kinds = [segment for segment in row if isinstance(segment, str)]
            pixels.append(self.pixels(kinds, g) if kinds else {})
        width = max(map(len, prompts))
        full, mask = [], []
        for ids in prompts:
            pad = [PAD] * (width - len(ids))
            full.append(pad + ids if side == "left" else ids + pad)
            mask.append([int(i != PAD) for i in full[-1]])
        batch = {"input_ids": torch.tensor(full), "attention_mask": torch.tensor(mask)}
        return batch | self.extras(batch["input_ids"]) | self.collate(pixels)


@cache
def _model(family: type[Tiny], dtype: torch.dtype, attention: str) -> Any:
    torch.manual_seed(0)
    config = family().config()
    config._attn_implementation = attention
    model = hf.AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=g) * (1.5 / fan_in**0.5)
    model.generation_config.eos_token_id = None  # run on to the last token asked for
    model.generation_config.pad_token_id = PAD
    return model.to(dtype)


class Llava(Tiny):
    def config(self) -> Any:
        return hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**VISION, projection_dim=16),
            text_config=hf.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
        )


FAMILIES: dict[str, Tiny] = {
    "llava": Llava(),
}
