"""The published map stacks as published, to be compared with ours: over the whole square."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from ..models.layers.dynamic_conv import DynamicConvStack
from ..models.layers.proposal_map import MaskedConvStack


class FullSquare(nn.Module):
    """A stack of ours computed as it was published: every convolution over the whole padded square,
    its result brought to zero where no proposal was seen. It has the stack's own parameters."""

    def __init__(self, stack: MaskedConvStack | DynamicConvStack) -> None:
        super().__init__()
        self.stack = stack
        self.start, self.end = stack.grid.mask.nonzero().unbind(dim=1)

    def forward(
        self, features: Float[Tensor, "M P D"], sentence: Float[Tensor, "M D"] | None = None
    ) -> Float[Tensor, "M P D"]:
        """``sentence`` is read by dynamic layers alone."""
        stack, N = self.stack, self.stack.grid.num_clips
        x = features.new_zeros(len(features), features.shape[2], N, N)
        x[:, :, self.start, self.end] = features.mT
        if isinstance(stack, MaskedConvStack):
            for layer, (conv, norm) in enumerate(zip(stack.convs, stack.norms, strict=True)):
                x = norm(conv(x)).relu() * getattr(stack, f"weight_{layer}")
        else:
            for layer, conv in enumerate([*stack.dynamic, *stack.static]):
                x = stack.norms[layer](x)
                dynamic = layer < len(stack.dynamic)
                y = conv(x, sentence) if dynamic else conv(x)
                x = (y + x).relu() * getattr(stack, f"weight_{layer}")
            x = stack.norms[-1](x)
        return x[:, :, self.start, self.end].mT
