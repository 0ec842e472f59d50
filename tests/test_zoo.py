"""The table of runs: each experiment once, measured when it changed, beside what was published."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.base.errors import InputError
from lib.config.config import load_config
from lib.config.external import find_model
from lib.datasets.vocabulary import FIRST_WORD
from lib.evaluation import PROTOCOLS, summarise
from lib.inference import checkpoints
from lib.tools.measuring import measured_apart, sizes_of
from lib.tools.reproduction import read_corpora, read_table, table_names
from lib.training.build import make_model, open_decoding
from moment_localization import real_bench, zoo
from tests.test_evaluation import world
from tests.test_experiments import NAMES

REPOSITORY = Path(__file__).resolve().parents[1]
FIXED = "bench/fixed/3_masked"  # in a folder of its own
SOME = ("synthetic/linear_align", "real/jsg", "dense_activitynet/acnet")


def config_of(name: str, *changes: str) -> Any:
    return load_config(zoo.path_of(name), changes)


# The experiments.


def test_every_experiment_is_named_once_and_nothing_else():
    found = zoo.names()
    assert len(set(found)) == len(found)
    assert set(found) == {name for name in NAMES if name.partition("/")[0] in zoo.FOLDERS}
    others = {name.partition("/")[0] for name in NAMES} - set(zoo.FOLDERS)
    assert others == {"own"}  # templates for a user's corpus


def test_some_experiments_are_chosen_by_name_or_folder():
    assert zoo.chosen("real/jsg,bench/fixed") == [
        "real/jsg",
        *(name for name in zoo.names() if name.startswith("bench/fixed/")),
    ]
    assert zoo.chosen("real") == [name for name in zoo.names() if name.startswith("real/")]
    assert zoo.chosen("") == zoo.names()
    with pytest.raises(InputError, match="--only: 'rea' is neither an experiment nor a folder"):
        zoo.chosen("rea")


def test_a_system_is_found_again_on_another_corpus():
    assert zoo.system_of("dense_activitynet/acnet") == "dmr_jrg"
    assert zoo.file_of("dmr_jrg", "bench") == "base"
    assert zoo.file_of(zoo.system_of("dense_tacos/tacos_linear"), "real") == "linear_align"
    assert zoo.file_of(zoo.system_of("synthetic/dmr_jrg"), "real") == "aligned"
    assert zoo.system_of("dense_charades/jsg_video") == "jsg_video"


# Measurements.


def test_the_sizes_are_those_of_the_corpus():
    """Of the release's model, to the digit; words fewer than VOCAB_SIZE; stems fewer than words."""
    config = config_of("dense_activitynet/ms_sl_i3d")
    model = make_model(config, sizes_of(config), open_decoding(config))
    assert sum(p.numel() for p in model.parameters()) == 3_370_752
    wide, real = sizes_of(config_of("dense_activitynet/acnet")), sizes_of(config_of("real/jsg"))
    assert (wide.video_dim, wide.word_dim, wide.vocab_size) == (500, 300, 8000 + FIRST_WORD)
    assert (real.video_dim, real.word_dim, real.vocab_size) == (512, 100, 572)
    assert sizes_of(config_of("real/jsg", "DATASET.STEMS=true")).vocab_size == 456
    assert sizes_of(config_of("real/jsg", "DATASET.MAX_SENTENCES=4")).max_sentences == 4


def test_a_measurement_is_of_the_options_that_a_step_reads():
    key = zoo.key_of(config_of(SOME[0]))
    assert zoo.key_of(config_of(SOME[0], "TEST.IOU=[0.5]", "DATASET.NOTES=[x]", "GPUS=cpu")) == key
    for change in ("TRAIN.BATCH_SIZE=3", "MODEL.PARAMS.hidden_size=8", "DATASET.NUM_CLIPS=16"):
        assert zoo.key_of(config_of(SOME[0], change)) != key


def test_an_option_that_is_new_changes_no_key(monkeypatch):
    key = zoo.key_of(config_of(SOME[0]))
    option = zoo.SCHEMA["TRAIN"]["LR"]
    monkeypatch.setitem(zoo.SCHEMA["TRAIN"], "NEWEST", option)
    config = config_of(SOME[0])
    config.TRAIN.NEWEST = option.default
    assert zoo.key_of(config) == key


def test_a_step_is_measured_without_data():
    spec = {"cfg": str(zoo.path_of(SOME[0])), "set": ["TRAIN.BATCH_SIZE=2"], "gpus": "cpu"}
    found = zoo.measure_one({**spec, "seconds": 0.0})
    assert found["parameters"] == 101_120 and found["paragraphs"] == 2
    assert found["step_seconds"] > 0 and found["peak_bytes"] >= 0 and found["device"]


def test_a_measurement_that_takes_too_long_is_one_sentence():
    spec = {"cfg": "a.yaml", "set": []}
    with pytest.raises(InputError, match=r"a\.yaml took longer than 0 s"):
        measured_apart([zoo.__file__, "measure"], spec, timeout=0.01)


class Machine:
    """In the place of the processes that measure."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.asked: list[str] = []
        self.faults: dict[str, str] = {}
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(zoo, "MEASURED", folder / "zoo.json")
        monkeypatch.setattr(zoo, "names", lambda: list(SOME))
        monkeypatch.setattr(zoo, "measured_apart", self.measured)

    def measured(self, script: Any, spec: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        name = Path(spec["cfg"]).relative_to(zoo.EXPERIMENTS).with_suffix("").as_posix()
        self.asked.append(name)
        if name in self.faults:
            raise InputError(self.faults[name])
        return {"parameters": 5, "step_seconds": 0.5, "peak_bytes": 2**30, "paragraphs": 4,
                "sentences": 9, "device": "a machine", "torch": "2"}  # fmt: skip

    def run(self, *flags: str) -> list[str]:
        """What was measured."""
        self.asked.clear()
        self.monkeypatch.setattr("sys.argv", ["zoo.py", "measure", *flags])
        zoo.main()
        return list(self.asked)


def test_only_what_is_new_or_changed_is_measured(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path)
    assert machine.run("--only", "real") == ["real/jsg"]
    machine.faults[SOME[2]] = "needs the weights of BERT"
    assert machine.run() == [SOME[0], SOME[2]]
    assert zoo.read_measured()[SOME[2]]["fault"] == "needs the weights of BERT"
    del machine.faults[SOME[2]]
    assert machine.run() == [SOME[2]]  # what failed is tried again
    assert machine.run() == []
    content = json.loads(zoo.MEASURED.read_text("utf-8"))
    content[SOME[0]]["key"] = "of other options"
    content["real/gone"] = content[SOME[1]]
    zoo.MEASURED.write_text(json.dumps(content), "utf-8")
    assert machine.run() == [SOME[0]]
    assert set(zoo.read_measured()) == set(SOME)
    assert machine.run("--again") == list(SOME)


def test_it_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path)
    measured = machine.measured

    def stopped(script: Any, spec: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        if len(machine.asked) == 1:
            raise KeyboardInterrupt
        return measured(script, spec, timeout=timeout)

    monkeypatch.setattr(zoo, "measured_apart", stopped)
    with pytest.raises(KeyboardInterrupt):
        machine.run()
    monkeypatch.setattr(zoo, "measured_apart", measured)
    assert machine.run() == list(SOME[1:])


def test_a_file_of_measurements_that_is_none_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "MEASURED", tmp_path / "zoo.json")
    assert zoo.read_measured() == {}
    for content in ("{", "[1]", '{"a": 3}'):
        zoo.MEASURED.write_text(content, "utf-8")
        with pytest.raises(InputError, match=r"zoo\.json cannot be read"):
            zoo.read_measured()


# Published numbers.


def test_a_protocol_knows_its_metrics():
    truth, predictions = world(12, 9, 5)
    counted = summarise(truth, predictions, resamples=0)["protocols"]
    assert len(counted) > 5
    for name, row in counted.items():
        assert all(map(PROTOCOLS[name].counts, row)), name
    for name, metric in (
        *(("vr", "R@1,IoU=0.5"), ("vr", "mIoU"), ("svmr", "R@1"), ("svmr", "R@1,IoU=1.5")),
        *(("vcmr_jsg", "mIoU"), ("jrg_joint", "SumR"), ("svmr_discounted", "R@1,IoU=0.5")),
    ):
        assert not PROTOCOLS[name].counts(metric)
    assert PROTOCOLS["svmr_map"].counts("mAP@0.5") and PROTOCOLS["svmr"].counts("R@5,IoU=0.7")


def test_what_was_published_is_of_experiments_protocols_and_metrics():
    found = zoo.read_published()
    assert set(found) <= set(zoo.names()) and len(found) > 30
    assert all(name.startswith("dense_") for name in found)
    for entries in found.values():
        for entry in entries:
            assert entry.source and entry.numbers
            summed = [value for metric, value in entry.numbers.items() if metric.startswith("R@")]
            if "SumR" in entry.numbers:
                assert entry.numbers["SumR"] == pytest.approx(sum(summed), abs=0.25)
            for (recall, _, low), (again, _, high) in itertools.pairwise(thresholds(entry.numbers)):
                assert recall != again or low >= high  # a recall falls with the threshold


def thresholds(numbers: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """The recalls that need an overlap, in order: R@K, the overlap, the value."""
    split = ((*metric.partition(",IoU=")[::2], value) for metric, value in numbers.items())
    return sorted(each for each in split if each[1])


@pytest.mark.parametrize("table", table_names())
def test_the_papers_tables_hold_the_same_numbers(table):
    """Those of one system in both places."""
    published, corpora = zoo.read_published(), read_corpora()
    read = read_table(table)
    metrics = next(iter(read.protocols.values()))
    compared = 0
    for row in read.rows.values():
        for corpus, values in row.published.items():
            experiment = (
                f"{corpora[corpus].folder.name}/{corpora[corpus].path(row.experiment).stem}"
            )
            if row.options or row.absent or experiment not in published:
                continue
            wanted = {m: v for m, v in zip(metrics, values, strict=True) if v is not None}
            assert wanted in [dict(entry.numbers) for entry in published[experiment]], experiment
            compared += 1
    assert compared or table in ("systems", "table4", "table5", "figure7", "figure8")


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("dense_activitynet/absent", {}, "is no experiment"),
        ("real/jsg", {"PROTOCOL": "best"}, "has the PROTOCOL 'best', expected one of vr"),
        ("real/jsg", {"COUNTED": "so"}, "needs either PROTOCOL or COUNTED"),
        ("real/jsg", {"NUMBERS": {"R@1": 3.0}}, r"has \['R@1'\], which are no metrics"),
        ("real/jsg", {"NUMBERS": {"mIoU": "much"}}, "mIoU is 'much'"),
        ("real/jsg", {"SOURCE": 3}, "SOURCE is 3"),
    ],
)
def test_an_entry_that_is_none_is_refused(name, changed, said, tmp_path):
    entry = {"SOURCE": "a paper", "PROTOCOL": "svmr", "NUMBERS": {"mIoU": 1.0}, **changed}
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump({"PUBLISHED": {name: [entry]}}), "utf-8")
    with pytest.raises(InputError, match=said):
        zoo.read_published(path)


def test_numbers_are_shown_by_recall():
    numbers = {"R@1,IoU=0.3": 50.0, "R@1,IoU=0.5": 41.25, "R@10": 7.0, "mIoU": 33.15}
    assert zoo.numbers_cell(numbers) == "R@1 at .3 / .5: 50.00 / 41.25; R@10 7.0; mIoU 33.15"
    said = zoo.Published("A paper, 2020", {"mIoU": 33.1}, "svmr", differs="VGG there")
    assert zoo.published_cell([said]) == "mIoU 33.1. A paper, 2020; `svmr` (VGG there)."


# The page.


def result(score: float) -> dict[str, Any]:
    grounding = dict.fromkeys(("R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7", "mIoU"), score)
    retrieval = {"R@1": 4.0, "R@10": 9.0}
    floor = dict.fromkeys(grounding, 20.0)
    return {
        "protocols": {"svmr": grounding, "vr": retrieval},
        "floors": {"svmr": {"whole video": floor}, "vr": {"chance": {"R@1": 1.0, "R@10": 5.0}}},
    }


def test_every_experiment_stands_on_the_page_once(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path)
    machine.faults["real/jsg"] = "needs the weights of BERT"
    machine.run()
    monkeypatch.undo()
    monkeypatch.setattr(zoo, "MEASURED", tmp_path / "zoo.json")
    monkeypatch.setattr(zoo, "real_results", lambda: {"dmr_jrg": [result(10), result(11)]})
    monkeypatch.setattr(zoo, "bench_results", lambda: {"tan2d": [result(70)]})
    text = zoo.page()
    rows = [line for line in text.splitlines() if line.startswith("| [`")]
    linked = [row.partition("(../experiments/")[2].partition(".yaml)")[0] for row in rows]
    assert sorted(linked) == sorted(zoo.names())
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows[:3])
    row = dict(zip(linked, rows, strict=True))
    ours = "10.5 ± 0.7 ↓ / 10.5 ± 0.7 ↓ / 4.0 ± 0.0 / 9.0 ± 0.0 (2)"
    assert ours in row["dense_activitynet/acnet"] and ours in row["dense_tacos/tacos"]
    assert ours in row["real/dmr_jrg"] and ours in row["synthetic/dmr_jrg_paper"]
    assert "| 70.0 / 70.0 / 4.0 / 9.0 (1) |" in row["bench/tan2d"]
    assert "16.19 / 14.05 / 8.65" in row["dense_activitynet/acnet"]
    assert "| 5 | 0.5 (4) | 1.00 |" in row["dense_activitynet/acnet"]
    assert "not measured: needs the weights of BERT" in row["real/jsg"]
    assert "not measured yet" in row["bench/tan2d"]
    assert "without a model are 20.0 / 20.0 / 1.0 / 5.0" in text and "a machine, torch 2" in text
    for part in text.split("Trained on the moments (full supervision):")[1:]:
        for line in part.partition("\n## ")[0].partition("Trained without")[0].splitlines():
            if line.startswith("| [`"):
                model = line.split(" | ")[2].strip("`")
                assert find_model(model).supervision == "full"
    assert "None yet: nobody has trained on the real corpora." in text


def test_the_page_has_the_checkpoints_of_the_manifest(monkeypatch, tmp_path):
    scores = {"svmr": {"R@1,IoU=0.5": {"SCORE": 50.5, "FLOOR": 49.4}}}
    entry = {"URL": "https://host/x.zip", "SHA256": "ab" * 32, "BYTES": 12_000_000,
             "EXPERIMENT": "dense_activitynet/acnet_linear", "RESULTS": scores}  # fmt: skip
    path = tmp_path / "checkpoints.yaml"
    path.write_text(yaml.safe_dump({"CHECKPOINTS": {"flagship": entry}}), "utf-8")
    monkeypatch.setattr(zoo, "read_checkpoints", lambda: checkpoints.read_checkpoints(path))
    text = "\n".join(zoo.checkpoints_section())
    assert "`svmr` R@1,IoU=0.5 50.5 (floor 49.4) | 12 MB | `abababababab…`" in text
    assert "None yet" not in text


def test_results_come_from_the_runs_that_are_there(monkeypatch):
    """By the names that the benches give their runs."""
    monkeypatch.setattr(zoo, "names", lambda: ["real/jsg", "bench/cdn", FIXED])
    seen = set()

    def results(job: Any, suffix: str | None = None) -> dict[str, Any] | None:
        seen.add(job.folder.as_posix().partition("/save/")[2])
        known = ("real/jsg-time-1", "bench/cdn-middle-0")
        return result(1.0) if job.folder.as_posix().endswith(known) else None

    monkeypatch.setattr(real_bench.Job, "results", results)
    assert list(zoo.real_results()) == ["jsg"] and list(zoo.bench_results()) == ["cdn"]
    assert f"{FIXED}-middle-0" in seen
