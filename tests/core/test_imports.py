"""Who only prunes needs few packages, waits little, and hears which extra is missing."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {
    "scenes": ("sklearn",),
    "plots": ("matplotlib", "seaborn"),
    "eval": ("pandas", "pyarrow", "statsmodels", "accelerate", "datasets", "tqdm"),
    "vlm": ("torchvision", "num2words"),
}
# tqdm and the like are in sys.modules already if transformers uses them: it needs them, not we
WITHOUT = """
import sys
import torch, transformers
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
for name in [n for n in sys.modules if n.partition(".")[0] in {packages!r}]:
    if name.partition(".")[0] not in {{"tqdm"}}:
        del sys.modules[name]
"""
PRUNES = """
from lofi_core import LoFi, LofiError, prune_inputs, scene_vlm
from PIL import Image
model, processor = scene_vlm.load()
text = "USER: <image> how many circles are there ? ASSISTANT:"
inputs = processor(images=[Image.new("RGB", (144, 144))], text=text, return_tensors="pt")
pruned = prune_inputs(model, inputs, LoFi(keep=0.25))
assert model.generate(**pruned, max_new_tokens=2).shape[0] == 1
assert pruned.report.images[0].tokens == 36, pruned.report
"""
