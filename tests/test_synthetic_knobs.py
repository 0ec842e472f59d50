"""Knobs of the simulators that break assumptions: each is measured to do what it promises."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from jaxtyping import Float

from lib.commands import make_synthetic
from lib.datasets import load_corpus, synthetic
from lib.datasets.annotations import Paragraph
from lib.datasets.features import FeatureFile
from lib.datasets.synthetic import FeatureOptions, WorldOptions, ensure_world, simulate_features
from lib.datasets.vocabulary import tokenise
from tests.test_synthetic import make_paragraphs, read_split

SPLITS = ("train", "val", "test")
ROW_KNOBS: dict[str, float] = {
    "topic": 1.0,
    "echoes": 2.0,
    "visible": 0.5,
    "gain": 0.5,
    "sparsity": 0.8,
}
TEXT_KNOBS: dict[str, float] = {
    "paraphrases": 1.0,
    "recurring": 0.5,
    "shuffled": 1.0,
    "width": 0.3,
}


def digest(folder: Path) -> str:
    """Of a corpus on disk, every number and every word of it."""
    sha = hashlib.sha256()
    for name in ("train_data.json", "val_data.json", "test_data.json", "glove.pkl"):
        if (folder / name).exists():
            sha.update((folder / name).read_bytes())
    with h5py.File(folder / "features.hdf5") as file:

        def add(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                sha.update(name.encode() + node[()].tobytes())

        file.visititems(add)
    return sha.hexdigest()


def make_world(folder: Path, **knobs: Any) -> Path:
    """A world to count in: many short videos, little to store."""
    small = {"train": 150, "val": 1, "test": 60, "feature_dim": 16, "rows_per_second": 0.2}
    return ensure_world(folder, WorldOptions(**(small | knobs)))


def rows_of(folder: Path, video: str) -> Float[np.ndarray, "n C"]:
    return FeatureFile(folder / "features.hdf5").read(video)


# Without a knob, the worlds from before there was one


@pytest.mark.parametrize(
    ("knobs", "name", "expected"),
    [
        (
            {},
            "world-eaca0fba7c",
            "e02a73c34d36d0eff096436f25ca0338e8a7b0e4e325110ff4d5b69ce5e2c23b",
        ),
        (
            {
                **{"overlap": 1.0, "disorder": 0.5, "distractors": 3.0, "signal": 0.5, "seed": 5},
                **{"lexicon": 0.5, "feature_dim": 12},
            },
            "world-92ec5ca78e",
            "f9c22feabfc61bfead2e1b28bd02f3604bcd5277ba96ded8af9ae209d4d24305",
        ),
    ],
)
def test_worlds_of_the_old_knobs_have_their_old_bits_and_names(
    tmp_path: Path, knobs: dict[str, Any], name: str, expected: str
) -> None:
    folder = ensure_world(tmp_path, WorldOptions(train=6, val=2, test=3, **knobs))
    assert (folder.name, digest(folder)) == (name, expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            FeatureOptions(),
            "4e6dfa8e9700a3c5e2c669a9952c26696f2ebc51fc85b08882505d77d78e67a7",
        ),
        (
            FeatureOptions(
                dim=16, signal=0.45, correlation=0.6, distractors=1.5, rows_per_second=1.5, seed=29
            ),
            "e03c53369477be83cdd4379b282c8ba7736104788c959caf2a66492d6e3072bf",
        ),
    ],
)
def test_features_of_the_old_knobs_have_their_old_bits(
    tmp_path: Path, options: FeatureOptions, expected: str
) -> None:
    simulate_features(make_paragraphs(), tmp_path / "features.hdf5", options)
    assert digest(tmp_path) == expected


def test_a_knob_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    plain = make_world(tmp_path)
    video = "v_train00003"
    for knob, value in ROW_KNOBS.items():
        changed = make_world(tmp_path, **{knob: value})
        assert changed != plain
        for name in ("train_data.json", "test_data.json", "glove.pkl"):
            assert (changed / name).read_bytes() == (plain / name).read_bytes(), knob
        assert not np.array_equal(rows_of(changed, video), rows_of(plain, video)), knob
    for knob in ("paraphrases", "shuffled"):
        changed = make_world(tmp_path, **{knob: TEXT_KNOBS[knob]})
        np.testing.assert_array_equal(rows_of(changed, video), rows_of(plain, video), err_msg=knob)
        texts = [
            Counter(s for p in read_split(folder, "train") for s in p.sentences)
            for folder in (plain, changed)
        ]
        assert not texts[0] - texts[1]  # what was said is still said


def test_a_world_from_before_a_knob_is_without_it(tmp_path: Path) -> None:
    made = make_world(tmp_path)
    folder = made.rename(tmp_path / "old")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["options"]["topic"]
    (folder / "manifest.json").write_text(json.dumps(manifest))

    def load(**knobs: Any) -> Any:
        return load_corpus(
            name="synthetic", data_dir=tmp_path, dir="old", splits=["test"], synthetic=knobs
        )

    assert load(topic=0.0).folder == folder
    with pytest.raises(synthetic.InputError, match="was made with topic 0.0, not 1.0"):
        load(topic=1.0)


def test_every_knob_is_a_flag_of_the_script(tmp_path: Path) -> None:
    flags = [f"--{name}={value}" for name, value in {**ROW_KNOBS, **TEXT_KNOBS}.items()]
    sizes = ["--train=3", "--val=1", "--test=1", "--feature-dim=6"]
    make_synthetic.main(["world", "--out", str(tmp_path / "world"), *sizes, *flags])
    made = json.loads((tmp_path / "world" / "manifest.json").read_text())["options"]
    assert {name: made[name] for name in ROW_KNOBS | TEXT_KNOBS} == ROW_KNOBS | TEXT_KNOBS
    known = make_synthetic.parse(
        ["features", "--corpus=tacos", "--annotations=a", f"--out={tmp_path}"]
        + [f"--{name}={value}" for name, value in ROW_KNOBS.items()]
    )
    assert {name: vars(known)[name] for name in ROW_KNOBS} == ROW_KNOBS


# Rows, measured where the truth is known: one sentence, no noise worth the name

SINGLE: dict[str, Any] = {
    **{"dim": 400, "signal": 20.0, "background": 0.0, "distractors": 0.0, "correlation": 0.0},
    **{"rows_per_second": 2.0},
}


def single(count: int, length: float = 20.0) -> list[Paragraph]:
    """Videos of 100 seconds with one moment each."""
    starts = np.random.default_rng(0).uniform(0, 100 - length, count)
    return [
        Paragraph(f"p{i}", f"v{i}", 100.0, ("A man slices an apple.",), np.array([[s, s + length]]))
        for i, s in enumerate(starts)
    ]


def simulated(
    path: Path, paragraphs: list[Paragraph], **options: Any
) -> tuple[list[Float[np.ndarray, "n C"]], Callable[[str], Float[np.ndarray, " C"]]]:
    """The rows of the paragraphs' videos, and what a sentence looks like."""
    knobs = FeatureOptions(**options)
    simulate_features(paragraphs, path / "f.hdf5", knobs)
    file = FeatureFile(path / "f.hdf5")
    look = synthetic._sentence_look([s for p in paragraphs for s in p.sentences], knobs, None)
    return [file.read(p.video_id) for p in paragraphs], look


def seconds_shown(
    rows: Float[np.ndarray, "n C"], look: Float[np.ndarray, " C"], start: float, end: float
) -> tuple[Float[np.ndarray, " n"], np.ndarray]:
    """How much of a look each row has, and which rows lie in the moment."""
    times = (np.arange(len(rows)) + 0.5) * 100 / len(rows)
    return rows @ look / SINGLE["signal"], (times >= start) & (times < end)


def test_echoes_show_an_event_outside_its_moment_as_often_and_as_weakly_as_they_say(
    tmp_path: Path,
) -> None:
    paragraphs = single(300, length=10.0)
    rows, look = simulated(tmp_path, paragraphs, **SINGLE, echoes=1.5, echo_strength=0.4)
    inside, outside = [], []
    for each, paragraph in zip(rows, paragraphs, strict=True):
        shown, here = seconds_shown(each, look(paragraph.sentences[0]), *paragraph.moments[0])
        inside.append(shown[here].mean())
        outside.append(shown[~here].sum() / 2)  # strength times seconds
    assert np.mean(inside) == pytest.approx(1, abs=0.02)
    # 1.5 echoes of 5 seconds, 0.4 strong; a mean of 300 Poisson draws
    assert np.mean(outside) == pytest.approx(1.5 * 5 * 0.4, rel=0.15)
    levels = np.concatenate(
        [
            seconds_shown(each, look(p.sentences[0]), *p.moments[0])[0]
            for each, p in zip(rows, paragraphs, strict=True)
        ]
    )
    weak = levels[(levels > 0.2) & (levels < 0.6)]
    assert np.median(weak) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_part_of_a_moment_shows_in_one_piece_anywhere_in_it(tmp_path: Path, share: float) -> None:
    paragraphs = single(80)
    rows, look = simulated(tmp_path, paragraphs, **SINGLE, visible=share)
    shares, centres = [], []
    for each, paragraph in zip(rows, paragraphs, strict=True):
        shown, here = seconds_shown(each, look(paragraph.sentences[0]), *paragraph.moments[0])
        seen = shown > 0.5
        assert not seen[~here].any()
        (places,) = np.nonzero(seen)
        assert places[-1] - places[0] + 1 == len(places)
        shares.append(len(places) / here.sum())
        centres.append((places.mean() - np.flatnonzero(here).mean()) / here.sum())
    assert np.mean(shares) == pytest.approx(share, abs=0.03)
    # Uniform over what is left of the moment: deviation (1 − share)/√12, no preferred side.
    assert np.std(centres) == pytest.approx((1 - share) / 12**0.5, rel=0.2)
    assert abs(np.mean(centres)) < 0.06


def test_a_topic_is_in_every_row_and_alone_it_tells_which_video_but_not_when(
    tmp_path: Path,
) -> None:
    def about(paragraph: Paragraph) -> Float[np.ndarray, " C"]:
        total = np.sum([look(s) for s in paragraph.sentences], axis=0)
        return total / np.linalg.norm(total)

    random = np.random.default_rng(1)
    words = [f"word{i}" for i in range(60)]
    paragraphs = [
        Paragraph(
            f"p{i}", f"v{i}", 100.0,
            tuple(" ".join(random.choice(words, 3, replace=False)) for _ in range(2)),
            np.array([[5.0, 35.0], [50.0, 80.0]]),
        )
        for i in range(40)
    ]  # fmt: skip
    quiet: dict[str, Any] = {"dim": 300, "background": 0.0, "distractors": 0.0, "correlation": 0.0}
    rows, look = simulated(tmp_path, paragraphs, **quiet, signal=0.0, topic=0.8)
    for each, paragraph in zip(rows, paragraphs, strict=True):
        assert (each @ about(paragraph)).mean() == pytest.approx(0.8, abs=0.03)
    match = np.array([[each.mean(axis=0) @ about(p) for p in paragraphs] for each in rows])
    assert (match.argmax(axis=1) == np.arange(40)).all()
    times = (np.arange(200) + 0.5) / 2
    margins = [
        (each @ look(s))[(times >= start) & (times < end)].mean() - (each @ look(s)).mean()
        for each, p in zip(rows, paragraphs, strict=True)
        for s, (start, end) in zip(p.sentences, p.moments, strict=True)
    ]
    assert abs(np.mean(margins)) < 0.005  # of rows whose noise along a direction is 0.06

    both, look = simulated(tmp_path, paragraphs, **quiet, signal=3.0, topic=0.8)
    for each, paragraph in zip(both, paragraphs, strict=True):
        before = each[times < 5]  # nothing happens there
        assert (before @ about(paragraph)).mean() == pytest.approx(0.8, abs=0.07)


def test_a_world_of_topic_alone_has_no_moment_in_its_rows(tmp_path: Path) -> None:
    folder = make_world(tmp_path, signal=0.0, topic=2.0, rows_per_second=2.0, train=60)
    between, within = [], []
    means = []
    for p in read_split(folder, "train"):
        rows = rows_of(folder, p.video_id)
        half = len(rows) // 2
        within.append(np.linalg.norm(rows[:half].mean(axis=0) - rows[half:].mean(axis=0)))
        means.append(rows.mean(axis=0))
        assert np.linalg.norm(means[-1]) == pytest.approx(2, abs=0.3)
    centre = np.mean(means, axis=0)
    between = [np.linalg.norm(mean - centre) for mean in means]
    assert np.mean(within) < 0.25 * np.mean(between)


def test_gain_multiplies_a_videos_rows_by_one_number(tmp_path: Path) -> None:
    paragraphs = single(200)
    (tmp_path / "plain").mkdir()
    plain, _ = simulated(tmp_path / "plain", paragraphs, dim=8, rows_per_second=0.1)
    rows, _ = simulated(tmp_path, paragraphs, dim=8, rows_per_second=0.1, gain=0.7)
    ratios = np.stack([(a / b).ravel() for a, b in zip(rows, plain, strict=True)])
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[:, :1], ratios.shape), rtol=1e-4)
    logs = np.log(ratios[:, 0])
    assert logs.std() == pytest.approx(0.7, rel=0.15) and abs(logs.mean()) < 0.15


@pytest.mark.parametrize("sparsity", [0.5, 0.85])
def test_rectified_rows_are_sparse_non_negative_and_heavy_tailed(
    tmp_path: Path, sparsity: float
) -> None:
    paragraphs = single(40)
    options: dict[str, Any] = {"dim": 128, "signal": 1.0, "distractors": 1.5, "topic": 0.5}
    (tmp_path / "plain").mkdir()
    plain = np.concatenate(simulated(tmp_path / "plain", paragraphs, **options)[0])
    rows = np.concatenate(simulated(tmp_path, paragraphs, **options, sparsity=sparsity)[0])
    assert rows.min() == 0
    assert (rows == 0).mean() == pytest.approx(sparsity, abs=0.05)
    # A Gaussian has kurtosis 3, its positive half less than 4.
    positive = rows[rows > 0].astype(np.float64)
    assert ((positive - positive.mean()) ** 4).mean() / positive.var() ** 2 > 15
    units = rows.mean(axis=0)
    assert units.max() / np.median(units) > 2  # of unequal scale
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.linalg.norm(directions.mean(axis=0)) ** 2 > 0.1  # a mean cosine; plain rows: below
    # Not linear: the best linear reading of the plain rows leaves much unexplained.
    known = np.column_stack([plain, np.ones(len(plain))])
    rest = rows - known @ np.linalg.lstsq(known, rows, rcond=None)[0]
    assert rest.var() > 0.2 * rows.var(axis=0).mean()


def test_the_rectified_layer_is_one_for_all_videos(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dim": 32, "sparsity": 0.7}
    paragraphs = single(20)
    rows, _ = simulated(tmp_path, paragraphs, **options)
    (tmp_path / "plain").mkdir()
    plain, _ = simulated(tmp_path / "plain", paragraphs, dim=32)
    # A unit fires in one half-space, the same in every video: a rule learnt on half of the videos
    # says where it fires in the others.
    x, y = np.concatenate(plain[:10]), np.concatenate(rows[:10]) > 0
    other, fires = np.concatenate(plain[10:]), np.concatenate(rows[10:]) > 0
    design = np.column_stack([x, np.ones(len(x))])
    rule = np.linalg.lstsq(design, 2.0 * y - 1, rcond=None)[0]
    foretold = np.column_stack([other, np.ones(len(other))]) @ rule > 0
    assert (foretold == fires).mean() > 0.9


# Sentences and moments


def test_paraphrases_describe_one_moment_in_other_words(tmp_path: Path) -> None:
    folder = make_world(tmp_path, paraphrases=0.8, overlap=0.0)
    described, spoken = 0, 0
    for p in read_split(folder, "train"):
        groups = defaultdict(list)
        for sentence, moment in zip(p.sentences, p.moments.tolist(), strict=True):
            groups[tuple(moment)].append(sentence)
        described, spoken = described + len(groups), spoken + len(p.sentences)
        for group in groups.values():
            assert len(set(group[:4])) == len(group[:4])  # not the same words
            common = set.intersection(*(set(tokenise(s)) for s in group))
            assert len(common & {w for t in synthetic._THEMES for w in t.actions}) == 1
            assert len(common & {w for t in synthetic._THEMES for w in t.objects}) == 1
    assert spoken / described == pytest.approx(1.8, rel=0.06)


def repeated_elsewhere(folder: Path, split: str) -> float:
    """The share of sentences that stand word for word in another video of the split."""
    owners = defaultdict(set)
    sentences = [(s, p.video_id) for p in read_split(folder, split) for s in p.sentences]
    for sentence, video in sentences:
        owners[sentence].add(video)
    return float(np.mean([len(owners[sentence]) > 1 for sentence, _ in sentences]))


def test_sentences_recur_in_other_videos_as_often_as_they_are_said_to(tmp_path: Path) -> None:
    assert repeated_elsewhere(make_world(tmp_path), "train") < 0.02
    folder = make_world(tmp_path, recurring=0.4)
    for split in ("train", "test"):
        assert repeated_elsewhere(folder, split) == pytest.approx(0.4, abs=0.08)
    for p in read_split(folder, "train"):
        assert len(set(p.sentences)) == len(p.sentences)


def order_of(folder: Path) -> float:
    """The share of neighbouring sentences that stand in the order of their starts."""
    steps = np.concatenate([np.diff(p.moments[:, 0]) for p in read_split(folder, "train")])
    return float((steps > 0).mean())


def test_shuffled_paragraphs_say_nothing_about_time(tmp_path: Path) -> None:
    assert order_of(make_world(tmp_path, disorder=0.0)) == 1
    assert order_of(make_world(tmp_path, disorder=0.0, shuffled=1.0)) == pytest.approx(0.5, abs=0.1)
    half = order_of(make_world(tmp_path, disorder=0.0, shuffled=0.5))
    assert half == pytest.approx(0.75, abs=0.1)


def widths(folder: Path) -> tuple[float, float]:
    """Mean width of a moment, and how its log depends on the log of the number of sentences."""
    found = [
        (np.log(len(p.sentences)), *np.diff(p.moments / p.duration, axis=1).mean(axis=0))
        for p in read_split(folder, "train")
    ]
    sentences, width = np.array(found).T
    slope = np.polyfit(sentences, np.log(width), 1)[0]
    return float(width.mean()), float(slope)


def test_widths_do_not_depend_on_the_number_of_sentences(tmp_path: Path) -> None:
    assert widths(make_world(tmp_path))[1] < -0.4  # they share the video
    mean, slope = widths(make_world(tmp_path, width=0.28))
    assert mean == pytest.approx(0.28, abs=0.02) and abs(slope) < 0.15
    for p in read_split(make_world(tmp_path, width=0.28, disorder=0.0), "train"):
        assert (np.diff(p.moments[:, 0]) >= 0).all()
        assert p.moments.min() >= 0 and (p.moments[:, 1] <= p.duration).all()


def test_all_knobs_together_make_a_world_that_loads_and_keeps_its_held_out_words(
    tmp_path: Path,
) -> None:
    knobs = {"train": 60, "val": 4, "test": 30, "feature_dim": 12, "rows_per_second": 0.5}
    corpus = load_corpus(
        name="synthetic",
        data_dir=tmp_path,
        splits=SPLITS,
        num_frames=16,
        num_clips=8,
        synthetic={**knobs, **ROW_KNOBS, **TEXT_KNOBS},
    )
    assert np.isfinite(corpus["test"][0].video.numpy()).all()
    grammar = synthetic._Grammar.draw(WorldOptions(feature_dim=12))
    actions = {word for theme in grammar.themes for word in theme.actions}
    objects = {word for theme in grammar.themes for word in theme.objects}
    kinds = (set(grammar.actors), actions, objects)

    def combined(split: str) -> set[tuple[str, ...]]:
        texts = [tokenise(s) for p in corpus[split].paragraphs for s in p.sentences]
        return {
            tuple(next(w for w in words if w in kind) for kind in kinds)
            for words in texts
            if "someone" not in words
        }

    assert not combined("train") & combined("test")
