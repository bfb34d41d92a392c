from __future__ import annotations

import torch

from lightning_tricks.dry_run.holdings import commonest_tensors


def test_the_commonest_tensors_are_named() -> None:
    kept = [torch.zeros(3, 977) for _ in range(200)]
    found = commonest_tensors(most=1_000_000)  # (other tests may have left tensors alive)
    assert f"{len(kept)} of float32 [3, 977]" in found
    counts = [int(line.split()[0].replace(",", "")) for line in found]
    assert (
        counts == sorted(counts, reverse=True) and commonest_tensors(1)[0].split(" of ")[1] == found[0].split(" of ")[1]
    )
