"""Where a built book comes from: repository, commit, date, device, versions; its status page."""

import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from book.build.execute import ROOT, Record

PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "matplotlib", "jupyter-book")


@dataclass(frozen=True)
class BuildInfo:
    """One build of the book."""

    profile: str
    device: str
    commit: str
    date: str

    @classmethod
    def collect(cls, profile: str, device: str) -> "BuildInfo":
        """Ask git and the clock; `SOURCE_DATE_EPOCH` replaces the clock."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
        return cls(profile, device, commit(ROOT), now.strftime("%Y-%m-%d"))

    def facts(self, records: list[Record]) -> str:
        """Return, as JSON, what the foot of each page says: the build, versions, one run."""
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES[:3])
        built = (
            f"Built from commit {self.commit} on {self.date}, profile {self.profile}, "
            f"device {self.device}"
        )
        python = f"Python {platform.python_version()}, {versions}"
        runs = {
            f"notebooks/{r.path.stem}": f"This notebook ran in {r.seconds:.0f} s, until "
            f"{r.finished.replace('T', ' ')}"
            for r in records
        }
        branch = full_commit(ROOT) or "main"
        return json.dumps({"commit": branch, "foot": [built, python], "runs": runs}, indent=1)


def full_commit(root: Path) -> str:
    """Return the whole commit, `BOOK_COMMIT` or what git says; "" without either."""
    if "BOOK_COMMIT" in os.environ:
        return os.environ["BOOK_COMMIT"]
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit(root: Path) -> str:
    """Return the short commit, marked where the files differ from it; "unknown" without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=-modified", "--abbrev=8"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def status_page(info: BuildInfo, records: list[Record]) -> str:
    """Return the status page in MyST Markdown."""
    notebooks = [
        f"| [](../notebooks/{r.path.name}) | {r.seconds:.0f} s | {r.finished.replace('T', ' ')} "
        f"| {', '.join(f'`{k}={v!r}`' for k, v in r.parameters.items())} |"
        for r in records
    ]
    packages = [f"| {name} | {version(name)} |" for name in PACKAGES]
    return "\n".join(
        [
            "# Status of this build",
            "",
            "Notebooks are kept without outputs. Everything shown in this book was computed as",
            "listed here; a notebook whose code, parameters, library, locked packages and kind of",
            "device are unchanged keeps the outputs of its last run.",
            "",
            "| Commit | Pages built | Profile | Device |",
            "|:--|:--|:--|:--|",
            f"| `{info.commit}` | {info.date} | `{info.profile}` | {info.device} |",
            "",
            "## Notebooks",
            "",
            "| Notebook | Time | Run finished (UTC) | Parameters |",
            "|:--|--:|:--|:--|",
            *notebooks,
            "",
            "## Environment",
            "",
            f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, with "
            "the packages of `requirements.lock`; among them:",
            "",
            "| Package | Version |",
            "|:--|:--|",
            *packages,
            "",
        ]
    )


def repository_url(folder: str) -> str:
    """Return the repository's https address, or "" if it has none that readers can open."""
    if "BOOK_REPO_URL" in os.environ:
        return os.environ["BOOK_REPO_URL"].rstrip("/")
    command = ["git", "-C", folder, "config", "--get", "remote.origin.url"]
    try:
        remote = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
    return public_address(remote)


def public_address(remote: str) -> str:
    """Turn a git remote into a web address; only GitHub's and GitLab's are known to have one.

    >>> public_address("git@github.com:someone/book.git")
    'https://github.com/someone/book'
    >>> public_address("/srv/git/book.git")
    ''
    """
    pattern = r"(?:https://|ssh://git@|git@)(github\.com|gitlab\.com)[:/](.+?)(?:\.git)?/?"
    match = re.fullmatch(pattern, remote)
    return f"https://{match[1]}/{match[2]}" if match else ""
