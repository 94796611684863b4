"""What is told of memorization scores: rank correlations, and how entangled a forget set is with the rest."""

import numpy as np
from scipy.stats import spearmanr


def rank_correlations(scores: dict[str, np.ndarray], to: str = "memorization") -> dict[str, float]:
    """Spearman's rank correlation of each score with one of them; ties get their mean rank."""
    return {name: float(spearmanr(values, scores[to]).statistic) for name, values in scores.items() if name != to}


def entanglement(embeddings: np.ndarray, forget: np.ndarray) -> dict[str, float]:
    """Entanglement score of a forget set and the rest, in two variants that the literature does not tell apart.

        ES = (mean |phi - mu_R|^2 over R + mean |phi - mu_S|^2 over S) / ((|mu_R - mu|^2 + |mu_S - mu|^2) / 2)

    `es_global`: mu is the mean of all embeddings, as Zhao et al. (arXiv:2406.01257), section 4.1, write;
    `es_midpoint`: mu is the midpoint of both centres, as their code computes. Higher is more entangled.

    Args:
        embeddings: float [n, d].
        forget: positions of the forget set S; R is the rest.
    """
    mask = np.zeros(len(embeddings), dtype=bool)
    mask[forget] = True
    sides = embeddings[~mask], embeddings[mask]
    centres = [side.mean(0) for side in sides]
    within = sum(((side - c) ** 2).sum(1).mean() for side, c in zip(sides, centres, strict=True))
    middles = {"es_global": embeddings.mean(0), "es_midpoint": (centres[0] + centres[1]) / 2}
    return {
        name: float(within / (sum(((c - middle) ** 2).sum() for c in centres) / 2)) for name, middle in middles.items()
    }
