"""Public benchmarks as scenes with questions, streamed from the Hugging Face hub.

One adapter a benchmark turns a row, under the column names that it has on the hub, into a
`lofi_core.evaluation.questions.Question` about an image:

    pope        lmms-lab/POPE         yes or no; the family is the way objects were sampled
    scienceqa   lmms-lab/ScienceQA    letters of two to five options; questions with an image
    mmbench     lmms-lab/MMBench      letters of two to four options; English, dev
    gqa         lmms-lab/GQA          a word or two; test-dev, balanced
    textvqa     lmms-lab/textvqa      what is written there; validation

Options are listed, and short answers asked for, in the words of LLaVA-1.5's evaluation (Liu et al.
2024, arXiv 2310.03744), with which the models' published scores were taken. Questions without
``choices`` are free-form: their answers are compared by `lofi_core.evaluation.replies.normalise`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.evaluation.questions import Question, Scene
from lofi_core.evaluation.replies import normalise

__all__ = ["BENCHMARKS", "Benchmark", "load_benchmark"]

Row = Mapping[str, Any]
WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lies, and how to read it.

    Parameters
    ----------
    hub : tuple of three str
        Its name on the hub, configuration and split.
    columns : tuple of str
        What ``question`` and ``image_id`` read, beside ``image``.
    question : callable
        From a row to its question.
    image_id : callable
        From a row to the name of its image, the same for all rows about one image.
    images : str
        Configuration that holds the images, by their ``id``; empty if they are in the rows.
    """

    hub: tuple[str, str, str]
    columns: tuple[str, ...]
    question: Callable[[Row], Question]
    image_id: Callable[[Row], str]
    images: str = ""


def load_benchmark(
    name: str,
    limit: int,
    seed: int | None = 0,
    buffer: int = 512,
    folder: Path | None = None,
) -> list[Scene]:
    """Stream the first questions of a benchmark, in an order that the seed fixes.

    Parameters
    ----------
    name : str
        A key of `BENCHMARKS`.
    limit : int
        How many questions. Little more is downloaded than these and the buffer (for GQA, all
        images: 66 MB).
    seed : int or None
        Shuffles with a buffer, as streams are shuffled; None keeps the order of the file, which is
        no sample: POPE begins with one kind of question.
    buffer : int
        Size of that buffer, in rows. The result depends on it.
    folder : Path, optional
        Where files of the same columns lie, instead of the hub: ``NAME.parquet``, and
        ``NAME-images.parquet`` for images of their own.

    Returns
    -------
    list of Scene
        One an image, with its questions, each once.

    Raises
    ------
    LofiError
        If ``datasets`` is not installed, the benchmark cannot be reached, or its columns are not
        those known here.
    """
    if name not in BENCHMARKS:
        raise LofiError(f"load_benchmark: no benchmark {name!r}; expected one of {[*BENCHMARKS]}")
    if limit < 1 or buffer < 1:
        raise LofiError(f"load_benchmark: limit={limit}, buffer={buffer}; expected at least 1 each")
    benchmark = BENCHMARKS[name]
    stream = _open(benchmark, benchmark.hub[1], folder and folder / f"{name}.parquet")
    if seed is not None:
        stream = stream.shuffle(seed=seed, buffer_size=buffer)
    columns = benchmark.columns if benchmark.images else (*benchmark.columns, "image")
    rows = list(islice(_checked(stream, name, columns), limit))
    pictures: dict[str, Image.Image] = {}
    if benchmark.images:
        wanted = {benchmark.image_id(row) for row in rows}
        table = _open(benchmark, benchmark.images, folder and folder / f"{name}-images.parquet")
        for row in _checked(table, name, ("id", "image")):
            if row["id"] in wanted:
                pictures[row["id"]] = row["image"]
    questions: dict[str, dict[str, Question]] = {}
    for row in rows:
        image, q = benchmark.image_id(row), benchmark.question(row)
        questions.setdefault(image, {}).setdefault(q.family + q.text, q)
        if not benchmark.images:
            pictures.setdefault(image, row["image"])
    if missing := sorted(questions.keys() - pictures.keys()):
        raise LofiError(
            f"load_benchmark: {name}: no image for {missing[:3]}, {len(missing)} in all; expected "
            "one for each question: fetch the files again"
        )
    return [
        Scene(f"{name}-{image}", pictures[image].convert("RGB"), tuple(asked.values()))
        for image, asked in questions.items()
    ]


def _open(benchmark: Benchmark, config: str, file: Path | None) -> Any:
    """Open a stream of rows, of the hub or of a file."""
    try:
        import datasets
    except ImportError as error:
        raise LofiError(
            "load_benchmark: the package datasets is not installed; expected it for public "
            "benchmarks: pip install datasets, or lofi-core[eval]"
        ) from error
    path, _, split = benchmark.hub
    try:
        if file is not None:
            files = {"data_files": str(file), "split": "train"}
            return datasets.load_dataset("parquet", **files, streaming=True)
        return datasets.load_dataset(path, config, split=split, streaming=True)
    except (OSError, ValueError) as error:  # not found, no network, no such configuration
        where = file or f"{path}, {config}, {split}"
        raise LofiError(
            f"load_benchmark: {where}: {error}; expected to read it: is there a network, and is "
            "HF_HUB_OFFLINE unset?"
        ) from error


def _checked(stream: Any, name: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """Pass rows on if they have the columns that are read."""
    for row in stream:
        if missing := [column for column in columns if column not in row]:
            raise LofiError(
                f"load_benchmark: {name}: found columns {sorted(row)}, without {missing}; expected "
                f"{sorted(columns)}: the data set has changed on the hub, or is another one"
            )
        yield row


def _fingerprint(row: Row) -> str:
    """Name an image by its pixels, where rows don't name it: equal images, equal names."""
    image = row["image"].convert("RGB")
    return sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:16]


def _listed(question: str, hint: str | None, options: Mapping[str, str]) -> str:
    """Write a question with lettered options; "nan" is how MMBench says that there is no hint."""
    context = f"{hint}\n" if hint and hint != "nan" else ""
    lines = "".join(f"\n{letter}. {option}" for letter, option in options.items())
    return f"{context}{question}{lines}{LETTER}"


def _pope(row: Row) -> Question:
    answer = row["answer"].strip().lower()
    return Question(row["category"], row["question"] + WORD, answer, ("yes", "no"))


def _scienceqa(row: Row) -> Question:
    options = dict(zip("ABCDEFGH", row["choices"], strict=False))
    text = _listed(row["question"], row["hint"], options)
    letters = tuple(options)
    return Question(row["subject"], text, letters[row["answer"]], letters)


def _mmbench(row: Row) -> Question:
    options = {letter: row[letter] for letter in "ABCD" if row[letter] not in (None, "", "nan")}
    text = _listed(row["question"], row["hint"], options)
    return Question(row["category"], text, row["answer"], tuple(options))


def _gqa(row: Row) -> Question:
    answer = normalise(row["answer"])
    return Question(row["types"]["structural"], row["question"] + WORD, answer)


def _textvqa(row: Row) -> Question:
    # Ten people answered. As in VQA accuracy, an answer that three of them gave is fully right.
    votes = Counter(map(normalise, row["answers"]))
    accepted = tuple(answer for answer, count in votes.items() if count >= 3)
    answer = votes.most_common(1)[0][0]
    text = row["question"].capitalize() + WORD
    return Question("textvqa", text, answer, accepted=accepted)


BENCHMARKS: dict[str, Benchmark] = {
    "pope": Benchmark(
        ("lmms-lab/POPE", "default", "test"),
        ("question", "answer", "category", "image_source"),
        _pope,
        lambda row: row["image_source"],
    ),
    "scienceqa": Benchmark(
        ("lmms-lab/ScienceQA", "ScienceQA-IMG", "test"),
        ("question", "choices", "answer", "hint", "subject"),
        _scienceqa,
        _fingerprint,
    ),
    "mmbench": Benchmark(
        ("lmms-lab/MMBench", "en", "dev"),
        ("question", "hint", "answer", "A", "B", "C", "D", "category"),
        _mmbench,
        _fingerprint,
    ),
    "gqa": Benchmark(
        ("lmms-lab/GQA", "testdev_balanced_instructions", "testdev"),
        ("imageId", "question", "answer", "types"),
        _gqa,
        lambda row: row["imageId"],
        "testdev_balanced_images",
    ),
    "textvqa": Benchmark(
        ("lmms-lab/textvqa", "default", "validation"),
        ("image_id", "question", "answers"),
        _textvqa,
        lambda row: row["image_id"],
    ),
}
"""What `load_benchmark` can load, by name.

:meta hide-value:
"""
