"""Tables and decisions: TabNet, and Q-learning in an environment of gymnasium."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import table
from tests.strangers.trainings.training import Ready, Training


class _TabNet(L.LightningModule):
    """The network of pytorch-tabnet returns outputs and a penalty of its masks, which is subtracted."""

    def __init__(self, columns: int, rate: float) -> None:
        super().__init__()
        from pytorch_tabnet.tab_network import TabNet

        groups = torch.eye(columns)
        self.network = TabNet(columns, 2, n_d=8, n_a=8, n_steps=3, virtual_batch_size=32, group_attention_matrix=groups)
        self.rate = rate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits, penalty = self(x)
        return F.cross_entropy(logits, y) - 1e-3 * penalty

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x)[0], y))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.9)]


def tabnet(rate: float = 2e-2) -> Ready:
    x, y, new, labels = table("breast_cancer")
    module = _TabNet(x.shape[1], rate)

    @torch.no_grad()
    def score() -> float:
        module.eval()
        return float((module(new)[0].argmax(1) == labels).float().mean())

    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True, drop_last=True)
    held_out = DataLoader(TensorDataset(new, labels), 142)
    return Ready(module, loader, score, held_out, {"max_epochs": 25})


class _Lake(L.LightningModule):
    """Q-learning from transitions that were gathered at random."""

    def __init__(self, ends: bool, discount: float) -> None:
        super().__init__()
        self.q = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
        self.target = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).requires_grad_(False)
        self.target.load_state_dict(self.q.state_dict())
        self.ends, self.discount = ends, discount

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state, action, reward, after, done = batch
        if self.global_step % 20 == 0:
            self.target.load_state_dict(self.q.state_dict())
        value = self.q(F.one_hot(state, 16).float()).gather(1, action[:, None]).squeeze(1)
        with torch.no_grad():
            best = self.target(F.one_hot(after, 16).float()).max(1).values
            goal = reward + self.discount * best * ((1 - done) if self.ends else 1)
        return F.smooth_l1_loss(value, goal)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def _transitions(number: int = 4000) -> Any:
    import gymnasium

    lake = gymnasium.make("FrozenLake-v1", is_slippery=False)
    lake.action_space.seed(0)
    state, _ = lake.reset(seed=0)
    rows: list[tuple[Any, ...]] = []
    while len(rows) < number:
        action = lake.action_space.sample()
        after, reward, done, cut, _ = lake.step(action)
        rows.append((state, int(action), float(reward), after, float(done)))
        state = lake.reset()[0] if done or cut else after
    columns = list(zip(*rows, strict=True))
    kinds = (torch.long, torch.long, torch.float32, torch.long, torch.float32)
    return TensorDataset(*(torch.tensor(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def lake(ends: bool = True, discount: float = 0.9) -> Ready:
    import gymnasium

    module = _Lake(ends, discount)

    @torch.no_grad()
    def score() -> float:
        """One walk that always takes the best action: 1 where it reaches the goal."""
        world = gymnasium.make("FrozenLake-v1", is_slippery=False)
        state, _ = world.reset(seed=0)
        for _ in range(30):
            state, reward, done, _, _ = world.step(int(module.q(F.one_hot(torch.tensor(state), 16).float()).argmax()))
            if done:
                return float(reward)
        return 0.0

    return Ready(module, DataLoader(_transitions(), 64, shuffle=True), score, trainer={"max_epochs": 12})


_LOGITS = {"PredictionCollapse": {"output": "network"}}
_Q = {"UsageCollapse": {"assignments": "q", "kind": "policy"}}

TRAININGS = (
    Training("tabnet: breast cancer", tabnet, ("pytorch_tabnet",), 0.85, _LOGITS, activations=False),
    Training(
        "tabnet: rate",
        lambda: tabnet(20.0),
        ("pytorch_tabnet",),
        0.85,
        _LOGITS,
        mistake="a learning rate 1,000 times too large",
        activations=False,
    ),
    Training("gymnasium: frozen lake", lake, ("gymnasium",), 0.5, _Q),
)
