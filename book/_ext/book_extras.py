"""Sphinx extension: what a page shows depends on where it was built.

Repository, issue and source buttons need the address of the repository: `BOOK_REPO_URL`, or else
the remote "origin", or else there are no buttons (a dead button is worse than none). Source is
shown at the commit that the book was built from. A Colab button needs a notebook that installs the
library first (book/build/colab.py), on the branch that `BOOK_COLAB_REF` names. The foot of each
page is made from the file that `BOOK_BUILD` names. Pictures of chapters load late, and have their
room kept until they do. Numbers stay on a line with their unit. And bars in docstrings are absolute
values.
"""

import html
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from sphinx.util.images import get_image_size

from book.build.provenance import repository_url
from book.ledger import wording

LITERAL = re.compile(r"(``.*?``)")
IMAGE = re.compile(r'<img (?P<rest>[^>]*?src="(?:[^"]*/)?_images/(?P<name>[^"/]+)"[^>]*>)')
BUTTONS = ("use_repository_button", "use_issues_button", "use_source_button")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("config-inited", configure)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("doctree-resolved", load_late)
    app.connect("doctree-resolved", join_units)
    app.connect("html-page-context", write_foot)
    app.connect("html-page-context", keep_room)
    app.connect("html-page-context", point_colab, priority=900)  # after the theme made the button
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def configure(app: Any, config: Any) -> None:
    """Fill in the theme options that no file in git can know."""
    options = config.html_theme_options
    url = repository_url(app.srcdir)
    options.update(dict.fromkeys(BUTTONS, bool(url)))
    options["repository_url"] = url
    options["repository_branch"] = build_facts()["commit"]
    options.pop("launch_buttons", None)
    if url.startswith("https://github.com/") and os.environ.get("BOOK_COLAB_REF"):
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}


def load_late(app: Any, doctree: nodes.document, page: str) -> None:
    """Let browsers fetch the pictures of a chapter when a reader comes near them."""
    for image in doctree.findall(nodes.image):
        if page.startswith("notebooks/"):
            image["loading"] = "lazy"


def keep_room(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give pictures their size, so that text below does not move when they come, nor an anchor."""
    sources = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def with_size(match: re.Match[str]) -> str:
        source = sources.get(unquote(match["name"]))
        size = get_image_size(source) if source and " width=" not in match["rest"] else None
        return f'<img width="{size[0]}" height="{size[1]}" {match["rest"]}' if size else match[0]

    if "body" in context:
        context["body"] = IMAGE.sub(with_size, context["body"])


def join_units(app: Any, doctree: nodes.document, page: str) -> None:
    """Let no line begin with a per cent sign."""
    as_typed = nodes.literal | nodes.math | nodes.FixedTextElement
    for text in list(doctree.findall(nodes.Text)):
        if (joined := wording.join_units(text)) != text and not isinstance(text.parent, as_typed):
            text.parent.replace(text, nodes.Text(joined))


def build_facts() -> dict[str, Any]:
    """Return what book/build/site.py says about this build."""
    path = os.environ.get("BOOK_BUILD")
    empty: dict[str, Any] = {"commit": "main", "foot": [], "runs": {}}
    return {**empty, **json.loads(Path(path).read_text())} if path else empty


def write_foot(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Say at the foot of a page what it was made from, and how long its notebook ran."""
    facts = build_facts()
    lines = [html.escape(line) for line in (*facts["foot"], facts["runs"].get(page)) if line]
    if lines and "book/status" in app.env.all_docs:
        lines[0] += f' (<a href="{context["pathto"]("book/status")}">status of this build</a>)'
    context["theme_extra_footer"] = f"<p>{'<br>'.join(lines)}</p>" if lines else ""


def point_colab(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Let the Colab button open the notebook that installs the library."""
    branch, ref = (
        app.config.html_theme_options["repository_branch"],
        os.environ.get("BOOK_COLAB_REF"),
    )
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "colab.research" in button.get("url", ""):
                button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{ref}/")


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep |x| in docstrings an absolute value: reStructuredText has another use for bars."""
    for i, line in enumerate(lines):
        parts = LITERAL.split(line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[i] = "".join(parts)
