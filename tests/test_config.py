"""An experiment is read strictly: what is unknown or mistyped gets a line with a remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.base.errors import InputError
from lib.config.config import FLAGS, SCHEMA, dump_config, experiment_name, explain, load_config
from lib.config.options import Option, keywords
from lib.config.renamed import RENAMED
from lib.models import MODELS as ALL_MODELS
from lib.models.interface import Model

REPOSITORY = Path(__file__).resolve().parents[1]


class Painter(Model):
    """A model of the tests, so that they do not follow every keyword of the real ones.

    Args:
        hidden_size: D, everywhere in
            the model.
    """

    def __init__(
        self,
        dims: object,
        *,
        hidden_size: int = 512,
        dropout: float = 0.1,
        density: Literal["sparse", "dense"] = "sparse",
        num_candidates: int = 3,
        candidate_weights: Sequence[float] = (0.4, 0.3, 0.3),
        widths: tuple[int, ...] = (16, 8),
        limit: float | None = None,
    ) -> None: ...

    @staticmethod
    def losses(*, margin: float = 0.2) -> dict[str, Any]:
        return {"rank": None, "align": None}


class Teacher(Model):
    """Learns from timestamps, and has a keyword without a default."""

    supervision = "full"

    def __init__(self, dims: object, *, depth: int) -> None: ...

    @staticmethod
    def losses(*, min_iou: float = 0.5) -> dict[str, Any]:
        return {"overlap": None}


class Muralist(Painter):
    """A painter with one more keyword.

    Args:
        wall: to paint on.
    """

    def __init__(self, dims: object, *, wall: str = "north", **painting: Any) -> None: ...

    @staticmethod
    def losses(*, margin: float = 0.2) -> dict[str, Any]:
        return {**Painter.losses(), "wall": None}


MODELS = {"painter": Painter, "teacher": Teacher, "muralist": Muralist}
SOUND = """\
DATASET: {NAME: activitynet}
MODEL: {NAME: painter}
LOSS: {WEIGHTS: {rank: 1}}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into the working folder, the first of which is loaded under its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "acnet.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


def load(path, *overrides, **flags):
    return load_config(path, overrides, flags, models=MODELS)


def faults(path, *overrides, **flags) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(path, *overrides, **flags)
    return str(caught.value).split("\n")


class TestASoundExperiment:
    def test_is_filled_in_with_every_default(self, write):
        config = load(write(SOUND))
        for name, option in SCHEMA.items():
            expected = {name} if isinstance(option, Option) else set(option)
            found = {name} if isinstance(option, Option) else set(config[name])
            assert found == expected
        assert config.TRAIN.LR == 1e-4
        assert config.MODEL.PARAMS.candidate_weights == [0.4, 0.3, 0.3]
        assert config.LOSS == {"WEIGHTS": {"rank": 1.0, "align": 0.0}, "PARAMS": {"margin": 0.2}}

    def test_survives_being_written_and_read_again(self, write):
        tricky = (
            SOUND + "TAG: 1e-4\nDATA_DIR: 'true'\nGPUS: 0\nTRAIN: {LR: 1.2345678901234567e-5}\n"
        )
        tricky = tricky.replace("TAG: 1e-4", "TAG: '1e-4'").replace(
            "painter}", "painter, PARAMS: {widths: [1, 2, 3], limit: null}}"
        )
        config = load(write(tricky))
        assert (config.TAG, config.DATA_DIR, config.GPUS) == ("1e-4", "true", "0")
        assert config.MODEL.PARAMS.widths == (1, 2, 3)
        again = load(write(dump_config(config), "config.yaml"))
        assert again == config
        assert again.MODEL.PARAMS.limit is None

    def test_knows_numbers_as_people_write_them(self, write):
        text = SOUND.replace("painter}", "painter, PARAMS: {dropout: 1e-1, limit: 2E+3}}")
        config = load(write(text), "TRAIN.LR=1e-4", "TRAIN.WEIGHT_DECAY=.5", "TRAIN.EPOCHS=010")
        assert config.MODEL.PARAMS.dropout == 0.1
        assert config.MODEL.PARAMS.limit == 2000.0
        assert config.TRAIN.LR == 1e-4
        assert config.TRAIN.WEIGHT_DECAY == 0.5
        assert config.TRAIN.EPOCHS == 10
        assert isinstance(config.TRAIN.MAX_GRAD_NORM, float)

    def test_does_not_share_defaults_with_the_next(self, write):
        path = write(SOUND)
        load(path).TEST.IOU.append(0.9)
        assert load(path).TEST.IOU == [0.3, 0.5, 0.7]


class TestAParent:
    def test_gives_what_the_child_leaves_out(self, write):
        write(SOUND + "TRAIN: {EPOCHS: 7, LR: 0.5}\n", "base/all.yaml")
        config = load(write("BASE: base/all.yaml\nTRAIN: {LR: 0.25}\n"))
        assert (config.TRAIN.EPOCHS, config.TRAIN.LR) == (7, 0.25)

    def test_is_merged_key_by_key_in_the_open_sections(self, write):
        write(
            SOUND.replace("rank: 1", "rank: 1, align: 2").replace(
                "painter}", "painter, PARAMS: {hidden_size: 8, dropout: 0.5}}"
            ),
            "base.yaml",
        )
        child = "BASE: base.yaml\nLOSS: {WEIGHTS: {align: 0}}\nMODEL: {PARAMS: {dropout: 0}}\n"
        config = load(write(child))
        assert config.LOSS.WEIGHTS == {"rank": 1.0, "align": 0.0}
        assert (config.MODEL.PARAMS.hidden_size, config.MODEL.PARAMS.dropout) == (8, 0.0)

    def test_keeps_its_models_keywords_from_a_child_with_another_model(self, write):
        text = SOUND.replace("painter}", "painter, PARAMS: {hidden_size: 8}}")
        write(text + "TRAIN: {EPOCHS: 7}\n", "base.yaml")
        config = load(
            write(
                "BASE: base.yaml\nMODEL: {NAME: teacher, PARAMS: {depth: 2}}\n"
                "LOSS: {WEIGHTS: {overlap: 1}}\nTRAIN: {SUPERVISION: full}\n"
            )
        )
        assert config.MODEL == {"NAME": "teacher", "PARAMS": {"depth": 2}}
        assert config.LOSS == {"WEIGHTS": {"overlap": 1.0}, "PARAMS": {"min_iou": 0.5}}
        assert config.TRAIN.EPOCHS == 7

    def test_gives_its_models_keywords_to_a_child_whose_model_derives_from_it(self, write):
        text = SOUND.replace("painter}", "painter, PARAMS: {hidden_size: 8, dropout: 0.5}}")
        write(text, "base.yaml")
        child = "BASE: base.yaml\nMODEL: {NAME: muralist, PARAMS: {wall: south, dropout: 0}}\n"
        config = load(write(child + "LOSS: {WEIGHTS: {wall: 2}}\n"))
        params = config.MODEL.PARAMS
        assert (params.hidden_size, params.dropout, params.wall) == (8, 0.0, "south")
        assert config.LOSS.WEIGHTS == {"rank": 1.0, "align": 0.0, "wall": 2.0}
        back = load(
            write(
                "BASE: acnet.yaml\nMODEL: {NAME: painter}\nLOSS: {WEIGHTS: {rank: 3}}\n",
                "back.yaml",
            )
        )
        assert back.MODEL.PARAMS.hidden_size == 512  # and not the other way round

    def test_keeps_its_synthetic_world_from_a_child_with_real_data(self, write):
        write(
            SOUND.replace("NAME: activitynet", "NAME: synthetic, SYNTHETIC: {train: 10}"),
            "base.yaml",
        )
        assert load("base.yaml").DATASET.SYNTHETIC.train == 10
        assert load(write("BASE: base.yaml\nDATASET: {NAME: tacos}")).DATASET.SYNTHETIC == {}

    def test_may_have_parents_but_not_itself(self, write):
        write("BASE: sub/b.yaml\n", "a.yaml")
        write("BASE: ../a.yaml\n", "sub/b.yaml")
        assert faults("a.yaml") == [
            "sub/b.yaml:1: BASE leads back to a.yaml; a chain of parents must end"
        ]

    def test_that_is_missing_is_named_where_it_is_asked_for(self, write):
        assert faults(write("TAG: x\nBASE: no.yaml\n")) == [
            "acnet.yaml:2: BASE: no.yaml does not exist"
        ]


class TestAFault:
    GOLDEN = {
        "TRAIN: {BATCHSIZE: 8}": "TRAIN.BATCHSIZE is not an option; "
        "did you mean TRAIN.BATCH_SIZE (int, default 16)?",
        "TRAIN: {lr: 8}": "TRAIN.lr is not an option; "
        "did you mean TRAIN.LR (float, default 0.0001)?",
        "TRIAN: {LR: 1}": "TRIAN is not an option; did you mean TRAIN?",
        "LR: 1": "LR is not an option; there is TRAIN.LR",
        "TRAIN: {EPOCHS: ten}": "TRAIN.EPOCHS is 'ten' (text), expected int of at least 1",
        "TRAIN: {EPOCHS: 1.5}": "TRAIN.EPOCHS is 1.5 (float), expected int of at least 1",
        "TRAIN: {EPOCHS: 0}": "TRAIN.EPOCHS is 0 (int), expected int of at least 1",
        "TRAIN: {EPOCHS: true}": "TRAIN.EPOCHS is true, expected int of at least 1",
        "TRAIN: {EPOCHS: '3'}": "TRAIN.EPOCHS is '3' (text), expected int of at least 1",
        "TRAIN: {LR: }": "TRAIN.LR is empty, expected float above 0",
        "TRAIN: {LR: .nan}": "TRAIN.LR is nan (float), expected float above 0",
        "TRAIN: {LR: 1e999}": "TRAIN.LR is inf (float), expected float above 0",
        "TRAIN: {SUPERVISION: strong}": "TRAIN.SUPERVISION is 'strong' (text), "
        "expected one of weak, full",
        "TEST: {IOU: 0.5}": "TEST.IOU is 0.5 (float), expected list of float from 0 to 1",
        "TEST: {IOU: [0.5, 50]}": "TEST.IOU is [0.5, 50], expected list of float from 0 to 1",
        "TEST: {IOU: []}": "TEST.IOU is [], expected list of float from 0 to 1",
        "TEST: [1]": "TEST is no mapping; expected lines of the form KEY: value",
        "TEST: 3": "TEST is 3; expected lines of the form KEY: value",
        "TEST:": "TEST is empty; expected lines of the form KEY: value",
        "TEST: {MOMENTS: 3}": "TEST.GROUNDING_N asks for 5 moments, TEST.MOMENTS keeps 3",
        "TRAIN: {SELECT_BY: R@10}": "TRAIN.SELECT_BY is 'R@10' (text), "
        "expected text of the form protocol/metric, such as vr/R@10",
        "TAG: a/b": "TAG is 'a/b' (text), expected text of letters, digits and _ . + = , -",
        "GPUS: cuda": "GPUS is 'cuda' (text), "
        "expected text that is empty, cpu, -1 or the number of a GPU",
        'DATA_DIR: "a\\0b"': r"DATA_DIR is 'a\x00b' (text), expected text",
        "? [a]\n: 1": "a key of the file is not a word",
        "TRAIN: {LR: !!python/name:os.system }": "TRAIN.LR carries the tag "
        "tag:yaml.org,2002:python/name:os.system; expected plain numbers, words and lists",
    }

    @pytest.mark.parametrize(("line", "sentence"), GOLDEN.items())
    def test_is_reported_with_its_place_and_what_was_expected(self, write, line, sentence):
        assert faults(write(SOUND + line + "\n")) == [f"acnet.yaml:4: {sentence}"]

    OPEN = {
        "MODEL: {NAME: paint}": "MODEL.NAME is 'paint' (text), "
        "expected one of painter, teacher, muralist",
        "MODEL: {PARAMS: {hiden_size: 8}}": "MODEL.PARAMS.hiden_size is not an option; "
        "did you mean MODEL.PARAMS.hidden_size (int, default 512)?",
        "MODEL: {PARAMS: {density: full}}": "MODEL.PARAMS.density is 'full' (text), "
        "expected one of sparse, dense",
        "MODEL: {PARAMS: {dims: 8}}": "MODEL.PARAMS.dims is not an option; MODEL.PARAMS has "
        "hidden_size, dropout, density, num_candidates, candidate_weights, widths, limit",
        "MODEL: {PARAMS: {limit: low}}": "MODEL.PARAMS.limit is 'low' (text), "
        "expected float or nothing",
        "MODEL: {PARAMS: {widths: [a]}}": "MODEL.PARAMS.widths is [a], expected list of int",
        "MODEL: {PARAMS: {candidate_weights: [1]}}": "MODEL.PARAMS.candidate_weights has "
        "1 weights for num_candidates 3; expected one each",
        "LOSS: {WEIGHTS: {align: -1}}": "LOSS.WEIGHTS.align is -1 (int), "
        "expected float of at least 0",
        "LOSS: {WEIGHTS: {rnak: 1}}": "LOSS.WEIGHTS.rnak is not an option; "
        "did you mean LOSS.WEIGHTS.rank (float, default 0.0)?",
        "LOSS: {WEIGHTS: {rank: 0}}": "LOSS.WEIGHTS gives no term a weight above 0; "
        "painter has rank, align",
        "LOSS: {PARAMS: {margin: [1]}}": "LOSS.PARAMS.margin is [1], expected float",
        "DATASET: {NUM_CLIPS: 48}": "DATASET.NUM_CLIPS 48 does not divide DATASET.NUM_FRAMES 256",
        "DATASET: {SYNTHETIC: {train: 3}}": "DATASET.SYNTHETIC is for DATASET.NAME synthetic; "
        "found NAME activitynet",
    }

    @pytest.mark.parametrize(("line", "sentence"), OPEN.items())
    def test_in_what_a_signature_decides_is_reported_alike(self, write, line, sentence):
        write(SOUND, "base.yaml")
        assert faults(write(f"BASE: base.yaml\n{line}\n")) == [f"acnet.yaml:2: {sentence}"]

    def test_is_reported_together_with_all_others_of_all_files(self, write):
        write("GPUS: cuda\nDATASET: {NAM: tacos}\n", "base.yaml")
        path = write("BASE: base.yaml\nTRAIN:\n  LR: -1\n  EPOCHS: 2\n  EPOCHS: 3\n")
        assert faults(path, "TEST.IOU=x", workers="two") == [
            "--set TEST.IOU=x: TEST.IOU is 'x' (text), expected list of float from 0 to 1",
            "--workers: WORKERS is 'two' (text), expected int of at least 0",
            "acnet.yaml: DATASET.NAME is missing; "
            "expected one of activitynet, charades, synthetic, tacos, or a name for one's own",
            "acnet.yaml: MODEL.NAME is missing; expected one of painter, teacher, muralist",
            "acnet.yaml:3: TRAIN.LR is -1 (int), expected float above 0",
            "acnet.yaml:5: TRAIN.EPOCHS is set twice; it was set in line 4 already",
            "base.yaml:1: GPUS is 'cuda' (text), "
            "expected text that is empty, cpu, -1 or the number of a GPU",
            "base.yaml:2: DATASET.NAM is not an option; "
            "did you mean DATASET.NAME (text, required)?",
        ]

    def test_is_not_reported_twice_by_what_depends_on_it(self, write):
        lines = faults(write(SOUND.replace("activitynet", "anet, NUM_FRAMES: x, NUM_CLIPS: 48")))
        assert [line.split()[1] for line in lines] == ["DATASET.NUM_FRAMES", "DATASET.NAME"]
        assert lines[1].endswith("described by ANNOTATIONS and FEATURES (data/README.md)")

    def test_of_the_synthetic_world_is_reported_in_the_worlds_words(self, write):
        world = "DATASET: {NAME: synthetic, SYNTHETIC: {overlap: 2, min_sentences: 9}}"
        text = SOUND.replace("DATASET: {NAME: activitynet}", world)
        (line,) = faults(write(text))
        assert line == (
            "acnet.yaml:1: DATASET.SYNTHETIC.overlap is 2 (int), expected float from 0 to 1"
        )
        (line,) = faults(write(text.replace("overlap: 2, ", "")))
        assert line.startswith("acnet.yaml:1: DATASET.SYNTHETIC: ")
        assert "min_sentences 9" in line

    def test_of_supervision_is_found_where_a_model_needs_timestamps(self, write):
        text = "DATASET: {NAME: tacos}\nMODEL: {NAME: teacher}\nLOSS: {WEIGHTS: {overlap: 1}}\n"
        assert faults(write(text)) == [
            "acnet.yaml: MODEL.PARAMS.depth is missing; expected int",
            "acnet.yaml:2: teacher learns from timestamps; expected TRAIN.SUPERVISION full",
        ]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", ": is empty; expected a BASE, or DATASET and MODEL at least"),
            ("# nothing\n", ": is empty; expected a BASE, or DATASET and MODEL at least"),
            (b"TAG: a\nTAG: \xff\n", ":2: is not UTF-8 text (byte 0xff)"),
            ("a: 1\nb: [1\n", ":3: not valid YAML: while parsing a flow sequence expected"),
            ("- 1\n", ":1: holds no options; expected lines of the form KEY: value"),
            ("TAG: \x07\n", ":1: not valid YAML: a character that cannot be printed"),
            ('TAG: "\\U00110000"\n', ": is not valid YAML: a number in an escape is too large"),
            ("a: " + "[" * 5000, ": is nested too deeply for an experiment"),
            ("a: " + "x" * 70_000, ": is larger than 64 KiB; an experiment is a short YAML file"),
            (f"TRAIN: {{SEED: {'9' * 5000}}}", ":1: TRAIN.SEED is '999"),
        ],
    )
    def test_of_the_text_itself_is_reported_alike(self, write, text, sentence):
        assert faults(write(text))[-1].startswith(f"acnet.yaml{sentence}")

    def test_of_a_path_is_reported_alike(self, write, tmp_path):
        assert faults("none.yaml") == ["none.yaml: does not exist"]
        assert faults(str(tmp_path)) == [f"{tmp_path}: cannot be read (Is a directory)"]
        assert faults("a\0b") == ["a\\x00b: cannot be read (embedded null byte)"]

    def test_like_a_bomb_of_aliases_is_refused_at_once(self, write):
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
        )
        lines = faults(write(f"{bomb}MODEL: {{PARAMS: {{x: *a9}}}}\n"))
        assert any("MODEL.PARAMS.x holds more than 10,000 values" in line for line in lines)
        lines = faults(write("MODEL: {PARAMS: {x: &x [*x]}}"))
        assert any("MODEL.PARAMS.x holds more than 10,000 values" in line for line in lines)


class TestAnOptionOfAnEarlierRelease:
    @pytest.mark.parametrize(("section", "old"), RENAMED, ids=".".join)
    def test_is_refused_with_what_there_is_instead(self, write, section, old):
        """By the paper's model, which has none of them."""
        text = "DATASET: {NAME: activitynet}\nMODEL: {NAME: dmr_jrg}\nLOSS: {WEIGHTS: {rank: 1}}\n"
        write(text, "base.yaml")
        first, second = section.split(".")
        path = write(f"BASE: base.yaml\n{first}: {{{second}: {{{old}: 1}}}}\n")
        with pytest.raises(InputError) as caught:
            load_config(path)
        assert str(caught.value) == (
            f"acnet.yaml:2: {section}.{old} is no longer an option; {RENAMED[section, old]}"
        )
        with pytest.raises(InputError, match=f"{section}.{old} is no longer an option"):
            load_config("base.yaml", [f"{section}.{old}=1"])

    def test_has_a_successor_that_exists(self):
        """Every DECODE option, keyword and model that a sentence names."""
        options = {
            name for section in SCHEMA.values() if isinstance(section, dict) for name in section
        }
        params = {name for kind in ALL_MODELS.values() for name in keywords(kind)}
        for sentence in RENAMED.values():
            for word in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", sentence):
                assert word in options, word
            for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", sentence):
                assert word in {*params, *ALL_MODELS, "paragraph_mean", "paragraph_softmax"}, word


class TestTheCommandLine:
    def test_goes_over_the_files_and_the_last_word_counts(self, write):
        config = load(
            write(SOUND + "TRAIN: {EPOCHS: 3}\n"),
            "TRAIN.EPOCHS=4",
            "TRAIN.EPOCHS=5",
            "MODEL.PARAMS.widths=[1, 2]",
            "LOSS.WEIGHTS={align: 2}",
            "TAG=",
            "GPUS=0",
            workers=0,
            dataDir="7",
            modelDir=None,
            verbose=True,
        )
        assert config.TRAIN.EPOCHS == 5
        assert config.MODEL.PARAMS.widths == (1, 2)
        assert config.LOSS.WEIGHTS == {"rank": 1.0, "align": 2.0}
        assert (config.TAG, config.GPUS, config.WORKERS) == ("", "0", 0)
        assert (os.path.abspath("7"), "save") == (config.DATA_DIR, config.MODEL_DIR)

    def test_paths_are_relative_to_the_current_folder_and_those_of_a_file_stay(
        self, write, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        text = SOUND.replace("activitynet", "activitynet, CACHE_DIR: packed")
        path = write(text + "DATA_DIR: corpora\nMODEL_DIR: runs\n")
        config = load(path)
        assert (config.DATA_DIR, config.MODEL_DIR) == ("corpora", "runs")
        assert config.DATASET.CACHE_DIR == "packed"
        config = load(path, "DATASET.CACHE_DIR=../packed", "MODEL_DIR=~/runs", dataDir="mine")
        assert str(tmp_path / "mine") == config.DATA_DIR
        assert str(tmp_path.parent / "packed") == config.DATASET.CACHE_DIR
        assert os.path.expanduser("~/runs") == config.MODEL_DIR
        config = load(path, "DATASET={CACHE_DIR: packed}", "LOG_DIR=", modelDir="/runs")
        assert str(tmp_path / "packed") == config.DATASET.CACHE_DIR
        assert (config.LOG_DIR, config.MODEL_DIR) == ("", "/runs")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("TRAIN.LR", "expected SECTION.KEY=VALUE, such as TRAIN.LR=3e-4"),
            ("=3", "expected SECTION.KEY=VALUE, such as TRAIN.LR=3e-4"),
            ("TRAIN..LR=3", "expected SECTION.KEY=VALUE, such as TRAIN.LR=3e-4"),
            ("BASE=x.yaml", "BASE is read from the file only"),
            ("TRAIN=3", "TRAIN is 3; expected lines of the form KEY: value"),
            ("TRAIN.L_R=3", "TRAIN.L_R is not an option; did you mean TRAIN.LR"),
            ("TRAIN.LR=[", "not valid YAML"),
            ("TRAIN.LR.x=1", "TRAIN.LR is a mapping, expected float above 0"),
        ],
    )
    def test_is_named_in_a_fault(self, write, text, sentence):
        (line,) = faults(write(SOUND), text)
        assert line.startswith(f"--set {text}: {sentence}")

    def test_sets_what_exists(self):
        assert set(FLAGS.values()) <= set(SCHEMA)


def test_an_experiment_is_named_by_its_path_below_experiments():
    name = experiment_name("/x/experiments/old/experiments/dense_activitynet/ablations/full.yaml")
    assert name == "dense_activitynet/ablations/full"
    assert (
        experiment_name("moment_localization/../experiments/a/margin_0.20.yaml") == "a/margin_0.20"
    )
    assert experiment_name("/elsewhere/mine.yaml") == "mine"
    assert experiment_name("/elsewhere/experiments.yaml") == "experiments"


def test_keywords_are_explained_by_the_docstring():
    option = keywords(Painter)["hidden_size"]
    assert (option.hint, option.default, option.help) == (int, 512, "D, everywhere in the model.")


def test_every_option_is_explained():
    sections = [SCHEMA, *(s for s in SCHEMA.values() if isinstance(s, dict))]
    for section in sections:
        assert all(option.help for option in section.values() if isinstance(option, Option))


def test_the_reference_page_is_current():
    page = REPOSITORY / "docs" / "options.md"
    assert page.read_text("utf-8") == explain(), (
        "run: python -m lib.config.config > docs/options.md"
    )


words = st.sampled_from(
    [
        *SCHEMA,
        "LR",
        "PARAMS",
        "WEIGHTS",
        "NAME",
        "painter",
        "1e-4",
        "&a",
        "*a",
        "!!int",
        "<<",
        "BASE",
    ]
)
marks = st.sampled_from(
    list(": \n-[]{},'\"#|>%@`?\t~") + [": ", "\n  ", "\n- ", "\\U00110000", "\ud800"]
)
texts = st.lists(st.one_of(words, marks, st.text(max_size=3)), max_size=40).map("".join)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
quick = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class TestNothingElseIsRaised:
    def attempt(self, path, *overrides):
        try:
            load(path, *overrides)
        except InputError as fault:
            assert str(fault)
            assert all(re.match(r".+?: .+", line) for line in str(fault).split("\n"))
            str(fault).encode()  # can be printed

    @quick
    @given(text=texts)
    def test_by_any_text(self, write, text):
        self.attempt(write(text.encode("utf-8", "surrogatepass")))

    @quick
    @given(data=st.binary(max_size=60))
    def test_by_any_bytes(self, write, data):
        self.attempt(write(data))

    @quick
    @given(name=st.sampled_from(list(SCHEMA)), value=values)
    def test_by_any_value_of_any_type(self, write, name, value):
        import yaml

        text = yaml.safe_dump({"MODEL": {"NAME": "painter"}, name: value}, allow_unicode=True)
        self.attempt(write(text.encode("utf-8", "surrogatepass")))

    @quick
    @given(text=texts)
    def test_by_any_override(self, write, text):
        path = write(SOUND)
        self.attempt(path, text)
        self.attempt(path, f"MODEL.PARAMS={text}")
