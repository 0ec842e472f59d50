"""Class tokens that summarise a sequence."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def transformer_encoder(
    hidden_size: int, *, num_layers: int, heads: int, feedforward: int, dropout: float
) -> nn.TransformerEncoder:
    """The encoder of the retrieval branch: post-norm, learned positions are added outside."""
    layer = nn.TransformerEncoderLayer(
        hidden_size, heads, feedforward, dropout, batch_first=True, norm_first=False
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


class ClassToken(nn.Module):
    """A learned token in front of a sequence with learned positions.

    Args:
        length: positions; items beyond the last share its position.
        hidden_size: D.
    """

    def __init__(self, length: int, hidden_size: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.positions = nn.Parameter(torch.randn(length + 1, hidden_size) * 0.02)

    def forward(
        self,
        encoder: nn.TransformerEncoder,
        items: Float[Tensor, "B L D"],
        mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """The state of the token after ``encoder`` has read it with the real items."""
        B, L = items.shape[:2]
        tokens = torch.cat([self.token.expand(B, 1, -1).to(items.dtype), items], dim=1)
        places = torch.arange(L + 1, device=items.device).clamp(max=len(self.positions) - 1)
        padding = None
        if mask is not None:
            padding = ~torch.cat([mask.new_ones(B, 1), mask], dim=1)
        states = encoder(tokens + self.positions[places], src_key_padding_mask=padding)
        return states[:, 0]
