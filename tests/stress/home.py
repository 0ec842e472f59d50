"""A folder with everything that a command reads: data, a run and what comes of it, small and whole.

Every command of ``moment_localization/`` that reads a file of the user's stands here once with the
files that it reads, so that all of them can be fed damaged ones, killed and starved in one way.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml

from lib.config.config import load_config
from lib.evaluation.files import read_any, read_truth, save_arrays
from lib.training.build import open_corpus
from tests.runs import REPOSITORY, Ended, Process, run, write_experiment

NO_GPU = ("--gpus", "cpu")


@dataclass(frozen=True)
class Command:
    """A command line over a home, whose folder it names as ``{home}``.

    Attributes:
        reads: the files that it reads, below the home; patterns of ``Path.glob``.
        statuses: how it may end, whatever it is given.
        writes: what it writes, likewise: after it has been stopped and run again these must be as
            if it had not been stopped.
        begins: what must not be there when it begins anew.
        weight: how often it is drawn; slow ones less.
    """

    script: str
    line: tuple[str, ...]
    reads: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (0, 2)
    writes: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    weight: int = 4

    def arguments(self, home: Path) -> list[str]:
        return [word.replace("{home}", str(home)) for word in self.line]

    def inputs(self, home: Path) -> list[Path]:
        found = (path for pattern in self.reads for path in sorted(home.glob(pattern)))
        return [path for path in dict.fromkeys(found) if path.is_file()]


_CORPUS = ("data/**/*_data.json", "data/**/features.hdf5", "data/**/words.txt")
_KEPT = ("data/**/manifest.json", "save/.cache/*", "save/tiny/.files")
_RUN = ("save/tiny/predictions.*", "save/tiny/results.json", "save/tiny/log.jsonl")
COMMANDS = {
    "train": Command(
        "dense_train",
        ("--cfg", "{home}/tiny.yaml", "--resume", "--set", "TRAIN.EPOCHS=3"),
        (
            "tiny.yaml",
            "save/tiny/last.pt",
            "save/tiny/config.yaml",
            "save/tiny/log.jsonl",
            *_CORPUS,
        ),
        (0, 2, 3),
        ("save/tiny/last.pt", "save/tiny/best.pt", "save/tiny/log.jsonl"),
        weight=6,
    ),
    "test": Command(
        "best_test",
        ("--cfg", "{home}/tiny.yaml"),
        ("tiny.yaml", "save/tiny/best.pt", "save/tiny/config.yaml", *_CORPUS),
        writes=("save/tiny/results.*", "save/tiny/predictions.*"),
        weight=6,
    ),
    "doctor": Command(
        "doctor",
        ("--cfg", "{home}/tiny.yaml", "--fingerprint", "{home}/save/tiny/best.pt"),
        ("tiny.yaml", "save/tiny/best.pt", *_CORPUS),
        (0, 1, 2),
    ),
    "plan": Command("plan", ("--cfg", "{home}/tiny.yaml"), ("tiny.yaml", *_CORPUS), weight=1),
    "score": Command(
        "score",
        (
            *("{home}/save/tiny/predictions.jsonl", "--resamples", "20"),
            *("--truth", "{home}/save/tiny/predictions.truth.jsonl"),
            *("--train-truth", "{home}/save/other/predictions.truth.jsonl"),
            *("--json", "{home}/scores.json", "--markdown", "{home}/scores.md"),
        ),
        ("save/tiny/predictions.jsonl", "save/*/predictions.truth.jsonl"),
        writes=("scores.json", "scores.md"),
    ),
    "score_arrays": Command(
        "score",
        (
            *("{home}/arrays/predictions.npz", "--resamples", "0"),
            *("--truth", "{home}/save/tiny/predictions.truth.jsonl"),
        ),
        ("arrays/predictions.npz",),
        weight=2,
    ),
    "report_anew": Command(  # without results to compare the other files with
        "report",
        ("{home}/arrays", "--out", "{home}/report.html"),
        ("arrays/*",),
        writes=("report.html",),
        weight=2,
    ),
    "compare": Command(
        "compare",
        (
            *("{home}/save/tiny", "{home}/save/other", "--resamples", "20"),
            *("--out", "{home}/compared.html"),
        ),
        (*_RUN, "save/tiny/config.yaml"),
        writes=("compared.html",),
    ),
    "report": Command(
        "report",
        ("{home}/save/tiny", "--out", "{home}/report.html"),
        (*_RUN, "save/tiny/config.yaml"),
        writes=("report.html",),
    ),
    "figures": Command(
        "figures",
        ("{home}/save/tiny", "--out", "{home}/figures", "--format", "png", "--count", "1"),
        _RUN[:1],
        writes=("figures/*.png",),
        weight=1,
    ),
    "replay": Command(
        "replay",
        ("{home}/save/stopped.step", *NO_GPU),
        ("save/stopped.step",),
        (0, 2, 3),
    ),
    "export": Command(
        "export",
        ("{home}/save/tiny", "--out", "{home}/exported"),
        ("save/tiny/best.pt", "save/tiny/word_vectors.pt"),
        writes=("exported/*",),
        begins=("exported",),
    ),
    "index": Command(
        "index",
        (
            *("{home}/features.hdf5", "--run", "{home}/export", "--out", "{home}/new.index"),
            *("--same-recipe", "--durations", "{home}/durations.json", *NO_GPU),
        ),
        ("features.hdf5", "durations.json", "export/*"),
        (0, 2, 3),
        ("new.index/encoded/header.json",),
    ),
    "add": Command(
        "index",
        (
            *("{home}/features.hdf5", "--run", "{home}/save/tiny", "--out", "{home}/small.index"),
            *("--same-recipe", "--seconds-per-row", "1", "--check", "{home}/paragraphs.txt"),
            *NO_GPU,
        ),
        ("features.hdf5", "save/tiny/best.pt", "small.index/encoded/*", "paragraphs.txt"),
        (0, 2, 3),
        ("small.index/encoded/header.json",),
    ),
    "search": Command(
        "search",
        (
            *("{home}/small.index", "Somebody opens the qwxyz door. He sits."),
            *("--run", "{home}/save/tiny", *NO_GPU),
        ),
        ("save/tiny/best.pt", "save/tiny/word_vectors.pt", "small.index/encoded/*"),
    ),
    "serve": Command(
        "serve",
        ("{home}/small.index", "--run", "{home}/export", "--port", "0"),
        ("export/*", "small.index/encoded/*"),
        weight=1,
    ),
    "extract": Command(
        "extract_features",
        (
            *("{home}/videos", "--backbone", f"{REPOSITORY}/tests/video_files.py:build"),
            *("--out", "{home}/extracted.hdf5", "--decoders", "1", *NO_GPU),
        ),
        ("videos/*",),
        (0, 2, 3),
        ("extracted.hdf5",),
    ),
    "import_features": Command(
        "import_features",
        ("{home}/bigfile", "{home}/imported.hdf5"),
        ("bigfile/*",),
        writes=("imported.hdf5",),
        begins=("imported.hdf5",),
    ),
    "import_checkpoint": Command(
        "import_checkpoint",
        (
            *("--cfg", "{home}/tan2d.yaml", "--layout", "2d-tan", "--overwrite"),
            *("--from", "{home}/foreign.pt", *NO_GPU),
        ),
        ("foreign.pt", "tan2d.yaml"),
        weight=2,
    ),
    "simulate": Command(
        "make_synthetic",
        (
            *("features", "--corpus", "activitynet", "--annotations", "{home}/annotations"),
            *("--vectors", "{home}/annotations/glove.pkl", "--out", "{home}/simulated"),
            *("--word-dim", "8"),
        ),
        ("annotations/*",),
        writes=("simulated/*",),
        begins=("simulated",),
        weight=2,
    ),
    "sweep": Command(
        "sweep",
        ("--cfg", "{home}/absent_data.yaml", "--rows", "{home}/rows.yaml"),
        ("rows.yaml", "absent_data.yaml"),
        (0, 1, 2),
        weight=0,  # starts interpreters
    ),
    "reproduce": Command(
        "reproduce",
        ("{home}/table.yaml", "--corpus", "{home}/own", "--out", "{home}/page.md"),
        ("table.yaml", "own/absent_data.yaml"),
        (1, 2),
        weight=0,
    ),
}


def make(home: Path) -> Path:
    """Train, test and derive everything; takes some ten seconds."""
    path = write_experiment(home, EPOCHS=2)
    text = yaml.safe_load(path.read_text("utf-8"))
    text["BASE"] = str(REPOSITORY / "experiments/synthetic/base.yaml")
    text["MODEL"] = {"NAME": "linear_align", "PARAMS": {"hidden_size": 16}}
    text["LOSS"] = {"WEIGHTS": {"sentence": 1, "within": 1}}
    text["DATASET"]["STANDARDIZE"] = True
    path.write_text(yaml.safe_dump(text), "utf-8")
    corpus = open_corpus(load_config(path), ("train", "val"))  # makes the world
    _write_words(corpus.vocabulary.vectors, world := corpus.vector_file.parent)
    text["DATASET"]["WORD_VECTORS"] = str(world / "words.txt")
    path.write_text(yaml.safe_dump(text), "utf-8")
    _done(run("dense_train", "--cfg", path, output=home / "train.txt"))
    _done(run("best_test", "--cfg", path, output=home / "test.txt"))
    tiny = home / "save/tiny"
    shutil.copytree(tiny, home / "save/other")
    _done(run("export", tiny, "--out", home / "export", output=home / "export.txt"))
    shutil.copy(world / "features.hdf5", home / "features.hdf5")
    with h5py.File(home / "features.hdf5") as file:
        (home / "durations.json").write_text(json.dumps(dict.fromkeys(file, 12.5)))
    (home / "paragraphs.txt").write_text("Somebody opens a door. He sits.\nShe runs.\n")
    of_some = home / "some.hdf5"
    with h5py.File(home / "features.hdf5") as source, h5py.File(of_some, "w") as some:
        for name in list(source)[:4]:
            source.copy(name, some)
    line = (of_some, "--run", tiny, "--out", home / "small.index", "--same-recipe")
    line += ("--seconds-per-row", "1", *NO_GPU)
    _done(run("index", *line, output=home / "index.txt"))
    _write_arrays(home)
    _stop_a_run(home, text)
    _write_bigfile(home / "bigfile")
    _write_foreign(home, text)
    (home / "annotations").mkdir()
    for split in ("train", "val", "test"):
        shutil.copy(world / f"{split}_data.json", home / "annotations")
    shutil.copy(world / "glove.pkl", home / "annotations")
    (home / "rows.yaml").write_text("ROWS:\n  one: {TRAIN.LR: 0.001}\n  two: {TRAIN.EPOCHS: 1}\n")
    absent = {**text, "DATA_DIR": str(home / "absent"), "DATASET": {"NAME": "activitynet"}}
    (home / "absent_data.yaml").write_text(yaml.safe_dump(absent))
    (home / "own").mkdir()
    shutil.copy(home / "absent_data.yaml", home / "own")
    table: dict[str, object] = {"TITLE": "One row", "CORPUS": "simulated", "REFERENCE": "one"}
    table |= {"PROTOCOLS": {"vr": ["R@1"]}, "COMPARED_AT": "R@1"}
    table["ROWS"] = {"one": {"EXPERIMENT": "absent_data"}}
    (home / "table.yaml").write_text(yaml.safe_dump({"TABLE": table}))
    _write_videos(home / "videos")
    for name in ("train.txt", "test.txt", "export.txt", "index.txt", "stopped.txt"):
        (home / name).unlink(missing_ok=True)
    return home


def copy_of(home: Path, to: Path) -> Path:
    """A home of its own, that names itself and not the one it was copied from."""
    shutil.copytree(home, to, symlinks=True)
    for path in (*to.glob("*.yaml"), *to.glob("save/*/config.yaml")):
        path.write_text(path.read_text("utf-8").replace(str(home), str(to)), "utf-8")
    return to


def _done(ended: Ended, *statuses: int) -> None:
    assert ended.status in (statuses or (0,)), ended.output


def _write_words(vectors: object, folder: Path) -> None:
    words = list(vectors.index)  # type: ignore[attr-defined]
    rows = vectors.lookup(words)  # type: ignore[attr-defined]
    lines = [f"{w} {' '.join(map(str, row.tolist()))}" for w, row in zip(words, rows, strict=True)]
    lines.append(f"qwxyz {' '.join(['-0.5'] * rows.shape[1])}")
    (folder / "words.txt").write_text("\n".join(lines) + "\n")


def _write_arrays(home: Path) -> None:
    """A run's folder without its results."""
    folder, tiny = home / "arrays", home / "save/tiny"
    folder.mkdir()
    for name in ("predictions.truth.jsonl", "predictions.maps.npz", "log.jsonl", "config.yaml"):
        shutil.copy(tiny / name, folder / name)
    truth = read_truth(tiny / "predictions.truth.jsonl")
    save_arrays(folder / "predictions.npz", *read_any(tiny / "predictions.jsonl", truth))


def _stop_a_run(home: Path, text: dict) -> None:
    """A run of a world of its own whose first step is not finite, and the step that it keeps."""
    place = home / "stopping"
    place.mkdir()
    stopping = copy.deepcopy(text)
    stopping["MODEL_DIR"] = str(place / "save")
    (place / "tiny.yaml").write_text(yaml.safe_dump(stopping))

    def sabotage() -> None:
        from lib.training import engine

        original = engine.BatchGradient.backward

        def backward(self: object, *args: object, **options: object) -> object:
            with torch.no_grad():
                next(iter(self.model.parameters())).fill_(float("nan"))  # type: ignore
            return original(self, *args, **options)

        engine.BatchGradient.backward = backward  # type: ignore

    output = home / "stopped.txt"
    ended = run("dense_train", "--cfg", place / "tiny.yaml", output=output, sabotage=sabotage)
    _done(ended, 3)
    (step,) = (place / "save").rglob("*.step")
    shutil.move(step, home / "save/stopped.step")
    shutil.rmtree(place)


def _write_bigfile(folder: Path) -> None:
    folder.mkdir()
    rows = np.random.default_rng(0).standard_normal((6, 4)).astype("<f4")
    rows.tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text("6 4\n")
    (folder / "id.txt").write_text(" ".join(f"row_{n}" for n in range(6)))
    frames = {"v_a": ["row_0", "row_1"], "v_b": [f"row_{n}" for n in range(2, 6)]}
    (folder / "video2frames.txt").write_text(repr(frames))


def _write_foreign(home: Path, text: dict) -> None:
    changed = {**text, "LOSS": {"WEIGHTS": {"overlap": 1}}}
    changed["TRAIN"] = {**text["TRAIN"], "SUPERVISION": "full"}
    changed["MODEL"] = {
        "NAME": "tan2d",
        "PARAMS": {"hidden_size": 8, "lstm_layers": 1, "kernel_size": 3, "conv_layers": 1},
    }
    (home / "tan2d.yaml").write_text(yaml.safe_dump(changed))
    weights = {"frame_layer.vis_conv.weight": torch.zeros(8, 12, 1), "x": torch.ones(2)}
    torch.save({"state_dict": weights}, home / "foreign.pt")


def _write_videos(folder: Path) -> None:
    try:
        from tests.video_files import write_video
    except ImportError:  # without av; extraction is then refused in a sentence
        return
    folder.mkdir()
    write_video(folder / "a.mp4", count=24)
    write_video(folder / "b.mkv", count=40, first=50)


def start(command: Command, home: Path, **options: object) -> Process:
    """The command under way in a process of its own, its output beside the home."""
    output = home.parent / f"{home.name}.output"
    return Process(command.script, *command.arguments(home), output=output, **options)  # type: ignore


def installed(names: Iterable[str]) -> list[str]:
    """Those of the commands whose packages are there."""
    needs = {"extract": "av", "figures": "matplotlib", "serve": "uvicorn"}
    needs |= dict.fromkeys(("export", "index"), "safetensors")

    def there(package: str) -> bool:
        try:
            __import__(package)
        except ImportError:
            return False
        return True

    return [name for name in names if name not in needs or there(needs[name])]
