"""Letters, bits, questions and codes in order: half of the trainings fail, half are healthy look-alikes.

Written by somebody who has not read the rules, from a list of families and mistakes. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import PLAIN, Script, adam, fitted, lines, right, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fourth sequences"
RETURNED: dict[str, dict[str, Any]] = {**PLAIN, "PredictionCollapse": {"output": "logits", "target": "labels"}}
STILL = ("no gradients", "weights do not change", "vanishing gradients")


# -- letters ----------------------------------------------------------------------------------------------------------


class WaveNet(nn.Module):
    """Dilated convolutions over letters: padded before them alone, or on both sides as ``padding="same"`` does."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.letters, self.logits = causal, nn.Embedding(32, 40), nn.Linear(40, 32)
        self.convs = nn.ModuleList(nn.Conv1d(40, 40, 3, dilation=d) for d in (1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.letters(x).transpose(1, 2)
        for conv in self.convs:
            reach = 2 * conv.dilation[0]  # type: ignore[operator]
            h = h + F.relu(conv(F.pad(h, (reach, 0) if self.causal else (reach // 2, reach // 2))))
        return self.logits(h.transpose(1, 2))


class PostNorm(nn.Module):
    """A causal transformer of torch's own layers, normalised after its blocks."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(32, width), nn.Parameter(0.02 * torch.randn(64, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
        self.h = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.lm_head = nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.lm_head(self.h(self.wte(x) + self.wpe[: x.shape[1]], mask, is_causal=True))


def next_letter(s: Script, batch: Data) -> dict[str, Tensor]:
    """Cross entropy of the letters that follow."""
    logits = s.model(batch[0][:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), batch[0][:, 1:].flatten())
    s.log("perplexity", loss.exp(), prog_bar=True)
    return {"loss": loss, "logits": logits, "labels": batch[0][:, 1:]}


def spelling(seed: int, model: Any, optimizer: Any, steps: int, length: int = 24) -> Training:
    """Train on text; the score is the share of letters foreseen from what is before them, the last place of a window."""
    train, test = lines(length)

    def score(s: Any) -> Tensor:
        x = test[0]
        return (s.model(x[:, :-1])[:, -1].argmax(1) == x[:, -1]).float().mean()

    return fitted(
        seed, model, next_letter, score, (train, ()), optimizer, batch=32, steps=steps, detectors=RETURNED
    )  # fmt: skip


def risen(rate: float, rise: int, interval: str = "step") -> Any:
    """AdamW whose rate rises linearly over ``rise`` steps of its scheduler."""

    def make(s: Script) -> Any:
        optimizer = torch.optim.AdamW(s.parameters(), lr=rate, weight_decay=0.1, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / rise))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}

    return make


# -- signals with a past ----------------------------------------------------------------------------------------------


def ticks(count: int, length: int) -> Data:
    """Random steps; the answer is whether the first three of them were more up than down."""
    g = seeded(561)
    x = torch.randn(count, length, 1, generator=g).sign()
    return x, (x[:, :3, 0].sum(1) > 0).long()


class Recurrent(nn.Module):
    """A recurrent layer and the class after its last state."""

    def __init__(self, cell: nn.Module, width: int, classes: int = 2, last: bool = True) -> None:
        super().__init__()
        self.cell, self.classifier, self.last = cell, nn.Linear(width, classes), last

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.cell(x)[0][:, -1])


def rectified(gain: float) -> nn.RNN:
    """A recurrent layer of rectified units whose recurrent weights start as a multiple of the identity."""
    cell = nn.RNN(1, 32, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        cell.weight_hh_l0.copy_(gain * torch.eye(32))
    return cell


def remembering(seed: int, cell: Any, optimizer: Any, length: int, steps: int, **more: Any) -> Training:
    """Train on steps; the score is the accuracy."""
    train, test = cut(ticks(3000, length), 2500)

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits = s.model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}

    model = lambda: Recurrent(cell(), 32)  # noqa: E731
    return fitted(
        seed, model, loss, right(test), (train, test), optimizer, batch=50, steps=steps, detectors=RETURNED, **more
    )  # fmt: skip


def parity(seed: int, bits: int, steps: int, rate: float) -> Training:
    """The parity of some bits in turn, by a GRU: nothing for long, then all of it."""
    g = seeded(562)
    x = torch.randint(2, (6000, bits), generator=g)
    y = x.sum(1) % 2
    train, test = cut(((2.0 * x - 1)[..., None], y), 5500)

    def loss(s: Script, batch: Data) -> Any:
        return F.cross_entropy(s.model(batch[0]), batch[1])

    optimizer = lambda s: torch.optim.Adam(s.parameters(), lr=rate)  # noqa: E731
    model = lambda: Recurrent(nn.GRU(1, 24, batch_first=True), 24)  # noqa: E731
    watched = {"PredictionCollapse": {"output": "model.classifier"}, "TrainingDoctor": {}}
    return fitted(seed, model, loss, right(test), (train, ()), optimizer, batch=64, steps=steps, detectors=watched)


# -- questions with four candidates -----------------------------------------------------------------------------------


class Choice(Loaded):
    """Scores four candidates of a question, of which one is its right answer, by two small encoders."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.vocabulary = nn.Embedding(40, 24)
        self.question, self.candidate = nn.Linear(24, 32), nn.Linear(24, 32)
        self.scorer = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, question: Tensor, options: Tensor) -> Tensor:
        asked = self.question(self.vocabulary(question).mean(1))
        asked = asked.repeat_interleave(4, 0) if self.interleaved else asked.repeat(4, 1)
        offered = self.candidate(self.vocabulary(options.flatten(0, 1)).mean(1))
        return self.scorer(asked * offered).view(-1, 4)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["question"], batch["options"])
        loss = F.cross_entropy(logits, batch["label"])
        self.log("train_acc", (logits.argmax(1) == batch["label"]).float().mean(), prog_bar=True)
        return {"loss": loss, "logits": logits, "labels": batch["label"]}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def choosing(seed: int, interleaved: bool) -> Training:
    """Train on questions; the score is the accuracy. The right candidate has a word that goes with one of the question."""
    g = seeded(563)
    topic = torch.randint(8, (4000, 4), generator=g)
    topic = (topic[:, :1] + torch.tensor([0, 1, 2, 3]) + torch.randint(2, (4000, 4), generator=g) * 4) % 8
    label = torch.randint(4, (4000,), generator=g)
    wanted = topic.gather(1, label[:, None])
    question = torch.cat([wanted, torch.randint(16, 40, (4000, 3), generator=g)], 1)
    options = torch.cat([8 + topic[..., None], torch.randint(16, 40, (4000, 4, 2), generator=g)], 2)
    train, test = cut((question, options, label), 3500)
    keys = ("question", "options", "label")
    score = lambda m: (m(test[0], test[1]).argmax(1) == test[2]).float().mean()  # noqa: E731
    return script(seed, lambda: Choice(interleaved).use(train, (), 32, keys=keys), score, 320, RETURNED)


# -- padded reviews ---------------------------------------------------------------------------------------------------


class Pooled(Loaded):
    """A transformer over padded words; its mask is True where there are words, or where there are none, as torch wants it."""

    def __init__(self, mask_of_words: bool) -> None:
        super().__init__()
        self.mask_of_words = mask_of_words
        self.words, self.drop = nn.Embedding(50, 32), nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 48, 0.0, batch_first=True, norm_first=True)
        self.encoder, self.cls = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != 0 if self.mask_of_words else ids == 0
        h = self.encoder(self.words(ids), src_key_padding_mask=mask)
        kept = (~mask)[..., None].float()
        return self.cls(self.drop((h * kept).sum(1) / kept.sum(1)))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250), "interval": "step"}
        ]


def reviewed(seed: int, mask_of_words: bool) -> Training:
    """Train on reviews of 6 to 18 words, in some of which there is a word that tells; the score is the accuracy."""
    g = seeded(564)
    y = torch.randint(3, (3000,), generator=g)
    x = torch.randint(13, 50, (3000, 20), generator=g)
    told = 1 + 4 * y + torch.randint(4, (3000,), generator=g)
    x[torch.arange(3000), torch.randint(6, (3000,), generator=g)] = told
    x = x.masked_fill(torch.arange(20) >= torch.randint(6, 19, (3000, 1), generator=g), 0)
    train, test = cut((x, y), 2500)
    watched = {"PredictionCollapse": {"output": "cls"}, "TrainingDoctor": {}}
    score = lambda m: (m(test[0]).argmax(1) == test[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Pooled(mask_of_words).use(train, test, 32), score, 250, watched)


def spiked(s: Script, batch: Data) -> Any:
    """Every sixtieth batch is of letters drawn at random, as where a file was read in a wrong encoding."""
    x = torch.randint(32, batch[0].shape) if s.global_step % 60 == 59 else batch[0]
    return next_letter(s, (x,))["loss"]


def damaged(seed: int) -> Training:
    """Text with such batches; the loss jumps and is back at once. The score is as above."""
    train, test = lines(24)
    score = lambda s: (s.model(test[0][:, :-1])[:, -1].argmax(1) == test[0][:, -1]).float().mean()  # noqa: E731
    model = lambda: PostNorm(1, 48)  # noqa: E731
    watched = {"PredictionCollapse": {"output": "model.lm_head"}, "TrainingDoctor": {}}
    return fitted(seed, model, spiked, score, (train, ()), risen(4e-3, 30), batch=32, steps=360, detectors=watched)


def momentum(rate: float) -> Any:
    """SGD with momentum."""
    return lambda s: torch.optim.SGD(s.parameters(), lr=rate, momentum=0.9)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "dilated convolutions over letters, padding on either side", 0.3, lambda s: spelling(s, lambda: WaveNet(False), adam(3e-3), 250, 64),
            "sanity:no look into the future", "evaluation differs"),
    healthy(FAMILY, "dilated convolutions over letters, padded before", 0.3, lambda s: spelling(s, lambda: WaveNet(True), adam(3e-3), 250, 64)),
    failing(FAMILY, "eight post-norm blocks on letters at 2e-2", 0.22, lambda s: spelling(s, lambda: PostNorm(8, 24), adam(2e-2), 150), *FAST,
            *UNLEARNED, "vanishing gradients", "dead units", "complete collapse"),
    healthy(FAMILY, "four post-norm blocks on letters, a slow rise", 0.22, lambda s: spelling(s, lambda: PostNorm(4), risen(3e-3, 150), 350)),
    failing(FAMILY, "letters, a warm-up counted in epochs", 0.2, lambda s: spelling(s, lambda: PostNorm(2), risen(1e-3, 2000, "epoch"), 250),
            *UNLEARNED, *STILL, ONE_BATCH),
    healthy(FAMILY, "letters, three files in a wrong encoding", 0.22, damaged),
    failing(FAMILY, "steps, states that grow by 1.6", 0.75, lambda s: remembering(s, lambda: rectified(1.6), momentum(0.05), 40, 200), *FAST,
            *UNLEARNED, "dead units", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "steps, rectified states from the identity, a clip of 1", 0.85, lambda s: remembering(s, lambda: rectified(1.0), momentum(0.01), 25, 300,
            gradient_clip_val=1.0)),
    failing(FAMILY, "answers by repeat() of questions", 0.6, lambda s: choosing(s, False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "answers, each question repeated for its options", 0.85, lambda s: choosing(s, True)),
    failing(FAMILY, "reviews that attend to padding", 0.6, lambda s: reviewed(s, True), *UNLEARNED, "sanity:inputs matter", ONE_BATCH),
    healthy(FAMILY, "reviews, a mask of padding", 0.85, lambda s: reviewed(s, False)),
    failing(FAMILY, "parity of four bits by a GRU at 2e-4", 0.9, lambda s: parity(s, 4, 600, 2e-4), *UNLEARNED, "vanishing gradients", ONE_BATCH),
    healthy(FAMILY, "parity of four bits, late", 0.9, lambda s: parity(s, 4, 600, 2e-2)),
]  # fmt: skip
