"""Sentences -> word ids, rows of word vectors, and masking weights."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.errors import InputError
from .word_vectors import WordVectors

PADDING, UNKNOWN = 0, 1
FIRST_WORD = 2  # ids below are not words

# Determiners, pronouns, prepositions, conjunctions, modals, numerals and particles. The forms of
# be, have and do are verbs, "not" and "then" adverbs: they are no part of it.
_FUNCTION_WORDS = """
    a an the this that these those each every either neither both all any some no half such another
    what which whatever whichever whose
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his
    himself she her hers herself it its itself they them their theirs themselves one oneself
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing
    none who whom whoever other others
    about above across after against along alongside amid amidst among amongst around as at atop
    before behind below beneath beside besides between beyond by concerning despite down during
    except for from in inside into like minus near nearby of off on onto opposite out outside over
    past per plus regarding since than through throughout till to toward towards under underneath
    unlike until unto up upon via versus vs with within without
    and or but nor so yet because although though if unless whereas while whilst whether
    when where why how that once
    can could may might must shall should will would ca wo sha 'll 'd
    zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty hundred thousand million
    there 's oh um uh ok okay yes hey etc
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())

_NUMBER = r"\d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?(?![^\W_])"
_WORD = r"[^\W_]+(?:[-'][^\W_]+)*"
_TOKEN = re.compile(f"{_NUMBER}|{_WORD}|'(?:s|re|ve|ll|d|m)\\b")
_CLITIC = re.compile(r"(?<=.)(n't|'s|'re|'ve|'ll|'d|'m)$")


def tokenise(sentence: str) -> list[str]:
    """Lower-cased words without punctuation; clitics are split off as GloVe has them.

    ``He's slicing; he doesn't stop.`` -> he 's slicing he does n't stop. Words joined by a hyphen
    stay together, words joined by a full stop or a slash do not.
    """
    return list(chain.from_iterable(map(_words_in, sentence.split())))


def split_at_spaces(sentence: str) -> list[str]:
    """Lower-cased pieces between white space, punctuation and all, as 2D-TAN's release reads
    ActivityNet and TACoS: a ``dog.`` at the end of a sentence is then no word of GloVe."""
    return sentence.lower().split()


def split_without_stop(sentence: str) -> list[str]:
    """The same without the full stop that ends the sentence, as 2D-TAN's release reads
    Charades-STA, all of whose sentences have one."""
    return split_at_spaces(sentence.strip().removesuffix("."))


_MARKS = re.compile(
    r"""\.{3}|--|``|''|[;@#$%&?!()\[\]{}<>*"]|[,:](?!\d)"""
    r"""|(?:(?!\.{3}|--)[^\s;@#$%&?!()\[\]{}<>*",:]|[,:](?=\d))+"""
)
_CLOSING = frozenset('")]}>') | {"''"}


def words_and_marks(sentence: str) -> list[str]:
    """Lower-cased words and the punctuation between them, each mark a token, by the conventions of
    the Penn Treebank, as the DMR-JRG release reads all corpora.

    A full stop is a token where a sentence ends: at the end of the text, and before a capital.
    """
    tokens: list[str] = []
    pieces = sentence.split()
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        found = _MARKS.findall(piece)
        ends = not following or following[0].isupper()
        for place, token in enumerate(found):
            word, stop = token.lower(), []
            if token == '"':
                tokens.append("''" if place else "``")
                continue
            last = ends and _CLOSING.issuperset(found[place + 1 :])
            if last and word.endswith(".") and word.strip("."):
                word, stop = word[:-1], ["."]
            stem, clitic, _ = _CLITIC.split(word) if _CLITIC.search(word) else (word, "", "")
            if len(stem) > 1 and stem.endswith("'"):
                stem, clitic = stem[:-1], "'"
            tokens += ["can", "not"] if stem == "cannot" else [stem]
            tokens += [*([clitic] if clitic else []), *stop]
    return tokens


TOKENISERS: Mapping[str, Callable[[str], list[str]]] = {
    "words": tokenise,
    "spaces": split_at_spaces,
    "spaces_no_stop": split_without_stop,
    "words_and_marks": words_and_marks,
}


@functools.cache
def tokeniser(tokens: str) -> Callable[[str], tuple[str, ...]]:
    """The function of that name in ``TOKENISERS``, remembering what it made of a sentence: a corpus
    that is read asks three times for each of its own."""
    split = TOKENISERS[tokens]
    return functools.lru_cache(maxsize=2**16)(lambda sentence: tuple(split(sentence)))


def has_words(sentence: str) -> bool:
    """Whether ``tokenise`` finds any."""
    return any(map(_words_in, sentence.split()))


@functools.lru_cache(maxsize=2**17)  # the same few thousand over and over
def _words_in(text: str) -> tuple[str, ...]:
    """Of text without white space, which no word spans."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("`", "'")
    words: list[str] = []
    for token in _TOKEN.findall(text):
        stem, clitic, _ = _CLITIC.split(token) if _CLITIC.search(token) else (token, "", "")
        words += ["can", "not"] if stem == "cannot" else [stem]
        if clitic:
            words.append(clitic)
    return tuple(words)


@dataclass(frozen=True)
class EncodedText:
    """Sentences as numbers, one after the other: L words of n sentences."""

    ids: Int[Tensor, " L"]
    rows: Int[Tensor, " L"]  # of the word vectors' matrix
    weights: Float[Tensor, " L"]  # preference for being masked
    counts: Int[Tensor, " n"]  # words of each sentence


class Vocabulary:
    """The words of the training sentences by frequency, their vectors, and how to mask them.

    Ids are 0 for padding, 1 for every word outside the vocabulary, and from 2 the most frequent
    words, ties in alphabetical order. A word outside the vocabulary still has its own vector.

    Args:
        sentences: of the training split, and of no other.
        vectors: of all words that may be met.
        size: most words that get an id of their own.
        tagger: "function_words" (a closed list) or "nltk" (its part-of-speech tagger) decides
            which words are nouns, verbs, adjectives or adverbs and weigh 2 when masked.
        tokens: what a word is, a key of TOKENISERS.
        stems: words of one stem share an id, as far as training has them; each keeps its vector.
    """

    def __init__(
        self,
        sentences: Iterable[str],
        vectors: WordVectors,
        *,
        size: int = 8000,
        tagger: str = "function_words",
        tokens: str = "words",
        stems: bool = False,
    ) -> None:
        key = _stem if stems else str
        sentence_words = list(map(tokeniser(tokens), sentences))
        forms = Counter(chain.from_iterable(sentence_words))
        counts: Counter[str] = Counter()
        common: dict[str, str] = {}  # the most frequent word of each key
        for word in sorted(forms, key=lambda word: (-forms[word], word)):
            counts[key(word)] += forms[word]
            common.setdefault(key(word), word)
        ranked = sorted(counts, key=lambda key: (-counts[key], key))[:size]
        holding = Counter(
            chain.from_iterable({key(word) for word in words} for words in sentence_words)
        )
        self._set(
            vectors,
            words=[common[key] for key in ranked],
            keys=ranked,
            holding=[holding[key] for key in ranked],
            sentences=len(sentence_words),
            tagger=tagger,
            tokens=tokens,
            stems=stems,
        )

    def _set(
        self,
        vectors: WordVectors,
        *,
        words: Sequence[str],
        keys: Sequence[str],
        holding: Sequence[int],
        sentences: int,
        tagger: str,
        tokens: str,
        stems: bool,
    ) -> None:
        self.vectors = vectors
        self.words = tuple(words)
        self.holding = tuple(holding)  # training sentences with each word
        self.sentences = sentences
        self.tagger = tagger
        self.ids = {key: id_ for id_, key in enumerate(keys, start=FIRST_WORD)}
        self.tokens, self.stems = tokens, stems
        self.key = _stem if stems else str
        self.weigh = TAGGERS[tagger]
        self.weigh(["word"])  # a tagger that is not installed is told here and not in a worker

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint: tensors, numbers, texts, lists and dictionaries only."""
        known = list(self.vectors.index)
        return {
            "words": list(self.words),
            "keys": list(self.ids),
            "holding": list(self.holding),
            "sentences": self.sentences,
            "tagger": self.tagger,
            "tokens": self.tokens,
            "stems": self.stems,
            "vectors": {"words": known, "matrix": self.vectors.matrix},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that ``state`` was taken of."""
        vectors = state["vectors"]
        matrix, unknown = vectors["matrix"][:-1], vectors["matrix"][-1]
        self = cls.__new__(cls)
        self._set(
            WordVectors(vectors["words"], matrix, unknown),
            **{name: value for name, value in state.items() if name != "vectors"},
        )
        return self

    def tokenise(self, sentence: str) -> tuple[str, ...]:
        """The words of a sentence."""
        return tokeniser(self.tokens)(sentence)

    def __len__(self) -> int:
        """Number of ids: the words and the two that are none."""
        return len(self.words) + FIRST_WORD

    def word_vectors(self) -> Float[Tensor, "V E"]:
        """The vector of every id; zeros for the two that are no word."""
        none = torch.zeros(FIRST_WORD, self.vectors.dim)
        return torch.cat([none, self.vectors.lookup(self.words)])

    def inverse_document_frequency(self) -> Float[Tensor, " V"]:
        """log((n + 1) / (n_w + 1)) of every id, n_w of the n training sentences holding it; that of
        a word in no sentence for unknown ones, 0 for padding."""
        holding = torch.tensor([0, 0, *self.holding])
        idf = ((self.sentences + 1) / (holding + 1.0)).log()
        idf[0] = 0
        return idf

    def encode(self, sentences: Sequence[str], vectors: WordVectors | None = None) -> EncodedText:
        """The words of sentences as numbers.

        Args:
            vectors: into which ``rows`` point, instead of the vocabulary's own.
        """
        words = list(map(tokeniser(self.tokens), sentences))
        flat = list(chain.from_iterable(words))
        weights = list(chain.from_iterable(map(self.weigh, words)))
        return EncodedText(
            ids=torch.tensor(
                list(map(self.ids.get, map(self.key, flat), repeat(UNKNOWN))), dtype=torch.int64
            ),
            rows=(vectors or self.vectors).rows(flat),
            weights=torch.tensor(weights, dtype=torch.float32),
            counts=torch.tensor(list(map(len, words)), dtype=torch.int64),
        )


@functools.cache
def _stem(word: str) -> str:
    """The stem by Porter's second algorithm for English.

    Raises:
        InputError: the package that does it is not installed.
    """
    try:
        import snowballstemmer
    except ImportError:
        raise InputError(
            "DATASET.STEMS needs the package snowballstemmer (pip install snowballstemmer)"
        ) from None
    return _stemmer(snowballstemmer).stemWord(word)


@functools.cache
def _stemmer(package: Any) -> Any:
    return package.stemmer("english")


def _weigh_by_list(words: Sequence[str]) -> list[float]:
    return [1.0 if word in FUNCTION_WORDS or word.isdigit() else 2.0 for word in words]


def _weigh_by_nltk(words: Sequence[str]) -> list[float]:
    try:
        import nltk

        tags = nltk.pos_tag(list(words))
    except ImportError:
        raise InputError(
            "TAGGER nltk needs the package nltk (pip install nltk), or use TAGGER: function_words."
        ) from None
    except LookupError:
        raise InputError(
            "TAGGER nltk needs NLTK's tagger data (python -m nltk.downloader "
            "averaged_perceptron_tagger_eng), or use TAGGER: function_words."
        ) from None
    return [2.0 if tag[:2] in {"NN", "VB", "JJ", "RB"} else 1.0 for _, tag in tags]


TAGGERS: Mapping[str, Callable[[Sequence[str]], list[float]]] = {
    "function_words": _weigh_by_list,
    "nltk": _weigh_by_nltk,
}
