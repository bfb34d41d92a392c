"""Sequences: Python's source and digits with x-transformers, transformers and peft."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.strangers.trainings.data import accuracy, digits, text, windows
from tests.strangers.trainings.training import Ready, Training

LENGTH = 32


class _Windows(Dataset[Tensor]):
    """Pieces of a text, each a tensor of its own."""

    def __init__(self, length: int) -> None:
        self.pieces = windows(text()[0], length, 1600)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Tensor:
        return self.pieces[index]


def _bits(last: Any) -> float:
    """Return how many bits less than 7 the next byte costs, told from the bytes before it alone."""
    pieces = windows(text()[1], LENGTH + 1, 200)
    logits = last(pieces[:, :-1])
    return 7 - float(F.cross_entropy(logits, pieces[:, -1])) / math.log(2)


class _Language(L.LightningModule):
    def __init__(self, model: nn.Module, rate: float = 3e-3) -> None:
        super().__init__()
        self.model, self.rate = model, rate

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.model(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.rate)


def _network(layers: Any) -> Any:
    from x_transformers import TransformerWrapper

    return TransformerWrapper(num_tokens=128, max_seq_len=LENGTH, attn_layers=layers)


def _fit(module: Any, last: Any, epochs: int = 5) -> Ready:
    @torch.no_grad()
    def score() -> float:
        module.eval()
        return _bits(last)

    loader = DataLoader(_Windows(LENGTH + 1), 32, shuffle=True)
    return Ready(module, loader, score, trainer={"max_epochs": epochs, "gradient_clip_val": 0.5})


def autoregressive() -> Ready:
    """The package's wrapper shifts the text and returns the loss; a batch is one tensor."""
    from x_transformers import AutoregressiveWrapper, Decoder

    network = _network(Decoder(dim=48, depth=2, heads=3, rotary_pos_emb=True, attn_dim_head=16))
    return _fit(_Language(AutoregressiveWrapper(network)), lambda pieces: network(pieces)[:, -1])


class _NextByte(_Language):
    """Shifts the text itself."""

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        logits, target = self.model(batch[:, :-1]), batch[:, 1:]
        return {"loss": F.cross_entropy(logits.transpose(1, 2), target), "logits": logits, "target": target}


def encoder_for_decoder() -> Ready:
    from x_transformers import Encoder

    network = _network(Encoder(dim=48, depth=2, heads=3, attn_dim_head=16))
    return _fit(_NextByte(network), lambda pieces: network(pieces)[:, -1])


class _GPT(_Language):
    """The labels are the input: the model of transformers shifts them."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        output = self.model(input_ids=batch, labels=batch)
        self.log("train_loss", output.loss)
        return output.loss

    def configure_optimizers(self) -> Any:
        from transformers import get_cosine_schedule_with_warmup

        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01)
        schedule = get_cosine_schedule_with_warmup(optimizer, 25, int(self.trainer.estimated_stepping_batches))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def _gpt() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=128, n_positions=64, n_embd=48, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def gpt() -> Ready:
    network = _gpt()
    return _fit(_GPT(network), lambda pieces: network(pieces).logits[:, -1])


def gpt_rate() -> Ready:
    network = _gpt()
    return _fit(_GPT(network, 0.3), lambda pieces: network(pieces).logits[:, -1])


# -- rows of an image as a sequence, and adapters ----------------------------------------------------------------------


class _Rows(L.LightningModule):
    """A small BERT that reads the eight rows of an image, as the classification models of transformers are written."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
        self.inputs, self.bert, self.head = nn.Linear(8, 32), BertModel(config), nn.Linear(32, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.bert(inputs_embeds=self.inputs(pixel_values.squeeze(1))).pooler_output)  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["pixel_values"])
        return {"loss": F.cross_entropy(logits, batch["labels"]), "logits": logits}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def _named(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    images, labels = (torch.stack(part) for part in zip(*samples, strict=True))
    return {"pixel_values": images, "labels": labels}


def bert() -> Ready:
    module = _Rows()
    x, y, *new = digits()
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, collate_fn=_named)
    return Ready(module, loader, lambda: accuracy(module, module, *new), trainer={"max_epochs": 8})


class _Adapters(L.LightningModule):
    """Low-rank adapters of a network that was trained on the digits as they are, for digits on their side."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        super().__init__()
        self.model, self.rate = model, rate

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.rate)


def _pretrained() -> nn.Sequential:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    x, y, *_ = digits()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def adapters(rate: float = 5e-3, frozen: bool = False) -> Ready:
    from peft import LoraConfig, get_peft_model

    model: Any = _pretrained()
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["1", "3"], modules_to_save=["5"]))
    if frozen:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "lora_A" in name
    module = _Adapters(model, rate)
    x, y, new, labels = digits()
    loader = DataLoader(TensorDataset(x.transpose(2, 3), y), 32, shuffle=True)
    new = new.transpose(2, 3)
    return Ready(module, loader, lambda: accuracy(module, model, new, labels), trainer={"max_epochs": 8})


_GAIN = 2.9  # (bits; the frequencies of single bytes give about 2.4)
_X, _T = ("x_transformers",), ("transformers",)

TRAININGS = (
    Training("x-transformers: text", autoregressive, _X, _GAIN),
    Training(
        "x-transformers: encoder for decoder",
        encoder_for_decoder,
        _X,
        _GAIN,
        {"PredictionCollapse": {}},
        mistake="Encoder in place of Decoder: each byte sees the next one",
    ),
    Training("transformers: GPT", gpt, _T, _GAIN, {"PredictionCollapse": {}}, activations=False),
    Training(
        "transformers: GPT, rate",
        gpt_rate,
        _T,
        _GAIN,
        {"PredictionCollapse": {}},
        activations=False,
        mistake="a learning rate 150 times too large",
    ),
    Training("transformers: BERT", bert, _T, 0.85, {"PredictionCollapse": {}}),
    Training("peft: adapters", adapters, ("peft",), 0.85, {"PredictionCollapse": {"output": "model"}}),
    Training(
        "peft: half of the adapters",
        lambda: adapters(frozen=True),
        ("peft",),
        0.85,
        {"PredictionCollapse": {"output": "model"}},
        mistake="only the first factors are trained, whose gradient is 0 as long as the second ones are 0",
    ),
)
