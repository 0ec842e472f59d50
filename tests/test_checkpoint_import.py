"""Published layouts: random weights under the original's names score as the original's formulas
say, before the import and after it; and nothing that does not fit gets in.

The formulas are written from the descriptions of the networks, with the original's keys.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lib.models.layers.text as text_module
from lib.base.errors import InputError
from lib.datasets.vocabulary import TOKENISERS
from lib.models.interface import ground
from lib.models.mmn import MMN
from lib.models.tan2d import TAN2D
from lib.tools.checkpoint_import import LAYOUTS, check_experiment, convert, read_foreign
from tests.properties import DIMS, make_batch
from tests.tiny_text import TinyTransformer, tiny_pretrained, tiny_tokenizer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
D, K, DEPTH, N = 6, 3, 2, 18  # 18 clips: the map has a group of stride 2
SIZES = dataclasses.replace(DIMS, num_frames=36, num_clips=N)
conv1d, conv2d = nn.functional.conv1d, nn.functional.conv2d
Weights = dict[str, Tensor]


@pytest.fixture
def batch():
    made = make_batch((2, 3))
    return dataclasses.replace(made, video=torch.randn(2, 36, DIMS.video_dim))


def random_weights(shapes: dict[str, tuple[int, ...]]) -> Weights:
    g = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=g) * 0.3 for key, shape in shapes.items()}


def both(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def lstm_shapes(name: str, inputs: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer in range(layers):
        shapes[f"{name}.weight_ih_l{layer}"] = (4 * D, D if layer else inputs)
        shapes[f"{name}.weight_hh_l{layer}"] = (4 * D, D)
        shapes |= {f"{name}.bias_{kind}_l{layer}": (4 * D,) for kind in ("ih", "hh")}
    return shapes


def two_tan_shapes(*, conv: bool) -> dict[str, tuple[int, ...]]:
    shapes = both("frame_layer.vis_conv", D, DIMS.video_dim, 1)
    if conv:
        shapes |= both("prop_layer.layers.0.0", D, D, 1)
        for i in range(1, 16):
            shapes |= both(f"prop_layer.layers.0.{i}", D, D, 2)
        shapes |= both("prop_layer.layers.1.0", D, D, 3)
    shapes |= lstm_shapes("fusion_layer.textual_encoder", DIMS.word_dim, 3)
    shapes |= both("fusion_layer.tex_linear", D, D) | both("fusion_layer.vis_conv", D, D, 1, 1)
    for layer in range(DEPTH):
        shapes |= both(f"map_layer.convs.{layer}", D, D, K, K)
    return shapes | both("pred_layer", 1, D, 1, 1)


def lstm_state(w: Weights, name: str, words: Tensor) -> Tensor:
    """Gate by gate; the top state after the last word."""
    x = words
    for layer in range(3):
        h, c, out = torch.zeros(D), torch.zeros(D), []
        for row in x:
            gates = w[f"{name}.weight_ih_l{layer}"] @ row + w[f"{name}.bias_ih_l{layer}"]
            gates = gates + w[f"{name}.weight_hh_l{layer}"] @ h + w[f"{name}.bias_hh_l{layer}"]
            i, f, g, o = gates.chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        x = torch.stack(out)
    return x[-1]


def original_map(clips: Tensor, w: Weights | None, start: int = 0) -> tuple[Tensor, Tensor]:
    """(D, N, N) and mask: a chain of poolings, or of convolutions where ``w`` has them."""
    square, mask = torch.zeros(D, N, N), torch.zeros(N, N)
    x, offset, stride = clips[None], -1, 1
    for group, layers in enumerate((16, 8)):
        for layer in range(layers):
            widen = group > 0 and layer == 0
            size, step = (3, 2) if widen else (1 if offset < 0 else 2, 1)
            if x.shape[2] < size:
                break
            key = f"prop_layer.layers.{group}.{layer}"
            if w is None:
                x = nn.functional.max_pool1d(x, size, step)
            else:
                x = conv1d(x, w[f"{key}.weight"], w[f"{key}.bias"], stride=step)
            offset += 2 * stride if widen else stride
            stride *= step
            for p in range(x.shape[2]):
                square[:, p * stride, p * stride + offset] = x[0, :, p]
                mask[p * stride, p * stride + offset] = 1
    return square, mask


def masked_stack(x: Tensor, mask: Tensor, layer_of) -> Tensor:
    ones = torch.ones(1, 1, K, K)
    for layer in range(DEPTH):
        pad = DEPTH * (K - 1) // 2 if layer == 0 else 0
        count = conv2d(mask[None, None], ones, padding=pad)[0, 0].round()
        x = layer_of(layer, x, pad).relu() * torch.where(count > 0, 1 / count.clamp(min=1), 0)
        mask = (count > 0).float()
    return x


def original_2d_tan(w: Weights, video: Tensor, words: Tensor, *, conv: bool, mask_fused: bool):
    """Logits of the valid cells, in the order of rows, for one sentence."""
    key = "frame_layer.vis_conv"
    x = conv1d(video.T[None], w[f"{key}.weight"], w[f"{key}.bias"]).relu()
    clips = nn.functional.avg_pool1d(x, 36 // N)[0]
    square, mask = original_map(clips, w if conv else None)
    key = "fusion_layer.tex_linear"
    state = lstm_state(w, "fusion_layer.textual_encoder", words)
    query = w[f"{key}.weight"] @ state + w[f"{key}.bias"]
    key = "fusion_layer.vis_conv"
    cells = conv2d(square[None], w[f"{key}.weight"], w[f"{key}.bias"])
    fused = nn.functional.normalize(query[None, :, None, None] * cells, dim=1)
    if mask_fused:
        fused = fused * mask

    def layer_of(layer: int, x: Tensor, pad: int) -> Tensor:
        key = f"map_layer.convs.{layer}"
        return conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding=pad)

    x = masked_stack(fused, mask, layer_of)
    logits = conv2d(x, w["pred_layer.weight"], w["pred_layer.bias"])[0, 0]
    return logits[mask > 0]


def saved(weights: Weights, tmp_path, *, how: str = "bare"):
    """A file as the original's training leaves it."""
    path = tmp_path / "original.pkl"
    if how == "bare":  # the container of Torch 1.1, before archives
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    else:
        wrapped = {f"module.{key}": value for key, value in weights.items()}
        torch.save({"model": wrapped, "optimizer": {"state": {}}, "epoch": 3}, path)
    return path


def tan2d(**keywords) -> TAN2D:
    return TAN2D(SIZES, hidden_size=D, kernel_size=K, conv_layers=DEPTH, **keywords).eval()


@pytest.mark.parametrize("proposal_map", ["pool", "conv"])
def test_2d_tan_scores_as_the_original(proposal_map: str, batch, tmp_path) -> None:
    conv = proposal_map == "conv"
    weights = random_weights(two_tan_shapes(conv=conv))
    model = tan2d(proposal_map=proposal_map)
    read = read_foreign(saved(weights, tmp_path))
    model.load_state_dict(convert(LAYOUTS["2d-tan"], read, model))
    found, words = model(batch).logits, batch.flat(batch.words)
    for m, b in enumerate(batch.owner.tolist()):
        sentence = words[m, : int(batch.word_counts[m])]
        expected = original_2d_tan(weights, batch.video[b], sentence, conv=conv, mask_fused=True)
        assert torch.allclose(found[m], expected, atol=1e-5)


def test_chenjoya_s_port_keeps_what_leaks_from_invalid_cells(batch, tmp_path) -> None:
    names = {
        "frame_layer.vis_conv": "featpool.conv",
        "fusion_layer.textual_encoder": "integrator.lstm",
        "fusion_layer.tex_linear": "integrator.fc",
        "fusion_layer.vis_conv": "integrator.conv",
        "map_layer.convs": "predictor.convs",
        "pred_layer": "predictor.pred",
    }
    weights = random_weights(two_tan_shapes(conv=False))
    renamed = {
        next(new + key[len(old) :] for old, new in names.items() if key.startswith(old)): value
        for key, value in weights.items()
    }
    model = tan2d(mask_fused=False)
    read = read_foreign(saved(renamed, tmp_path, how="distributed"))
    model.load_state_dict(convert(LAYOUTS["2d-tan-chenjoya"], read, model))
    found, words = model(batch).logits, batch.flat(batch.words)
    for m, b in enumerate(batch.owner.tolist()):
        sentence = words[m, : int(batch.word_counts[m])]
        leaks, tight = (
            original_2d_tan(weights, batch.video[b], sentence, conv=False, mask_fused=masked)
            for masked in (False, True)
        )
        assert torch.allclose(found[m], leaks, atol=1e-5)
        assert not torch.allclose(leaks, tight, atol=1e-3)


def mmn_shapes(*, conv: bool) -> dict[str, tuple[int, ...]]:
    shapes = both("featpool.conv", D, DIMS.video_dim, 1)
    if conv:
        for i in range(15):
            shapes |= both(f"feat2d.convs.{i}", D, D, 2)
        shapes |= both("feat2d.convs.15", D, D, 3)
    bert = TinyTransformer().state_dict()
    shapes |= {f"text_encoder.bert.{key}": tuple(value.shape) for key, value in bert.items()}
    shapes |= both("text_encoder.fc_out1", 4, 8) | both("text_encoder.fc_out2", 4, 8)
    shapes |= both("text_encoder.layernorm", 8)
    for layer in range(DEPTH):
        shapes |= both(f"proposal_conv.convs.{layer}", D, D, K, K)
        shapes |= both(f"proposal_conv.bn.{layer}", D)
        shapes[f"proposal_conv.bn.{layer}.running_mean"] = (D,)
        shapes[f"proposal_conv.bn.{layer}.running_var"] = (D,)
        shapes[f"proposal_conv.bn.{layer}.num_batches_tracked"] = ()
    shapes |= both("proposal_conv.conv1x1_iou", 4, D, 1, 1)
    return shapes | both("proposal_conv.conv1x1_contrastive", 4, D, 1, 1)


def original_mmn(w: Weights, video: Tensor, sentence: str, *, conv: bool, power: float) -> Tensor:
    x = conv1d(video.T[None], w["featpool.conv.weight"], w["featpool.conv.bias"]).relu()
    clips = nn.functional.avg_pool1d(x, 36 // N)[0]
    chain: Weights | None = None
    if conv:  # as 2D-TAN's, but without a layer for the diagonal
        chain = both_identity()
        for i in range(16):
            group = f"0.{i + 1}" if i < 15 else "1.0"
            for part in ("weight", "bias"):
                chain[f"prop_layer.layers.{group}.{part}"] = w[f"feat2d.convs.{i}.{part}"]
    square, mask = original_map(clips, chain)

    def layer_of(layer: int, x: Tensor, pad: int) -> Tensor:
        key = f"proposal_conv.convs.{layer}"
        x = conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding=pad)
        key = f"proposal_conv.bn.{layer}"
        mean, var = w[f"{key}.running_mean"], w[f"{key}.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * w[f"{key}.weight"][:, None, None] + w[f"{key}.bias"][:, None, None]

    x = masked_stack(square[None], mask, layer_of)
    heads = [
        conv2d(x, w[f"proposal_conv.{name}.weight"], w[f"proposal_conv.{name}.bias"])
        for name in ("conv1x1_iou", "conv1x1_contrastive")
    ]
    bert = TinyTransformer().eval()
    bert.load_state_dict(
        {k.removeprefix("text_encoder.bert."): v for k, v in w.items() if ".bert." in k}
    )
    state = bert(**tiny_tokenizer([sentence])).last_hidden_state[0].mean(dim=0)
    centred = (state - state.mean()) / (state.var(unbiased=False) + 1e-5).sqrt()
    state = centred * w["text_encoder.layernorm.weight"] + w["text_encoder.layernorm.bias"]
    cosines = []
    for head, name in zip(heads, ("fc_out1", "fc_out2"), strict=True):
        text = w[f"text_encoder.{name}.weight"] @ state + w[f"text_encoder.{name}.bias"]
        cosines.append(nn.functional.cosine_similarity(head[0], text[:, None, None], dim=0))
    score = (cosines[1] * 0.5 + 0.5) ** power * (10 * cosines[0]).sigmoid()
    return score[mask > 0]


def both_identity() -> Weights:
    weight = torch.eye(D)[:, :, None]
    return {"prop_layer.layers.0.0.weight": weight, "prop_layer.layers.0.0.bias": torch.zeros(D)}


@pytest.mark.parametrize("proposal_map", ["pool", "conv"])
def test_mmn_scores_as_the_original(proposal_map: str, batch, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())
    conv = proposal_map == "conv"
    weights = random_weights(mmn_shapes(conv=conv))
    for key, value in weights.items():
        if key.endswith("running_var"):
            value.abs_().add_(0.1)
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(7)
    model = MMN(
        SIZES, hidden_size=D, joint_size=4, text_encoder="folder", kernel_size=K,
        conv_layers=DEPTH, proposal_map=proposal_map, score_power=0.3,
    ).eval()  # fmt: skip
    read = read_foreign(saved(weights, tmp_path, how="distributed"))
    model.load_state_dict(convert(LAYOUTS["mmn"], read, model))
    found = ground(model, batch).scores
    for m, b in enumerate(batch.owner.tolist()):
        expected = original_mmn(weights, batch.video[b], batch.sentences[m], conv=conv, power=0.3)
        assert torch.allclose(found[m], expected, atol=1e-5)


# What does not fit.


def test_missing_and_foreign_keys_and_shapes_are_named() -> None:
    weights = random_weights(two_tan_shapes(conv=False))
    del weights["map_layer.convs.1.bias"]
    weights["map_layer.convs.2.weight"] = torch.zeros(1)
    weights["frame_layer.vis_conv.weight"] = torch.zeros(D, 99, 1)
    with pytest.raises(InputError) as caught:
        convert(LAYOUTS["2d-tan"], weights, tan2d())
    assert str(caught.value).endswith(
        "missing: map_layer.convs.1.bias; unexpected: map_layer.convs.2.weight; "
        "of another shape: frame_layer.vis_conv.weight (6×99×1, expected 6×10)"
    )


def test_weights_of_the_other_variant_are_refused() -> None:
    weights = random_weights(two_tan_shapes(conv=True))
    with pytest.raises(InputError, match="unexpected: prop_layer.layers.0.0.weight"):
        convert(LAYOUTS["2d-tan"], weights, tan2d())
    with pytest.raises(InputError, match="missing: featpool.conv.weight"):
        convert(LAYOUTS["2d-tan-chenjoya"], weights, tan2d(mask_fused=False))


def test_an_experiment_that_would_compute_something_else_is_refused() -> None:
    params = {"bidirectional": False, "padding": "first", "conv_norm": "count"}
    params |= {"density": "sparse", "mask_fused": True, "proposal_map": "pool"}
    check_experiment(LAYOUTS["2d-tan"], "tan2d", params)
    with pytest.raises(InputError, match="--set MODEL.PARAMS.mask_fused=false"):
        check_experiment(LAYOUTS["2d-tan-chenjoya"], "tan2d", params)
    with pytest.raises(InputError, match="are for mmn"):
        check_experiment(LAYOUTS["mmn"], "tan2d", params)
    with pytest.raises(InputError, match="text_encoder=FOLDER"):
        check_experiment(LAYOUTS["mmn"], "mmn", {"density": "sparse", "text_encoder": "lstm"})


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path) -> None:
    path = tmp_path / "file.pkl"
    with pytest.raises(InputError, match="does not exist"):
        read_foreign(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="file.pkl"):
        read_foreign(path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(InputError, match="Python objects"):
        read_foreign(path)
    torch.save({"epoch": 3, "note": "no weights"}, path)
    with pytest.raises(InputError, match="epoch, note are no tensors"):
        read_foreign(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputError, match="no state dict"):
        read_foreign(path)


def test_the_formulas_here_are_not_flat() -> None:
    """A comparison of constants would prove nothing."""
    weights = random_weights(two_tan_shapes(conv=True))
    video = torch.randn(36, DIMS.video_dim)
    logits = original_2d_tan(weights, video, torch.randn(4, 8), conv=True, mask_fused=True)
    assert logits.std() > 1e-3  # a hundred times what the comparisons allow


# From a file to a table.

TINY = """
DATASET: {NAME: activitynet, DIR: world, FEATURES: features.hdf5, NUM_FRAMES: 16, NUM_CLIPS: 8}
MODEL:
  NAME: tan2d
  PARAMS: {hidden_size: 8, lstm_layers: 1, kernel_size: 3, conv_layers: 1}
LOSS: {WEIGHTS: {overlap: 1}}
TRAIN: {SUPERVISION: full}
TEST: {RESAMPLES: 20}
WORKERS: 0
GPUS: cpu
"""


def test_sentences_of_charades_are_read_as_2d_tan_s_loader_reads_them() -> None:
    """It cuts the text at the full stop that ends the line; elsewhere it leaves all marks."""
    layout = LAYOUTS["2d-tan"]
    assert layout.dataset_options("charades") == {"TOKENS": "spaces_no_stop"}
    assert layout.dataset_options("activitynet") == {"TOKENS": "spaces"}
    file = SHARED / "annotations" / "charades" / "charades_sta_test.txt"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    sentences, as_trained = [], []
    with file.open() as lines:
        for line in lines:
            sentences.append(line.partition("##")[2])
            as_trained.append(line.partition("##")[2].split(".\n")[0].lower().split())
    read = TOKENISERS[layout.dataset_options("charades")["TOKENS"]]
    assert len(sentences) == 3720
    assert [read(" ".join(s.split())) for s in sentences] == as_trained
    before = [TOKENISERS["spaces"](s) for s in sentences]
    assert sum(a != b for a, b in zip(before, as_trained, strict=True)) == 3720


def test_sentences_are_read_with_their_marks_as_the_dmr_jrg_release_reads_them() -> None:
    assert LAYOUTS["dmr-jrg"].dataset_options("tacos") == {"TOKENS": "words_and_marks"}
    read = TOKENISERS["words_and_marks"]
    text = "He's done (slowly), she \"can't\" stop. The man cannot: 5,000 of them..."
    assert read(text) == [
        *("he", "'s", "done", "(", "slowly", ")", ",", "she", "``", "ca", "n't", "''", "stop", "."),
        *("the", "man", "can", "not", ":", "5,000", "of", "them", "..."),
    ]


def test_marks_are_told_apart_as_nltk_does_on_real_sentences() -> None:
    nltk = pytest.importorskip("nltk.tokenize")
    file = SHARED / "annotations" / "activitynet" / "test.json"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    split, differing, total = nltk.NLTKWordTokenizer(), 0, 0
    for video in json.loads(file.read_text()).values():
        for sentence in video["sentences"]:
            parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])", sentence.strip())
            wanted = [word.lower() for part in parts for word in split.tokenize(part)]
            differing += TOKENISERS["words_and_marks"](" ".join(sentence.split())) != wanted
            total += 1
    assert total == 17_031 and differing <= 10  # quotation marks within words


def test_the_command_makes_a_run_that_best_test_scores(tmp_path) -> None:
    from lib.base.terminal import shown_path
    from lib.commands import best_test, import_checkpoint
    from lib.datasets.synthetic import WorldOptions, write_world
    from tests.test_training import call

    world = WorldOptions(train=8, val=4, test=4, feature_dim=8, word_dim=6, rows_per_second=0.5)
    write_world(tmp_path / "data" / "world", world)
    experiment = tmp_path / "experiments" / "tiny.yaml"
    experiment.parent.mkdir()
    experiment.write_text(TINY, "utf-8")
    dims = dataclasses.replace(DIMS, video_dim=8, word_dim=6, num_frames=16, num_clips=8)
    model = TAN2D(dims, hidden_size=8, lstm_layers=1, kernel_size=3, conv_layers=1)
    prefixes = LAYOUTS["2d-tan"].names(model)
    weights = {
        next(old + key[len(new) :] for new, old in prefixes.items() if key.startswith(new)): value
        for key, value in model.state_dict().items()
    }
    file = saved(weights, tmp_path)
    flags = ("--dataDir", tmp_path / "data", "--modelDir", tmp_path / "save")
    flags = ("--cfg", experiment, *flags)
    outcome = call(import_checkpoint.main, *flags, "--layout", "2d-tan", "--from", file)
    assert outcome.status == 0, outcome.err
    assert "microsoft/2D-TAN" in outcome.out
    assert "read activitynet with DATASET.TOKENS=spaces; this run is set so" in outcome.out
    run = tmp_path / "save" / "tiny"
    assert f"score it: python best_test.py {shown_path(run)}\n" in outcome.out
    assert "TOKENS: spaces\n" in (run / "config.yaml").read_text()
    kept = ("--set", "DATASET.TOKENS=words", "--overwrite")
    own = call(import_checkpoint.main, *flags, *kept, "--layout", "2d-tan", "--from", file)
    assert "this run does not" in own.out
    outcome = call(best_test.main, run)
    assert outcome.status == 0, outcome.err
    assert "weights trained elsewhere of" in outcome.out
    assert (tmp_path / "save" / "tiny" / "results.json").is_file()
    wrong = call(import_checkpoint.main, *flags, "--layout", "2d-tan-chenjoya", "--from", file)
    assert wrong.status == 2 and "mask_fused=false" in wrong.err
