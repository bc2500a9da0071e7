"""The untrained SceneVLM: a LLaVA with CLIP vision tower, its CLIP, tokenizer and processor.

Everything is a stock Hugging Face class with a small configuration, so that what is learnt on it
carries over to a hub checkpoint line by line.
"""

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lofi_core.scenes.drawing import COLORS, IMAGE_SIZE, SHAPES, SIZES
from lofi_core.scenes.questions import COUNTS, DIGITS, LETTERS, RELATIONS

PATCH_SIZE = 12
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
TEMPLATE_WORDS = (
    *("USER", "ASSISTANT", ":", "?", ",", ".", "Is", "there", "a", "What", "size", "is", "the"),
    *("color", "shape", "object", "Which", "has", "digit", "How", "many", "objects", "shapes"),
    *("are", "Where", "from", "yes", "no"),
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] | upper }}:{{ ' ' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{{ '<image>\n' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}
{%- endif -%}
{{ '</s>' if message['role'] == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"""


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id: the special tokens, ``<image>``, then every word of SceneVQA."""
    words = dict.fromkeys((*TEMPLATE_WORDS, *COLORS, *SHAPES, *SIZES, *RELATIONS))
    words |= dict.fromkeys((*COUNTS, *DIGITS, *LETTERS))
    return {token: i for i, token in enumerate([*SPECIAL.values(), "<image>", *words])}


def tokenizer(end: bool = False) -> PreTrainedTokenizerFast:
    """One word, one token. ``end`` appends ``</s>``, where a CLIP text tower pools."""
    vocab = vocabulary()
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if end else "<s> $A",
        special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", model_max_length=4096, **SPECIAL
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return fast


def image_processor() -> CLIPImageProcessorPil:
    """Scale to ``IMAGE_SIZE``, crop, map [0, 255] to [-1, 1]. Needs Pillow only."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def processor() -> LlavaProcessor:
    """The LLaVA processor: a chat template, and 144 ``<image>`` tokens an image."""
    return LlavaProcessor(
        image_processor(),
        tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _ids(names: tuple[str, ...]) -> dict[str, int]:
    return {f"{name}_token_id": vocabulary()[SPECIAL[f"{name}_token"]] for name in names}


def clip() -> CLIPModel:
    """An untrained CLIP: four vision layers on 12 x 12 patches, two text layers."""
    text: dict[str, Any] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
        **_ids(("pad", "bos", "eos")),
    }
    vision: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def llava(vision: CLIPModel) -> LlavaForConditionalGeneration:
    """A LLaVA around ``vision``'s tower: MLP projector and four Llama layers, both untrained.

    Features come from the layer before the last, without CLS, as in LLaVA-1.5.
    """
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        **_ids(("pad", "bos", "eos")),
    )
    config = LlavaConfig(
        vision_config=vision.config.vision_config,
        text_config=text,
        image_token_id=vocabulary()["<image>"],
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **_ids(("pad", "bos", "eos")),
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.vision_model.state_dict())
    model.generation_config.update(max_new_tokens=4, do_sample=False, **_ids(("pad", "bos", "eos")))
    return model


def save(model: LlavaForConditionalGeneration, clip_model: CLIPModel, folder: Path) -> None:
    """Write the LLaVA and its processor to ``folder``, the CLIP to ``folder/clip``."""
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    clip_model.save_pretrained(folder / "clip")
    tokenizer(end=True).save_pretrained(folder / "clip")
    image_processor().save_pretrained(folder / "clip")
