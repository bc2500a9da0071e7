"""Your own pictures and questions as scenes: from dictionaries, or from a file of JSON lines.

A row has ``image`` (a path or a PIL image) and ``question``; it may have ``answer`` (the true one),
``choices`` (all admissible answers; without them the answer is free text) and ``group`` (results
are also reported by it). Rows about one image become one `lofi_core.evaluation.questions.Scene`.

A mistake in a row is an error that names it. A picture that is missing or cannot be read, and a
question that was asked before, are skipped and counted: the rest goes on.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.evaluation.questions import Question, Scene

__all__ = ["Data", "read_rows", "scenes_from_rows"]

COLUMNS = ("image", "question", "answer", "choices", "group")
Picture = Path | Image.Image


@dataclass(frozen=True, eq=False)
class Data(Sequence[Scene]):
    """Scenes whose pictures are opened when they are asked for.

    Parameters
    ----------
    pictures : list of (str, picture, tuple of Question)
        Id, path or image, and questions of each scene.
    skipped : list of str
        What was left out, and why: one sentence per row.
    ignored : list of str
        Columns that nothing reads.
    digest : str
        First 16 digits of the SHA-256 of all pictures and questions.
    """

    pictures: list[tuple[str, Picture, tuple[Question, ...]]]
    skipped: list[str]
    ignored: list[str]
    digest: str

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        name, picture, questions = self.pictures[index]
        return Scene(name, _opened(picture), questions)


def read_rows(path: str | os.PathLike[str]) -> Data:
    """Read a file with one JSON object per line; paths of images are relative to the file.

    Parameters
    ----------
    path : path-like
        Blank lines are passed over.

    Raises
    ------
    LofiError
        If the file cannot be read, or a line is no row; file and line are named.
    """
    path = Path(path)
    rows: list[tuple[str, Any]] = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append((f"{path}, line {number}", json.loads(line)))
    except json.JSONDecodeError as error:
        raise LofiError(
            f"read_rows: {path}, line {number}: {error}; expected one JSON object per line, such "
            'as {"image": "a.png", "question": "What is this?"}'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise LofiError(
            f"read_rows: {path}: {error}; expected a file of JSON lines in UTF-8"
        ) from error
    return _scenes("read_rows", rows, path.parent)


def scenes_from_rows(rows: Iterable[Mapping[str, Any]]) -> Data:
    """Make scenes from dictionaries; a relative path is relative to the working directory.

    Parameters
    ----------
    rows : iterable of mapping
        With the columns above.

    Raises
    ------
    LofiError
        If a row lacks a column, has one of the wrong kind, has an answer that is not among its
        choices, or if no row is left.

    Examples
    --------
    >>> grey = Image.new("RGB", (8, 8), "grey")
    >>> data = scenes_from_rows([{"image": grey, "question": "Is it grey?"},
    ...                          {"image": "nowhere.png", "question": "What is this?"}])
    >>> len(data), data[0].questions[0].text, data.skipped
    (1, 'Is it grey?', ['row 2: no picture nowhere.png'])
    """
    return _scenes("scenes_from_rows", [(f"row {n}", row) for n, row in enumerate(rows, 1)], Path())


def _scenes(caller: str, rows: Sequence[tuple[str, Any]], folder: Path) -> Data:
    """Group checked rows by picture."""
    found: dict[str, tuple[Picture, dict[tuple[str, str], Question]]] = {}
    content: dict[str, str] = {}  # SHA-256 by id, or what is wrong with the picture
    skipped, ignored = [], dict[str, None]()
    for place, row in rows:
        question = _question(caller, place, row)
        ignored |= dict.fromkeys(column for column in row if column not in COLUMNS)
        picture = row["image"]
        if not isinstance(picture, Image.Image):
            picture = folder / picture
        name = str(row["image"]) if isinstance(picture, Path) else _digest(picture)[:16]
        if name not in content:
            try:
                content[name] = _digest(picture)
            except FileNotFoundError:
                content[name] = f" no picture {name}"
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                # Pillow raises SyntaxError for some broken PNG files
                content[name] = f" {name} is no picture that can be read: {error}"
        if content[name].startswith(" "):
            skipped.append(f"{place}:{content[name]}")
            continue
        asked = found.setdefault(name, (picture, {}))[1]
        key = (question.family, question.text)
        if key in asked:
            skipped.append(f"{place}: {question.text!r} is asked about {name} a second time")
        asked.setdefault(key, question)
    if not found:
        raise LofiError(
            f"{caller}: {len(rows)} rows, {len(skipped)} of them skipped"
            f"{f' ({skipped[0]})' if skipped else ''}; expected at least one with a picture and a "
            "question"
        )
    pictures = [(name, image, tuple(asked.values())) for name, (image, asked) in found.items()]
    told = repr([(name, content[name], asked) for name, _, asked in pictures])
    return Data(pictures, skipped, [*ignored], sha256(told.encode()).hexdigest()[:16])


def _question(caller: str, place: str, row: Any) -> Question:
    """Check everything in a row but its picture."""

    def wrong(what: str, expected: str) -> LofiError:
        return LofiError(f"{caller}: {place}: {what}; expected {expected}")

    if not isinstance(row, Mapping):
        raise wrong(f"{row!r:.60}", 'a row such as {"image": "a.png", "question": "What is this?"}')
    if missing := [column for column in COLUMNS[:2] if row.get(column) is None]:
        raise wrong(f"columns {[*row]} without {missing}", "'image' and 'question' in every row")
    if not isinstance(row["image"], str | os.PathLike | Image.Image) or not row["image"]:
        raise wrong(f"image is {row['image']!r:.60}", "a path or a PIL image")
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise wrong(f"question is {row['question']!r:.60}", "a text")
    answer, choices = row.get("answer"), row.get("choices") or ()
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise wrong(f"answer is {answer!r:.60}", "a text or a number, or none where it is unknown")
    if isinstance(choices, str) or not all(isinstance(c, str) and c for c in choices):
        raise wrong(f"choices are {choices!r:.60}", "a list of texts")
    if choices and (len(choices) < 2 or len(set(choices)) < len(choices)):
        raise wrong(f"choices are {choices!r:.60}", "at least two, each once")
    text = "" if answer is None else str(answer)
    if choices and text and text not in choices:
        raise wrong(f"answer {text!r} is not among the choices {list(choices)}", "one of them")
    group = row.get("group")
    return Question("all" if group is None else str(group), row["question"], text, tuple(choices))


def _opened(picture: Picture) -> Image.Image:
    """Decode a picture in full, in RGB."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    with Image.open(picture) as image:
        return image.convert("RGB")


def _digest(picture: Picture) -> str:
    image = _opened(picture)
    return sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
