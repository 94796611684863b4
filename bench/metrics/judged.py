"""One run's predictions -> its metrics, in float64 and without torch.

`Judged` holds what every metric reads: logits and labels of the three splits, the forget set, the
forgotten classes. The functions of `accuracy` and `attacks` read it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_softmax

from bench.datasets import Dataset, Split
from bench.forget import Target


@dataclass(frozen=True)
class Part:
    """Some samples' logits, float64 [n, classes], and labels, int64 [n]."""

    logits: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Part":
        return Part(self.logits[chosen], self.labels[chosen])

    @classmethod
    def together(cls, *parts: "Part") -> "Part":
        """All samples of several parts."""
        return cls(np.concatenate([p.logits for p in parts]), np.concatenate([p.labels for p in parts]))

    @cached_property
    def log_confidence(self) -> np.ndarray:
        """Log of the softmax probability of the true class, [n]; minus it is the cross-entropy loss."""
        return log_softmax(self.logits, axis=1)[np.arange(len(self)), self.labels]

    @property
    def correct(self) -> np.ndarray:
        """Whether the largest logit is the true class's, bool [n]; the first of equal ones counts."""
        return self.logits.argmax(axis=1) == self.labels


@dataclass(frozen=True)
class Judged:
    """A run's predictions, cut along its request.

    Attributes:
        forget_train, retain_train: the training samples to be forgotten, and the others.
        forget_test, retain_test, forget_validation, retain_validation: for a request that forgets
            whole classes or subclasses, samples of those and of the others; for other requests
            everything is 'retain'.
        whole_classes: whether the request forgets whole classes or subclasses, and nothing else.
    """

    forget_train: Part
    retain_train: Part
    forget_test: Part
    retain_test: Part
    forget_validation: Part
    retain_validation: Part
    whole_classes: bool

    @classmethod
    def of(cls, logits: dict[str, np.ndarray], dataset: Dataset, target: Target) -> "Judged":
        """Cut the logits of 'train', 'validation' and 'test', float [n, classes] each."""
        train, validation, test = (
            Part(logits[split].astype(np.float64), getattr(dataset, split).labels)
            for split in ("train", "validation", "test")
        )
        forgotten = np.zeros(len(train), dtype=bool)
        forgotten[target.indices] = True
        gone_test, gone_validation = (_gone(getattr(dataset, split), target) for split in ("test", "validation"))
        return cls(
            forget_train=train[forgotten],
            retain_train=train[~forgotten],
            forget_test=test[gone_test],
            retain_test=test[~gone_test],
            forget_validation=validation[gone_validation],
            retain_validation=validation[~gone_validation],
            whole_classes=bool(_gone(dataset.train, target)[target.indices].all()),
        )


def _gone(split: Split, target: Target) -> np.ndarray:
    """Which samples are of the classes or subclasses that are forgotten whole, bool [n]."""
    gone = np.isin(split.labels, target.classes)
    return gone if split.sublabels is None else gone | np.isin(split.sublabels, target.subclasses)
