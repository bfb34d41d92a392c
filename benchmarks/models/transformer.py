"""A byte-level transformer on the text of Python's standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

CONTEXT, BATCH = 256, 16
VOCABULARY = 32_768


class ByteTransformer(nn.Module):
    """Pre-norm layers, causal, predicting the next byte."""

    def __init__(self, layers: int = 12, width: int = 384, context: int = CONTEXT, vocabulary: int = 256) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.bytes(tokens) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        return self.head(self.layers(x, mask=mask, is_causal=True)).flatten(0, 1)


def source_bytes(pattern: str = "a*.py") -> Tensor:
    """The source of Python's standard library as numbers, int64."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join(path.read_bytes() for path in sorted(folder.glob(pattern)))
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def token_pairs(text: Tensor) -> Tensor:
    """Tokens of two bytes each, of which there are at most 32,768: real text with a vocabulary of a language model's size.

    >>> token_pairs(torch.tensor([1, 2, 200, 3]))
    tensor([  258, 18435])
    """
    pairs = text[: len(text) // 2 * 2].reshape(-1, 2)
    return (pairs[:, 0] * 256 + pairs[:, 1]) % VOCABULARY


def windows(data: Tensor, context: int, batch: int, num_batches: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of random windows: bytes ``[batch, context]`` and the bytes that come next, flat."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(num_batches):
        starts = torch.randint(len(data) - context - 1, (batch,), generator=generator).tolist()
        rows = torch.stack([data[s : s + context + 1] for s in starts])
        out.append((rows[:, :-1].contiguous(), rows[:, 1:].reshape(-1)))
    return out


def byte_transformer(num_batches: int = 4) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """21 M weights, 16 x 256 bytes of real text a batch."""
    return ByteTransformer(), windows(source_bytes(), CONTEXT, BATCH, num_batches)
