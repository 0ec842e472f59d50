"""Sentences: the recurrent encoder and the pretrained one, and which words get hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ...base import draws
from ...base.batch import Batch, DataDims
from ...base.errors import InputError


class SentenceEncoder(nn.Module):
    """LSTM over the words of a sentence, both ways unless told otherwise.

    Args:
        word_dim: E.
        hidden_size: D; in the bidirectional case each direction has half of it.
        num_layers: depth.
        bidirectional: read the sentence both ways (DMR-JRG III-C.1). 2D-TAN reads it forwards.
        words: add the mean of the words, through a linear layer of their own, to the sentence: what
            a few thousand sentences teach about words carries over to new sentences sooner than
            what they teach about word order.
        readout: False where only the states of the words are wanted: the sentence then comes as the
            LSTM leaves it.
    """

    def __init__(
        self,
        word_dim: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = True,
        words: bool = False,
        readout: bool = True,
    ) -> None:
        super().__init__()
        if bidirectional and hidden_size % 2:
            raise ValueError(f"hidden_size must be even for two directions, found {hidden_size}")
        self.lstm = nn.LSTM(
            word_dim,
            hidden_size // 2 if bidirectional else hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
        )
        self.directions = 2 if bidirectional else 1
        self.project = nn.Linear(hidden_size, hidden_size) if readout else nn.Identity()
        self.words = nn.Linear(word_dim, hidden_size) if words else None

    def forward(
        self, words: Float[Tensor, "M W E"], counts: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M W D"], Float[Tensor, "M D"]]:
        """Encode sentences of ``counts`` real words (a CPU tensor, so that nothing waits for it).

        Returns:
            States of the words, zero where padded, and one feature per sentence: the state after
            the last real word and, read backwards, after the first, through a linear layer.
        """
        # Sorted here, because Torch would wait for the device to do it.
        lengths, order = counts.sort(descending=True)
        forth, back = (i.to(words.device, non_blocking=True) for i in (order, order.argsort()))
        packed = pack_padded_sequence(words.index_select(0, forth), lengths, batch_first=True)
        states, (last, _) = self.lstm(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=words.shape[1])
        states, last = states.index_select(0, back), last.index_select(1, back)
        top = last[-self.directions :].transpose(0, 1).flatten(1)  # (M, D)
        sentence = self.project(top)
        if self.words is not None:
            places = torch.arange(words.shape[1], device=words.device)
            lengths = counts.to(words.device, non_blocking=True)[:, None]
            real = (places < lengths)[..., None]
            sentence = sentence + self.words((words * real).sum(dim=1) / lengths)
        return states, sentence


class SentenceFeatures(nn.Module):
    """One feature per sentence, (M, width), from the reader that an experiment names.

    Args:
        dims: the sizes that the data decides.
        text_encoder: ``lstm`` reads the batch's word vectors; anything else is the folder of a
            pretrained transformer (DistilBERT, BERT, …), which reads the sentences as written.
        hidden_size, lstm_layers, bidirectional, words: of the LSTM.

    Attributes:
        width: of a feature: ``hidden_size``, or what the transformer has.
    """

    def __init__(
        self,
        dims: DataDims,
        text_encoder: str,
        *,
        hidden_size: int,
        lstm_layers: int = 1,
        bidirectional: bool = True,
        words: bool = False,
    ) -> None:
        super().__init__()
        self.lstm: SentenceEncoder | None = None
        self.pretrained: PretrainedEncoder | None = None
        if words and text_encoder != "lstm":
            raise ValueError("words adds to the LSTM's sentences: text_encoder is not 'lstm'")
        if text_encoder == "lstm":
            self.width = hidden_size
            self.lstm = SentenceEncoder(
                dims.word_dim,
                hidden_size,
                num_layers=lstm_layers,
                bidirectional=bidirectional,
                words=words,
            )
        else:
            self.pretrained = PretrainedEncoder(*read_pretrained(text_encoder))
            self.width = self.pretrained.width

    def forward(self, batch: Batch) -> Float[Tensor, "M H"]:
        if self.lstm is not None:
            return self.lstm(batch.flat(batch.words), batch.word_counts)[1]
        assert self.pretrained is not None
        return self.pretrained(batch.sentences)


class PretrainedEncoder(nn.Module):
    """A transformer over the tokens of whole sentences: the mean of its last hidden states.

    All real tokens count, the two special ones included.

    Args:
        encoder: called with ``input_ids`` and ``attention_mask`` (H is its ``config.hidden_size``).
        tokenizer: turns a list of texts into these two, padded.

    Source: MMN.
    """

    def __init__(self, encoder: nn.Module, tokenizer: Callable[..., Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.width = int(encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(self, sentences: Sequence[str]) -> Float[Tensor, "M H"]:
        """Raises ValueError for a batch without texts."""
        if not sentences:
            raise ValueError("a pretrained text encoder reads Batch.sentences, which is empty")
        tokens = self.tokenizer(
            list(sentences), padding=True, truncation=True, max_length=512, return_tensors="pt"
        )
        device = next(self.encoder.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def read_pretrained(folder: str) -> tuple[nn.Module, Callable[..., Any]]:
    """A transformer and its tokeniser from a folder as ``transformers`` writes it; no download.

    Raises:
        InputError: transformers is not installed, or the folder does not hold such a model.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise InputError(
            f"text_encoder {folder!r} needs the package transformers (pip install transformers), "
            "or use text_encoder: lstm"
        ) from None
    if not Path(folder).is_dir():
        raise InputError(
            f"text_encoder {folder!r} is no folder; expected lstm, or the folder of a pretrained "
            "transformer (config.json, its weights and its tokeniser)"
        )
    try:
        encoder = AutoModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as fault:
        reason = str(fault).split("\n")[0]
        raise InputError(f"text_encoder {folder!r} cannot be read ({reason})") from None
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # reads the first state alone; nothing here would train it
    return encoder.float().train(), tokenizer


def word_places(counts: Int[Tensor, " M"]) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
    """Sentence and column of every real word, from the counts; on the CPU, like them."""
    sentence = torch.repeat_interleave(torch.arange(len(counts)), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return sentence, torch.arange(len(sentence)) - first


class TiedEmbeddings(nn.Module):
    """Logits of the vocabulary's words by their vectors: D → E, the inner product with each word's
    vector (centred, of length 1) and a bias a word.

    A row of its own has to be learnt for every word (``nn.Linear``); here what is learnt of one
    holds for its neighbours, as on the side of the input.

    Args:
        vectors: of the words by id; fixed, and kept in the state dict. The rows of ids that are no
            word are zero, and leave such an id its bias.

    Source: ours, after Press and Wolf (2017), who tie output rows to input vectors that are learnt.
    """

    vectors: Tensor

    def __init__(self, hidden_size: int, vectors: Float[Tensor, "V E"]) -> None:
        super().__init__()
        word = (vectors != 0).any(dim=1, keepdim=True)
        centred = torch.where(word, vectors - vectors[word[:, 0]].mean(dim=0), 0.0)
        self.register_buffer("vectors", nn.functional.normalize(centred, dim=1))
        self.project = nn.Linear(hidden_size, vectors.shape[1])
        self.bias = nn.Parameter(torch.zeros(len(vectors)))

    def forward(self, states: Float[Tensor, "*R D"]) -> Float[Tensor, "*R V"]:
        return self.project(states) @ self.vectors.T + self.bias


def word_logits(dims: DataDims, hidden_size: int, *, tied: bool) -> nn.Module:
    """From states (…, D) to the logits (…, V) of the vocabulary's words: a row for each, or tied.

    Raises:
        ValueError: tied, and the words have no vectors.
    """
    if not tied:
        return nn.Linear(hidden_size, dims.vocab_size)
    if dims.word_vectors is None:
        raise ValueError("tied_embeddings needs a vector for each word of the vocabulary")
    return TiedEmbeddings(hidden_size, dims.word_vectors)


@dataclass(frozen=True)
class MaskedWords:
    """Words that a reconstruction has to predict. R is their number over all sentences.

    A sentence's words stand in a row of up to K slots; ``column`` repeats a word in empty ones.
    """

    column: Int[Tensor, "M K"]  # place in the sentence
    sentence: Int[Tensor, " R"]
    slot: Int[Tensor, " R"]

    def position(self, width: int) -> Int[Tensor, " R"]:
        """Of each word in the flattened (M·W) axis, W being ``width``."""
        return self.sentence * width + self.column[self.sentence, self.slot]

    def mask(self, width: int) -> Bool[Tensor, "M W"]:
        """Which words are asked for."""
        marks = self.column.new_zeros(len(self.column) * width, dtype=torch.bool)
        return marks.index_fill(0, self.position(width), True).view(-1, width)


def all_words(counts: Int[Tensor, " M"], device: torch.device) -> MaskedWords:
    """Every real word of every sentence of ``counts`` (on the CPU) words."""
    sentence, slot = (index.to(device, non_blocking=True) for index in word_places(counts))
    column = torch.arange(int(counts.max()), device=device).expand(len(counts), -1)
    return MaskedWords(column, sentence, slot)


def draw_masked_words(
    weights: Float[Tensor, "M W"],
    counts: Int[Tensor, " M"],
    *,
    ratio: float = 1 / 3,
    generator: torch.Generator | None = None,
    noise: Float[Tensor, "M W"] | None = None,
) -> MaskedWords:
    """Draw a share of every sentence's words to be hidden, at least one, without replacement.

    The chance of a word grows with its weight (content words 2, others 1). Exponential keys divided
    by the weights, smallest first, are such a draw (Efraimidis and Spirakis, 2006). How many words
    are hidden follows from ``counts`` alone, which lives on the CPU: no shape waits for the device.

    Args:
        noise: the exponential numbers, where they are not to be drawn (``noise_of_words``).

    Source: DMR-JRG III-C.1, after SCN.
    """
    if noise is None:
        if generator is None:
            noise = draws.exponential(weights)
        else:
            noise = torch.empty_like(weights).exponential_(generator=generator)
    keys = torch.where(weights > 0, noise / weights.clamp(min=1e-6), torch.inf)
    quota = (counts * ratio).floor().long().clamp(min=1)
    column = keys.argsort(dim=1)[:, : int(quota.max())]
    sentence, slot = (index.to(weights.device, non_blocking=True) for index in word_places(quota))
    return MaskedWords(column, sentence, slot)


def noise_of_words(ids: Int[Tensor, "M W"], mask: Bool[Tensor, "M W"]) -> Float[Tensor, "M W"]:
    """Exponential noise for each word that follows from the words of its sentence and from nothing
    else: a sentence draws the same in any batch, however padded, and on any device.

    The ids and their places are hashed to a number for the sentence, that and the place to one for
    the word. Source: the mixing function is that of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    mixed = _mixed(ids * _GOLDEN + place * _ODD)
    sentence = torch.where(mask, mixed, 0).sum(dim=1, keepdim=True)
    bits = (_mixed(sentence + place * _GOLDEN) >> 40) & (2**24 - 1)
    return -((bits.to(torch.float32) + 0.5) / 2**24).log()


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed numbers, which wrap around
_ODD = 0xBF58476D1CE4E5B9 - 2**64
_OTHER = 0x94D049BB133111EB - 2**64


def _mixed(x: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    for shift, factor in ((30, _ODD), (27, _OTHER)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x ^ ((x >> 31) & (2**33 - 1))
