"""One set of versions: bounded by pyproject.toml, pinned by requirements.lock, conda's too."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNLOCKED = "vlm"  # its torchvision has to match the build of torch, which the lock leaves open
DECLARED = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *(EXTRAS[name] for name in EXTRAS if name != UNLOCKED))
    for line in group
]


def locked() -> dict[str, str]:
    """Package name to pinned version."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): number for name, number in pins}


def test_lock_pins_each_package_once_and_exactly() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), "not an exact public pin"
    assert len(locked()) == len(pins)


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_lock_satisfies_pyproject(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in locked(), f"{name} is declared, but not in requirements.lock: run `make lock`"
    assert requirement.specifier.contains(locked()[name])


def test_library_has_lower_bounds_only() -> None:
    user = (EXTRAS[name] for name in ("scenes", "plots", "eval", "vlm", "photo"))
    for line in (*PROJECT["dependencies"], *(line for extra in user for line in extra)):
        operators = [bound.operator for bound in Requirement(line).specifier]
        assert operators == [">="], f"{line}: a library must not forbid what its users already have"


def test_lock_is_made_from_every_extra_that_is_locked() -> None:
    (named,) = re.findall(r'-e "\.\[([\w,]+)\]"', (ROOT / "Makefile").read_text())
    assert set(named.split(",")) == set(EXTRAS) - {UNLOCKED}


def test_version_is_said_once() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert PROJECT["version"] == cited == newest


def test_conda_environment_installs_the_lock_on_a_supported_python() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock"]
    (python,) = [e for e in dependencies if isinstance(e, str) and e.startswith("python ")]
    assert SpecifierSet(python.split()[1]) == SpecifierSet(PROJECT["requires-python"])


def test_makefile_and_pyproject_support_the_same_pythons() -> None:
    pattern = r"\(3, (\d+)\) <= sys.version_info\[:2\] <= \(3, (\d+)\)"
    ((low, high),) = re.findall(pattern, (ROOT / "Makefile").read_text())
    assert PROJECT["requires-python"] == f">=3.{low},<3.{int(high) + 1}"


def test_environment_of_the_makefile_is_the_lock() -> None:
    if Path(sys.prefix).name != ".venv":
        pytest.skip("these tests run in another environment than the one `make setup` makes")
    other = {}
    for name, number in locked().items():
        try:
            found = version(name).split("+")[0]
        except PackageNotFoundError:
            found = "missing"
        if found != number:
            other[name] = found
    assert not other
