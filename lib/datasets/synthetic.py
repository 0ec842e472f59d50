"""Corpora with planted truth, written to disk in the real layout.

Two faces. ``write_world`` invents everything: sentences of a small grammar, moments, features and
word vectors; words are combined in validation and test as they never are in training.
``simulate_features`` takes real annotations and invents only the features: each sentence's moment
carries a signal computed from its words. Neither says anything about real video; both say whether
the code can find what is there.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import math
import os
import pickle
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ..base import locks
from ..base.errors import InputError
from .annotations import Paragraph
from .simulated_rows import (
    Rectifier,
    echo_spans,
    named_generator,
    topic_of,
    video_gain,
    visible_parts,
)
from .vocabulary import FUNCTION_WORDS, WordVectors, tokenise

_FORMAT = 1  # raised when the same knobs would give another world
_COMMON = 24  # events that recur from video to video, for training videos and for the others
_WIDTH_SPREAD = 0.4  # standard deviation of the log of a moment's width, where WIDTH sets its mean
_SPARE_ROOM = 2**24  # bytes of disk; more than HDF5 holds back until a file is closed


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class _Theme:
    """Actions, the objects they can be done to, and what these look like."""

    actions: tuple[str, ...]
    objects: tuple[str, ...]
    attributes: tuple[str, ...]


_THEMES = (
    _Theme(  # cooking
        _words("slices peels washes eats boils weighs smells freezes"),
        _words("apple carrot potato tomato onion fish pear lemon pumpkin cabbage"),
        _words("ripe fresh yellow frozen huge bruised rotten juicy"),
    ),
    _Theme(  # games
        _words("throws kicks catches bounces drops rolls juggles spins"),
        _words("ball frisbee disc balloon hoop stick racket puck dart javelin"),
        _words("red orange plastic striped heavy tiny inflated shiny"),
    ),
    _Theme(  # repairs
        _words("opens closes paints repairs polishes moves measures dismantles"),
        _words("door window table cabinet chair fence ladder shelf drawer gate"),
        _words("wooden broken white tall rusty narrow antique metal"),
    ),
    _Theme(  # music
        _words("plays tunes cleans carries unpacks inspects sells strums"),
        _words("guitar violin drum piano trumpet flute harp banjo cello saxophone"),
        _words("black golden electric vintage loud expensive small dusty"),
    ),
    _Theme(  # clothes
        _words("folds irons wears sews stains shakes hangs rinses"),
        _words("shirt towel coat scarf blanket dress sock curtain apron jacket"),
        _words("green blue silk woolen torn wet checkered purple"),
    ),
    _Theme(  # animals
        _words("feeds brushes chases pets trains films calls follows"),
        _words("dog cat horse goat rabbit parrot sheep donkey pony duck"),
        _words("brown spotted hungry sleepy fluffy fat lame playful"),
    ),
    _Theme(  # writing
        _words("reads draws signs copies tears burns hides mails"),
        _words("letter map poster book card photo newspaper menu ticket calendar"),
        _words("crumpled colorful long secret printed faded official blank"),
    ),
    _Theme(  # outdoors
        _words("digs waters plants climbs trims picks rakes sprays"),
        _words("bush tree flower hedge rose vine lawn cactus tulip fern"),
        _words("wild dry blooming thorny pink leafy tropical bare"),
    ),
)
_ACTORS = _words(
    "man woman boy girl chef dancer farmer teacher doctor student painter soldier nurse clown "
    "singer waiter climber sailor grandmother lady"
)
_LOOKS = _words("old young short thin strong bald smiling tired happy bearded blond elegant")
_PLACES = _words(
    "kitchen garden park street garage studio office gym barn bedroom balcony forest school "
    "market yard hallway"
)
_MANNERS = _words("slowly quickly carefully happily quietly gently calmly proudly eagerly twice")
_CONNECTIVES = ("then", "next", "after that", "later", "in the end", "meanwhile", "soon")


def _knob(default: Any, text: str, *, low: int | float, high: int | float = math.inf) -> Any:
    """A field of an options class with its meaning and its range, both ends allowed."""
    return field(default=default, metadata={"help": text, "low": low, "high": high})


def _added_knob(default: Any, text: str, *, low: int | float, high: int | float = math.inf) -> Any:
    """A knob that is newer than worlds on disk: at its default it is no part of their names."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "added": True})


# Both simulators have these: name -> default, meaning, range.
_ROW_KNOBS: dict[str, tuple[float, str, float, float]] = {
    "topic": (
        0,
        "length, in every row, of what the paragraph is about; with signal 0 nothing else shows",
        0,
        math.inf,
    ),
    "echoes": (0, "times an event shows again elsewhere, half as long, mean; 0 = off", 0, 9),
    "echo_strength": (0.5, "signal of an echo, where the moment has 1", 0, 1),
    "visible": (1.0, "share of a moment that shows its signal, in one piece", 0.05, 1),
    "gain": (0, "deviation of the log of a video's factor, before sparsity; 0 = off", 0, 3),
    "sparsity": (0, "share of zeros behind a fixed layer of rectified units; 0 = off", 0, 0.95),
}


def _row_knob(name: str) -> Any:
    default, text, low, high = _ROW_KNOBS[name]
    return _added_knob(float(default), text, low=low, high=high)


@dataclass(frozen=True)
class WorldOptions:
    """Knobs of the synthetic world; videos last 30 to 150 seconds and have one paragraph each.

    Those after ``seed`` break assumptions that methods make, and are off by default. With
    ``signal`` 0 and a ``topic``, rows carry what a video is about and nothing of when.
    Rows of a ``gain`` without ``sparsity`` are the same again once they are L2-normalised. Moments
    of a ``width`` overlap freely, whatever ``overlap`` says.
    """

    train: int = _knob(320, "training videos", low=1)
    val: int = _knob(60, "validation videos", low=1)
    test: int = _knob(100, "test videos", low=1)
    min_sentences: int = _knob(2, "fewest sentences of a paragraph", low=1, high=12)
    max_sentences: int = _knob(6, "most sentences of a paragraph", low=1, high=12)
    lexicon: float = _knob(1.0, "share of the 266 content words in use", low=0.3, high=1)
    signal: float = _knob(1.0, "length of a moment's signal; one row's noise has 1", low=0)
    distractors: float = _knob(
        1.0, "events of a video that no sentence describes, mean", low=0, high=9
    )
    overlap: float = _knob(0.15, "chance that a moment begins in the previous one", low=0, high=1)
    disorder: float = _knob(0.1, "chance that two neighbouring sentences swap", low=0, high=1)
    rows_per_second: float = _knob(2.0, "feature rows per second", low=0.1, high=100)
    feature_dim: int = _knob(64, "feature width", low=4)
    word_dim: int = _knob(50, "word vector width", low=2)
    seed: int = _knob(0, "of everything", low=0)
    topic: float = _row_knob("topic")
    echoes: float = _row_knob("echoes")
    echo_strength: float = _row_knob("echo_strength")
    visible: float = _row_knob("visible")
    gain: float = _row_knob("gain")
    sparsity: float = _row_knob("sparsity")
    paraphrases: float = _added_knob(
        0.0, "further sentences about an event, mean, beyond max_sentences; 0 = off", low=0, high=9
    )
    recurring: float = _added_knob(
        0.0, "share of events that recur in other videos, word for word; 0 = off", low=0, high=1
    )
    shuffled: float = _added_knob(
        0.0, "share of paragraphs with sentences in random order; 0 = off", low=0, high=1
    )
    width: float = _added_knob(
        0.0,
        "mean width of a moment, as a part of its video, whatever the number of sentences; "
        "0 = moments share the video",
        low=0,
        high=0.6,
    )

    def __post_init__(self) -> None:
        _check(self)
        if self.min_sentences > self.max_sentences:
            raise InputError(
                f"synthetic min_sentences {self.min_sentences} is more than max_sentences "
                f"{self.max_sentences}."
            )


@dataclass(frozen=True)
class FeatureOptions:
    """Knobs of simulated features for real annotations; lengths relative to one row's noise."""

    dim: int = _knob(128, "feature width", low=1)
    signal: float = _knob(1.0, "length of a moment's signal; one row's noise has 1", low=0)
    correlation: float = _knob(0.5, "of the noise of neighbouring rows", low=0, high=0.999)
    background: float = _knob(1.0, "length of a video's constant offset", low=0)
    distractors: float = _knob(1.0, "events of a video that no sentence describes, mean", low=0)
    rows_per_second: float = _knob(2.0, "feature rows per second", low=0.01, high=100)
    max_rows: int = _knob(600, "most rows of a video", low=4)
    seed: int = _knob(0, "of everything", low=0)
    topic: float = _row_knob("topic")
    echoes: float = _row_knob("echoes")
    echo_strength: float = _row_knob("echo_strength")
    visible: float = _row_knob("visible")
    gain: float = _row_knob("gain")
    sparsity: float = _row_knob("sparsity")

    def __post_init__(self) -> None:
        _check(self)


def _check(options: WorldOptions | FeatureOptions) -> None:
    """Types and ranges; a whole number is a fine float."""
    for knob in dataclasses.fields(options):
        value = getattr(options, knob.name)
        low, high = knob.metadata["low"], knob.metadata["high"]
        kinds = (int,) if knob.type == "int" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise InputError(
                f"synthetic {knob.name} is {value!r}; expected {knob.type}, {limits} "
                f"({knob.metadata['help']})."
            )


def ensure_world(folder: Path, options: WorldOptions) -> Path:
    """The folder of these knobs below ``folder``, written unless it is there."""
    knobs = {
        knob.name: float(getattr(options, knob.name))
        for knob in dataclasses.fields(options)
        if "added" not in knob.metadata or getattr(options, knob.name) != knob.default
    }
    text = json.dumps([_FORMAT, knobs], sort_keys=True)
    target = Path(folder) / f"world-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if not (target / "manifest.json").is_file():
        write_world(target, options)
    return target


def write_world(folder: Path, options: WorldOptions) -> None:
    """Write annotations, features, word vectors and a manifest; all of them or nothing.

    Raises:
        InputError: the folder exists and is not empty.
    """
    with whole_folder(Path(folder)) as part:
        grammar = _Grammar.draw(options)
        layer = Rectifier(options.feature_dim, options.sparsity, _energy(options), options.seed)
        videos: dict[str, dict[str, Any]] = {}
        with h5py.File(part / "features.hdf5", "w") as file:
            for split in ("train", "val", "test"):
                entries = {}
                unseen = split != "train"
                common = grammar.common_events(unseen=unseen) if options.recurring else ()
                count = getattr(options, split)
                for number in tqdm(
                    range(count), desc=f"synthetic {split}", leave=False, disable=None
                ):
                    name = f"v_{split}{number:05d}"
                    entries[name], rows = _invent_video(
                        grammar, options, name, common, unseen=unseen
                    )
                    _store(file, f"{name}/c3d_features", layer(rows).astype(np.float32))
                _write_json(part / f"{split}_data.json", entries)
                videos |= entries
        sentences = [text for entry in videos.values() for text in entry["sentences"]]
        write_word_vectors(
            part / "glove.pkl",
            sentences,
            dim=options.word_dim,
            seed=options.seed,
            kin=_word_classes(),
        )
        write_manifest(part, "world", options)


@dataclass(frozen=True)
class _Event:
    """Something that happens: who does what to which thing."""

    actor: tuple[str, str]  # look, person
    action: str
    thing: tuple[str, str]  # attribute, object
    common: bool = False  # happens in other videos too, in the same words

    def concepts(self) -> list[tuple[str, float]]:
        """Visible words and how strongly they show; the place belongs to the whole video."""
        (look, person), (attribute, object_) = self.actor, self.thing
        return [(look, 0.4), (person, 0.6), (self.action, 1.0), (attribute, 0.6), (object_, 1.0)]


@dataclass(frozen=True)
class _Grammar:
    """The words in use, and what each looks like."""

    themes: tuple[_Theme, ...]
    actors: tuple[str, ...]
    looks: tuple[str, ...]
    places: tuple[str, ...]
    manners: tuple[str, ...]
    appearance: Mapping[str, Float[np.ndarray, " C"]]
    seed: int

    @classmethod
    def draw(cls, options: WorldOptions) -> _Grammar:
        def share(words: tuple[str, ...]) -> tuple[str, ...]:
            return words[: max(3, round(options.lexicon * len(words)))]

        themes = tuple(
            _Theme(share(theme.actions), share(theme.objects), share(theme.attributes))
            for theme in _THEMES
        )
        people = share(_ACTORS), share(_LOOKS)
        listed = [group for theme in themes for group in dataclasses.astuple(theme)]
        listed += [*people, share(_PLACES)]
        words = [word for group in listed for word in group]
        appearance = {
            word: _unit(named_generator(options.seed, "appearance", word), options.feature_dim)
            for word in words
        }
        return cls(themes, *people, share(_PLACES), share(_MANNERS), appearance, options.seed)

    def event(
        self, random: np.random.Generator, actors: Sequence[tuple[str, str]], *, unseen: bool
    ) -> _Event:
        """A random event whose (person, action, object) is, or is not, kept out of training."""
        while True:
            theme = self.themes[int(random.integers(len(self.themes)))]
            actor = actors[int(random.integers(len(actors)))]
            action, object_ = _pick(random, theme.actions), _pick(random, theme.objects)
            if (_fold(self.seed, actor[1], action, object_) == 0) == unseen:
                return _Event(actor, action, (_pick(random, theme.attributes), object_))

    def common_events(self, *, unseen: bool) -> tuple[_Event, ...]:
        """Events for many videos, of the combinations that are, or are not, kept for training."""
        random = named_generator(self.seed, "common", str(unseen))
        people = [(_pick(random, self.looks), person) for person in self.actors]
        events = [self.event(random, people, unseen=unseen) for _ in range(_COMMON)]
        return tuple(dataclasses.replace(event, common=True) for event in events)

    def look(self, event: _Event) -> Float[np.ndarray, " C"]:
        """What a row shows while the event lasts; length 1."""
        seen = sum(weight * self.appearance[word] for word, weight in event.concepts())
        return np.asarray(seen / np.linalg.norm(seen))


def _fold(seed: int, *words: str) -> int:
    """One combination in four is kept for validation and test."""
    return zlib.crc32(" ".join([str(seed), *words]).encode()) % 4


def _energy(options: WorldOptions | FeatureOptions) -> float:
    """Mean square length of a row that shows an event, roughly."""
    background = options.background if isinstance(options, FeatureOptions) else 0.0
    return 1 + options.signal**2 + options.topic**2 + background**2


def _invent_video(
    grammar: _Grammar,
    options: WorldOptions,
    name: str,
    common: Sequence[_Event] = (),
    *,
    unseen: bool,
) -> tuple[dict[str, Any], Float[np.ndarray, "n C"]]:
    """One annotation entry and its feature rows, before the layer of rectified units.

    Added knobs draw from streams of their own: without them a video is what it was before them.
    """
    random = named_generator(options.seed, name)

    def stream(knob: str) -> np.random.Generator:
        return named_generator(options.seed, name, knob)

    duration = round(random.uniform(30, 150), 2)
    count = int(random.integers(options.min_sentences, options.max_sentences + 1))
    people = random.choice(len(grammar.actors), size=2, replace=False)
    actors = [(_pick(random, grammar.looks), grammar.actors[i]) for i in people]
    place = _pick(random, grammar.places)

    total = count + int(random.poisson(options.distractors))
    events: list[_Event] = []
    while len(events) < total:
        event = grammar.event(random, actors, unseen=unseen)
        if all((event.action, event.thing) != (other.action, other.thing) for other in events):
            events.append(event)
    if common:
        events = _with_common(events, common, options.recurring, stream("recurring"))
    moments = _invent_moments(total, options.overlap, random)
    if options.width:
        moments = _moments_of_width(total, options.width, stream("width"))
    moments = np.round(moments * duration, 2)
    described = np.sort(random.choice(total, size=count, replace=False))

    rows = max(8, round(duration * options.rows_per_second))
    times = (np.arange(rows) + 0.5) * duration / rows
    shown = 0.5 * grammar.appearance[place] + 0.5 * _unit(random, options.feature_dim)
    features = np.tile(options.signal * shown, (rows, 1))
    looks = [grammar.look(event) for event in events]
    shown_parts = visible_parts(moments, options.visible, stream("visible"))
    for look, (start, end) in zip(looks, shown_parts, strict=True):
        inside = (times >= start) & (times < end)
        features[inside] += options.signal * look
    owners, echoes = echo_spans(moments / duration, options.echoes, stream("echoes"))
    for owner, (start, end) in zip(owners, echoes * duration, strict=True):
        inside = (times >= start) & (times < end)
        features[inside] += options.signal * options.echo_strength * looks[owner]
    if options.topic:
        about = topic_of([looks[i] for i in described], options.feature_dim)
        features += options.topic * about
    noise = random.standard_normal((rows, options.feature_dim)) / np.sqrt(options.feature_dim)

    order = list(described)
    for i in range(count - 1):
        if random.random() < options.disorder:
            order[i], order[i + 1] = order[i + 1], order[i]
    sentences = _tell([events[i] for i in order], place, grammar, random)
    if options.paraphrases:
        repeats = stream("paraphrases").poisson(options.paraphrases, count)
        sentences = [
            text
            for i, first, more in zip(order, sentences, repeats, strict=True)
            for text in [first, *(_paraphrase(events[i], k) for k in range(more))]
        ]
        order = list(np.repeat(order, 1 + repeats))
    shuffle = stream("shuffled")
    if shuffle.random() < options.shuffled:
        places = shuffle.permutation(len(order))
        order, sentences = [order[i] for i in places], [sentences[i] for i in places]
    entry = {
        "duration": duration,
        "timestamps": [[float(value) for value in moments[i]] for i in order],
        "sentences": sentences,
    }
    return entry, video_gain(options.gain, stream("gain")) * (features + noise)


def _with_common(
    events: Sequence[_Event],
    common: Sequence[_Event],
    share: float,
    random: np.random.Generator,
) -> list[_Event]:
    """Events, a share of them replaced by common ones, none of which a video has twice."""
    places = np.flatnonzero(random.random(len(events)) < share)[: len(common)]
    chosen = random.choice(len(common), size=len(places), replace=False)
    replaced = dict(zip(places.tolist(), chosen.tolist(), strict=True))
    return [common[replaced[i]] if i in replaced else event for i, event in enumerate(events)]


def _moments_of_width(
    count: int, mean: float, random: np.random.Generator
) -> Float[np.ndarray, "L 2"]:
    """Moments in order of their starts, each of a width and at a place of its own."""
    spread = _WIDTH_SPREAD * random.standard_normal(count) - _WIDTH_SPREAD**2 / 2
    widths = np.clip(mean * np.exp(spread), 0.02, 0.95)
    starts = random.random(count) * (1 - widths)
    return np.stack([starts, starts + widths], axis=1)[np.argsort(starts)]


def _paraphrase(event: _Event, number: int) -> str:
    """Another sentence about an event, the plainer the further down the list."""
    (_, person), (attribute, object_) = event.actor, event.thing
    return (
        f"There is {_article(person)} {person} who {event.action} the {object_}.",
        f"We see the {person}, who {event.action} the {attribute} {object_}.",
        f"Someone {event.action} {_article(object_)} {object_}.",
    )[number % 3]


def _invent_moments(
    count: int, overlap: float, random: np.random.Generator
) -> Float[np.ndarray, "L 2"]:
    """Moments in order of time as fractions of the video, of very uneven lengths and gaps.

    Uneven on purpose: cutting the video into equal parts must be a poor answer.
    """
    lengths = np.exp(0.9 * random.standard_normal(count))
    gaps = np.exp(1.2 * random.standard_normal(count + 1))
    share = random.uniform(0.6, 0.95)  # of the video that is covered by events
    lengths = np.maximum(share * lengths / lengths.sum(), 0.03)
    gaps = (1 - share) * gaps / gaps.sum()
    pieces = np.empty(2 * count + 1)
    pieces[0::2], pieces[1::2] = gaps, lengths
    edges = np.cumsum(pieces / pieces.sum())
    moments = np.stack([edges[0::2][:-1], edges[1::2]], axis=1)
    for i in range(1, count):
        if random.random() < overlap:
            previous = moments[i - 1]
            moments[i, 0] = previous[1] - random.uniform(0.1, 0.5) * (previous[1] - previous[0])
    return np.clip(moments, 0, 1)


def _tell(
    events: Sequence[_Event], place: str, grammar: _Grammar, random: np.random.Generator
) -> list[str]:
    """Sentences of a paragraph: the first mention of a person is full, later ones are shorter."""
    sentences = []
    met: set[tuple[str, str]] = set()
    for number, event in enumerate(events):
        (look, person), (attribute, object_) = event.actor, event.thing
        if event.common:  # the same words in every video, so nothing of this one
            sentences.append(
                f"{_article(look).capitalize()} {look} {person} {event.action} the {object_}."
            )
            continue
        actor = f"the {person}" if event.actor in met else f"{_article(look)} {look} {person}"
        met.add(event.actor)
        article = "the" if random.random() < 0.6 else _article(attribute)
        words = f"{actor} {event.action} {article} {attribute} {object_}"
        if random.random() < 0.3:
            words += f" {_pick(random, grammar.manners)}"
        if number == 0 or random.random() < 0.3:
            words += f" in the {place}"
        if number and random.random() < 0.4:
            words = f"{_pick(random, _CONNECTIVES)} {words}"
        sentences.append(f"{words[0].upper()}{words[1:]}.")
    return sentences


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _word_classes() -> dict[str, str]:
    """Word -> the class whose vectors it resembles."""
    classes = {"look": _LOOKS, "actor": _ACTORS, "place": _PLACES, "manner": _MANNERS}
    for number, theme in enumerate(_THEMES):
        for kind, words in dataclasses.asdict(theme).items():
            classes[f"{kind} {number}"] = words
    return {word: name for name, words in classes.items() for word in words}


def write_word_vectors(
    path: Path,
    sentences: Iterable[str],
    *,
    dim: int = 300,
    seed: int = 0,
    kin: Mapping[str, str] | None = None,
    vectors: WordVectors | None = None,
) -> None:
    """Write ``glove.pkl`` (counter, w2id, id2vec) for the words of some sentences.

    Args:
        dim: width of invented vectors.
        kin: word -> class; words of a class have similar vectors.
        vectors: real ones to copy instead; words without one are left out.
    """
    counter = Counter(word for sentence in sentences for word in tokenise(sentence))
    words = [word for word, _ in counter.most_common() if vectors is None or word in vectors]
    if vectors is not None:
        table = vectors.lookup(words).numpy()
    else:
        kin = kin or {}
        table = np.stack([_invent_vector(word, kin.get(word, ""), dim, seed) for word in words])
    data = {
        "counter": counter,
        "w2id": {"<PAD>": 0} | {word: id_ for id_, word in enumerate(words, start=1)},
        "id2vec": [np.zeros(table.shape[1], np.float32), *table.astype(np.float32)],
    }
    path.write_bytes(pickle.dumps(data, protocol=4))


def _invent_vector(word: str, kin: str, dim: int, seed: int) -> Float[np.ndarray, " E"]:
    own = named_generator(seed, "vector", word).standard_normal(dim)
    shared = named_generator(seed, "class", kin).standard_normal(dim) if kin else 0.0
    return np.asarray(0.4 * (own + shared))


def simulate_features(
    paragraphs: Iterable[Paragraph],
    path: Path,
    options: FeatureOptions,
    *,
    only: Iterable[str] | None = None,
    key: str = "c3d_features",
    vectors: WordVectors | None = None,
) -> None:
    """Write features in which every sentence's moment shows its words.

    A moment's signal is the sum of its content words' looks, rarer words showing more. A word's
    look is a fixed random projection of its vector, or a fixed random direction without vectors.
    To it come noise that is correlated along time, an offset per video, and events that belong to
    sentences of other videos.

    Args:
        paragraphs: all that is known of the videos, of every split: the splits of ActivityNet
            share videos, and a video must look the same in both.
        path: the HDF5 file, which appears when it is complete.
        only: the videos written; None = all.
        key: dataset inside the video's group; "" = the video is the dataset.
    """
    described: dict[str, list[Paragraph]] = {}
    for paragraph in paragraphs:
        described.setdefault(paragraph.video_id, []).append(paragraph)
    sentences = [s for group in described.values() for p in group for s in p.sentences]
    look = _sentence_look(sentences, options, vectors)
    layer = Rectifier(options.dim, options.sparsity, _energy(options), options.seed)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    wanted = list(described) if only is None else list(dict.fromkeys(only))
    try:
        with h5py.File(part, "w") as file:
            for video in tqdm(wanted, desc="simulated features", disable=None):
                rows = _simulate_video(video, described[video], sentences, look, options)
                rows = layer(rows).astype(np.float32)
                _store(file, f"{video}/{key}" if key else video, rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _sentence_look(
    sentences: Sequence[str], options: FeatureOptions, vectors: WordVectors | None
) -> Callable[[str], Float[np.ndarray, " C"]]:
    """Sentence -> the direction it shows in; length 1, or 0 without a content word."""
    frequency = Counter(word for sentence in sentences for word in set(tokenise(sentence)))
    weight = {
        word: np.log1p(len(sentences) / count)
        for word, count in frequency.items()
        if word not in FUNCTION_WORDS
    }
    if vectors is None:
        looks = {w: _unit(named_generator(options.seed, "look", w), options.dim) for w in weight}
    else:
        words = list(weight)
        table = vectors.lookup(words).numpy() - vectors.matrix[:-1].mean(dim=0).numpy()
        random = named_generator(options.seed, "projection")
        table = table @ random.standard_normal((table.shape[1], options.dim))
        table /= np.linalg.norm(table, axis=1, keepdims=True) + 1e-12
        looks = dict(zip(words, table, strict=True))

    def look(sentence: str) -> Float[np.ndarray, " C"]:
        total = np.zeros(options.dim)
        for word in tokenise(sentence):
            if word in weight:
                total += weight[word] * looks[word]
        return total / max(float(np.linalg.norm(total)), 1e-12)

    return look


def _simulate_video(
    video: str,
    group: Sequence[Paragraph],
    sentences: Sequence[str],
    look: Callable[[str], Float[np.ndarray, " C"]],
    options: FeatureOptions,
) -> Float[np.ndarray, "n C"]:
    """A video's rows, before the layer of rectified units."""
    random = named_generator(options.seed, "video", video)
    duration = group[0].duration
    count = int(np.clip(round(duration * options.rows_per_second), 4, options.max_rows))
    noise = random.standard_normal((count, options.dim)) / np.sqrt(options.dim)
    for i in range(1, count):  # first-order autoregression that keeps the variance
        noise[i] = options.correlation * noise[i - 1] + noise[i] * np.sqrt(
            1 - options.correlation**2
        )
    rows = noise + options.background * _unit(random, options.dim)

    times = (np.arange(count) + 0.5) / count
    signal = np.zeros_like(rows)
    for _ in range(random.poisson(options.distractors)):
        start, length = random.uniform(0, 0.9), random.uniform(0.03, 0.3)
        inside = (times >= start) & (times < start + length)
        signal[inside] += look(_pick(random, sentences))

    def stream(knob: str) -> np.random.Generator:
        return named_generator(options.seed, "video", video, knob)

    looks = [look(sentence) for paragraph in group for sentence in paragraph.sentences]
    moments = np.concatenate([paragraph.moments for paragraph in group])
    parts = visible_parts(moments, options.visible, stream("visible"))
    for sight, (start, end) in zip(looks, parts, strict=True):
        inside = (times >= start / duration) & (times < end / duration)
        inside[min(int((start + end) / 2 / duration * count), count - 1)] = True  # at least one
        signal[inside] += sight
    owners, echoes = echo_spans(moments / duration, options.echoes, stream("echoes"))
    for owner, (start, end) in zip(owners, echoes, strict=True):
        signal[(times >= start) & (times < end)] += options.echo_strength * looks[owner]
    lengths = np.linalg.norm(signal, axis=1, keepdims=True)
    # However many annotators described a row, it shows as much as any other.
    rows = rows + options.signal * signal / np.maximum(lengths, 1)
    if options.topic:
        rows += options.topic * topic_of(looks, options.dim)
    return video_gain(options.gain, stream("gain")) * rows


def write_annotations(path: Path, paragraphs: Iterable[Paragraph]) -> None:
    """Paragraphs as a JSON object in seconds, one key per paragraph."""
    _write_json(
        path,
        {
            paragraph.paragraph_id: {
                "duration": paragraph.duration,
                "timestamps": paragraph.moments.tolist(),
                "sentences": list(paragraph.sentences),
            }
            for paragraph in paragraphs
        },
    )


def _store(file: h5py.File, name: str, rows: Float[np.ndarray, "n C"]) -> None:
    """Add a video's rows, as long as the disk has room for them and for what HDF5 writes last.

    Raises:
        InputError: it has not. Asked first, because a file that HDF5 cannot finish writing takes
            the whole process with it.
    """
    free = shutil.disk_usage(file.filename).free
    if free < rows.nbytes + _SPARE_ROOM:
        raise InputError(
            f"{file.filename}: no space left on the disk ({free / 2**20:.1f} MiB are free, "
            f"{_SPARE_ROOM / 2**20:.0f} are kept so); what was written of it is removed."
        )
    file.create_dataset(name, data=rows)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` when the block ends well, and vanishes otherwise.

    Raises:
        InputError: the target exists and is not empty.
    """
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target}: exists and is not empty; nothing is overwritten.")
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.part-"
    _remove_abandoned(target.parent, prefix)
    part = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    lock = _locked(part)
    try:
        yield part
        part.chmod(0o755)
        try:
            part.replace(target)
        except OSError:
            if not (target / "manifest.json").is_file():  # else another process made the same
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Folders that a process left which was killed: nobody holds their lock."""
    for part in parent.glob(f"{glob.escape(prefix)}????????"):
        if part.is_symlink() or not part.is_dir() or time.time() - part.stat().st_mtime < 2:
            continue  # perhaps made just now, and not locked yet
        lock = _locked(part)
        if lock is not None:
            shutil.rmtree(part, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A handle that locks a folder until it is closed, or the process ends; None if it is locked,
    or cannot be."""
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:  # Windows opens no folder
        return None
    try:
        locks.lock(handle)
    except OSError:
        os.close(handle)
        return None
    return handle


def write_manifest(folder: Path, kind: str, options: Any, **more: Any) -> None:
    """``manifest.json``: what made the folder."""
    record = {"format": _FORMAT, "kind": kind, "options": dataclasses.asdict(options), **more}
    _write_json(folder / "manifest.json", record)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The knobs a folder was made with, or None where nothing says so."""
    try:
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["options"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _unit(random: np.random.Generator, dim: int) -> Float[np.ndarray, " C"]:
    direction = random.standard_normal(dim)
    return np.asarray(direction / np.linalg.norm(direction))


def _pick(random: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(random.integers(len(words)))]
