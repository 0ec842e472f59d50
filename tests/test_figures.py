"""Figures for a paper: what is drawn is what the runs' files hold, and what cannot be is said."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.commands import figures
from lib.evaluation.examples import (
    ScoreMaps,
    best_cell,
    moments_in,
    overlap_map,
    paragraph_quality,
    ranked_videos,
    save_maps,
    sentences_of,
    true_cell,
)
from lib.evaluation.files.run import MAPS, RunFiles, read_run
from lib.evaluation.records import Pairs
from lib.evaluation.retrieval import rank_videos, top_videos
from tests.demo_run import make_run

pytest.importorskip("matplotlib", reason="figures need matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "weak", skill=0.3, seed=1)
    make_run(folder / "strong", skill=0.9, seed=2)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[RunFiles]:
    return [read_run(folder / "strong"), read_run(folder / "weak")]


@pytest.fixture(scope="module")
def plt() -> Any:
    return figures.pyplot()


def bars(axis: Any, colour: str) -> list[tuple[float, float]]:
    """(start, end) of the bars of a colour, from the top."""
    from matplotlib.colors import to_rgba

    found = [bar for bar in axis.patches if bar.get_facecolor() == to_rgba(colour)]
    found.sort(key=lambda bar: bar.get_y())
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in found]


def marks(axis: Any) -> dict[str, tuple[int, int]]:
    """Colour -> (start, end) of the cell that a mark of this colour lies on."""
    return {
        line.get_color(): (int(line.get_ydata()[0]), int(line.get_xdata()[0]))
        for line in axis.lines
    }


def best_in(run: RunFiles, i: int, video: int) -> list[tuple[float, float]]:
    """The best moment of a sentence in a video in seconds, counted from the file's lists."""
    duration = float(run.truth.durations[video])
    if video == run.truth.sentence_video[i]:
        assert run.predictions.spans is not None
        span = run.predictions.spans[i, 0]
    else:
        candidates = run.predictions.candidates
        assert isinstance(candidates, Pairs)
        inside = np.flatnonzero(candidates.videos[i] == video)
        if not len(inside):
            return []
        span = candidates.spans[i, inside[candidates.scores[i][inside].argmax()]]
    return [(float(span[0]) * duration, float(span[1]) * duration)]


def a_miss(run: RunFiles, least: int) -> int:
    """A paragraph whose right video stands at this rank or a later one."""
    assert run.predictions.similarity is not None
    ranks = rank_videos(run.predictions.similarity, run.truth.paragraph_video).rank()
    return int(np.flatnonzero(ranks >= least)[0])


@pytest.mark.parametrize("count", [1, 3, 10])
def test_retrieved_videos_are_drawn_with_their_moments(
    plt: Any, pair: list[RunFiles], count: int
) -> None:
    from matplotlib.colors import to_rgba

    truth, paragraph = pair[0].truth, a_miss(pair[1], 4)
    figure = figures.draw_retrieved(plt, pair, paragraph, count=count)
    sentences = sentences_of(truth, [paragraph]).tolist()
    right = int(truth.paragraph_video[paragraph])
    columns = figure.axes[::2], figure.axes[1::2]
    for run, axes, (colour, _) in zip(pair, columns, figures.RUNS, strict=True):
        similarity = run.predictions.similarity
        assert similarity is not None
        rank = int(rank_videos(similarity, truth.paragraph_video).rank()[paragraph])
        shown = [v for v, _ in ranked_videos(run.predictions, paragraph, count)]
        numbers = list(range(1, count + 1))
        if rank > count:
            shown, numbers = [*shown, right], [*numbers, rank]
        for axis, number, video in zip(axes, numbers, shown, strict=False):
            title = axis.get_title(loc="left")
            score = dict(ranked_videos(run.predictions, paragraph, 60))[video]
            assert title.startswith(f"{number}. {truth.video_ids[video]}  {score:.4f}")
            assert title.endswith("right video") == (video == right)
            frame = figures.RIGHT if video == right else figures.WRONG
            assert axis.spines["left"].get_edgecolor() == to_rgba(frame)
            expected = [span for i in sentences for span in best_in(run, i, video)]
            assert np.allclose(bars(axis, colour), expected)
            true = truth.moments[sentences] if video == right else np.empty((0, 2))
            assert np.allclose(np.reshape(bars(axis, figures.TRUTH), (-1, 2)), true)
            assert axis.get_xlim() == (0, truth.durations[video])
        assert all(not axis.axison for axis in axes[len(shown) :])
    text = figure._suptitle.get_text()
    assert all(f"{n}. {truth.sentences[i][:20]}" in text for n, i in enumerate(sentences, 1))
    plt.close(figure)


def test_a_right_video_that_is_not_listed_has_no_rank(plt: Any, pair: list[RunFiles]) -> None:
    run = pair[1]
    assert run.predictions.similarity is not None
    paragraph = a_miss(run, 9)
    short = top_videos(np.asarray(dense(run)), 5)
    run = dataclasses.replace(
        run, predictions=dataclasses.replace(run.predictions, similarity=short)
    )
    figure = figures.draw_retrieved(plt, [run], paragraph, count=3)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title.split()[0] for title in titles] == ["1.", "2.", "3.", "not"]
    name = run.truth.video_ids[int(run.truth.paragraph_video[paragraph])]
    assert titles[-1] == f"not listed: {name}    right video"
    plt.close(figure)


def dense(run: RunFiles) -> np.ndarray:
    """A listed ranking as a matrix."""
    P, V = len(run.truth.paragraph_ids), len(run.truth.video_ids)
    scores = np.empty((P, V))
    for p in range(P):
        for video, score in ranked_videos(run.predictions, p, V):
            scores[p, video] = score
    return scores


def test_moments_that_no_test_kept_are_not_drawn_and_it_is_said(
    plt: Any, pair: list[RunFiles], capsys: pytest.CaptureFixture[str]
) -> None:
    run = dataclasses.replace(
        pair[0], predictions=dataclasses.replace(pair[0].predictions, candidates=None)
    )
    figures.require_rankings([run])
    assert "strong: its moments in other videos" in capsys.readouterr().err
    figures.require_rankings(pair)
    assert capsys.readouterr().err == ""
    paragraph = int(np.argmax(paragraph_quality(run.truth, run.predictions)))
    figure = figures.draw_retrieved(plt, [run], paragraph, count=3)
    right, *others = figure.axes
    assert bars(right, figures.RUNS[0][0]) and bars(right, figures.TRUTH)
    assert all(not axis.patches for axis in others)
    assert [text.get_text() for axis in others for text in axis.texts] == ["moments not known"] * 2
    assert moments_in(run.truth, run.predictions, 0, 5) == []
    plt.close(figure)


def test_maps_of_truth_run_and_baseline_stand_side_by_side(plt: Any, pair: list[RunFiles]) -> None:
    truth = pair[0].truth
    assert pair[0].maps is not None and pair[1].maps is not None
    paragraph, *_ = figures.chosen(pair, None, 1, mapped=True)
    assert paragraph in pair[0].maps.paragraphs(truth)
    assert paragraph in pair[1].maps.paragraphs(truth)
    figure = figures.draw_sentences(plt, pair, paragraph)
    sentences = sentences_of(truth, [paragraph]).tolist()
    assert [axis.get_title() for axis in figure.axes[1:4]] == ["truth (IoU)", "strong", "weak"]
    for row, i in enumerate(sentences):
        line, true, ours, theirs = figure.axes[4 * row : 4 * row + 4]
        assert bars(line, figures.TRUTH) == [tuple(pytest.approx(x) for x in truth.moments[i])]
        for run, axis, (colour, _) in zip(pair, (ours, theirs), figures.RUNS, strict=True):
            video = int(truth.sentence_video[i])
            assert np.allclose(bars(line, colour), best_in(run, i, video))
            assert run.maps is not None
            scores = run.maps.of(i)
            assert scores is not None
            drawn = axis.images[0].get_array().filled(np.nan)
            np.testing.assert_array_equal(drawn, scores)
            at = marks(axis)
            assert at[colour] == best_cell(scores)
            assert at[figures.TRUTH] == true_cell(scores, truth.fractions[i])
        scores = pair[0].maps.of(i)
        assert scores is not None
        overlaps = overlap_map(scores, truth.fractions[i])
        np.testing.assert_array_equal(true.images[0].get_array().filled(np.nan), overlaps)
        assert set(marks(true)) == {"white", figures.TRUTH}
        assert marks(true)[figures.TRUTH] == best_cell(overlaps)
    plt.close(figure)


def test_the_best_paragraphs_with_maps_in_both_runs_are_taken(pair: list[RunFiles]) -> None:
    assert pair[0].maps is not None and pair[1].maps is not None
    both = set(pair[0].maps.paragraphs(pair[0].truth)) & set(pair[1].maps.paragraphs(pair[0].truth))
    quality = paragraph_quality(pair[0].truth, pair[0].predictions)
    taken = figures.chosen(pair, None, 2, mapped=True)
    assert taken == sorted(both, key=lambda p: -quality[p])[:2]
    assert figures.chosen(pair, ["v_003", "v_001"], 2) == [3, 1]


def test_a_dollar_in_a_sentence_is_a_dollar(plt: Any, pair: list[RunFiles], tmp_path: Path) -> None:
    run = pair[0]
    words = tuple("costs $5 and $x_{ more" for _ in run.truth.sentences)
    run = dataclasses.replace(run, truth=dataclasses.replace(run.truth, sentences=words))
    for figure in (
        figures.draw_sentences(plt, [run], 0),
        figures.draw_retrieved(plt, [run], 0, count=1),
    ):
        figure.savefig(tmp_path / "x.svg")
        assert "costs $5 and $x_{ more" in (tmp_path / "x.svg").read_text()
        plt.close(figure)


def test_the_command_writes_a_file_for_each_paragraph_and_format(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(folder / "strong"), "--out", str(tmp_path), "--format"]
    more = [str(folder / "weak")]
    figures.main([*line, "png", "svg", "--paragraph", "v_003", "--retrieved", "2"])
    figures.main([*line, "svg", "--paragraph", "v_001", "--retrieved", "2", "--baseline", *more])
    figures.main([*line, "svg", "--baseline", *more, "--count", "1"])
    printed = capsys.readouterr().out.split()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert set(printed) == {str(tmp_path / name) for name in names}
    assert [name for name in names if "retrieved" in name] == [
        "v_001_retrieved.svg",
        "v_003_retrieved.png",
        "v_003_retrieved.svg",
    ]
    (maps,) = [name for name in names if "retrieved" not in name]
    assert re.fullmatch(r"v_\d{3}_maps\.svg", maps)
    assert (tmp_path / "v_003_retrieved.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / maps).read_text()
    assert "truth (IoU)" in drawn and ">strong<" in drawn and ">weak<" in drawn


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Of the weak run, to be changed."""
    shutil.copytree(folder / "weak", tmp_path / "other")
    return tmp_path / "other"


def other_queries(folder: Path) -> None:
    for name in ("predictions.truth.jsonl", "predictions.jsonl"):
        path = folder / name
        path.write_text(re.sub(r'"v_000/1"', '"v_000/x"', path.read_text()))


def no_maps(folder: Path) -> None:
    (folder / MAPS).unlink()


def other_maps(folder: Path) -> None:
    """Those of paragraphs of which the strong run has none."""
    run, theirs = read_run(folder), read_run(folder.parent / "strong").maps
    assert run.maps is not None and theirs is not None
    free = set(range(len(run.truth.paragraph_ids))) - set(theirs.paragraphs(run.truth))
    sentences = sentences_of(run.truth, [min(free)])
    save_maps(folder / MAPS, ScoreMaps(sentences, run.maps.maps[: len(sentences)]))


def no_ranking(folder: Path) -> None:
    path = folder / "predictions.jsonl"
    lines = [line for line in path.read_text().splitlines() if "paragraph_id" not in line]
    head = re.sub(r'"lines":\d+', f'"lines":{len(lines)}', lines[0])
    path.write_text("\n".join([head, *lines[1:]]) + "\n")


def no_times(folder: Path) -> None:
    path = folder / "predictions.truth.jsonl"
    path.write_text(re.sub(r', ?"ts": ?\[[^\]]*\]', "", path.read_text()))


@pytest.mark.parametrize(
    ("change", "flags", "said"),
    [
        (other_queries, (), "other and strong were not tested on the same queries: their ids"),
        (no_maps, (), r"other: its test kept no score maps; best_test.py RUN --maps ID keeps them"),
        (other_maps, (), "strong and other: their tests kept score maps of no paragraph in common"),
        (no_ranking, ("--retrieved", "3"), "other: ranks no videos"),
        (no_times, (), "not scored against the same moments"),
    ],
)
def test_runs_that_cannot_be_set_side_by_side_are_refused(
    folder: Path, copy: Path, change: Any, flags: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "strong", copy.parent / "strong")
    change(copy)
    out = tmp_path / "figures"
    with pytest.raises(InputError, match=said):
        figures.main(
            [str(copy.parent / "strong"), "--baseline", str(copy), "--out", str(out), *flags]
        )
    assert not out.exists()


def test_paragraphs_that_cannot_be_drawn_are_refused(
    folder: Path, pair: list[RunFiles], copy: Path
) -> None:
    with pytest.raises(InputError, match="the split has no paragraph 'nobody'"):
        figures.chosen(pair, ["nobody"], 1)
    assert pair[0].maps is not None
    kept = set(pair[0].maps.paragraphs(pair[0].truth))
    name = next(name for p, name in enumerate(pair[0].truth.paragraph_ids) if p not in kept)
    said = f"strong: its test kept no score maps of '{name}'; best_test.py RUN --maps {name} keeps"
    with pytest.raises(InputError, match=said):
        figures.chosen(pair, [name], 1, mapped=True)
    with pytest.raises(InputError, match="a run is named twice"):
        figures.main([str(folder / "weak"), "--baseline", str(folder / "weak")])
    no_times(copy)
    with pytest.raises(InputError, match="other: was tested without timestamps"):
        figures.chosen([read_run(copy)] * 2, None, 1, mapped=True)
    with pytest.raises(SystemExit):
        figures.main([str(copy), "--retrieved", "0"])
