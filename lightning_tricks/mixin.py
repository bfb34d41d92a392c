"""TricksMixin: the tricks as part of a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.optim import Optimizer

from lightning_tricks.errors import ConflictError
from lightning_tricks.lifecycle.lightning_internals import trainer_of
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.modules.names import compiled_as_a_whole
from lightning_tricks.precision.callbacks import PrecisionDoctor
from lightning_tricks.recipe_choices import Recipe
from lightning_tricks.recipes import Tricks, as_recipe


class TricksMixin:
    """Give a LightningModule callbacks, and an optimizer if it has none: ``class Net(TricksMixin, LightningModule)``.

    Callbacks of a type that the Trainer already has are left out, with one warning: Lightning itself would take the
    module's and drop the Trainer's. The optimizer is that of the recipe, AdamW without one: no weight decay on biases
    and norms, fused where the device has it; its rate is the module's ``lr`` or ``learning_rate`` (attribute or
    hyperparameter) if there is one. A ``configure_optimizers`` of the module or of a base class stays.

    Args:
        tricks: the name of a recipe (``"transformer"``), a list of callbacks or of their names, or a dict: ``{"recipe":
            "cnn", "optimizer": {"lr": 0.01}, "GradientClip": {"rule": 0.5}}``. Also as class attribute, or as
            hyperparameter ``tricks``; what is passed here comes first, then hyperparameters. None for no trick.

    Raises:
        TypeError: the class lists LightningModule before the mixin; ``tricks`` is of a wrong type.
        ValueError: a name is unknown.

    Example:
        >>> import torch, lightning.pytorch as L
        >>> from lightning_tricks import TricksMixin
        >>> class Net(TricksMixin, L.LightningModule):
        ...     tricks = "transformer"
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(4, 2)
        >>> type(Net().configure_optimizers()).__name__
        'AdamW'
    """

    tricks: Tricks | None = None
    _recipe: Recipe | None = None
    _module_methods: ClassVar[tuple[str, ...]] = ("configure_callbacks", "configure_optimizers")

    def __init__(self, *args: Any, tricks: Tricks | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if tricks is not None:
            self.tricks = tricks

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = list(cls.__mro__)
        for method in TricksMixin._module_methods:
            owner = next(c for c in order if method in vars(c))
            if owner.__name__ == "LightningModule":
                raise TypeError(
                    f"{cls.__name__}: LightningModule stands before TricksMixin and hides its {method}. "
                    f"Write class {cls.__name__}(TricksMixin, LightningModule)."
                )

    @property
    def recipe(self) -> Recipe:
        """The callbacks and the optimizer that ``tricks`` stands for; made at the first look."""
        if self._recipe is None:
            hyperparameters: Any = getattr(self, "hparams", {})
            given = self.__dict__.get("tricks")
            chosen = given if given is not None else hyperparameters.get("tricks", None)
            self._recipe = as_recipe(chosen if chosen is not None else self.tricks if self.tricks is not None else [])
        return self._recipe

    def configure_callbacks(self) -> Any:
        """Return the callbacks of a base class, and those of ``tricks`` that the Trainer has no other of."""
        inherited: Any = getattr(super(), "configure_callbacks", list)()
        others = [*(inherited if isinstance(inherited, (list, tuple)) else [inherited])]
        present = [*self.trainer.callbacks, *others]  # type: ignore[attr-defined]
        mine = [trick for trick in self._able() if not any(isinstance(c, type(trick)) for c in present)]
        foreign = [c for c in present if not any(c is trick for trick in self.recipe)]
        hidden = sorted({type(t).__name__ for t in self.recipe for c in foreign if isinstance(c, type(t))})
        # (Lightning asks for the callbacks at each fit, validate and test)
        if hidden and not self.__dict__.get("_told"):
            self._told = True
            text = f"the Trainer has a {' and a '.join(hidden)} of its own; the module's is left out."
            warn(type(self).__name__, text)
        return [*others, *mine]

    def configure_optimizers(self) -> Any:
        """Return the optimizers of a base class if it has any, else those of the recipe.

        Raises:
            ConflictError: the recipe wants two optimizers, and optimization is automatic.
            TrickError: there is nothing to train, or a part is not there.
        """
        inherited = getattr(super(), "configure_optimizers", None)
        if inherited is not None and inherited.__func__.__qualname__.split(".")[0] != "LightningModule":
            return inherited()
        choice = self.recipe.optimizer
        rate = self._rate()
        if rate is not None:
            choice = choice.changed({"lr": rate})
        module: Any = self
        if choice.parts and module.automatic_optimization:
            raise ConflictError(
                f"{type(self).__name__}: an optimizer for each of {', '.join(choice.parts)} needs manual optimization. "
                "Set self.automatic_optimization = False and step them in training_step."
            )
        optimizers: list[Optimizer] = choice.build(module, fused=not self._clipped_by_lightning())
        return optimizers if choice.parts else optimizers[0]

    def _able(self) -> list[Any]:
        """Return the tricks without those of a recipe's own that cannot look into a module compiled as a whole."""
        # (what the user chose is left to the user)
        if not self.recipe.choices or not compiled_as_a_whole(self):
            return list(self.recipe)
        blind = [t for t in self.recipe if isinstance(t, PrecisionDoctor)]
        if blind:
            text = "compiled as a whole, so PrecisionDoctor is left out."
            warn(type(self).__name__, f"{text} Compile its parts: self.net = torch.compile(self.net).")
        return [t for t in self.recipe if t not in blind]

    def _rate(self) -> float | None:
        hyperparameters: Mapping[str, Any] = getattr(self, "hparams", {})
        for name in ("lr", "learning_rate"):
            # (``__dict__``: ``getattr`` would also find methods, submodules and properties)
            for value in (self.__dict__.get(name), hyperparameters.get(name)):
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    return float(value)
        return None

    def _clipped_by_lightning(self) -> bool:
        # until lightning>2.6.6 (#21435): with a fused optimizer, mixed precision refuses gradient_clip_val
        trainer = trainer_of(self)
        return bool(trainer is not None and trainer.gradient_clip_val)
