"""Arguments that count tokens mean the prompt that the caller gave, not the pruned one."""

from typing import Any

import pytest
import torch
from tiny import IMAGE, Llava
from torch import Tensor
from transformers import GenerationConfig, MaxLengthCriteria, StoppingCriteriaList

from lofi_core.errors import LofiError
from lofi_core.pruners import LoFi
from lofi_core.pruning import prune_inputs, pruning
from lofi_core.vlm.sequences import drop_tokens

PRUNER = LoFi(keep=0.5)


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def lengths(**options: Any) -> tuple[int, int]:
    """New tokens of an unpruned and of a pruned `generate`."""
    model, inputs = Llava().model(), Llava().inputs([[3, "a", 4]])
    plain = model.generate(**inputs, **options, do_sample=False)
    with pruning(model, PRUNER):
        pruned = model.generate(**inputs, **options, do_sample=False)
    assert torch.equal(pruned[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    start = inputs["input_ids"].shape[1]
    return plain.shape[1] - start, pruned.shape[1] - start


def test_max_length_counts_the_original_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lengths(max_length=45) == (2, 2)
    config = GenerationConfig(max_length=45, eos_token_id=None, pad_token_id=0)
    assert lengths(generation_config=config) == (2, 2)
    assert config.max_length == 45  # the caller's own is left alone
    assert lengths(max_new_tokens=3) == (3, 3)
    monkeypatch.setattr(Llava().model().generation_config, "max_length", 46)
    assert lengths() == (3, 3)
    assert lengths(max_new_tokens=2) == (2, 2)


def test_criteria_and_processors_see_the_original_prompt() -> None:
    stop = StoppingCriteriaList([MaxLengthCriteria(max_length=46)])
    assert lengths(stopping_criteria=stop, max_new_tokens=9) == (3, 3)
    seen: list[Tensor] = []

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids)
        return scores

    lengths(logits_processor=[look], max_new_tokens=2)
    assert [ids.shape[1] for ids in seen] == [43, 44, 43, 44]
    assert torch.equal(seen[0], seen[2])


def test_logits_to_keep_follows_its_columns() -> None:
    model, inputs = Llava().model(), Llava().inputs([[3, "a", 4], [5, "a", 2]])
    columns = torch.tensor([-1, 42, 41])
    pruned = prune_inputs(model, inputs | {"logits_to_keep": columns}, PRUNER)
    everything = model(**{k: v for k, v in pruned.items() if k != "logits_to_keep"}).logits
    assert torch.equal(pruned["logits_to_keep"], torch.tensor([24, 24, 23]))
    torch.testing.assert_close(model(**pruned).logits, everything[:, [24, 24, 23]])
    with pruning(model, PRUNER):
        assert model(**inputs, logits_to_keep=columns).logits.shape[1] == 3
    image = (inputs["input_ids"][0] == IMAGE).nonzero()[:, 0]
    with pytest.raises(LofiError, match="columns of the unpruned prompt"):
        prune_inputs(model, inputs | {"logits_to_keep": image}, PRUNER)


def test_new_padding_of_labels_is_ignored() -> None:
    ids = torch.tensor([[5, 7, 7, 6], [5, 7, 6, 6]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= {"labels": ids.clone(), "shift_labels": ids.roll(-1, 1)}
    short = drop_tokens(inputs, ids != 7, pad_token_id=0)
    assert short["labels"].tolist() == [[-100, 5, 6], [5, 6, 6]]
    assert short["shift_labels"].tolist() == [[-100, 7, 5], [7, 6, 5]]


def test_embeddings_beside_ids_are_refused() -> None:
    model, inputs = Llava().model(), Llava().inputs([[3, "a", 4]])
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(LofiError, match="leave inputs_embeds out"):
        prune_inputs(model, inputs | {"inputs_embeds": embeds}, PRUNER)
    with pytest.raises(LofiError, match="expected the mapping"):
        prune_inputs(model, [inputs], PRUNER)  # type: ignore[arg-type]
