r"""How sure a pruned model may be of its answer, from what it said or from what was kept.

* margin: p_1 - p_2, the two largest probabilities. For one of given choices, among the choices, at
  the reply's first token; for free text the least over the reply's tokens, its end included.
* residual leverage of a selection S, from K = G (G + lambda I)^-1 of the centred tokens:
  max_i K_ii - K_iS K_SS^-1 K_Si, what of the least represented token the kept ones do not span. It
  is in [0, 1), and known before the language model runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens
from lofi_core.evaluation.questions import Question, spellings
from lofi_core.evaluation.replies import judge, normalise
from lofi_core.spectrum import unit_scale

__all__ = ["Reply", "reply", "reply_margins", "residual_leverage"]


@dataclass(frozen=True)
class Reply:
    """One row's answer.

    Parameters
    ----------
    text : str
        The choice, or the text.
    margin : float
        See above, in [0, 1].
    tokens : tuple of int
        What was said, its end included.
    cut_off : bool
        Whether free text reached its longest length before its end.
    """

    text: str
    margin: float
    tokens: tuple[int, ...]
    cut_off: bool = False

    def same(self, other: "Reply", closed: bool) -> bool:
        """Whether two answers count as equal; free text after normalisation."""
        if closed:
            return self.text == other.text
        return normalise(self.text) == normalise(other.text)


@torch.inference_mode()
def reply(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    choices: Sequence[Sequence[str]] | None,
    longest: int,
) -> list[Reply]:
    """Answer each row, greedily.

    Parameters
    ----------
    model, tokenizer
        Of one vision-language model.
    inputs : mapping
        B prompts padded on the left, pruned or not.
    choices : sequence of B sequences of str, optional
        What each row may answer; by default free text.
    longest : int
        Tokens of free text.

    Raises
    ------
    LofiError
        If two choices of a row begin with the same token.
    """
    if choices is not None:
        questions = [Question("", "?", "", tuple(words)) for words in choices]
        first = [spellings(tokenizer, q) for q in questions]
        if not all(first):
            raise LofiError(
                f"reply: among {choices[first.index([])]}, some share their first token with "
                "others; expected each to have one of its own: ask without choices"
            )
        logits = model(**inputs, logits_to_keep=1).logits[:, -1].float().cpu()
        found = [
            judge(tokenizer, q, ids, row, "")
            for q, ids, row in zip(questions, first, logits, strict=True)
        ]
        said = logits.argmax(-1).tolist()
        return [
            Reply(row["predicted"], row["margin"], (token,))
            for row, token in zip(found, said, strict=True)
        ]
    output = model.generate(
        **inputs,
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    said = output.sequences[:, inputs["input_ids"].shape[1] :].cpu()
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [-1 if ends is None else ends])
    lengths = _lengths(torch.isin(said, ends))
    margins = reply_margins(torch.stack(output.logits, 1), lengths).tolist()
    rows = [tuple(row[:n].tolist()) for row, n in zip(said, lengths.tolist(), strict=True)]
    texts = [tokenizer.decode(list(row), skip_special_tokens=True).strip() for row in rows]
    open_ended = [row[-1] not in ends.tolist() for row in rows]
    return [Reply(*row) for row in zip(texts, margins, rows, open_ended, strict=True)]


def _lengths(ended: Tensor) -> Tensor:
    """Tokens of each reply up to its first end, or all, shape (B,)."""
    first = ended.int().argmax(-1) + 1
    return torch.where(ended.any(-1), first, ended.shape[1])


def reply_margins(logits: Tensor, lengths: Tensor) -> Tensor:
    """Least margin along each reply.

    Parameters
    ----------
    logits : Tensor, shape (B, T, V)
        Of each token said.
    lengths : Tensor, shape (B,), int64
        How many of them count, at least 1.

    Returns
    -------
    Tensor, shape (B,), float32, on the CPU

    Examples
    --------
    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    >>> reply_margins(logits, torch.tensor([1])), reply_margins(logits, torch.tensor([2]))
    (tensor([0.7616]), tensor([0.]))
    """
    top = logits.float().softmax(-1).topk(2, -1).values.cpu()
    margins = top[..., 0] - top[..., 1]
    after = torch.arange(margins.shape[1]) >= lengths.cpu()[:, None]
    return margins.masked_fill(after, 1.0).amin(-1)


@torch.no_grad()
def residual_leverage(X: Tensor, kept: Tensor, ridge: float = 1.0) -> float:
    """Largest ridge leverage that the kept tokens leave unexplained.

    Parameters
    ----------
    X : Tensor, shape (N, D), any floating dtype
        Visual tokens of one image. Worked on in float64.
    kept : Tensor, shape (m,), int64
        Which of them stay.
    ridge : float > 0
        lambda, in units of the mean eigenvalue.

    Returns
    -------
    float
        In [0, 1); 0 if every token stays.

    Raises
    ------
    LofiError
        If the tokens are refused by `lofi_core.errors.check_tokens`.

    Examples
    --------
    >>> X = torch.tensor([[3.0, 0.0], [3.0, 0.0], [-3.0, 1.0], [-3.0, -1.0]])
    >>> round(residual_leverage(X, torch.tensor([0, 1])), 3)
    0.048
    >>> round(residual_leverage(X, torch.tensor([0, 2])), 3)
    0.0
    """
    check_tokens(X, "residual_leverage", waits=True)
    tokens = unit_scale(X, True)[0].double()
    G = tokens @ tokens.mT
    lam = ridge * G.diagonal().sum() / min(X.shape)
    if lam == 0:
        return 0.0
    eye = torch.eye(len(G), dtype=G.dtype, device=G.device)
    K = eye - lam * torch.cholesky_inverse(torch.linalg.cholesky(G + lam * eye))
    S = kept.to(K.device)
    spanned = K[:, S] @ torch.linalg.pinv(K[S][:, S], hermitian=True) @ K[S]
    return float((K - spanned).diagonal().amax().clamp(0, 1))
