"""Check the links to other hosts in the book's sources.

    python -m book.build.links [--list]

Run on a schedule rather than with the tests: such links break without us. A host that answers, but
not to programs (status 401, 403, 405, 429), counts as there.
"""

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[2]
KINDS = {".md", ".ipynb", ".bib", ".py", ".yml", ".toml", ".cff"}
ADDRESS = re.compile(r"https?://[^\s\"'<>`{}|\\^\[\]]+")
FIELD = re.compile(r"^\s*(doi|eprint)\s*=\s*[{\"]([^}\"]+)", re.MULTILINE)  # of a bibliography
PREFIX = {"doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/"}
NOT_PAGES = ("http://127.", "https://x-access-token", "https://github.com/someone")
THERE = {401, 403, 405, 429}


def main(argv: list[str] | None = None) -> int:
    """Try every address; return 1 if one is broken."""
    parser = argparse.ArgumentParser(prog="book.build.links", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the addresses, ask no one")
    found = addresses(ROOT)
    if parser.parse_args(argv).list:
        print("\n".join(found))
        return 0
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(found, pool.map(problem, found), strict=True))
    broken = {address: what for address, what in answers.items() if what}
    for address, what in broken.items():
        print(f"{address}: {what}, in {', '.join(sorted(found[address]))}")
    print(f"{len(found)} addresses, {len(broken)} broken")
    return int(bool(broken))


def addresses(root: Path) -> dict[str, set[str]]:
    """Return each address and the files in git that name it."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True)
    result: dict[str, set[str]] = {}
    for name in listed.stdout.splitlines():
        path = root / name
        if path.suffix not in KINDS or not path.exists():
            continue
        text = path.read_text().replace("\\n", "\n")  # notebooks are JSON
        links = [trimmed(link) for link in ADDRESS.findall(text)]
        if path.suffix == ".bib":
            links += [PREFIX[kind] + value for kind, value in FIELD.findall(text)]
        for link in links:
            if "." in link and not link.startswith(NOT_PAGES):
                result.setdefault(link, set()).add(name)
    return dict(sorted(result.items()))


def trimmed(link: str) -> str:
    """Cut off what belongs to the sentence, not to the address.

    >>> trimmed("https://a.org/b_(c)).")
    'https://a.org/b_(c)'
    """
    link = link.rstrip(".,;:*")
    while link.endswith(")") and link.count(")") > link.count("("):
        link = link[:-1].rstrip(".,;:*")
    return link


def problem(address: str) -> str:
    """Say what is wrong with an address, or nothing; a second try forgives a lost packet."""
    what = ""
    for _ in range(2):
        try:
            request = Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
            with urlopen(request, timeout=30):
                return ""
        except HTTPError as error:
            if error.code in THERE:
                return ""
            what = f"status {error.code}"
        except (URLError, OSError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
    return what


if __name__ == "__main__":
    sys.exit(main())
