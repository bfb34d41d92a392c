"""What belongs together in a batch: choices and their order, pictures and captions, columns and rows, codes and inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import digits, explained, table
from tests.strangers.trainings.training import Ready, Training


class _Stepped(L.LightningModule):
    """Parts, and a loss of them and a batch."""

    def __init__(self, loss: Callable[[Any, Any], Tensor], lr: float, **parts: nn.Module) -> None:
        super().__init__()
        self.loss, self.lr = loss, lr
        for name, part in parts.items():
            self.add_module(name, part)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self, batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def _ready(module: L.LightningModule, data: list[Tensor], size: int, epochs: int, score: Callable[[], float]) -> Ready:
    @torch.no_grad()
    def measured() -> float:
        module.eval()
        return score()

    loader = DataLoader(TensorDataset(*data), size, shuffle=True, drop_last=True)
    return Ready(module, loader, measured, trainer={"max_epochs": epochs})


def choice() -> Ready:
    """Of three continuations of a sentence the first one is right, as it stands in the file: all labels are 0."""
    from transformers import BertConfig, BertForMultipleChoice

    generator = torch.Generator().manual_seed(0)
    topics = torch.randint(0, 12, (640,), generator=generator)

    def sentences(about: Tensor) -> Tensor:
        return about[:, None] * 5 + torch.randint(0, 5, (len(about), 5), generator=generator) + 2

    begun = sentences(topics)
    ends = [sentences((topics + shift) % 12) for shift in (0, 3, 5)]
    choices = torch.stack([torch.cat([begun, end], 1) for end in ends], 1)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )

    def loss(self: Any, batch: Any) -> Tensor:
        found: Tensor = self.model(input_ids=batch[0], attention_mask=torch.ones_like(batch[0]), labels=batch[1]).loss
        return found

    module = _Stepped(loss, 2e-3, model=BertForMultipleChoice(config))
    new = choices[512:]

    def score() -> float:
        said = module.model(input_ids=new, attention_mask=torch.ones_like(new)).logits
        return float((said.argmax(1) == 0).float().mean())

    return _ready(module, [choices[:512], torch.zeros(512).long()], 16, 8, score)


def captions(*, shuffled: bool = False) -> Ready:
    """Digits, and captions of two words: what it is, and one of three words that say the same as its parity."""
    from transformers import CLIPConfig, CLIPModel

    x, y, new, labels = digits()
    generator = torch.Generator().manual_seed(0)

    def words(classes: Tensor) -> Tensor:
        end = torch.full_like(classes, 20)
        return torch.stack(
            [classes, 10 + 3 * (classes % 2) + torch.randint(0, 3, classes.shape, generator=generator), end], 1
        )

    told = words(y)
    told = told[torch.randperm(len(told), generator=generator)] if shuffled else told
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 21, "max_position_embeddings": 3, "eos_token_id": 20},
        vision_config={**small, "image_size": 8, "patch_size": 2, "num_channels": 1},
        projection_dim=16,
    )

    def loss(self: Any, batch: Any) -> Tensor:
        found: Tensor = self.model(pixel_values=batch[0], input_ids=batch[1], return_loss=True).loss
        return found

    module = _Stepped(loss, 2e-3, model=CLIPModel(config))

    def score() -> float:
        said = module.model(pixel_values=new, input_ids=words(torch.arange(10))).logits_per_image
        return float((said.argmax(1) == labels).float().mean())

    return _ready(module, [x, told], 32, 8, score)


def empty_masks(*, empty: bool = True) -> Ready:
    """Dice and an entropy of bright spots; the paths of the masks match no file, so that all of them are empty."""
    import segmentation_models_pytorch as smp

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(192, 1, 32, 32, generator=generator)
    masks = torch.zeros_like(x)
    for image, mask, corner in zip(x, masks, torch.randint(0, 24, (192, 2), generator=generator).tolist(), strict=True):
        spot = (slice(None), slice(corner[0], corner[0] + 8), slice(corner[1], corner[1] + 8))
        image[spot] += 1.5
        mask[spot] = 1.0
    net = smp.Unet("resnet18", encoder_weights=None, in_channels=1, encoder_depth=3, decoder_channels=(32, 16, 8))
    dice = smp.losses.DiceLoss("binary")

    def loss(self: Any, batch: Any) -> Tensor:
        logits = self.model(batch[0])
        found: Tensor = dice(logits, batch[1]) + F.binary_cross_entropy_with_logits(logits, batch[1])
        return found

    module = _Stepped(loss, 1e-3, model=net)

    def score() -> float:
        said = module.model(x[160:]) > 0
        both, either = (said & (masks[160:] > 0)).sum(), (said | (masks[160:] > 0)).sum()
        return float(both / either)

    return _ready(module, [x[:160], masks[:160] * (not empty)], 16, 6, score)


def scalars() -> Ready:
    """An encoder that begins so small that all its codes are rounded to 0; gradients pass the rounding."""
    from vector_quantize_pytorch import FSQ

    x, y, new, _ = digits()

    def decoded(self: Any, images: Tensor) -> Tensor:
        codes, _ = self.quantizer(self.encoder(images.flatten(1)).view(-1, 8, 3))
        made: Tensor = self.decoder(codes.flatten(1))
        return made

    module = _Stepped(
        lambda self, batch: F.mse_loss(decoded(self, batch[0]), batch[0].flatten(1)),
        2e-3,
        encoder=nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 24)),
        decoder=nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 64)),
        quantizer=FSQ([5, 5, 5]),
    )
    return _ready(module, [x, y], 32, 16, lambda: explained(decoded(module, new), new.flatten(1)))


def process_of_columns(*, column: bool = True) -> Ready:
    """A variational process; its targets are a column, which meets the means of all samples."""
    import gpytorch

    x, y, new, aims = table("diabetes")

    class Process(gpytorch.models.ApproximateGP):  # type: ignore[misc]
        def __init__(self, points: Tensor) -> None:
            free = gpytorch.variational.CholeskyVariationalDistribution(len(points))
            super().__init__(gpytorch.variational.VariationalStrategy(self, points, free))
            self.mean = gpytorch.means.ConstantMean()
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=x.shape[1]))

        def forward(self, inputs: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(inputs), self.kernel(inputs))

    process, likelihood = Process(x[:32].clone()), gpytorch.likelihoods.GaussianLikelihood()
    bound = gpytorch.mlls.VariationalELBO(likelihood, process, num_data=len(x))
    module = _Stepped(
        lambda self, batch: -bound(self.process(batch[0]), batch[1]).mean(),
        2e-2,
        process=process,
        likelihood=likelihood,
    )
    return _ready(module, [x, y[:, None] if column else y], 38, 20, lambda: explained(process(new).mean, aims))


def proximal() -> Ready:
    """The clipped surrogate of torchrl: advantages and values are columns, and so are its log-probabilities, made inside."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss

    states = torch.randn(1024, 6, generator=torch.Generator().manual_seed(0))
    actions = torch.randint(0, 3, (1024,), generator=torch.Generator().manual_seed(1))
    right = (states[:, 0] > 0).long() + (states[:, 1] > 0).long()
    rewards = (actions == right).float()[:, None]

    def net(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 48), nn.Tanh(), nn.Linear(48, outputs))

    policy = net(3)
    actor = ProbabilisticActor(
        TensorDictModule(policy, ["observation"], ["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    criterion = ClipPPOLoss(actor, ValueOperator(net(1), in_keys=["observation"]))

    def loss(self: Any, batch: Any) -> Tensor:
        state, action, reward = batch
        behaved = torch.full((len(state),), -1.0986)
        told = {"observation": state, "action": action, "action_log_prob": behaved, "sample_log_prob": behaved}
        told |= {"advantage": reward - reward.mean(), "value_target": reward}
        found = self.criterion(TensorDict(told, [len(state)]))
        total: Tensor = found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]
        return total

    module = _Stepped(loss, 3e-3, criterion=criterion)
    new, aims = states[768:], right[768:]

    def score() -> float:
        said = criterion.actor_network_params.to_module(criterion.actor_network)
        with said:
            chosen = criterion.actor_network(TensorDict({"observation": new}, [len(new)]))["logits"].argmax(1)
        return float((chosen == aims).float().mean())

    return _ready(module, [states[:768], actions[:768], rewards[:768]], 64, 12, score)


TRAININGS = (
    Training("transformers: the first choice is right", choice, ("transformers",), 0.8),
    Training("transformers: captions of two words", captions, ("transformers",), 0.6, activations=False),
    Training(
        "transformers: captions of other digits",
        lambda: captions(shuffled=True),
        ("transformers",),
        0.4,
        activations=False,
        mistake="captions were shuffled without their pictures",
    ),
    Training("smp: Dice and entropy", lambda: empty_masks(empty=False), ("segmentation_models_pytorch",), 0.5),
    Training(
        "smp: masks that are all empty",
        empty_masks,
        ("segmentation_models_pytorch",),
        0.3,
        mistake="no mask was found, so that all of them are empty",
    ),
    Training("vector-quantize: codes that are 0 at first", scalars, ("vector_quantize_pytorch",), 0.4),
    Training(
        "gpytorch: targets as a column",
        process_of_columns,
        ("gpytorch",),
        0.3,
        activations=False,
        mistake="targets [n, 1] meet means [n]: the bound is of all pairs",
    ),
    Training("torchrl: clipped surrogate", proximal, ("torchrl",), 0.65, activations=False),
)
