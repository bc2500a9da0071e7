"""Sphinx extension: names of the library and words of the glossary become links by themselves.

Code such as `LoFi(keep=0.25)` or `lofi_core.spectrum.ipr` in a page links to the reference, where
the name is documented there and means one thing only. In chapters, the first mention of a
glossary term links to its definition and shows it when the pointer rests on it.
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref

GLOSSARY = "book/glossary"
NAME = re.compile(r"(?:lofi_core\.)?[A-Za-z_][\w.]*(?=\(.*\)$|$)", re.DOTALL)
KINDS = ("module", "class", "function", "data", "exception")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", link_names)
    app.connect("doctree-resolved", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def link_names(app: Any, doctree: nodes.document, page: str) -> None:
    """Link inline code that names something of the reference."""
    known = documented(app)
    for literal in list(doctree.findall(nodes.literal)):
        match = NAME.fullmatch(literal.astext()) or NAME.match(literal.astext())
        target = known.get(match.group().removeprefix("lofi_core.")) if match else None
        if target and not inside(literal, nodes.reference, nodes.title, nodes.term):
            address = app.builder.get_relative_uri(page, target[0]) + f"#{target[1]}"
            link = nodes.reference("", "", internal=True, refuri=address)
            literal.parent.replace(literal, link)
            link += literal


def documented(app: Any) -> dict[str, tuple[str, str]]:
    """Return where each name is documented: in full without "lofi_core.", and short if unique."""
    found: dict[str, tuple[str, str]] = {}
    twice: set[str] = set()
    for full, _shown, kind, page, anchor, _ in app.env.get_domain("py").get_objects():
        if kind not in KINDS or not full.startswith("lofi_core."):
            continue
        found[full.removeprefix("lofi_core.")] = (page, anchor)
        short = full.rsplit(".", 1)[-1]
        if kind == "module":
            continue  # "base" and the like say too little
        twice |= {short} & found.keys()
        found.setdefault(short, (page, anchor))
    return {name: place for name, place in found.items() if name not in twice}


def link_terms(app: Any, doctree: nodes.document, page: str) -> None:
    """Link the first mention of each glossary term in a chapter."""
    if not page.startswith("notebooks/") or GLOSSARY not in app.env.all_docs:
        return
    waiting = dict(definitions(app))
    for text in list(doctree.findall(nodes.Text)):
        if not inside(text, nodes.paragraph) or inside(
            text,
            nodes.reference,
            nodes.title,
            nodes.literal,
            nodes.caption,
            nodes.math,
            nodes.table,
        ):
            continue
        for term, (anchor, meaning) in sorted(waiting.items(), key=lambda item: -len(item[0])):
            match = re.search(rf"\b{re.escape(term)}s?\b", text, flags=re.IGNORECASE)
            if match:
                del waiting[term]
                address = app.builder.get_relative_uri(page, GLOSSARY) + f"#{anchor}"
                link = nodes.reference(
                    "",
                    match.group(),
                    internal=True,
                    refuri=address,
                    reftitle=meaning,
                    classes=["glossary-term"],
                )
                around = [nodes.Text(text[: match.start()]), link, nodes.Text(text[match.end() :])]
                text.parent.replace(text, around)
                break  # one a piece of text: the pieces are other nodes now


def definitions(app: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each term of the glossary with its anchor and the text of its definition."""
    for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        definition = item.next_node(nodes.definition)
        for citation in [x for x in definition.findall(pending_xref) if x["refdomain"] == "cite"]:
            citation.parent.remove(citation)
        meaning = " ".join(definition.astext().replace("\\", "").split()).replace(" .", ".")
        for term in item.findall(nodes.term):
            if term["ids"]:
                yield term.astext(), (term["ids"][0], meaning)


def inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    """Tell whether a node stands in one of certain kinds."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False
