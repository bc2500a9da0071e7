"""What is trained of PhotoVLM: the connector, and low-rank adapters of the language model.

An adapter adds B A to a frozen weight W, with A (r x in) and B (out x r), scaled by alpha / r (Hu
et al., ICLR 2022). Both kinds of weights ship in one safetensors file; `merge_trained` puts them
into an assembled model, after which no trace of the adapters is left.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from lofi_core.errors import LofiError

__all__ = ["add_adapters", "merge_trained", "save_trained", "trained_weights"]

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FILE = "trained.safetensors"


def add_adapters(model: Any, rank: int) -> None:
    """Put adapters of rank r, with alpha = 2 r, beside every linear layer of the language model."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    inject_adapter_in_model(config, model.model.language_model)


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Connector and adapters under the names that they are stored by."""
    connector = model.model.multi_modal_projector.state_dict()
    adapters = get_peft_model_state_dict(model.model.language_model, save_embedding_layers=False)
    return {f"connector.{k}": v for k, v in connector.items()} | {
        f"adapters.{k}": v for k, v in adapters.items()
    }


def save_trained(model: Any, folder: Path, rank: int) -> None:
    """Write what was trained to ``folder``, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().half().cpu().contiguous() for k, v in trained_weights(model).items()}
    save_file(weights, folder / FILE, metadata={"rank": str(rank)})
    (folder / "adapters.json").write_text(json.dumps({"rank": rank}) + "\n")


def merge_trained(model: Any, folder: Path) -> None:
    """Load connector and adapters into an assembled model, and merge the adapters.

    Raises
    ------
    LofiError
        If ``folder`` does not hold both files.
    """
    path = folder / FILE
    if not path.exists() or not (folder / "adapters.json").exists():
        raise LofiError(
            f"merge_trained: no trained connector in {folder}; expected {FILE} and adapters.json: "
            "run `make photo-vlm`, or check the repository out again"
        )
    rank = json.loads((folder / "adapters.json").read_text())["rank"]
    weights = {k: v.float() for k, v in load_file(path).items()}
    language = model.model.language_model
    add_adapters(model, rank)
    connector = {k.removeprefix("connector."): v for k, v in weights.items() if k[0] == "c"}
    adapters = {k.removeprefix("adapters."): v for k, v in weights.items() if k[0] == "a"}
    model.model.multi_modal_projector.load_state_dict(connector)
    set_peft_model_state_dict(language, adapters)
    for module in list(language.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "merge") and hasattr(child, "base_layer"):
                child.merge()
                setattr(module, name, child.base_layer)
