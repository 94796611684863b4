"""What an attack reads of a prediction: numbers of each sample alone, from its logits and label, in float64.

With z the logits, y the label, p = softmax(z):

    loss          -log p_y                                   of unseen samples higher
    confidence    p_y
    entropy       -sum_j p_j log p_j                         of unseen samples higher
    m_entropy     -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j)    of unseen samples higher
    correctness   1 where the largest logit is the true class's, else 0
    margin        z_y - max_{j != y} z_j
    prob          p_y first, then the others' probabilities in descending order

No softmax that is 0 or 1 in floating point is subtracted from 1 or passed to a logarithm, so saturated logits keep
their order. Sums run over the logits in descending order: renumbering the classes leaves every bit as it is.

Sources: loss and correctness, Yeom et al. (arXiv:1709.01604); confidence, entropy and modified entropy, Song and Mittal
(arXiv:2003.10595); margin, the hinge of Carlini et al. (arXiv:2112.03570); sorted probabilities, Salem et al.
(arXiv:1806.01246).
"""

from functools import cached_property

import numpy as np
from scipy.special import logsumexp, softmax

from bench.metrics.judged import Part

FEATURES = ("loss", "confidence", "entropy", "m_entropy", "correctness", "margin", "prob")
PUBLISHED = ("correctness", "confidence", "entropy", "m_entropy", "prob")  # of SalUn's SVC_MIA.py
HIGHER_UNSEEN = {"loss", "entropy", "m_entropy"}  # the others are higher of members


class Features:
    """The features of some samples by name, each computed when it is first asked for.

    Attributes:
        loss, confidence, entropy, m_entropy, correctness, margin: float64 [n].
        prob: float64 [n, classes].
    """

    def __init__(self, part: Part) -> None:
        descending = -np.sort(-part.logits, axis=1)
        true = part.logits[np.arange(len(part)), part.labels]
        self.rank = (part.logits > true[:, None]).sum(axis=1)  # of the true class; equal logits are interchangeable
        self.below = descending - descending[:, :1]  # z_j - max z
        self.others = np.exp(self.below[:, 1:]).sum(axis=1)  # the sum of exp(z_j - max z) without the largest
        self.correct = part.correct
        self.loss = np.log1p(self.others) - (true - descending[:, 0])

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, name: str) -> np.ndarray:
        """The feature of this name as a classifier takes it, float64 [n, d]."""
        values: np.ndarray = getattr(self, name)
        return values if values.ndim == 2 else values[:, None]

    @property
    def confidence(self) -> np.ndarray:
        return np.exp(-self.loss)

    @cached_property
    def log_prob(self) -> np.ndarray:
        """log p of the classes in descending order, [n, classes]."""
        return self.below - np.log1p(self.others)[:, None]

    @cached_property
    def entropy(self) -> np.ndarray:
        return -(np.exp(self.log_prob) * self.log_prob).sum(axis=1)

    @cached_property
    def m_entropy(self) -> np.ndarray:
        # log(1 - p_j); only the largest p can exceed 1/2, and its complement is the sum of the others
        log_rest = np.log1p(-np.exp(np.minimum(self.log_prob, -np.log(2))))
        log_rest[:, 0] = logsumexp(self.below[:, 1:], axis=1) - np.log1p(self.others)
        terms = np.exp(self.log_prob) * log_rest
        terms[np.arange(len(self)), self.rank] = -np.expm1(-self.loss) * -self.loss
        return -terms.sum(axis=1)

    @property
    def correctness(self) -> np.ndarray:
        return self.correct.astype(np.float64)

    @cached_property
    def margin(self) -> np.ndarray:
        runner_up = np.where(self.rank == 0, self.below[:, 1], 0.0)  # the best of the others, above the largest
        return self.below[np.arange(len(self)), self.rank] - runner_up

    @cached_property
    def prob(self) -> np.ndarray:
        """The true class's column moved to the front."""
        p = np.exp(self.log_prob)
        columns = np.arange(p.shape[1])[None, :]
        shifted = np.where(columns <= self.rank[:, None], columns - 1, columns)
        shifted[:, 0] = self.rank
        return np.take_along_axis(p, shifted, axis=1)


def published(part: Part, name: str, legacy: bool = False) -> np.ndarray:
    """A feature as evaluation/SVC_MIA.py of SalUn's code reads it, float64 [n, d].

    `correctness`, `confidence`, `entropy`, `m_entropy` and `prob`, the last in the order of the classes. Their
    `m_entropy` is not the modified entropy that it cites: it takes log p for log(1 - p), and exchanges p for 1 - p in
    the columns of all labels that the batch holds, not in a sample's own, so that a sample's feature depends on the
    others. Here it is the cited one, or theirs where `legacy` (in float32, with their floor of 1e-30).
    """
    match name:
        case "confidence":
            return np.exp(part.log_confidence)[:, None]
        case "prob":
            return softmax(part.logits, axis=1)
        case "m_entropy" if legacy:
            p = softmax(part.logits.astype(np.float32), axis=1)
            log_p = np.log(np.where(p > 0, p, np.float32(1e-30)))
            p[:, np.unique(part.labels)] = 1 - p[:, np.unique(part.labels)]
            return -(p * log_p).sum(axis=1, dtype=np.float64)[:, None]
        case "correctness" | "entropy" | "m_entropy":
            return Features(part)[name]
    raise ValueError(f"unknown feature '{name}'; there are: {', '.join(PUBLISHED)}")
