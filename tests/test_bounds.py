"""What would hang, or take all memory, is refused at once, in a sentence; and streams that are not
there are no fault."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lib.base.command import known
from lib.base.errors import InputError
from lib.commands.index import check
from lib.commands.sweep import read_rows
from lib.config.config import load_config
from lib.datasets import annotations
from lib.datasets.annotations import read_paragraphs
from lib.datasets.synthetic import whole_folder
from lib.evaluation import Truth
from lib.evaluation.files import read_any
from lib.evaluation.files.lines import for_each_line
from lib.inference.export import read_export
from lib.inference.index import VideoIndex
from lib.inference.packed import RUN_FILE
from lib.inference.sources import read_durations
from tests.runs import Process, run, write_experiment


def empty(kind: type) -> Any:
    """One of nothing, for a function that does not come to use it."""
    return object.__new__(kind)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "read",
    [
        *(load_config, read_paragraphs, lambda p: for_each_line(p, print), read_rows),
        *(read_durations, lambda p: read_any(p, empty(Truth))),
        lambda p: check(empty(VideoIndex), p),
        lambda p: read_export(p.rename(p.with_name(RUN_FILE)).parent),
    ],
)
def test_a_pipe_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="cannot be read .*a pipe or a device, and no file"):
        read(tmp_path / "x.yaml")


def written(path: Path, *sentences: str, video: str = "v_a") -> Path:
    spans = [[0, 5]] * len(sentences)
    entry = {"duration": 10, "timestamps": spans, "sentences": sentences}
    path.write_text(json.dumps({video: entry}), "utf-8")
    return path


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("a" * 10_000_000, "v_a sentence 1 has 10,000,000 letters; expected at most 20,000"),
        ("a man " * 300, "v_a sentence 1 has 600 words; expected at most 500 of a sentence"),
        ("a b " * 4_000, "v_a sentence 1 has 8,000 words; expected at most 500 of a sentence"),
        ("he \ud800 eats", r"v_a sentence 1: 'he \\ud800 eats' has half a character \(\\ud800"),
    ],
)
def test_a_sentence_is_bounded(tmp_path, sentence, said):
    with pytest.raises(InputError, match=said):
        read_paragraphs(written(tmp_path / "train.json", sentence))


def test_what_is_long_and_within_the_bounds_is_read(tmp_path):
    long = ["word " * annotations.MOST_WORDS] * annotations.MOST_SENTENCES
    (paragraph,), _ = read_paragraphs(written(tmp_path / "train.json", *long))
    assert len(paragraph.sentences) == 1000
    with pytest.raises(InputError, match="v_a has 1,001 sentences; expected at most 1,000"):
        read_paragraphs(written(tmp_path / "train.json", *long, "A man eats."))


def test_a_name_with_half_a_character_is_refused(tmp_path):
    with pytest.raises(InputError, match="half a character"):
        read_paragraphs(written(tmp_path / "test.json", "A man eats.", video="v_\udfff"))


@pytest.mark.parametrize("size", [100_000, 100_000_000])
def test_a_model_that_memory_does_not_hold(tmp_path, size):
    ended = run(
        "dense_train",
        *("--cfg", write_experiment(tmp_path), "--set", f"MODEL.PARAMS.hidden_size={size}"),
        output=tmp_path / "output.txt",
    )
    assert ended.status == 2, ended.output
    line = ended.output.splitlines()[-1]
    assert line.startswith("error: MODEL.PARAMS describe a model that the ")
    assert not (tmp_path / "save" / "tiny").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_a_stream_that_is_closed_at_the_start_is_no_fault(tmp_path, number):
    """Without a guard the next file that is opened gets its number."""

    def sabotage() -> None:
        os.close(number)
        setattr(sys, ("stdout", "stderr")[number - 1], None)

    experiment = write_experiment(tmp_path, EPOCHS=1)
    ended = run("dense_train", "--cfg", experiment, output=tmp_path / "out.txt", sabotage=sabotage)
    assert ended.status == 0, ended.output
    console = (tmp_path / "save" / "tiny" / "console.log").read_text("utf-8")
    assert "best epoch 1" in console
    assert ("best epoch 1" in ended.output) == (number == 2)


def test_a_name_that_the_locale_cannot_hold_is_told():
    said = known(UnicodeEncodeError("ascii", "caf\xe9", 3, 4, "ordinal not in range"))
    assert said is not None and "'\\xe9'" in said and "LC_ALL=C.UTF-8" in said


def killed_while_it_writes(folder: Path) -> None:
    """``make_synthetic.py``, when it has begun to write."""
    import lib.datasets.synthetic as module

    def sabotage() -> None:
        def stop(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        module.write_manifest = stop

    process = Process(
        "make_synthetic",
        *("world", "--out", folder / "world"),
        output=folder / "output.txt",
        sabotage=sabotage,
    )
    assert process.wait().status == -signal.SIGKILL


def test_a_killed_make_synthetic_leaves_nothing_behind_the_next(tmp_path):
    killed_while_it_writes(tmp_path)
    (left,) = tmp_path.glob(".world.*")
    other = tmp_path / ".world.part-mine"  # not one of ours
    other.mkdir()
    os.utime(left, (time.time() - 60,) * 2)
    with whole_folder(tmp_path / "world") as part:
        assert not left.exists() and other.exists()
        os.utime(part, (time.time() - 60,) * 2)
        with whole_folder(tmp_path / "world"):  # another process, at the same time
            assert part.exists()
