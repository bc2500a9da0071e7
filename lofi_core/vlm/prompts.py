"""Prompts about images: the chat template's batch, and several prompts that share one image."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.vlm.encoding import EncodedInputs

__all__ = ["chat_inputs", "share"]


def chat_inputs(processor: Any, asked: Sequence[tuple[Image.Image, str]]) -> Any:
    """Put each (image, question) into the chat template; return one left-padded batch.

    Parameters
    ----------
    processor : transformers processor with a chat template
    asked : sequence of (PIL.Image.Image, str)
        At least one.

    Returns
    -------
    BatchFeature
        ``input_ids`` (B, L), ``attention_mask`` (B, L), pixels, on the CPU.
    """
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        for _, text in asked
    ]
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True)
    images = [[image] for image, _ in asked]
    # Left, so that the last position of every row is where its answer begins.
    return processor(
        images=images, text=prompts, padding=True, padding_side="left", return_tensors="pt"
    )


def share(encoded: EncodedInputs, inputs: Mapping[str, Any], rows: Sequence[int]) -> EncodedInputs:
    """Use encoded images in other prompts, without running the encoder again.

    Parameters
    ----------
    encoded : EncodedInputs
        Prompts with images.
    inputs : mapping
        Other prompts, as the processor returns them.
    rows : sequence of int
        For each of these, the row of ``encoded`` that shows the same images in the same order.

    Returns
    -------
    EncodedInputs
        What `lofi_core.vlm.encoding.encode_inputs` would return for ``inputs``.

    Raises
    ------
    LofiError
        If a prompt does not have as many visual tokens as the row that it is to share with.

    Examples
    --------
    >>> from lofi_core import LoFi
    >>> from lofi_core.contract import shipped
    >>> from lofi_core.vlm.encoding import encode_inputs
    >>> model, inputs = shipped()  # three prompts, with an image of 144 tokens each
    >>> encoded = share(encode_inputs(model, inputs), inputs, rows=[0, 1, 2])
    >>> encoded.prune(LoFi(keep=0.25)).report.tokens_after
    108
    """
    outputs, pictures = {}, []
    for modality, output in encoded.outputs.items():
        token = getattr(encoded.model.config, f"{modality}_token_id")
        old, new = encoded.inputs["input_ids"] == token, inputs["input_ids"] == token
        there, wanted = old.sum(-1)[list(rows)].tolist(), new.sum(-1).tolist()
        if there != wanted:
            raise LofiError(
                f"share: prompts with {wanted} {modality} tokens, for rows with {there}; expected "
                "as many: show each prompt the same images, in the same order, as its row"
            )
        known = [picture for picture in encoded.pictures if picture.modality == modality]
        order = []
        for b, row in enumerate(rows):
            for i, picture in enumerate(known):
                if picture.row == row:
                    places = torch.searchsorted(old[row].nonzero()[:, 0], picture.columns)
                    columns = new[b].nonzero()[places, 0]
                    pictures.append(replace(picture, row=b, columns=columns))
                    order.append(i)
        outputs[modality] = copy(output)
        if getattr(output, "deepstack_features", None) is not None:
            outputs[modality].deepstack_features = [
                [level[i] for i in order] for level in output.deepstack_features
            ]
    return replace(encoded, inputs=dict(inputs), outputs=outputs, pictures=pictures)
