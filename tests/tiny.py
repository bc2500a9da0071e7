"""Tiny vision-language models with random weights, from the real configurations and classes.

A prompt is described by rows of segments: a number stands for that many random text tokens, "a" and
"b" for images (of different shapes, where a family has them), "v" for a video.
"""

from functools import cache
from typing import Any, ClassVar

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
    # classes of the whole configuration and its two parts, and what they are told beyond the above
    made_of: tuple[Any, Any, Any] = (hf.LlavaConfig, hf.CLIPVisionConfig, hf.LlamaConfig)
    vision: ClassVar[dict[str, Any]] = {}
    text: ClassVar[dict[str, Any]] = {}
    whole: ClassVar[dict[str, Any]] = {}
    image_size = 24

    def config(self) -> Any:
        whole, vision, text = self.made_of
        return whole(
            vision_config=vision(**VISION | {"image_size": self.image_size} | self.vision),
            text_config=text(**TEXT | self.text),
            image_token_id=IMAGE,
            **self.whole,
        )

    def tokens(self, kind: str, count: int) -> list[int]:
        """What stands in the prompt for a picture, if the row has ``count`` images."""
        return [IMAGE] * 36

    def patches(self, n: int) -> list[int]:
        """Which of a picture's n placeholders are patches, not separators."""
        return list(range(n))

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        """What the processor gives for the pictures of one row, at least one."""
        shape = (len(kinds), 3, self.image_size, self.image_size)
        return {"pixel_values": torch.randn(shape, generator=g)}

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
            kinds = [segment for segment in row if isinstance(segment, str)]
            ids: list[int] = []
            for segment in row:
                if isinstance(segment, int):
                    ids += torch.randint(3, 100, (segment,), generator=g).tolist()
                else:
                    ids += self.tokens(segment, sum(kind != "v" for kind in kinds))
            prompts.append(ids)
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
    model.get_output_embeddings().weight.data[IMAGE:] = 0  # answers hold no placeholders
    model.generation_config.eos_token_id = None  # run on to the last token asked for
    model.generation_config.pad_token_id = PAD
    return model.to(dtype)


class Llava(Tiny):
    vision: ClassVar = {"projection_dim": 16}


class VipLlava(Llava):
    made_of = (hf.VipLlavaConfig, hf.CLIPVisionConfig, hf.LlamaConfig)
    whole: ClassVar = {"vision_feature_layer": (-2, 1)}


class LlavaNext(Tiny):
    """Images of 24 x 48 and, with padding to cut off, 40 x 48; crops of 24 x 24."""

    kinds = ("a", "b")
    shapes: ClassVar = {"a": (24, 48), "b": (40, 48)}
    crops: ClassVar = {"a": 3, "b": 5}
    rows: ClassVar = {"a": (6, 12), "b": (10, 12)}
    made_of = (hf.LlavaNextConfig, hf.CLIPVisionConfig, hf.LlamaConfig)
    vision: ClassVar = {"projection_dim": 16}
    whole: ClassVar = {"image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]]}

    def tokens(self, kind: str, count: int) -> list[int]:
        h, w = self.rows[kind]
        return [IMAGE] * (36 + h * (w + 1))

    def patches(self, n: int) -> list[int]:
        return [i for i in range(n) if i < 36 or (i - 36) % 13 != 12]

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        values = torch.zeros(len(kinds), 5, 3, 24, 24)
        for i, kind in enumerate(kinds):
            values[i, : self.crops[kind]] = torch.randn(self.crops[kind], 3, 24, 24, generator=g)
        return {
            "pixel_values": values,
            "image_sizes": torch.tensor([self.shapes[k] for k in kinds]),
        }


class LlavaOnevision(LlavaNext):
    """Anyres for a row's only image; one crop for each of several; four frames a video."""

    kinds = ("a", "b", "v")
    made_of = (hf.LlavaOnevisionConfig, hf.SiglipVisionConfig, hf.Qwen2Config)
    vision: ClassVar = {}
    whole: ClassVar = {**LlavaNext.whole, "video_token_id": VIDEO}

    def tokens(self, kind: str, count: int) -> list[int]:
        if kind == "v":
            return [VIDEO] * (4 * 9 + 1)
        return super().tokens(kind, count) if count == 1 else [IMAGE] * 37

    def patches(self, n: int) -> list[int]:
        return list(range(36)) if n == 37 else super().patches(n)

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        images, videos = [k for k in kinds if k != "v"], kinds.count("v")
        out = super().pixels(images, g) if images else {}
        out["batch_num_images"] = torch.tensor([len(images)])
        if videos:
            out["pixel_values_videos"] = torch.randn(videos, 4, 3, 24, 24, generator=g)
        return out


class InternVL(Tiny):
    made_of = (hf.InternVLConfig, hf.InternVLVisionConfig, hf.Qwen2Config)
    vision: ClassVar = {"image_size": [48, 48], "patch_size": [4, 4]}
    whole: ClassVar = {"image_seq_length": 36}
    image_size = 48


class AyaVision(Tiny):
    made_of = (hf.AyaVisionConfig, hf.SiglipVisionConfig, hf.Cohere2Config)
    text: ClassVar = {"num_hidden_layers": 4}
    image_size = 48


class Gemma3(Tiny):
    made_of = (hf.Gemma3Config, hf.SiglipVisionConfig, hf.Gemma3TextConfig)
    text: ClassVar = {
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    whole: ClassVar = {"mm_tokens_per_image": 36}
    image_size = 48

    def extras(self, ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": (ids == IMAGE).long()}


class PaliGemma(Tiny):
    answer_type = 1
    made_of = (hf.PaliGemmaConfig, hf.SiglipVisionConfig, hf.GemmaConfig)
    vision: ClassVar = {"vision_use_head": False}
    whole: ClassVar = {"projection_dim": 32}

    def extras(self, ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)}


class Mistral3(Tiny):
    """Images of 48 x 48 and 32 x 48, in batches padded to 48 x 48; a text token after each row."""

    kinds = ("a", "b")
    shapes: ClassVar = {"a": (48, 48), "b": (32, 48)}
    made_of = (hf.Mistral3Config, hf.PixtralVisionConfig, hf.MistralConfig)
    image_size = 48

    def tokens(self, kind: str, count: int) -> list[int]:
        h, w = self.shapes[kind]
        return ([IMAGE] * (w // 8) + [110]) * (h // 8)

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        values = torch.zeros(len(kinds), 3, 48, 48)
        for i, kind in enumerate(kinds):
            h, w = self.shapes[kind]
            values[i, :, :h, :w] = torch.randn(3, h, w, generator=g)
        return {
            "pixel_values": values,
            "image_sizes": torch.tensor([self.shapes[k] for k in kinds]),
        }


class Idefics3(Tiny):
    """Images in two crops, or in one, each after a text token; rows padded with empty crops."""

    kinds = ("a", "b")
    crops: ClassVar = {"a": 2, "b": 1}
    made_of = (hf.Idefics3Config, dict, hf.LlamaConfig)
    whole: ClassVar = {"pad_token_id": PAD}
    image_size = 48

    def tokens(self, kind: str, count: int) -> list[int]:
        return ([111] + [IMAGE] * 36) * self.crops[kind]

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        n = sum(self.crops[kind] for kind in kinds)
        return {"pixel_values": torch.randn(1, n, 3, 48, 48, generator=g)}

    def collate(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if not any(rows):
            return {}
        most = max(row["pixel_values"].shape[1] for row in rows if row)
        batch = torch.zeros(len(rows), most, 3, 48, 48)
        for b, row in enumerate(rows):
            if row:
                batch[b, : row["pixel_values"].shape[1]] = row["pixel_values"][0]
        return {"pixel_values": batch}


class SmolVLM(Idefics3):
    made_of = (hf.SmolVLMConfig, dict, hf.LlamaConfig)


class Qwen2VL(Tiny):
    """Images of 48 x 48 and 32 x 48, videos of 6 frames of 24 x 32; patches of 4 x 4 x 2 frames."""

    kinds = ("a", "b", "v")
    grids: ClassVar = {"a": (1, 12, 12), "b": (1, 8, 12), "v": (3, 6, 8)}
    made_of = (hf.Qwen2VLConfig, dict, dict)
    vision: ClassVar = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    rope: ClassVar[dict[str, Any]] = {}

    def config(self) -> Any:
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
        vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 4}
        return self.made_of[0](
            vision_config=vision | self.vision,
            text_config=TEXT | {"rope_parameters": rope | self.rope},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    def tokens(self, kind: str, count: int) -> list[int]:
        t, h, w = self.grids[kind]
        return [101] + [VIDEO if kind == "v" else IMAGE] * (t * h * w // 4) + [102]

    def pixels(self, kinds: list[str], g: torch.Generator) -> dict[str, Tensor]:
        out = {}
        for name, grid, mine in (
            ("pixel_values", "image_grid_thw", [k for k in kinds if k != "v"]),
            ("pixel_values_videos", "video_grid_thw", [k for k in kinds if k == "v"]),
        ):
            if mine:
                out[grid] = torch.tensor([self.grids[k] for k in mine])
                out[name] = torch.randn(int(out[grid].prod(1).sum()), 3 * 2 * 4 * 4, generator=g)
        return out

    def extras(self, ids: Tensor) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}


class Qwen25VL(Qwen2VL):
    made_of = (hf.Qwen2_5_VLConfig, dict, dict)
    vision: ClassVar = {
        "intermediate_size": 24,
        "window_size": 16,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 4,
    }


class Qwen3VL(Qwen2VL):
    """Frames of a video stand between time stamps; DeepStack features for both text layers."""

    made_of = (hf.Qwen3VLConfig, dict, dict)
    vision: ClassVar = {
        "depth": 3,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope: ClassVar = {"mrope_interleaved": True}

    def tokens(self, kind: str, count: int) -> list[int]:
        if kind != "v":
            return super().tokens(kind, count)
        t, h, w = self.grids[kind]
        return ([105, 101] + [VIDEO] * (h * w // 4) + [102]) * t


FAMILIES: dict[str, Tiny] = {
    "llava": Llava(),
    "vipllava": VipLlava(),
    "llava_next": LlavaNext(),
    "llava_onevision": LlavaOnevision(),
    "qwen2_vl": Qwen2VL(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen3_vl": Qwen3VL(),
    "internvl": InternVL(),
    "idefics3": Idefics3(),
    "smolvlm": SmolVLM(),
    "gemma3": Gemma3(),
    "paligemma": PaliGemma(),
    "mistral3": Mistral3(),
    "aya_vision": AyaVision(),
}
