"""A pretrained text encoder so small that tests can make it: the interface of ``transformers``."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

LONGEST = 32


class TinyTransformer(nn.Module):
    """Token ids and their mask -> ``last_hidden_state``, like a DistilBERT of one layer."""

    def __init__(self, vocabulary: int = 64, hidden_size: int = 8) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=hidden_size)
        self.words = nn.Embedding(vocabulary, hidden_size)
        self.positions = nn.Embedding(LONGEST, hidden_size)
        self.layer = nn.TransformerEncoderLayer(hidden_size, 2, 16, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        states = self.words(input_ids) + self.positions(places)
        states = self.layer(states, src_key_padding_mask=attention_mask == 0)
        return SimpleNamespace(last_hidden_state=states)


def tiny_tokenizer(texts: list[str], **_: object) -> dict[str, Tensor]:
    """Words "w7" to ids, between two special tokens, padded to the longest."""
    ids = [[1, *(2 + int(word[1:]) for word in text.split()), 2] for text in texts]
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in ids]),
    }


def tiny_pretrained() -> tuple[nn.Module, object]:
    return TinyTransformer(), tiny_tokenizer
