"""Kodge's layer update three ways: closed form (Cholesky), Gram + eigh, thin SVD of the d x n matrix.

n = 10,000 patches, as published; the representation's spectrum falls off as activations' do. One
thread, float32, torch; the SVD is the route of the paper and of its code. `difference` is the largest of
the updated weight's entries against the update in float64 by SVD, relative to the largest weight.
"""

import numpy as np
import torch
from common import report, seconds

from methods.kodge import forget_update

ALPHA_R, ALPHA_F, PATCHES, OUTPUTS = 100.0, 3.0, 10_000, 256


def representation(d: int, seed: int) -> torch.Tensor:
    """n x d activations with a decaying spectrum along a random orthogonal basis."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return torch.from_numpy(rng.normal(size=(PATCHES, d)) * np.arange(1, d + 1) ** -0.7 @ basis.T)


def scaled(u: torch.Tensor, energy: torch.Tensor, alpha: float) -> torch.Tensor:
    share = energy / energy.sum()
    return (u * (alpha * share / ((alpha - 1) * share + 1))) @ u.T


def update(weight: torch.Tensor, m_r: torch.Tensor, m_f: torch.Tensor) -> torch.Tensor:
    return weight - (weight - weight @ m_r) @ m_f


def by_svd(weight: torch.Tensor, retain: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
    parts = []
    for a, alpha in ((retain, ALPHA_R), (forget, ALPHA_F)):
        u, s, _ = torch.linalg.svd(a.T, full_matrices=False)
        parts.append(scaled(u, s**2, alpha))
    return update(weight, *parts)


def by_eigh(weight: torch.Tensor, retain: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
    parts = []
    for a, alpha in ((retain, ALPHA_R), (forget, ALPHA_F)):
        values, u = torch.linalg.eigh(a.T @ a)
        parts.append(scaled(u, values.clamp(min=0), alpha))
    return update(weight, *parts)


def closed_form(weight: torch.Tensor, retain: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
    return forget_update(weight, retain.T @ retain, forget.T @ forget, ALPHA_R, ALPHA_F)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for d in (1152, 2304):
        weight = torch.randn(OUTPUTS, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
        retain, forget = representation(d, 1), representation(d, 2)
        exact = by_svd(weight, retain, forget)
        inputs = weight.float(), retain.float(), forget.float()
        reference = seconds(lambda inputs=inputs: by_svd(*inputs), 1)
        for name, route in (("thin SVD", by_svd), ("Gram + eigh", by_eigh), ("closed form", closed_form)):
            taken = reference if route is by_svd else seconds(lambda route=route, inputs=inputs: route(*inputs), 3)
            difference = (route(*inputs).double() - exact).abs().max() / weight.abs().max()
            rows.append([str(d), name, f"{taken:.2f}", f"{reference / taken:.1f}x", f"{difference:.1e}"])
    report("kodge_algebra", "Kodge's update of one layer", ["d", "route", "seconds", "speed-up", "difference"], rows)


if __name__ == "__main__":
    main()
