"""Who only prunes needs few packages, waits little, and hears which extra is missing."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import lofi_core
from lofi_core.errors import LofiError, extra

ROOT = Path(__file__).resolve().parents[2]
# What the extras bring, by the names that are imported. Not tqdm, which transformers needs itself.
ABSENT = (
    *("sklearn", "matplotlib", "seaborn", "pandas", "pyarrow", "statsmodels", "accelerate"),
    *("datasets", "scipy", "torchvision", "num2words", "typer", "rich", "papermill", "gguf"),
)
PRUNE = """
from PIL import Image
from lofi_core import LoFi, LofiError, prune_inputs, scene_vlm

model, processor = scene_vlm.load()
text = "USER: <image> how many circles are there ? ASSISTANT:"
inputs = processor(images=[Image.new("RGB", (144, 144))], text=text, return_tensors="pt")
pruned = prune_inputs(model, inputs, LoFi(keep=0.25))
model.generate(**pruned, max_new_tokens=2)
print(pruned.report.images[0].tokens_after)
"""
MISSING = {  # what needs an extra: a package that is missed first, and the extra's name
    "from lofi_core import ask": ("pandas", "eval"),
    "import lofi_core.evaluation.consistency": ("scipy", "eval"),
    "import lofi_core.evaluation.divergence": ("scipy", "eval"),
    "import lofi_core.guarantee": ("pandas", "eval"),
    "from lofi_core import SceneVQA; SceneVQA('test')[0]": ("sklearn", "scenes"),
    "import lofi_core.plots": ("matplotlib", "plots"),
    "import lofi_core.vlm.overlay": ("matplotlib", "plots"),
}
TRY = """
for code in {codes!r}:
    try:
        exec(code)
    except LofiError as error:
        print(error)
    else:
        print("no error")
"""


def run(code: str, absent: tuple[str, ...] = ()) -> list[str]:
    """Lines that code prints in a fresh interpreter to which some packages are not installed."""
    # None in sys.modules fails every import of the name, and makes find_spec say None
    start = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
    command = [sys.executable, "-c", start + code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_without_extras_pruning_works_and_the_rest_names_the_extra() -> None:
    kept, *errors = run(PRUNE + TRY.format(codes=list(MISSING)), ABSENT)
    assert kept == "36"
    for (code, (package, name)), error in zip(MISSING.items(), errors, strict=True):
        start, end = f"{package} is not installed; ", f'pip install "lofi-core[{name}]"'
        assert error.startswith(start) and error.endswith(end), f"{code}: {error}"


def test_every_extra_that_an_error_names_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        name
        for path in (ROOT / "lofi_core").rglob("*.py")
        for name in re.findall(r'^ *with extra\("(\w+)"\)', path.read_text(), re.M)
    }
    assert {"eval", "plots", "scenes"} <= named <= set(declared["optional-dependencies"])


def test_no_module_imports_a_package_of_an_extra_unasked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]} - {"pillow"} | {"PIL"}
    for path in (ROOT / "lofi_core").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                )
                tops = {str(name).partition(".")[0] for name in names}
                assert tops <= {*sys.stdlib_module_names, *base, "lofi_core"}, f"{path}: {tops}"


def test_an_error_inside_an_installed_package_is_not_hidden() -> None:
    with pytest.raises(LofiError, match="no_such_package is not installed"), extra("plots"):
        import no_such_package  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extra("plots"):
        from math import no_such_name  # noqa: F401


def test_import_is_fast_and_reaches_submodules() -> None:
    """Time of the processor, since other processes may run beside this one."""
    paths = ["lofi_core.evaluation.records", "lofi_core.scenes.vqa", "lofi_core.vlm.taps"]
    code = "import time, torch, transformers; start = time.process_time(); import lofi_core; "
    code += "print(time.process_time() - start); "
    seconds, *names = run(code + "; ".join(f"print({path}.__name__)" for path in paths))
    assert float(seconds) < 0.5
    assert names == paths


@pytest.mark.parametrize(
    "module", [lofi_core, lofi_core.evaluation, lofi_core.scenes, lofi_core.vlm]
)
def test_other_names_are_refused(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_public_names() -> None:
    assert set(lofi_core.__all__) <= set(dir(lofi_core))
    assert all(getattr(lofi_core, name) is not None for name in lofi_core.__all__)
    assert lofi_core.__version__ == version("lofi-core")
