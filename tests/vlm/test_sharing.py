"""Images encoded once for several questions: as if encoded again for each."""

from typing import Any

import pytest
import torch
from tiny import FAMILIES
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners import Random
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.prompts import share


def pictures(family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two images, of unequal shapes where there are any; and four prompts, two about each."""
    tiny = FAMILIES[family]
    rows = [[3, "a", 4], [3, "b" if "b" in tiny.kinds else "a", 4]]
    alone = tiny.inputs(rows, seeds=[0, 1])
    full = tiny.inputs([rows[1], rows[0], rows[1], rows[0]], seeds=[1, 0, 1, 0])
    new = torch.randint(3, 100, (4, 2), generator=torch.Generator().manual_seed(0))
    full["input_ids"] = torch.cat((full["input_ids"], new), 1)  # the questions
    full["attention_mask"] = torch.cat((full["attention_mask"], torch.ones_like(new)), 1)
    return alone, full | tiny.extras(full["input_ids"])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shared_images_are_as_if_encoded_again(family: str) -> None:
    model, (alone, full) = FAMILIES[family].model(), pictures(family)
    pruner = Random(keep=0.4)
    shared = share(encode_inputs(model, alone), full, [1, 0, 1, 0]).prune(pruner)
    again = encode_inputs(model, full).prune(pruner)
    torch.testing.assert_close(model(**shared).logits, model(**again).logits, atol=1e-4, rtol=1e-4)


def test_the_encoder_does_not_run_again() -> None:
    model, (alone, full) = FAMILIES["llava"].model(), pictures("llava")
    encoded = encode_inputs(model, alone)
    runs: list[Any] = []
    handle = model.base_model.vision_tower.register_forward_hook(lambda *call: runs.append(call))
    try:
        share(encoded, full, [1, 0, 1, 0]).prune(Random(keep=0.4))
    finally:
        handle.remove()
    assert not runs


def test_prompts_that_show_something_else() -> None:
    model, (alone, full) = FAMILIES["llava_next"].model(), pictures("llava_next")
    encoded = encode_inputs(model, alone)
    for rows in ([0, 0, 0, 0], [1, 0, 1]):
        with pytest.raises(LofiError, match="share: prompts with"):
            share(encoded, full, rows)
