"""How close answers are to the reference's: what parity reports and calibration minimizes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from alexnet_edge.preprocess import AnyArray

Logits = npt.NDArray[np.float64]

_SMALLEST = float(np.finfo(np.float32).tiny)


def centred_logits(answers: AnyArray, *, probabilities: bool = False) -> Logits:
    """Return logits (N, classes) less their mean in each row: what a softmax keeps of them."""
    values = answers.astype(np.float64)
    if probabilities:
        values = np.log(np.maximum(values, _SMALLEST))
    centred: Logits = values - values.mean(axis=1, keepdims=True)
    return centred


def sqnr_db(signal: float, noise: float) -> float | None:
    """Return 10·log10(signal / noise) of sums of squares; None where there is no noise."""
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def mean_kl(reference: AnyArray, logits: AnyArray) -> float:
    """Return the mean KL divergence in nats of softmax(logits) from softmax(reference).

    Args:
        reference, logits: (N, classes).
    """
    log_p, log_q = _log_softmax(reference), _log_softmax(logits)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def _log_softmax(logits: AnyArray) -> Logits:
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
