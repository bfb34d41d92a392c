"""A byte-level transformer on the text of Python's standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

CONTEXT, BATCH = 256, 16


class ByteTransformer(nn.Module):
    """12 layers of width 384, causal, predicting the next byte."""

    def __init__(self, layers: int = 12, width: int = 384) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.bytes(tokens) + self.places.weight
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT, device=tokens.device)
        return self.head(self.layers(x, mask=mask, is_causal=True)).flatten(0, 1)


def byte_transformer(num_batches: int = 4) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """21 M weights, 16 x 256 bytes of real text a batch."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("a*.py")))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(num_batches):
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator).tolist()
        rows = torch.stack([data[s : s + CONTEXT + 1] for s in starts])
        batches.append((rows[:, :-1].contiguous(), rows[:, 1:].reshape(-1)))
    return ByteTransformer(), batches
