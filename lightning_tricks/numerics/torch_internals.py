"""Every private name of torch that the pack touches; those of GradScaler are in ``optimizer_step/loss_scale.py``.

Each is looked up when this file is imported. Where a torch version lacks one, either a slower public way is taken, or
the import is refused with the missing names. ``docs/versions.md`` lists them, written by ``tools/versions_page.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tricks.errors import UnsupportedError
from lightning_tricks.numerics.internals import REFUSED, Internal, missing

INTERNALS = (
    Internal("torch.utils._pytree.tree_leaves", "tensors in nested batches and outputs", REFUSED),
    Internal("torch.utils._pytree.tree_map", "copies of nested batches", REFUSED),
    Internal("torch.utils._pytree.tree_flatten_with_path", "names of what keeps memory", REFUSED),
    Internal("torch.utils._python_dispatch.TorchDispatchMode", "copy on write in dry runs, peak memory", REFUSED),
    Internal("torch.utils._python_dispatch.is_traceable_wrapper_subclass", "tensors made of others", REFUSED),
    Internal("torch._C.DisableTorchFunctionSubclass", "snapshots of tensors of any subclass", REFUSED),
    Internal("torch._C._autograd._unsafe_set_version_counter", "graphs that outlive a dry run", "they become invalid"),
    Internal("torch._C._functorch.peek_interpreter_stack", "forward hooks inside of torch.func", "they read there too"),
    Internal("torch._C._functions.NllLossBackward0._saved_target", "targets that a step has flipped", "the batch's"),
    Internal("torch._foreach_norm", "one kernel for many norms", "one kernel a tensor"),
    Internal("torch._foreach_mul_", "one kernel to scale many gradients", "one kernel a tensor"),
    Internal("torch._foreach_clamp_min_", "one kernel to clip many gradients by value", "one kernel a tensor"),
    Internal("torch._foreach_clamp_max_", "one kernel to clip many gradients by value", "one kernel a tensor"),
    Internal("torch.Tensor._version", "whether a tensor was written to", REFUSED),
    Internal("torch.Tensor._is_view", "restoring views in dry runs", REFUSED),
    Internal("torch.Tensor._values", "sparse gradients without a check of their indices", REFUSED),
    Internal("torch.Tensor._indices", "sparse gradients without a check of their indices", REFUSED),
    Internal("torch.UntypedStorage._cdata", "which tensors share memory", REFUSED),
    Internal("torch.nn.modules.conv._ConvNd", "convolutions of all dimensions", "the public classes"),
    Internal("torch.nn.modules.batchnorm._NormBase", "normalisation layers without weight decay", "the public classes"),
    Internal("torch.nn.modules.batchnorm._BatchNorm", "layers with statistics of the batch", "the public classes"),
    Internal("torch.nn.modules.instancenorm._InstanceNorm", "layers after which a bias has no gradient", "public ones"),
    Internal("torch.nn.modules.dropout._DropoutNd", "layers that draw random numbers", "the public classes"),
    Internal("torch.nn.modules.loss._Loss", "modules that are losses and not outputs", "the public classes"),
    Internal("torch.utils.data.DataLoader._iterator", "persistent workers at a resume", "they are not shut down"),
)


def require_torch(absent: Sequence[Internal]) -> None:
    """Refuse a torch that lacks what cannot be replaced."""
    needed = [internal.path for internal in absent if internal.without == REFUSED]
    if needed:
        raise UnsupportedError(
            f"lightning_tricks: torch {torch.__version__} has no {', '.join(needed)}. Install a version of torch that "
            "docs/versions.md lists as tested."
        )


# (an instance of DataLoader, because ``_iterator`` is set by its constructor and not by the class)
ABSENT = missing(INTERNALS, {"torch": torch, "torch.utils.data.DataLoader": DataLoader([0])})  # type: ignore[arg-type]
require_torch(ABSENT)

# Imported after the check: a torch that lacks them is refused with a message instead of an ImportError.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode  # noqa: E402
from torch.utils._python_dispatch import is_traceable_wrapper_subclass as is_traceable_wrapper_subclass  # noqa: E402
from torch.utils._pytree import tree_flatten_with_path as tree_flatten_with_path  # noqa: E402
from torch.utils._pytree import tree_leaves as tree_leaves  # noqa: E402
from torch.utils._pytree import tree_map as tree_map  # noqa: E402


def _classes(module: Any, private: str, *public: type[nn.Module]) -> tuple[type[nn.Module], ...]:
    """Return a private base class, or the public classes that derive from it."""
    base = getattr(module, private, None)
    return public if base is None else (base,)


CONVOLUTION = _classes(
    nn.modules.conv,
    "_ConvNd",
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
BATCH_NORM = _classes(nn.modules.batchnorm, "_BatchNorm", *_BATCH_NORMS)
INSTANCE_NORM = _classes(nn.modules.instancenorm, "_InstanceNorm", *_INSTANCE_NORMS)
NORM = _classes(nn.modules.batchnorm, "_NormBase", *_BATCH_NORMS, *_INSTANCE_NORMS)
NORM_LAYERS: tuple[type[nn.Module], ...] = (*NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # all that have parameters
DROPOUT = _classes(
    nn.modules.dropout,
    "_DropoutNd",
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
LOSS = _classes(
    nn.modules.loss,
    "_Loss",
    *(value for name, value in vars(nn.modules.loss).items() if name.endswith("Loss") and not name.startswith("_")),
)

# -- many tensors at once ---------------------------------------------------------------------------------------------


def foreach_norm(tensors: Sequence[Tensor], norm_type: float, dtype: torch.dtype) -> list[Tensor]:
    """Return the norm of each tensor, added up in a given type."""
    kernel = getattr(torch, "_foreach_norm", None)
    if kernel is None:
        return [torch.linalg.vector_norm(tensor, norm_type, dtype=dtype) for tensor in tensors]
    return list(kernel(list(tensors), norm_type, dtype=dtype))


def foreach_mul_(tensors: Sequence[Tensor], factor: Any) -> None:
    """Multiply tensors in place.

    Args:
        factor: a number or 0-d tensor for all, or a sequence with one for each.
    """
    kernel = getattr(torch, "_foreach_mul_", None)
    if kernel is not None:
        kernel(tensors, factor)
        return
    each = factor if isinstance(factor, (list, tuple)) else [factor] * len(tensors)
    for tensor, own in zip(tensors, each, strict=True):
        tensor.mul_(own)


def foreach_clamp_(tensors: Sequence[Tensor], limit: float) -> None:
    """Clamp tensors in place to ``[-limit, limit]``."""
    low, high = getattr(torch, "_foreach_clamp_min_", None), getattr(torch, "_foreach_clamp_max_", None)
    if low is not None and high is not None:
        low(tensors, -limit)
        high(tensors, limit)
        return
    for tensor in tensors:
        tensor.clamp_(-limit, limit)


# -- one tensor -------------------------------------------------------------------------------------------------------


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to."""
    return int(tensor._version)


def set_version(tensor: Tensor, version: int) -> None:
    """Set the version counter of a tensor; where torch has no function for it, the counter stays ahead."""
    put: Any = getattr(torch._C._autograd, "_unsafe_set_version_counter", None)
    if put is None:
        return
    # (a tensor that was made in inference mode has no version counter)
    with suppress(RuntimeError):
        try:
            put((tensor,), (version,))
        except TypeError:  # torch 2.6 takes one tensor
            put(tensor, version)


def is_view(tensor: Tensor) -> bool:
    """Whether autograd knows a tensor as a view of another one."""
    return bool(tensor._is_view())


def sparse_values(tensor: Tensor) -> Tensor:
    """Return the values of a sparse tensor, coalesced or not."""
    return tensor._values()


def sparse_indices(tensor: Tensor) -> Tensor:
    """Return the indices of a sparse tensor, coalesced or not."""
    return tensor._indices()


def storage_id(storage: Any) -> int:
    """Return a number that two storages share where they are the same memory."""
    return int(storage._cdata)


def without_subclasses() -> Any:
    """Return a context in which subclasses of tensors behave as plain tensors."""
    return torch._C.DisableTorchFunctionSubclass()


def schema_of(function: Any) -> Any:
    """Return the signature of an operator, with what it writes to."""
    return function._schema


def in_functorch() -> bool:
    """Whether this runs inside of ``torch.vmap`` or another transformation of ``torch.func``."""
    try:
        from torch._C._functorch import peek_interpreter_stack
    except ImportError:
        return False
    return peek_interpreter_stack() is not None


# -- modules and loaders ----------------------------------------------------------------------------------------------


def children_of(module: nn.Module) -> dict[str, Any]:
    """Return the dict of a module's children itself."""
    return module._modules


def compiled_forward(module: Any) -> Any:
    """Return what ``module.compile()`` made; None where it was not called."""
    return getattr(module, "_compiled_call_impl", None)


def compiled_original(module: Any) -> Any:
    """Return the module under the wrapper of ``torch.compile``; None for any other module."""
    return getattr(module, "_orig_mod", None)


def compiled_as_one(module: Any) -> bool:
    """Whether ``torch.compile`` was applied to a LightningModule itself, which keeps this mark of Lightning's."""
    return getattr(module, "_compiler_ctx", None) is not None


def script_parts(module: Any) -> tuple[Any, list[str]] | None:
    """Return the C++ object of a TorchScript module and the names of its attributes; None where it shows neither."""
    kind = getattr(module, "_concrete_type", None)
    return None if kind is None else (module._c, list(kind.get_attributes()))


def file_writer(experiment: Any) -> Any:
    """Return what writes the event file of a TensorBoard ``SummaryWriter``."""
    return experiment._get_file_writer()


def chained_schedulers(scheduler: Any) -> Sequence[Any]:
    """Return the schedulers inside of a ``SequentialLR`` or ``ChainedScheduler``; none of any other."""
    found: Sequence[Any] = getattr(scheduler, "_schedulers", ())
    return found


def loader_iterator(loader: Any) -> Any:
    """Return the iterator that a loader keeps for its persistent workers; None where it has none."""
    return getattr(loader, "_iterator", None)


def shut_down_iterator(loader: Any) -> None:
    """Shut down the workers of a loader's kept iterator, so that the next one starts new ones."""
    iterator = loader_iterator(loader)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def saved_target(node: Any) -> Tensor | None:
    """Return the target that a loss function keeps for its backward pass; None where a node of a graph has none."""
    try:
        found = getattr(node, "_saved_target", None)
    except RuntimeError:  # (it was written into since)
        return None
    return found if isinstance(found, Tensor) else None


def can_skip(iterator: Any) -> bool:
    """Whether the iterator of a DataLoader can be advanced without loading its batches."""
    return hasattr(iterator, "_next_index") and hasattr(iterator, "_num_yielded")


def skip_one(iterator: Any) -> None:
    """Advance the iterator of a DataLoader by one batch without loading it."""
    # The sampler still draws its indices, which leaves its generator where loading the batch would have left it.
    iterator._next_index()
    iterator._num_yielded += 1
