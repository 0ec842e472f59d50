"""Sentences -> word ids, word vectors and masking weights."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import re
import shutil
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.errors import InputError
from ..base.memory import bounded_memory

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


class WordVectors:
    """Vectors of words that were trained elsewhere, with one vector for all words not among them.

    Args:
        words: lower case, without repeats.
        matrix: one row per word.
        unknown: the vector of any other word; None = the mean of all rows.
    """

    def __init__(
        self,
        words: Sequence[str],
        matrix: Float[Tensor, "n E"],
        unknown: Float[Tensor, " E"] | None = None,
    ) -> None:
        self.index = {word: row for row, word in enumerate(words)}
        mean = matrix.mean(dim=0) if unknown is None else unknown
        self.matrix = torch.cat([matrix, mean[None]]).to(torch.float32)  # last row: unknown

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def rows(self, words: Sequence[str]) -> Int[Tensor, " W"]:
        """Where in ``matrix`` the vector of each word is."""
        rows = map(self.index.get, words, repeat(len(self.index)))
        return torch.tensor(list(rows), dtype=torch.int64)

    def lookup(self, words: Sequence[str]) -> Float[Tensor, "W E"]:
        return self.matrix[self.rows(words)]

    def restrict(
        self, words: Iterable[str], unknown: Float[Tensor, " E"] | None = None
    ) -> WordVectors:
        """Only these words' vectors, and the same unknown one unless another is given."""
        kept = sorted({word for word in words if word in self.index})
        return WordVectors(kept, self.lookup(kept), self.matrix[-1] if unknown is None else unknown)


def coverage(words: Counter[str], vectors: WordVectors) -> tuple[float, str]:
    """The share of the words, counted as often as they occur, that have a vector; and the most
    frequent that have none, as the rest of a sentence."""
    lacking = Counter({word: count for word, count in words.items() if word not in vectors})
    most = ", ".join(word for word, _ in lacking.most_common(5))
    tail = f"; the most frequent without: {most}" if lacking else ""
    return 1 - lacking.total() / max(words.total(), 1), tail


def read_word_vectors(path: Path) -> WordVectors:
    """Vectors from ``glove.pkl``, or from a GloVe or word2vec text file.

    The pickle is either ``{"w2id": {word: id}, "id2vec": vectors, …}`` (CPL's layout) or
    ``{word: vector}``. It is read by an unpickler that knows only counters and numpy arrays, so a
    file from elsewhere cannot run code. Words are lower-cased; where two become one, the lower-case
    spelling or else the first wins.

    Raises:
        InputError: missing file, unknown layout, another global in the pickle, or uneven or
            non-finite vectors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: the word vectors do not exist.")
    with path.open("rb") as file:
        start = file.read(1)
    pickled = start == b"\x80" or path.suffix in {".pkl", ".pickle"}
    words, matrix = _from_pickle(path) if pickled else _from_text(path)
    if not bool(torch.isfinite(matrix).all()):
        row = int(torch.isfinite(matrix).all(dim=1).logical_not().nonzero()[0])
        raise InputError(f"{path}: the vector of {words[row]!r} is not finite.")
    first: dict[str, int] = {}
    for row, word in enumerate(words):
        if word == word.lower():
            first[word] = row
    for row, word in enumerate(words):
        first.setdefault(word.lower(), row)
    return WordVectors(list(first), matrix[torch.tensor(list(first.values()), dtype=torch.int64)])


class _VectorUnpickler(pickle.Unpickler):
    """Reads plain containers, counters and arrays of numbers; nothing that could run code.

    NumPy's own functions are replaced: the state of a damaged or hostile type would make it take
    bytes of the file for addresses. What the file can name or make refuses to be given a state
    (the instruction BUILD), which would set attributes of classes and functions for the rest of the
    process, unless a state is what it is made of.
    """

    def find_class(self, module: str, name: str) -> Any:
        place = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # since, before numpy 2
        if place not in _STAND_INS:
            raise _Forbidden(f"{module}.{name}")
        return _Named(place)


class _Named:
    """What a pickle names: it can be called, and nothing else."""

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __call__(self, *args: Any) -> Any:
        return _STAND_INS[self._place](*args)

    def __setstate__(self, state: Any) -> None:
        raise _Forbidden(f"new attributes of {self._place}")


class _Counts(dict[Any, Any]):
    """A counter as it is pickled: a dictionary."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Forbidden("new attributes of a counter")


class _Type:
    """A NumPy number type as it is pickled."""

    __slots__ = ("type",)

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]", code):
            raise _Forbidden(f"numpy.dtype({str(code)[:20]!r})")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


class _Array:
    """A NumPy array as it is pickled."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray = np.zeros(0, dtype=np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        self.value = np.frombuffer(data, kind.type).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, kind: _Type, shape: tuple[int, ...], order: Any) -> _Array:
    array = _Array()
    array.value = np.frombuffer(data, kind.type).reshape(shape, order=order)
    return array


def _scalar(kind: _Type, data: Any) -> float:
    data = data.encode("latin1") if isinstance(data, str) else data
    return float(np.frombuffer(data, kind.type)[0])


_STAND_INS: Mapping[str, Any] = {
    "collections.Counter": _Counts,
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # the bytes of an array, protocol 2
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _shown(word: Any) -> str:
    """Short, and not the text of a container: it could be endless."""
    plain = isinstance(word, str | bytes | int | float)
    return repr(word)[:60] if plain else f"a {type(word).__name__}"


class _Forbidden(Exception):
    pass


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file, bounded_memory(2**30 + 20 * path.stat().st_size):
            return _VectorUnpickler(file, encoding="latin1").load()
    except _Forbidden as error:
        raise InputError(
            f"{path}: the pickle asks for {error}; only counters and numpy arrays are read."
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            f"{path}: is not a readable pickle ({type(error).__name__}: {error})."
        ) from None


def _from_pickle(path: Path) -> tuple[list[str], Float[Tensor, "n E"]]:
    data = _unpickled(path)
    vectors: Mapping[Any, Any]
    if isinstance(data, dict) and "w2id" in data and "id2vec" in data:
        table, ids = _unwrapped(data["id2vec"]), data["w2id"]
        if not isinstance(ids, dict) or not isinstance(table, list | tuple | np.ndarray | dict):
            raise InputError(f"{path}: w2id must be a dict and id2vec a list, an array or a dict.")
        try:
            vectors = {word: table[id_] for word, id_ in ids.items() if word != "<PAD>"}
        except (IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: w2id names ids that id2vec (of {len(table)}) does not have ({error})."
            ) from None
    elif isinstance(data, dict) and data:
        vectors = data
    else:
        raise InputError(
            f"{path}: holds a {type(data).__name__}; expected a dict with w2id and id2vec, or a "
            f"dict of words to vectors."
        )
    rows, width = [], 0
    for word, vector in vectors.items():
        try:
            vector = _unwrapped(vector)
            if isinstance(vector, list | tuple) and not isinstance(vector[0], int | float):
                raise TypeError  # lists in lists may hold each other, and never end
            row = np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError, OverflowError, IndexError):
            row = np.zeros((0, 0), dtype=np.float32)
        width = width or (len(row) if row.ndim == 1 else 0)
        if not isinstance(word, str) or row.ndim != 1 or len(row) != width or width == 0:
            raise InputError(
                f"{path}: {_shown(word)} -> {type(vector).__name__} of shape {np.shape(row)}; "
                f"expected words with vectors of one length ({width})."
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no word.")
    return list(vectors), torch.from_numpy(np.stack(rows))


def ranked_words(path: Path, size: int) -> tuple[str, ...]:
    """The ``size`` most frequent words by the ``counter`` of a pickle in CPL's layout, in the order
    in which CNM, CPL and PPS number them: of equally frequent ones those that it names first.

    Raises:
        InputError: missing file, not such a pickle, or fewer words.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: the vocabulary does not exist.")
    data = _unpickled(Path(path))
    counts = data.get("counter") if isinstance(data, dict) else None
    if not isinstance(counts, _Counts) or not all(
        isinstance(word, str) and isinstance(n, int) for word, n in counts.items()
    ):
        raise InputError(f"{path}: holds no counter of words; expected CPL's layout.")
    if len(counts) < size:
        raise InputError(f"{path}: counts {len(counts):,} words; expected {size:,} at least.")
    return tuple(sorted(counts, key=counts.__getitem__, reverse=True)[:size])


_COPY_FROM = 200 * 2**20  # bytes of text from which a binary copy is worth its place


def _from_text(path: Path) -> tuple[list[str], Float[Tensor, "n E"]]:
    """Through torchtext, which makes a binary copy; that of a large file is kept beside it.

    The copy's folder is named after the file's size and age, so that a newer file is never
    shadowed, and it appears there whole. Nothing is downloaded.
    """
    _check_text(path)
    from torchtext.vocab import Vectors  # late: only needed here

    stat = path.stat()
    cache = path.with_name(f".{path.name}.cache") / f"{stat.st_size}-{stat.st_mtime_ns}"
    copy = cache / f"{path.name}.pt"
    if copy.is_file():
        with contextlib.suppress(Exception):  # a damaged copy is made again
            loaded = Vectors(str(path), cache=str(cache))
            return list(loaded.itos), loaded.vectors
    # torchtext's progress bar is for people only.
    silence = contextlib.redirect_stderr(io.StringIO())
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else silence
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with quiet:
                loaded = Vectors(str(path), cache=scratch)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InputError(f"{path}: is not a GloVe or word2vec text file ({error}).") from None
        if stat.st_size >= _COPY_FROM:
            with contextlib.suppress(OSError):  # no room, or not ours to write: do without
                cache.mkdir(parents=True, exist_ok=True)
                part = cache / f"{copy.name}.{os.getpid()}"
                shutil.copyfile(Path(scratch) / copy.name, part)
                part.replace(copy)
    return list(loaded.itos), loaded.vectors


def _check_text(path: Path) -> None:
    """The first two lines must be words with numbers (a first line of two counts is a header)."""
    with path.open("rb") as file:
        lines = [file.readline(1 << 16) for _ in range(2)]
    try:
        fields = [line.decode("utf-8").rstrip().split(" ") for line in lines if line.strip()]
        if len(fields[0]) == 2:
            fields = fields[1:]
        for row in fields:
            if len(row) < 4:  # torchtext takes shorter ones for headers
                raise ValueError(f"a line of {len(row)} fields")
            [float(value) for value in row[1:]]
        if not fields:
            raise ValueError("no vectors")
    except (UnicodeDecodeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: is neither glove.pkl nor a text file of words and numbers ({error}); "
            f"word2vec's binary format must be converted to text first."
        ) from None


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
        tokenise, key = TOKENISERS[tokens], _stem if stems else str
        sentence_words = [tokenise(sentence) for sentence in sentences]
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
        self.tagger, self.tokens, self.stems = tagger, tokens, stems
        self.ids = {key: id_ for id_, key in enumerate(keys, start=FIRST_WORD)}
        self.tokenise, self.key = TOKENISERS[tokens], _stem if stems else str
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
        words = [self.tokenise(sentence) for sentence in sentences]
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
