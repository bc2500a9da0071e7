"""Answer a batch under a policy: pruned first, and again with all tokens where that is not sure.

Images are encoded once. Each pass runs the rows that are left: under the first budget, under the
next, and with all tokens. The report counts what every pass fed to the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lofi_core.errors import LofiError
from lofi_core.guarantee.confidence import Reply, reply
from lofi_core.guarantee.rows import pre_pass, take_rows, visual_tokens
from lofi_core.pruners import Pruner, Random
from lofi_core.vlm.encoding import EncodedInputs, PrunedInputs, encode_inputs
from lofi_core.vlm.images import Stopwatch

if TYPE_CHECKING:
    from lofi_core.guarantee.monitor import Monitor
    from lofi_core.guarantee.policy import Policy

__all__ = ["ALL", "Served", "answer"]

ALL = Random(keep=1.0)


@dataclass
class Served:
    """What answering took; grows with every batch.

    Parameters
    ----------
    rows : int
        Answers given.
    stayed : list of int
        Answers that each budget of the chain gave.
    again : int
        Answers that all tokens gave.
    cut_off : int
        Free-text answers that reached the longest length.
    tokens_before, tokens : int
        Visual tokens of all rows, and those that entered the language model in all passes.
    passes : int
        Prompts that the language model ran.
    audited, audit_tokens : int
        Answers that a monitor had repeated with all tokens, and what that took; in no other count.
    seconds : dict of str to float
        Of "encoding", "selection", "pruned" passes, passes of "all" tokens, and "audit".
    """

    rows: int = 0
    stayed: list[int] = field(default_factory=list)
    again: int = 0
    cut_off: int = 0
    tokens_before: int = 0
    tokens: int = 0
    passes: int = 0
    audited: int = 0
    audit_tokens: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("encoding", "selection", "pruned", "all", "audit"), 0.0
        )
    )

    @property
    def coverage(self) -> float:
        """Share of answers that stayed pruned."""
        return 1 - self.again / max(1, self.rows)

    @property
    def cost(self) -> float:
        """Visual tokens of all passes, as a share of what asking once with all tokens takes."""
        return self.tokens / max(1, self.tokens_before)

    @property
    def time(self) -> float | None:
        """Time after encoding, as a share of asking once with all tokens; None if nothing was."""
        if not self.again:
            return None
        spent = sum(self.seconds[name] for name in ("selection", "pruned", "all"))
        return spent / (self.seconds["all"] / self.again * self.rows)

    def __str__(self) -> str:
        """Render one line."""
        return (
            f"{self.rows} answers, {self.coverage:.1%} pruned; {self.tokens} of "
            f"{self.tokens_before} visual tokens ({self.cost:.1%}) in {self.passes} passes, "
            f"{sum(self.seconds.values()):.2f} s"
        )


@torch.inference_mode()
def answer(
    policy: "Policy",
    model: Any,
    processor: Any,
    inputs: Mapping[str, Any],
    choices: Sequence[Sequence[str]] | None = None,
    report: Served | None = None,
    monitor: "Monitor | None" = None,
    units: Sequence[Any] | None = None,
) -> list[Reply]:
    """Answer each row of a batch as a policy promises.

    Parameters
    ----------
    policy : Policy
        Certified for this model and this processor.
    model, processor
        A vision-language model.
    inputs : mapping
        What the processor returned, padded on the left. Rows may hold any number of images; a row
        without image is answered as it is.
    choices : sequence of B sequences of str
        What each row may answer; for policies of closed answers, and only for these.
    report : Served, optional
        Where to count.
    monitor : Monitor, optional
        Repeats a random share of the answers with all tokens.
    units : sequence of B labels, optional
        Rows about one image; the monitor draws whole units. By default each row is its own.

    Returns
    -------
    list of B Reply

    Raises
    ------
    LofiError
        If the policy is for another model, processor or kind of answer, if rows are padded on the
        right, or there is no image at all.
    """
    policy.check(model, processor)
    rows = len(inputs["input_ids"])
    closed = policy.answers == "closed"
    if closed != (choices is not None) or len(choices or [()] * rows) != rows:
        raise LofiError(
            f"Policy.generate: a policy for {policy.answers} answers, {rows} rows and "
            f"{'no' if choices is None else len(choices)} choices; expected one set of choices per "
            "row for closed answers, and none for free text"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and not mask[:, -1].all():
        raise LofiError(
            "Policy.generate: prompts padded on the right; expected them padded on the left, where "
            "every answer follows its question: tokenise with padding_side='left'"
        )
    report = Served() if report is None else report
    turn = _Turn(policy, model, processor, inputs, choices, report)
    replies = turn.run()
    if monitor is not None:
        labels = list(range(rows)) if units is None else list(units)
        picked = monitor.pick(labels)
        losses = turn.audit(replies, [b for b, unit in enumerate(labels) if unit in picked])
        monitor.update([losses[b] for b in losses], [labels[b] for b in losses])
    return replies


class _Turn:
    """One batch: its encoded images, and who answered which row."""

    def __init__(
        self,
        policy: "Policy",
        model: Any,
        processor: Any,
        inputs: Mapping[str, Any],
        choices: Sequence[Sequence[str]] | None,
        report: Served,
    ) -> None:
        self.policy, self.model, self.report = policy, model, report
        self.tokenizer, self.choices = processor.tokenizer, choices
        self.chain = policy.chain()
        needs = sorted({name for pruner in self.chain for name in pruner.needs})
        watch = Stopwatch(inputs["input_ids"].device)
        self.encoded = encode_inputs(model, inputs, needs)
        watch.stop()
        report.seconds["encoding"] += watch.seconds()
        self.seen = {picture.row for picture in self.encoded.pictures}
        self.by_all: set[int] = set()

    def run(self) -> list[Reply]:
        """Answer every row, by the first budget that is sure of it."""
        report = self.report
        total = len(self.encoded.inputs["input_ids"])
        left = list(range(total))
        final: dict[int, Reply] = {}
        stayed = [0] * len(self.chain)
        for level, pruner in enumerate(self.chain):
            if not left:
                break
            part = take_rows(self.encoded, left) if len(left) < total else self.encoded
            pruned = part.prune(pruner)
            report.seconds["selection"] += pruned.report.seconds
            if self.policy.confidence == "margin":
                given = self._ask(left, pruned, "pruned")
                sure = {b: self._stands(b, found.margin) for b, found in given.items()}
            else:
                values = pre_pass(part, pruned, self.policy.confidence)
                sure = {b: self._stands(b, x) for b, x in zip(left, values, strict=True)}
                given = self._ask_some(left, [b for b in left if sure[b]], pruner)
            final |= {b: given[b] for b in left if sure[b]}
            stayed[level] = sum(sure.values())
            left = [b for b in left if not sure[b]]
        final |= self._ask_some(range(total), left, ALL)
        self.by_all = set(left)
        report.rows += total
        report.again += len(left)
        before = report.stayed or [0] * len(stayed)
        report.stayed = [x + y for x, y in zip(before, stayed, strict=True)]
        report.cut_off += sum(found.cut_off for found in final.values())
        report.tokens_before += sum(visual_tokens(self.encoded, self.encoded.inputs))
        return [final[b] for b in range(total)]

    def _stands(self, row: int, confidence: float) -> bool:
        return row not in self.seen or confidence >= self.policy.threshold

    def audit(self, replies: Sequence[Reply], rows: Sequence[int]) -> dict[int, float]:
        """Repeat rows with all tokens, but for those that had them; 1 where the answer differs."""
        mine = [b for b in rows if b not in self.by_all and b in self.seen]
        given = self._ask_some(range(len(replies)), mine, ALL, "audit")
        self.report.audited += len(mine)
        closed = self.choices is not None
        return {b: float(b in given and not replies[b].same(given[b], closed)) for b in rows}

    def _ask_some(
        self, among: Sequence[int], rows: Sequence[int], pruner: Pruner, phase: str = ""
    ) -> dict[int, Reply]:
        """Ask some rows of the batch under a pruner."""
        if not rows:
            return {}
        whole = len(rows) == len(self.encoded.inputs["input_ids"])
        part: EncodedInputs = self.encoded if whole else take_rows(self.encoded, rows)
        return self._ask(rows, part.prune(pruner), phase or ("all" if pruner is ALL else "pruned"))

    def _ask(self, rows: Sequence[int], pruned: PrunedInputs, phase: str) -> dict[int, Reply]:
        choices = None if self.choices is None else [self.choices[b] for b in rows]
        watch = Stopwatch(pruned["input_ids"].device)
        found = reply(self.model, self.tokenizer, pruned, choices, self.policy.longest)
        watch.stop()
        self.report.seconds[phase] += watch.seconds()
        tokens = sum(visual_tokens(self.encoded, pruned))
        if phase == "audit":
            self.report.audit_tokens += tokens
        else:
            self.report.tokens += tokens
            self.report.passes += len(rows)
        return dict(zip(rows, found, strict=True))
