"""Tables that are trained anew: what a file of one may say, and a page of two seeds of two rows."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from lib.base.errors import InputError
from lib.commands import reproduce, sweep
from lib.config.config import load_config
from lib.config.external import find_model
from lib.tools.reproduction import read_corpora, read_table, table_names
from lib.tools.reproduction.tables import find_corpus
from tests.runs import Ended, run, write_alignment

PAPER = ("table2", "table3", "table4", "table5", "table6", "figure7", "figure8", "systems")
METRICS = ["R@10,IoU=0.3", "R@10,IoU=0.5"]
TABLE: dict[str, Any] = {
    "TITLE": "A table",
    "CORPUS": "simulated",
    "REFERENCE": "narrow",
    "COMPARED_AT": "R@10,IoU=0.5",
    "PROTOCOLS": {"jrg_video_topk": METRICS, "jrg_joint": METRICS, "vr": ["R@1", "MedR"]},
    "ROWS": {
        "narrow": {"EXPERIMENT": "small", "PUBLISHED": {"own": [1.5, None], "moon": [12.25, 7.5]}},
        "wide": {"EXPERIMENT": "small", "OPTIONS": {"MODEL.PARAMS.hidden_size": 24}},
        "lost": {"ABSENT": "nobody has it.", "PUBLISHED": {"own": [3.25, 4.5]}},
    },
    "CLAIMS": [{"TEXT": "Wide is better.", "BETTER": "wide", "THAN": ["narrow"]}],
    "NOTES": ["A note."],
}


def write_table(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({"TABLE": {**TABLE, **changes}}, sort_keys=False), "utf-8")
    return path


class TestWhatShips:
    def test_the_tables_and_figures_of_the_paper(self):
        assert set(table_names()) == set(PAPER)
        for name in PAPER:
            table = read_table(name)
            assert table.corpus in read_corpora() and table.title and table.notes

    @pytest.mark.parametrize("corpus", sorted(read_corpora()))
    @pytest.mark.parametrize("name", PAPER)
    def test_a_row_is_an_experiment_whose_options_are_known(self, name, corpus):
        """Where the corpus has it. A row of DMR-JRG is there on all of them."""
        place = read_corpora()[corpus]
        for row in read_table(name).rows.values():
            path = place.path(row.experiment)
            if row.absent or not path.is_file():
                assert row.experiment != "dmr_jrg"
                continue
            options = {**place.options, **row.options}
            config = load_config(path, [f"{k}={json.dumps(v)}" for k, v in options.items()])
            assert row.experiment != "dmr_jrg" or config.MODEL.NAME == "dmr_jrg"
            assert find_model(config.MODEL.NAME).supervision in ("weak", "full")

    def test_the_papers_rows_have_experiments_on_the_papers_corpora(self):
        for name, corpora in (
            ("table2", ("activitynet", "charades", "real_bench")),
            ("table3", ("tacos",)),
        ):
            for row in read_table(name).rows.values():
                for corpus in corpora:
                    assert row.absent or read_corpora()[corpus].path(row.experiment).is_file()

    def test_the_whole_method_is_the_same_run_in_every_table(self):
        """It is trained once."""
        whole = [
            row
            for name in ("table2", "table4", "table5", "table6", "figure7", "figure8")
            for row in read_table(name).rows.values()
            if row.experiment == "dmr_jrg" and not row.options
        ]
        assert len(whole) == 6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"REFERENCE": "lost"}, "REFERENCE is 'lost', expected a row with EXPERIMENT"),
        ({"COMPARED_AT": "R@7"}, "COMPARED_AT is 'R@7', expected a metric of the first protocol"),
        ({"PROTOCOLS": {"nonsense": METRICS}}, "PROTOCOLS has ['nonsense']; expected some of vr,"),
        ({"PROTOCOLS": {}}, "PROTOCOLS has nothing"),
        ({"ROWS": {"narrow": {}}}, "the row narrow needs either EXPERIMENT"),
        ({"ROWS": {"narrow": {"EXPERIMENT": "a", "ABSENT": "b"}}}, "needs either EXPERIMENT"),
        (
            {"ROWS": {"narrow": {"EXPERIMENT": "a", "PUBLISHED": {"own": [1]}}}, "CLAIMS": []},
            "the row narrow has 1 published numbers on own, expected 2",
        ),
        ({"CLAIMS": [{"TEXT": "x", "BETTER": "y", "THAN": []}]}, "a claim is about 'y', which is"),
        ({"CLAIMS": [{"TEXT": "x"}]}, "lacks 'BETTER'"),
        ({"TITLE": 3}, "TABLE.TITLE is 3, expected text"),
    ],
)
def test_a_table_that_speaks_of_what_is_not_there_is_refused(changes, told, tmp_path):
    path = write_table(tmp_path / "own.yaml", **changes)
    with pytest.raises(InputError) as fault:
        read_table(str(path))
    assert told in str(fault.value) and str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("ROWS: {}", "expected TABLE at its top and nothing else"),
        ("TABLE: [", "cannot be read (while parsing"),
        ("TABLE: " + "x" * 300_000, "cannot be read (it has more than 262,144 characters)"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, told, tmp_path):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(InputError, match=re.escape(told)):
        read_table(str(tmp_path / "own.yaml"))


def test_unknown_names_are_answered_with_those_that_are_known(tmp_path):
    with pytest.raises(InputError, match="there is no table 'table9'; there are figure7, figure8"):
        read_table("table9")
    with pytest.raises(InputError, match="--corpus: 'mars' is none; there are activitynet, "):
        find_corpus("mars")
    with pytest.raises(InputError, match="has no row x; it has mcn, cal"):
        read_table("table2").only(["mcn", "x"])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(str(tmp_path / "absent.yaml"))


def test_fewer_rows_keep_the_claims_about_them():
    table = read_table("table4").only(["vpcmr", "base_scn", "full"])
    assert [(claim.better, claim.than) for claim in table.claims] == [
        ("vpcmr", ("base_scn",)),
        ("full", ("vpcmr",)),
    ]


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A folder with one tiny experiment."""
    folder = tmp_path / "own"
    folder.mkdir()
    train = {"EPOCHS": 1, "BATCH_SIZE": 4}
    write_alignment(tmp_path, folder / "small.yaml", TRAIN=train, TEST={"RESAMPLES": 0})
    return folder


Reproduce = Callable[..., Ended]


@pytest.fixture
def reproduced(tmp_path, corpus, monkeypatch) -> Reproduce:
    """The command, whose trainings and tests are forks of this process; ``started`` lists them."""

    def start(command: list[str], **_: Any) -> SimpleNamespace:
        name, *words = command
        with (tmp_path / "started").open("a") as file:
            file.write(f"{name}\n")
        ended = run(name, *words, output=tmp_path / f"{name}.out")
        return SimpleNamespace(returncode=ended.status, stderr=ended.output)

    def act() -> None:
        for module in (sweep, reproduce):
            module.command_line = lambda name: [name]  # type: ignore[attr-defined]
            module.subprocess = SimpleNamespace(run=start)  # type: ignore[attr-defined]

    table = write_table(tmp_path / "table.yaml")
    line = (table, "--corpus", corpus, "--out", tmp_path / "page.md")

    def command(*more: object) -> Ended:
        (tmp_path / "started").write_text("")
        return run("reproduce", *line, *more, output=tmp_path / "out", sabotage=act)

    return command


def started(folder: Path) -> list[str]:
    return (folder / "started").read_text().split()


def test_a_page_from_two_seeds_of_two_rows(reproduced, tmp_path):
    ended = reproduced("--seeds", 2)
    assert ended.status == 0, ended.output
    assert started(tmp_path) == ["dense_train", "best_test"] * 4
    page = (tmp_path / "page.md").read_text()

    # The numbers are those of the runs, in the order of the metrics.
    runs = [tmp_path / f"save/small-{tag}/results.json" for tag in ("wide-0", "wide-1")]
    found = [json.loads(path.read_text())["protocols"] for path in runs]
    (line, *_) = (line for line in page.splitlines() if line.startswith("| `wide` | 2 |"))
    for cell, metric in zip(line.split(" | ")[2:4], METRICS, strict=True):
        mean = sum(each["jrg_video_topk"][metric] for each in found) / 2
        assert cell.startswith(f"{mean:.2f}"), (cell, mean)
    # Floors, the published numbers of this corpus and of another, the lost row, and the claim.
    assert "| *whole video* |  |" in page and "| *ten fixed spans* |" in page
    assert "| published |  | 1.50 | – |  |" in page
    assert "On moon:" in page and "| `narrow` | 12.25 | 7.50 |" in page
    assert "On own:" in page and "| `lost` | 3.25 | 4.50 |" in page
    assert "- `lost`: nobody has it." in page and "- A note." in page
    assert "**Wide is better.**" in page
    claims = [line for line in page.splitlines() if line.startswith("| over `narrow`")]
    assert len(claims) == 3 and all("hold" in line for line in claims)

    # Nothing is trained twice, and the same results make the same page.
    assert reproduced("--seeds", 2, *drawn(tmp_path)).status == 0
    assert started(tmp_path) == [] and (tmp_path / "page.md").read_text() == page

    if drawn(tmp_path):
        assert (tmp_path / "a/figure.png").read_bytes().startswith(b"\x89PNG")

    # A plan has nothing left to do; a further seed has.
    assert "narrow: 2 runs, all done" in reproduced("--seeds", 2, "--plan").output
    planned = reproduced("--seeds", 3, "--plan").output
    assert "wide: 1 run of 3 to do, " in planned and "on this machine" in planned

    # A test without a protocol that the table has is repeated, and nothing else.
    results = json.loads(runs[0].read_text())
    del results["protocols"]["jrg_joint"]
    runs[0].write_text(json.dumps(results))
    assert reproduced("--seeds", 2).status == 0 and started(tmp_path) == ["best_test"]
    assert (tmp_path / "page.md").read_text() == page

    # Runs of other options are not taken for these.
    cfg = tmp_path / "own/small.yaml"
    cfg.write_text(cfg.read_text().replace("hidden_size: 16", "hidden_size: 20"))
    ended = reproduced("--seeds", 2)
    assert ended.status == 2 and started(tmp_path) == []
    assert "small-0 was trained with other options: MODEL.PARAMS.hidden_size was 16 and is 20" in (
        ended.output
    )


def drawn(folder: Path) -> tuple[object, ...]:
    """The flag that draws the table, where that is possible."""
    return ("--draw", folder / "a/figure.png") if find_spec("matplotlib") else ()


def test_what_cannot_be_drawn_is_said_before_anything_is_trained(reproduced, tmp_path):
    ended = reproduced("--draw", tmp_path / "figure.bmp")
    assert ended.status == 2 and started(tmp_path) == []
    assert "expected a name that ends in .pdf, .png, .svg" in ended.output


def test_a_row_that_fails_fails_the_command_and_the_others_are_there(reproduced, tmp_path):
    rows = {
        **TABLE["ROWS"],
        "wide": {"EXPERIMENT": "small", "OPTIONS": {"TRAIN.SELECT_BY": "vr/R@7"}},
    }
    rows["gone"] = {"EXPERIMENT": "elsewhere"}
    write_table(tmp_path / "table.yaml", ROWS=rows)
    ended = reproduced()
    assert ended.status == 1
    page = (tmp_path / "page.md").read_text()
    assert "| `narrow` | 1 |" in page and "| `wide` | 1 |" not in page
    assert "- `wide`: seed 0: error: " in page and "- `gone`: there is no experiment " in page
    assert "wide: seed 0" in ended.output and "gone: there is no experiment" in ended.output


def test_without_data_nothing_is_started(reproduced, tmp_path, corpus):
    cfg = corpus / "small.yaml"
    text = yaml.safe_load(cfg.read_text())
    text["DATASET"] = {"NAME": "activitynet"}
    cfg.write_text(yaml.safe_dump(text))
    ended = reproduced()
    assert ended.status == 2 and started(tmp_path) == []
    assert "nothing can be trained: " in ended.output and "activitynet" in ended.output
    assert not (tmp_path / "page.md").exists()


def test_changes_need_a_name(reproduced):
    ended = reproduced("--set", "TRAIN.EPOCHS=2")
    assert ended.status == 2 and "name them by --tag TEXT" in ended.output


def test_another_experiment_stands_for_the_method(corpus):
    """And its runs lie apart."""
    args = argparse.Namespace(set=[], tag="", seeds=1, method="small")
    place = find_corpus(str(corpus))
    table = read_table("figure7").only(["q3"])
    (job,) = reproduce.jobs_of(table, place, args)[0]["q3"]
    assert job.cfg == corpus / "small.yaml" and job.tag == "0"
    args.method = "dmr_jrg"
    assert "dmr_jrg.yaml" in reproduce.jobs_of(table, place, args)[1]["q3"]
