"""The shipped model and a batch of questions, asked once in each way for all tests."""

from typing import Any

import pytest
from policies import PRUNERS, said

from lofi_core import SceneVQA, scene_vlm
from lofi_core.vlm.prompts import chat_inputs


@pytest.fixture(scope="session")
def vlm() -> tuple[Any, Any]:
    return scene_vlm.load()


@pytest.fixture(scope="session")
def batch(vlm: tuple[Any, Any]) -> tuple[Any, list[tuple[str, ...]]]:
    """Two images with seven questions each."""
    data = SceneVQA("test", 0)
    asked = [(data[i].image, q) for i in range(2) for q in data[i].questions]
    inputs = chat_inputs(vlm[1], [(image, q.text) for image, q in asked])
    return inputs, [q.choices for _, q in asked]


@pytest.fixture(scope="session")
def passes(vlm: tuple[Any, Any], batch: Any) -> list[Any]:
    """What each pass alone answers, the last one with all tokens."""
    return [said(vlm, *batch, pruner) for pruner in (*PRUNERS, None)]
