"""How much work a training step is: FLOPs of the model, and the time that this machine's ceilings allow for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_VIEWS = ("view", "reshape", "transpose", "permute", "expand", "slice", "select", "detach", "unsqueeze", "squeeze", "as_strided", "alias", "split", "t")  # fmt: skip


_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward


def convolution_backward_flops(
    out: Sequence[int], weight: Sequence[int], mask: Sequence[bool], transposed: bool, inputs: Sequence[int]
) -> int:
    """Return the FLOPs of a convolution's backward pass: each wanted gradient costs what the forward pass does.

    torch's own counter takes no notice of groups in the gradient of the weights: for a depthwise convolution it says as
    many times too much as there are channels.

    >>> convolution_backward_flops([1, 8, 4, 4], [8, 1, 3, 3], [True, True, False], False, [1, 8, 4, 4])
    4608
    """
    places = inputs if transposed else out
    return sum(mask[:2]) * 2 * math.prod(places) * math.prod(weight[1:])


def _backward_of_shapes(
    out: Any, inputs: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, mask: Any, **more: Any,
) -> int:  # fmt: skip
    return convolution_backward_flops(out, weight, mask, transposed, inputs)


def model_flops(module: Any, batch: tuple[Tensor, ...]) -> int:
    """Return the FLOPs of a forward and a backward pass.

    Counted on the meta device: on a CPU or GPU, torch's counter knows neither LSTM kernels nor the CPU's attention, and
    counts what flash attention computes twice.
    """
    twin = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False, custom_mapping={_CONVOLUTION_BACKWARD: _backward_of_shapes}) as counter:
        twin.whole_loss(tuple(t.to("meta") for t in batch)).backward()
    return int(counter.get_total_flops())


class Roofline(TorchDispatchMode):
    """Adds up, over all operations of a step, the time that arithmetic or memory allows at least.

    ``sum over operations of max(FLOPs / ceiling, bytes / bandwidth)``; bytes are those of all inputs and outputs.

    Args:
        flops_per_second: by dtype of the operands.
        bytes_per_second: of copying.
    """

    def __init__(self, flops_per_second: dict[torch.dtype, float], bytes_per_second: float) -> None:
        super().__init__()
        self._flops, self._bandwidth = flops_per_second, bytes_per_second
        self.seconds, self.bytes, self.seen_flops = 0.0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1].rstrip("_")
        if name in _VIEWS or name.startswith(("empty", "_unsafe_view")):
            return result
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        moved = sum(t.nbytes for t in inputs) + sum(t.nbytes for t in tree_leaves(result) if isinstance(t, Tensor))
        flops = 0
        if func._overloadpacket is _CONVOLUTION_BACKWARD:
            out, x, weight, *rest = args
            flops = convolution_backward_flops(out.shape, weight.shape, rest[7], rest[4], x.shape)
        elif func._overloadpacket in flop_registry:
            flops = int(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result))
        floating = next((t.dtype for t in inputs if t.is_floating_point()), torch.float32)
        ceiling = self._flops.get(floating, max(self._flops.values()))
        self.seen_flops += flops
        self.bytes += moved
        self.seconds += max(flops / ceiling, moved / self._bandwidth)
        return result


class Reads(TorchDispatchMode):
    """Counts the operations that bring a number from a device to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))
