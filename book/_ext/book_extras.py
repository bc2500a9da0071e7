"""Sphinx extension: what a page shows depends on where it was built.

Repository, edit and Colab buttons need the address of the repository: `BOOK_REPO_URL`, or else the
remote "origin", or else there are no buttons (a dead button is worse than none). The foot of each
page is the line in `BOOK_FOOTER`. And bars in docstrings are absolute values.
"""

import html
import os
import re
import subprocess
from typing import Any

LITERAL = re.compile(r"(``.*?``)")
BUTTONS = ("use_repository_button", "use_issues_button", "use_edit_page_button")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("config-inited", configure)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def configure(app: Any, config: Any) -> None:
    """Fill in the theme options that no file in git can know."""
    options = config.html_theme_options
    url = repository_url(app.srcdir)
    options.update(dict.fromkeys(BUTTONS, bool(url)))
    options["repository_url"] = url
    options["repository_branch"] = os.environ.get("BOOK_REPO_BRANCH", "main")
    options.pop("launch_buttons", None)
    if url.startswith("https://github.com/"):
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    options["extra_footer"] = f"<p>{html.escape(os.environ.get('BOOK_FOOTER', ''))}</p>"


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep |x| in docstrings an absolute value: reStructuredText has another use for bars."""
    for i, line in enumerate(lines):
        parts = LITERAL.split(line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[i] = "".join(parts)


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
