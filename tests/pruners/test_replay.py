"""Replays of other methods' own code."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lofi_core.errors import LofiError
from tests.pruners.replay import METHODS, replay

FOLDERS = [
    Path(__file__).parents[1] / "vectors",
    *filter(None, [os.environ.get("LOFI_PEER_VECTORS")]),
]
FILES = [file for folder in FOLDERS for file in sorted(Path(folder).glob("*__*.safetensors"))]
# Indices are exact. These two ran partly in half precision, or with a jitter.
LOOSE = ("kvpress_leverage", "trim")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_replay(file: Path) -> None:
    """Our classes give what the authors' code gave: every output, by name, shape and value."""
    expected = {name: x for name, x in load_file(file).items() if name.startswith("out.")}
    outputs = replay(file)
    assert outputs.keys() == expected.keys()
    tolerance = 2e-3 if file.name.startswith(LOOSE) else 2e-4
    for name, want in expected.items():
        got = outputs[name]
        assert got.shape == want.shape and got.dtype == want.dtype, name
        if want.is_floating_point():
            atol = tolerance * want.double().abs().max().item()
            torch.testing.assert_close(got.double(), want.double(), rtol=0, atol=atol, msg=name)
        else:
            assert torch.equal(got, want), name


def test_every_method_is_replayed() -> None:
    assert {file.name.split("__")[0] for file in FILES} == set(METHODS)


def test_replay_refuses(tmp_path: Path) -> None:
    with pytest.raises(LofiError, match="nowhere"):
        replay(tmp_path / "nowhere.safetensors")
    (tmp_path / "text").write_text("not a vector")
    with pytest.raises(LofiError, match="safetensors"):
        replay(tmp_path / "text")
    save_file({"in.x": torch.ones(1)}, tmp_path / "stranger", {"method": "horoscope"})
    with pytest.raises(LofiError, match="horoscope"):
        replay(tmp_path / "stranger")
    save_file(
        {"in.features": torch.ones(4, 2)}, tmp_path / "poor", {"method": "fastv", "params": "{}"}
    )
    with pytest.raises(LofiError, match="missing"):
        replay(tmp_path / "poor")
    shutil.copy(FILES[0], tmp_path / "cut")
    with open(tmp_path / "cut", "r+b") as cut:
        cut.truncate(200)
    with pytest.raises(LofiError, match="safetensors"):
        replay(tmp_path / "cut")
