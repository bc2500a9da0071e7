"""The parts of a run: what a killed run has done, shared among processes, and checked on reading.

The data come in blocks of a few images. A part holds the rows of one block under some arms, as one
Parquet file per table, ``parts/records-00007-<SHA-256>.parquet``: a part that was damaged no longer
fits its name, and one that was moved here from elsewhere does not fit the run and block in its
metadata. Parts are keyed by arm, so that arms can be added to a run. Process r of W takes the
blocks r, r + W, ...; the processes share nothing but the folder.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.records import write_whole

with extra("eval"):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from tqdm import tqdm

__all__ = ["Run", "rank_and_world"]

Tables = dict[str, pa.Table]
SECONDS = 60.0  # a part is written at least this often


@dataclass(frozen=True)
class Run:
    """A folder with the parts of one run.

    Parameters
    ----------
    folder : Path
        Made if it is not there; several processes, on several machines, need to see the same.
    facts : mapping
        Everything that all parts depend on; a folder whose run had other facts is not touched.
    arms : sequence of str
        Keys of the arms asked for.
    tables : sequence of str
        Names of a part's tables. The first is written last: where it is, the part is complete.

    Raises
    ------
    LofiError
        If the folder holds another run, or cannot be written.
    """

    folder: Path
    facts: Mapping[str, Any]
    arms: Sequence[str]
    tables: Sequence[str] = ("records",)

    def __post_init__(self) -> None:
        """Write a new run's facts to ``run.json``, or compare them with what is there."""
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._write_plan([])
            found = json.loads(self._path.read_text())
            known, facts = found["arms"], found["facts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LofiError(
                f"run: {self.folder}: {error!r}; expected a folder that can be written, and its "
                "run.json whole: choose another folder"
            ) from error
        asked = json.loads(json.dumps(self.facts))
        if facts != asked:
            names = sorted({*asked, *facts})
            differ = {
                k: (asked.get(k), facts.get(k)) for k in names if asked.get(k) != facts.get(k)
            }
            raise LofiError(
                f"run: {self.folder} holds another run; asked for and found: {differ}; expected "
                "the same to resume: choose another folder"
            )
        if added := [arm for arm in self.arms if arm not in known]:
            self._write_plan([*known, *added])

    @property
    def _path(self) -> Path:
        return self.folder / "run.json"

    def _write_plan(self, arms: Sequence[str]) -> None:
        text = json.dumps({"facts": self.facts, "arms": arms}, indent=1) + "\n"
        write_whole(self._path, lambda part: part.write_text(text))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of every arm of the run, those of earlier commands first."""
        return {arm: i for i, arm in enumerate(json.loads(self._path.read_text())["arms"])}

    @cached_property
    def id(self) -> str:
        """First 16 digits of the SHA-256 of the facts."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def missing(self, block: int) -> list[str]:
        """Arms of this command that a block still lacks."""
        done = {
            arm for path in self._parts(self.tables[0], block) for arm in _facts_of(path)["arms"]
        }
        return [arm for arm in self.arms if self.numbers[arm] not in done]

    def fill(
        self, blocks: int, ask: Callable[[int, Sequence[str]], Iterator[tuple[str, Tables]]]
    ) -> bool:
        """Do this process's share of the blocks that lack an arm; return whether all are done.

        Parameters
        ----------
        blocks : int
        ask : callable
            From a block and the arms that it lacks to each arm's tables, as they are ready.
        """
        rank, world = rank_and_world()
        share = range(rank, blocks, world)
        todo = [(b, arms) for b in share if (arms := self.missing(b))]
        # One bar for all processes. An argument disable=... would overrule TQDM_DISABLE.
        done = len(share) - len(todo)
        bar = todo if rank else tqdm(todo, "blocks", len(share), initial=done)
        for b, arms in bar:
            ready: list[tuple[str, Tables]] = []
            try:
                last = time.monotonic()
                for arm, tables in ask(b, arms):
                    ready.append((arm, tables))
                    if time.monotonic() - last > SECONDS:
                        self._write(b, ready)
                        ready, last = [], time.monotonic()
            except KeyboardInterrupt:
                self._write(b, ready)
                raise KeyboardInterrupt(
                    f"stopped after {done} of {len(share)} blocks; the same command goes on"
                ) from None
            self._write(b, ready)
            done += 1
        return not any(self.missing(b) for b in range(blocks))

    def _write(self, block: int, ready: Sequence[tuple[str, Tables]]) -> None:
        if not ready:
            return
        arms = [self.numbers[arm] for arm, _ in ready]
        facts = {"run": self.id, "block": block, "arms": arms}
        for name in reversed(self.tables):
            table = pa.concat_tables([tables[name] for _, tables in ready])
            marked = table.replace_schema_metadata({"lofi_core.part": json.dumps(facts)})
            sink = pa.BufferOutputStream()
            pq.write_table(marked, sink, compression="zstd")
            content = sink.getvalue().to_pybytes()
            path = self.folder / "parts" / f"{name}-{block:05}-{_digest(content)}.parquet"
            try:
                write_whole(path, partial(Path.write_bytes, data=content))
            except OSError as error:
                raise LofiError(
                    f"run: {path}: {error}; expected room on a disk that can be written: free "
                    "some, and run the same command again"
                ) from error

    def _parts(self, name: str, block: int | None = None) -> list[Path]:
        which = "*" if block is None else f"{block:05}"
        return sorted((self.folder / "parts").glob(f"{name}-{which}-*.parquet"))

    def read(self, name: str) -> pa.Table:
        """Read one table of all parts, each row once.

        Raises
        ------
        LofiError
            If a part is damaged, or belongs to another run or block.
        """
        found, seen = [], set[tuple[int, int]]()
        for path in self._parts(name):
            content = path.read_bytes()
            facts = _facts_of(path) if path.stem.endswith(_digest(content)) else {}
            block = int(path.stem.split("-")[1])
            if (facts.get("run"), facts.get("block")) != (self.id, block):
                raise LofiError(
                    f"run: {path} is damaged, or a part of another run or block; expected run "
                    f"{self.id}: delete the file and run the same command again"
                )
            table = pq.read_table(pa.BufferReader(content)).replace_schema_metadata(None)
            # Two processes may have done the same arm of a block: the first one counts.
            fresh = [arm for arm in facts["arms"] if (block, arm) not in seen]
            seen |= {(block, arm) for arm in fresh}
            if fresh != facts["arms"]:
                wanted = pa.array(fresh, table.schema.field("arm").type)
                table = table.filter(pc.is_in(table["arm"], wanted))
            found.append(table)
        return pa.concat_tables(found)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _facts_of(path: Path) -> dict[str, Any]:
    """What a part's metadata say; nothing if they cannot be read."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return {"arms": [], **json.loads(metadata[b"lofi_core.part"])}
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return {"arms": []}


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and number of processes, from the environment.

    Raises
    ------
    LofiError
        If ``RANK`` and ``WORLD_SIZE`` do not fit.
    """
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise LofiError(
            f"run: RANK={rank}, WORLD_SIZE={world} in the environment; expected 0 <= RANK < "
            "WORLD_SIZE, as accelerate launch sets them: unset both for one process"
        )
    return int(rank), int(world)
