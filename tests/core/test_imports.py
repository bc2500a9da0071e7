"""Who only prunes needs few packages, waits little, and hears which extra is missing."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import lofi_core
from lofi_core.errors import LofiError, extra

ROOT = Path(__file__).resolve().parents[2]
# What the extras bring, by the names that are imported. Not tqdm, which transformers needs itself.
ABSENT = (
    *("sklearn", "matplotlib", "seaborn", "pandas", "pyarrow", "statsmodels", "accelerate"),
    *("datasets", "torchvision", "num2words", "jupyterlab", "papermill", "gguf"),
)
PRUNE = """
from PIL import Image
from lofi_core import LoFi, prune_inputs, scene_vlm

model, processor = scene_vlm.load()
text = "USER: <image> how many circles are there ? ASSISTANT:"
inputs = processor(images=[Image.new("RGB", (144, 144))], text=text, return_tensors="pt")
pruned = prune_inputs(model, inputs, LoFi(keep=0.25))
model.generate(**pruned, max_new_tokens=2)
print(pruned.report.images[0].tokens_after)
"""


def run(code: str, absent: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter to which some packages are not installed."""
    # None in sys.modules fails every import of the name, and makes find_spec say None
    start = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_pruning_works_without_the_extras() -> None:
    ran = run(PRUNE, ABSENT)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["36"]


@pytest.mark.parametrize(
    ("code", "package", "name"),
    [
        ("from lofi_core import ask", "pandas", "eval"),
        ("import lofi_core.evaluation.consistency", "pandas", "eval"),
        ("from lofi_core import SceneVQA; SceneVQA('test')[0]", "sklearn", "scenes"),
        ("import lofi_core.plots", "matplotlib", "plots"),
        ("import lofi_core.vlm.overlay", "matplotlib", "plots"),
    ],
)
def test_a_missing_extra_is_named(code: str, package: str, name: str) -> None:
    ran = run(code, ABSENT)
    last = ran.stderr.strip().splitlines()[-1]
    assert re.fullmatch(
        rf"lofi_core\.errors\.LofiError: {package} is not installed; .*"
        rf'pip install "lofi-core\[{name}\]"',
        last,
    ), ran.stderr


def test_every_extra_that_an_error_names_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        name
        for path in (ROOT / "lofi_core").rglob("*.py")
        for name in re.findall(r'^ *with extra\("(\w+)"\)', path.read_text(), re.M)
    }
    assert {"eval", "plots", "scenes"} <= named <= set(declared["optional-dependencies"])


def test_an_error_inside_an_installed_package_is_not_hidden() -> None:
    with pytest.raises(LofiError, match="no_such_package is not installed"), extra("plots"):
        import no_such_package  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extra("plots"):
        from math import no_such_name  # noqa: F401


def test_import_adds_less_than_half_a_second() -> None:
    """The best of three, since another process may have the processor."""
    code = "import time, torch, transformers; start = time.perf_counter(); import lofi_core; "
    seconds = [run(code + "print(time.perf_counter() - start)").stdout for _ in range(3)]
    assert min(map(float, seconds)) < 0.5


def test_submodules_are_reachable() -> None:
    paths = ["lofi_core.evaluation.records", "lofi_core.scenes.vqa", "lofi_core.vlm.taps"]
    code = "import lofi_core; " + "; ".join(f"print({path}.__name__)" for path in paths)
    assert run(code).stdout.split() == paths
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lofi_core.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lofi_core.evaluation.nothing  # noqa: B018


def test_public_names() -> None:
    assert set(lofi_core.__all__) <= set(dir(lofi_core))
    assert all(getattr(lofi_core, name) is not None for name in lofi_core.__all__)
    assert lofi_core.__version__ == version("lofi-core")
