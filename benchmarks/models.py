"""Models to time: the shipped one, and random weights in the exact shapes of two that people use.

Time doesn't depend on what weights say, so nothing is downloaded. ``shrink`` divides heads, widths
and depths, for a rehearsal on a small machine; the code path is the same.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from lofi_core import SceneVQA, scene_vlm
from lofi_core.vlm.prompts import chat_inputs

Batch = dict[str, Any]
Maker = Callable[[int, int], Batch]  # rows, visual tokens a row

TEXT = 64  # tokens of text a prompt, as in a question with its template
IMAGE = 10  # id of the placeholder


def shipped(device: torch.device) -> tuple[Any, Maker]:
    """SceneVLM, and prompts about its scenes: always 144 visual tokens."""
    model, processor = scene_vlm.load()
    scene = SceneVQA("test", seed=0)[0]

    def batch(rows: int, visual: int) -> Batch:
        asked = [(scene.image, scene.questions[0].text)] * rows
        return dict(chat_inputs(processor, asked).to(device))

    return model.to(device), batch


def llava(device: torch.device, dtype: torch.dtype, shrink: int = 1) -> tuple[Any, Maker]:
    """LLaVA-1.5-7B's shapes: CLIP ViT-L/14 at 336 pixels, 576 tokens an image, Llama 7B."""
    heads, layers = max(1, 16 // shrink), max(1, 32 // shrink)
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(
            hidden_size=64 * heads,
            intermediate_size=256 * heads,
            num_hidden_layers=max(2, 24 // shrink),
            num_attention_heads=heads,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=hf.LlamaConfig(
            vocab_size=max(64, 32064 // shrink),
            hidden_size=128 * layers,
            intermediate_size=344 * layers,
            num_hidden_layers=layers,
            num_attention_heads=layers,  # 32 of both
            num_key_value_heads=layers,
            max_position_embeddings=8192,
        ),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )

    def batch(rows: int, visual: int) -> Batch:
        images = max(1, visual // 576)
        ids = _prompt(rows, images * 576, device)
        shape = (rows * images, 3, 336, 336)
        pixels = torch.zeros(shape, device=device, dtype=dtype)
        return ids | {"pixel_values": pixels.normal_(generator=_generator(device))}

    return _random_model(config, device, dtype), batch


def qwen(device: torch.device, dtype: torch.dtype, shrink: int = 1) -> tuple[Any, Maker]:
    """Qwen2.5-VL-7B's shapes: a windowed ViT at any resolution, a Qwen2.5 of 28 layers."""
    heads, layers = max(1, 16 // shrink), max(1, 28 // shrink)
    config = hf.Qwen2_5_VLConfig(
        vision_config=dict(
            depth=max(2, 32 // shrink),
            hidden_size=80 * heads,
            intermediate_size=3420 // shrink,
            num_heads=heads,
            patch_size=14,
            window_size=112,
            out_hidden_size=128 * layers,
            fullatt_block_indexes=[7, 15, 23, 31] if shrink == 1 else [1],
            tokens_per_second=2,
        ),
        text_config=dict(
            vocab_size=max(64, 152064 // shrink),
            hidden_size=128 * layers,
            intermediate_size=18944 // shrink,
            num_hidden_layers=layers,
            num_attention_heads=layers,  # 28 of both
            num_key_value_heads=max(1, 4 // shrink),
            max_position_embeddings=32768,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        ),
        image_token_id=IMAGE,
        video_token_id=IMAGE + 1,
        vision_start_token_id=IMAGE + 2,
        vision_end_token_id=IMAGE + 3,
    )

    def batch(rows: int, visual: int) -> Batch:
        height = max(h for h in range(2, int((4 * visual) ** 0.5) + 1, 2) if visual * 4 % h == 0)
        grid = torch.tensor([[1, height, 4 * visual // height]] * rows, device=device)
        ids = _prompt(rows, visual, device)
        pixels = torch.zeros(rows * 4 * visual, 3 * 2 * 14 * 14, device=device, dtype=dtype)
        return ids | {
            "mm_token_type_ids": (ids["input_ids"] == IMAGE).long(),
            "image_grid_thw": grid,
            "pixel_values": pixels.normal_(generator=_generator(device)),
        }

    return _random_model(config, device, dtype), batch


def _prompt(rows: int, visual: int, device: torch.device) -> Batch:
    start, end = torch.full((rows, 1), IMAGE + 2), torch.full((rows, 1), IMAGE + 3)
    text = torch.full((rows, TEXT - 2), IMAGE + 10)
    ids = torch.cat([start, torch.full((rows, visual), IMAGE), end, text], 1).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _random_model(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Make the weights where they will be: 7 billion numbers, and no copy of them on the way."""
    with device:
        return hf.AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)
