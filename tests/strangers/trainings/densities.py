"""Densities and processes: flows of zuko, nflows and normflows, diffusion, Gaussian processes, differential equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import digits, explained, table
from tests.strangers.trainings.training import Ready, Training


class _Module(L.LightningModule):
    """A model and a loss of it and a batch."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Tensor], lr: float = 1e-3) -> None:
        super().__init__()
        self.model, self.loss_of, self.lr = model, loss, lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss_of(self, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def _moons() -> tuple[Tensor, Tensor]:
    """Two moons, for training and held out."""
    from sklearn.datasets import make_moons

    points = torch.as_tensor(make_moons(2048, noise=0.05, random_state=0)[0]).float()
    return points[:1536], points[1536:]


def _flow(model: nn.Module, loss: Any, log_density: Callable[[Any, Tensor], Tensor], epochs: int = 10) -> Ready:
    """The score is how much better held-out points are explained than by a Gaussian with their covariance."""
    known, new = _moons()
    module = _Module(model, loss, lr=3e-3)
    gaussian = torch.distributions.MultivariateNormal(known.mean(0), known.T.cov())

    @torch.no_grad()
    def score() -> float:
        module.eval()
        gain = float((log_density(module, new) - gaussian.log_prob(new)).mean())
        return gain if math.isfinite(gain) else -math.inf

    loader = DataLoader(TensorDataset(known), 64, shuffle=True)
    return Ready(module, loader, score, trainer={"max_epochs": epochs})


def spline_flow(sign: int = -1) -> Ready:
    import zuko

    model = zuko.flows.NSF(features=2, transforms=2, hidden_features=(32, 32))
    loss = lambda module, batch: sign * module.model().log_prob(batch[0]).mean()  # noqa: E731
    return _flow(model, loss, lambda module, x: module.model().log_prob(x))


def masked_flow() -> Ready:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.permutations import ReversePermutation

    steps: list[nn.Module] = []
    for _ in range(5):
        steps += [ReversePermutation(2), MaskedAffineAutoregressiveTransform(features=2, hidden_features=16)]
    model = Flow(CompositeTransform(steps), StandardNormal(shape=[2]))
    return _flow(model, lambda m, batch: -m.model.log_prob(inputs=batch[0]).mean(), lambda m, x: m.model.log_prob(x))


def coupling_flow() -> Ready:
    """The last layers begin at zero, as the package's example has them."""
    import normflows

    steps: list[nn.Module] = []
    for _ in range(8):
        network = normflows.nets.MLP([1, 32, 32, 2], init_zeros=True)
        steps += [normflows.flows.AffineCouplingBlock(network), normflows.flows.Permute(2, mode="swap")]
    model = normflows.NormalizingFlow(normflows.distributions.base.DiagGaussian(2), steps)
    return _flow(model, lambda m, batch: m.model.forward_kld(batch[0]), lambda m, x: m.model.log_prob(x))


# -- diffusion ---------------------------------------------------------------------------------------------------------


def diffusion(rate: float = 1e-3) -> Ready:
    """The package returns the loss itself, and draws times and noise within the forward pass."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    network = Unet(dim=8, dim_mults=(1, 2), channels=1, flash_attn=False)
    model = GaussianDiffusion(network, image_size=8, timesteps=100, objective="pred_noise")
    module = _Module(model, lambda m, batch: m.model(batch[0]), lr=rate)
    x, _, new, _ = digits()

    @torch.no_grad()
    def score() -> float:
        module.eval()
        generator = torch.Generator().manual_seed(0)
        images, times = new * 2 - 1, torch.randint(0, 100, (len(new),), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return explained(network(model.q_sample(images, times, noise), times).flatten(1), noise.flatten(1))

    return Ready(module, DataLoader(TensorDataset(x), 32, shuffle=True), score, trainer={"max_epochs": 2})


# -- Gaussian processes ------------------------------------------------------------------------------------------------


def exact_process() -> Ready:
    """All data are one batch, and in training mode the model accepts only them."""
    import gpytorch

    x, y, new, target = table("diabetes")
    likelihood = gpytorch.likelihoods.GaussianLikelihood()

    class Process(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, points: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(points), self.covar_module(points))

    model = Process()
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    module = _Module(model, lambda m, batch: -objective(m.model(batch[0]), batch[1]), lr=0.1)

    @torch.no_grad()
    def score() -> float:
        module.eval()
        return explained(likelihood(model(new)).mean, target)

    return Ready(module, DataLoader(TensorDataset(x, y), len(x)), score, trainer={"max_epochs": 80})


def variational_process() -> Ready:
    """Inducing points and batches."""
    import gpytorch

    x, y, new, target = table("diabetes")
    likelihood = gpytorch.likelihoods.GaussianLikelihood()

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self, points: Tensor) -> None:
            distribution = gpytorch.variational.CholeskyVariationalDistribution(len(points))
            strategy = gpytorch.variational.VariationalStrategy(self, points, distribution)
            super().__init__(strategy)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, points: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(points), self.covar_module(points))

    model = Process(x[:32].clone())
    objective = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(x))
    module = _Module(model, lambda m, batch: -objective(m.model(batch[0]), batch[1]), lr=0.05)
    module.likelihood = likelihood

    @torch.no_grad()
    def score() -> float:
        module.eval()
        return explained(likelihood(model(new)).mean, target)

    return Ready(module, DataLoader(TensorDataset(x, y), 64, shuffle=True), score, trainer={"max_epochs": 40})


# -- differential equations --------------------------------------------------------------------------------------------


def _spirals(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Starting points, and where a linear spiral takes them at ten times: ``[n, 2]`` and ``[n, 10, 2]``."""
    start = torch.randn(number, 2, generator=torch.Generator().manual_seed(seed))
    matrix = torch.tensor([[-0.1, 1.5], [-1.5, -0.1]])
    return start, torch.stack([start @ torch.matrix_exp(matrix.T * t) for t in torch.linspace(0, 3, 10)], 1)


class _Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)  # type: ignore[no-any-return]


def differential_equation(adjoint: bool = False) -> Ready:
    """The network is called once for each evaluation of the solver, many times in a step."""
    import torchdiffeq

    solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint

    def path(model: Any, start: Tensor) -> Tensor:
        return solve(model, start, torch.linspace(0, 3, 10), method="rk4").transpose(0, 1)  # type: ignore[no-any-return]

    start, target = _spirals(512, 0)
    module = _Module(_Field(), lambda m, batch: (path(m.model, batch[0]) - batch[1]).square().mean(), lr=5e-3)
    new, where = _spirals(100, 1)

    @torch.no_grad()
    def score() -> float:
        module.eval()
        return explained(path(module.model, new).flatten(1), where.flatten(1))

    return Ready(module, DataLoader(TensorDataset(start, target), 32, True), score, trainer={"max_epochs": 10})


TRAININGS = (
    Training("zuko: spline flow", spline_flow, ("zuko",), 0.5),
    Training("nflows: masked flow", masked_flow, ("nflows",), 0.4, activations=False),
    Training("normflows: coupling flow", coupling_flow, ("normflows",), 0.4),
    Training(
        "zuko: spline flow, sign flipped",
        lambda: spline_flow(1),
        ("zuko",),
        0.5,
        mistake="the log-likelihood is minimised",
    ),
    Training("denoising-diffusion: digits", diffusion, ("denoising_diffusion_pytorch",), 0.5),
    Training(
        "denoising-diffusion: rate",
        lambda: diffusion(0.3),
        ("denoising_diffusion_pytorch",),
        0.5,
        mistake="a learning rate 300 times too large",
    ),
    Training("gpytorch: exact process", exact_process, ("gpytorch",), 0.3),
    Training("gpytorch: variational process", variational_process, ("gpytorch",), 0.3),
    Training("torchdiffeq: spirals", differential_equation, ("torchdiffeq",), 0.9),
    Training("torchdiffeq: spirals, adjoint", lambda: differential_equation(True), ("torchdiffeq",), 0.9),
)
