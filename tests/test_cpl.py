"""CPL: what its release prints, from weights under its own names; its masking, windows, negatives
and votes; and what a sentence's score does not depend on."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

import lib.models.layers.masked_decoder as masked_module
from lib.base.batch import collate, join
from lib.base.errors import InputError
from lib.losses import Criterion
from lib.losses.diversity import gram_distance
from lib.losses.reconstruction import candidate_nll
from lib.models.cpl import CPL, CPLOutput
from lib.models.interface import ground
from lib.models.layers.gaussian import outside_windows, proposal_windows
from lib.models.layers.text import draw_masked_words, noise_of_words
from lib.models.layers.votes import scores_of
from lib.tools.checkpoint_import import LAYOUTS, convert, read_foreign, vocabulary_rows
from lib.training.optimization import Optimization
from tests import released
from tests.properties import DIMS, make_batch, make_sample

SMALL = {"hidden_size": 8, "heads": 2, "layers": 2, "proposals": 3, "sampled_frames": 7}


def built(**keywords: object) -> CPL:
    torch.manual_seed(0)
    return CPL(DIMS, **{**SMALL, **keywords}).eval()


@pytest.mark.parametrize(
    ("corpus", "parameters"),
    [(released.ACTIVITYNET, 7_011_485), (released.CHARADES, 5_375_680)],
)
def test_it_has_the_parameters_of_the_release(
    corpus: tuple[int, int], parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    shapes = released.cpl_shapes(*corpus)
    model = CPL(released.dims_of(corpus))
    assert released.size(shapes) == parameters == sum(p.numel() for p in model.parameters())
    assert len(shapes) == 119 == len(model.state_dict())


# What the release prints.


@pytest.fixture(scope="module")
def answers() -> tuple[CPL, dict[bool, CPLOutput]]:
    """Charades-STA's settings in the seventh epoch, with the end of a sentence and without."""
    dims, weights = released.DIMS, released.weights_of(released.cpl_shapes(*released.CHARADES))
    outputs = {}
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(masked_module, "draw_masked_words", released.mask_released_words)
        for end in (True, False):
            model = CPL(dims, end_word=end).eval()
            model.load_state_dict(convert(LAYOUTS["cpl"], weights, model))
            model.extent.fill_((7 / 30) ** 0.5)
            outputs[end] = model(released.two_sentences())
    return model, outputs


FIRST = [7.19208, 7.24934, 7.51886, 7.91740, 7.91629, 7.92927, 7.92945, 7.70562]
FIRST_WITHOUT_END = [6.93551, 6.89364, 7.46639, 7.92787, 7.92285, 7.98141, 7.88100, 7.74876]
SECOND = [6.78576, 7.49653, 7.42199, 6.79598, 7.64002, 7.61867, 7.50188, 7.53473]
CENTERS = [0.74458, 0.31891, 0.08671, 0.88543, 0.78340, 0.38985, 0.67149, 0.82967]
WIDTHS = [0.21058, 0.03199, 0.73757, 0.71563, 0.80218, 0.50138, 0.41750, 0.35968]


def test_proposals_are_the_released_ones(answers) -> None:
    spans = answers[1][False].spans[0]
    wanted = [[max(c - w / 2, 0), min(c + w / 2, 1)] for c, w in zip(CENTERS, WIDTHS, strict=True)]
    assert torch.allclose(spans, torch.tensor(wanted), atol=2e-5)


def test_likelihoods_are_the_released_ones(answers) -> None:
    """The release has the end of every sentence but that of the longest of the batch."""
    with_end, without = answers[1][True], answers[1][False]
    assert with_end.nll[0].tolist() == pytest.approx(FIRST, abs=4e-5)
    assert without.nll[0].tolist() == pytest.approx(FIRST_WITHOUT_END, abs=4e-5)
    assert without.nll[1].tolist() == pytest.approx(SECOND, abs=4e-5)
    assert with_end.other_nll[0].tolist() == pytest.approx([7.71470, 7.55835, 7.27923], abs=4e-5)
    assert without.other_nll[1].tolist() == pytest.approx([7.55532, 7.19274, 6.75525], abs=4e-5)


def test_losses_are_the_released_ones(answers) -> None:
    batch = released.two_sentences()
    parts = {
        name: torch.stack([getattr(answers[1][end], name)[m] for m, end in ((0, True), (1, False))])
        for name in ("spans", "windows", "nll", "other_nll")
    }
    out, terms = CPLOutput(**parts), CPL.losses(spread=0.146)
    values = {name: term(out, batch).item() for name, term in terms.items()}
    assert values["reconstruction"] == pytest.approx(7.31197, abs=2e-5)
    assert values["rank"] == pytest.approx(0.12168, abs=4e-5)
    assert values["diversity"] == pytest.approx(0.71055, abs=2e-5)
    assert values["rank"] + 5 * values["diversity"] == pytest.approx(3.67444, abs=1e-4)


def test_the_file_of_the_release_is_read_and_anything_else_is_named(tmp_path) -> None:
    shapes = released.cpl_shapes(*released.CHARADES)
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    path = tmp_path / "model-best.pt"
    torch.save({"num_updates": 7, "config": {"a": 1}, "model_parameters": weights}, path)
    model = CPL(released.DIMS)
    assert set(convert(LAYOUTS["cpl"], read_foreign(path), model)) == set(model.state_dict())
    del weights["pred_vec"]
    weights["fc_gauss.bias"] = torch.zeros(2)
    with pytest.raises(InputError, match=r"missing: pred_vec; of another .*fc_gauss.bias \(2, exp"):
        convert(LAYOUTS["cpl"], weights, model)


def test_rows_of_the_vocabulary_follow_their_words() -> None:
    """Ours are 0, unknown, and then words; theirs 0, which is the end too, and then words."""
    rows = vocabulary_rows(["a", "b", "new"], ["b", "rare", "a"])
    assert rows == [0, None, 3, 1, None]
    dims = dataclasses.replace(DIMS, vocab_size=5)
    model = CPL(dims, **SMALL)
    theirs = {"fc_comp.weight": torch.rand(4, 8), "fc_comp.bias": torch.rand(4)}
    names, own = LAYOUTS["cpl"].names(model), model.state_dict()
    weights = {
        next(there + key[len(ours) :] for ours, there in names.items() if key.startswith(ours)): w
        for key, w in own.items()
    }
    found = convert(LAYOUTS["cpl"], weights | theirs, model, rows=rows)
    for ours, there in ((0, 0), (2, 3), (3, 1)):
        assert torch.equal(found["vocabulary.weight"][ours], theirs["fc_comp.weight"][there])
        assert found["vocabulary.bias"][ours] == theirs["fc_comp.bias"][there]
    assert not found["vocabulary.weight"][[1, 4]].any()
    assert found["vocabulary.bias"][[1, 4]].tolist() == [-30, -30]
    with pytest.raises(InputError, match=r"fc_comp.weight \(4×8, expected 5×8\)"):
        convert(LAYOUTS["cpl"], weights | theirs, model)


# Windows.


def test_windows_have_the_released_values() -> None:
    g = proposal_windows(torch.tensor(0.5), torch.tensor(0.4), 50)
    assert g[[10, 12, 14, 15, 20, 24]].tolist() == pytest.approx(
        [2.427e-10, 7.202e-8, 9.196e-6, 7.574e-5, 0.12142, 1.0], rel=5e-4
    )
    assert g.sum().item() == pytest.approx(5.604667, abs=1e-5)
    g = proposal_windows(torch.tensor(0.3), torch.tensor(0.2), 50)
    assert g[[12, 14, 15, 20]].tolist() == pytest.approx(
        [0.0480153, 0.844779, 1, 7.448e-6], rel=5e-4
    )
    g = proposal_windows(torch.tensor(0.0), torch.tensor(0.005), 50)
    assert g[0] == 1 and g[1:].max() < 1e-6


def test_negatives_have_the_released_values() -> None:
    def sides(epoch: int, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
        plan = CPL.plan(curriculum=gamma)
        extent = plan.settings(epoch - 1)["extent"]
        return outside_windows(torch.tensor(0.5), torch.tensor(0.4), 50, extent=extent)

    left, right = sides(1, 0.0)
    assert (left.argmax(), right.argmax()) == (7, 42)
    assert left[[0, 5, 10, 15]].tolist() == pytest.approx(
        [4.0996e-5, 0.363463, 0.274389, 1.764e-5], rel=5e-4
    )
    assert left.sum().item() == pytest.approx(4.189244, abs=1e-5)
    for epoch, peak, total in ((1, 1, 1.169112), (15, 5, 2.937532)):
        left, _ = sides(epoch, 0.5)
        assert left.argmax() == peak
        assert left.sum().item() == pytest.approx(total, abs=1e-5)
    assert torch.equal(sides(30, 0.5)[0], sides(1, 0.0)[0])
    assert torch.equal(sides(31, 0.5)[0], sides(1, 0.0)[0])


def test_the_spread_asks_for_a_width() -> None:
    centers, widths = torch.tensor([0.2, 0.5, 0.8]), torch.full((3,), 0.3)
    windows = proposal_windows(centers, widths, 50)
    rows = windows / windows.sum(dim=1, keepdim=True)
    assert gram_distance(rows, 0.13).item() == pytest.approx(0.0054727, abs=1e-7)
    assert rows[1].square().sum().item() == pytest.approx(0.172711, abs=1e-5)
    for width in (0.3, 0.399):
        expected = 9 / (2 * math.sqrt(math.pi) * 49 * width)
        g = proposal_windows(torch.tensor(0.5), torch.tensor(width), 50)
        assert (g / g.sum()).square().sum().item() == pytest.approx(expected, rel=2e-3)


def test_the_curriculum_reaches_the_negatives_and_no_state_dict() -> None:
    model, batch = built(), make_batch((2, 3))
    optimization = Optimization(
        model, Criterion(CPL.losses(), {"rank": 1.0}), CPL.plan(curriculum=0.5)
    )
    others = []
    for epoch in (0, 6, 29):
        optimization.set_epoch(epoch)
        assert model.extent.item() == pytest.approx(((epoch + 1) / 30) ** 0.5)
        others.append(model(batch).other_nll)
    for other in others[:2]:
        assert torch.equal(other[:, 0], others[2][:, 0])  # the whole
        assert not torch.isclose(other[:, 1:], others[2][:, 1:]).all()
    assert not any("extent" in name for name in model.state_dict())


# Votes.

VOTING = torch.tensor([[[0.2, 0.4], [0.25, 0.45], [0.7, 0.9], [0.24, 0.44]]])


def test_votes_have_the_released_values() -> None:
    nll = torch.tensor([[2.0, 2.2, 2.4, 2.5]])
    plain = scores_of(VOTING, nll, "plain")
    assert plain[0].tolist() == pytest.approx([2.2667, 2.5048, 1, 2.5714], abs=5e-5)
    leader = scores_of(VOTING, nll, "leader")
    assert leader[0].tolist() == pytest.approx([1.8044, 1.8032, 0, 1.8762], abs=5e-5)
    likelihood = scores_of(VOTING, nll, "likelihood")
    assert likelihood[0].tolist() == pytest.approx([0.272, 0.24, 0.04, 0.2419], abs=5e-5)
    assert torch.equal(scores_of(VOTING, nll, "none"), -nll)
    shuffled = torch.tensor([2, 0, 3, 1])  # in whatever order the proposals lie
    found = scores_of(VOTING[:, shuffled], nll[:, shuffled], "leader")
    assert torch.allclose(found, leader[:, shuffled])


def test_a_vote_changes_the_scores_and_not_the_spans() -> None:
    model, batch = built(), make_batch((2, 3))
    plain = ground(model, batch)
    assert torch.equal(plain.scores, -model(batch).nll)
    model.vote = "plain"
    voted = ground(model, batch)
    assert torch.equal(plain.spans, voted.spans)
    assert torch.equal(voted.scores, scores_of(plain.spans, -plain.scores, "plain"))


# Masking.


def test_a_content_word_is_e_times_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(weights, counts, **keywords):
        seen.append((weights, keywords["ratio"]))
        return draw_masked_words(weights, counts, **keywords)

    monkeypatch.setattr(masked_module, "draw_masked_words", spy)
    sample = make_sample(0, 1)
    words = {name: getattr(sample, name)[:4] for name in ("words", "word_ids", "word_weights")} | {
        "word_counts": torch.tensor([4])
    }
    words["word_weights"] = torch.tensor([2.0, 1.0, 1.0, 2.0])
    batch = collate([dataclasses.replace(sample, **words), make_sample(1, 2)])
    built().decoders.read_masked(batch)
    ((weights, share),) = seen
    assert (weights[0] / weights[0].sum())[:4].tolist() == pytest.approx(
        [0.365529, 0.134471, 0.134471, 0.365529], abs=1e-6
    )
    assert not weights[~batch.flat(batch.word_mask)].any() and share == 1 / 3


def test_masks_are_drawn_in_training_and_a_sentence_s_own_otherwise() -> None:
    model = built()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = make_batch((4, 5))
    before = model(batch).nll
    assert torch.equal(model(batch).nll, before)
    torch.manual_seed(1)
    again = model.train()(batch)
    assert not torch.allclose(again.nll, before)
    assert torch.allclose(again.spans, model.eval()(batch).spans, atol=1e-6)  # without the masks


def test_the_noise_is_the_sentence_s_alone() -> None:
    ids = torch.tensor([[5, 9, 2, 0], [5, 9, 0, 0], [9, 5, 2, 7]])
    mask = ids > 0
    noise = noise_of_words(ids, mask)
    alone = noise_of_words(ids[1:2, :2], mask[1:2, :2])
    assert torch.equal(alone[0], noise[1, :2])
    assert not torch.isclose(noise[0, :2], noise[1, :2]).any()
    garbage = torch.where(mask, ids, 17)
    assert torch.equal(noise_of_words(garbage, mask)[mask], noise[mask])

    def mixed(x: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = ((x ^ (x >> shift)) * factor) % 2**64
        return x ^ (x >> 31)

    golden, odd = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
    for row, sentence in enumerate(([5, 9, 2], [5, 9], [9, 5, 2, 7])):
        seed = sum(
            mixed((word * golden + place * odd) % 2**64)
            for place, word in enumerate(sentence, start=1)
        )
        for place in range(1, len(sentence) + 1):
            bits = mixed((seed + place * golden) % 2**64) >> 40
            expected = -math.log((bits + 0.5) / 2**24)
            assert noise[row, place - 1].item() == pytest.approx(expected, rel=1e-5)


def test_the_noise_is_exponential() -> None:
    torch.manual_seed(0)
    ids = torch.randint(2, 5000, (4000, 12))
    noise = noise_of_words(ids, torch.ones_like(ids, dtype=torch.bool))
    assert noise.mean().item() == pytest.approx(1, abs=0.02)
    assert noise.var().item() == pytest.approx(1, abs=0.05)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.06
    weights = torch.tensor([math.e**2, math.e, math.e, math.e**2]).expand(4000, -1)
    drawn = draw_masked_words(weights, torch.full((4000,), 4), noise=noise[:, :4])
    share = torch.bincount(drawn.column[:, 0], minlength=4) / 4000
    assert share.tolist() == pytest.approx([0.3655, 0.1345, 0.1345, 0.3655], abs=0.025)


@pytest.mark.parametrize(("words", "masked"), [(1, 1), (2, 1), (3, 1), (5, 1), (6, 2), (9, 3)])
def test_a_third_is_masked_and_never_nothing(words: int, masked: int) -> None:
    counts = torch.tensor([words, 4])
    drawn = draw_masked_words(torch.ones(2, 9), counts)
    assert drawn.mask(9).sum(dim=1).tolist() == [masked, 1]


# Likelihoods.


def test_the_likelihood_has_the_released_value() -> None:
    logits = torch.tensor([[[1.0, 0, 0, 0], [0, 2, 0, 0]]])
    found = candidate_nll(
        logits, torch.tensor([0, 1]), torch.tensor([0, 0]), 1, label_smoothing=0.1
    )
    assert found.item() == pytest.approx(0.6547, abs=5e-5)


@pytest.mark.parametrize("end", [True, False])
def test_likelihoods_are_those_of_a_sentence_alone(end: bool, monkeypatch) -> None:
    """Word by word, one proposal at a time, without padding, batch or blocks."""
    drawn: list = []

    def spy(weights, counts, **keywords):
        drawn.append(draw_masked_words(weights, counts, **keywords))
        return drawn[-1]

    monkeypatch.setattr(masked_module, "draw_masked_words", spy)
    model, batch = built(end_word=end), make_batch((2, 3))
    both, out = model.decoders, model(batch)
    hidden = drawn[0].mask(batch.words.shape[2])
    words, ids = batch.flat(batch.words), batch.flat(batch.word_ids)
    for m, b in enumerate(batch.owner.tolist()):
        count = int(batch.word_counts[m])
        rows = torch.cat([both.first_word[None], words[m, :count]])
        w = both.word(rows)
        places = both.positions[: count + 1]
        memory = both.word_decoder((w + places)[None])
        x = both.frame(torch.cat([batch.video[b], model.last_frame[None]]))[None]
        real = torch.tensor([[True] * DIMS.num_frames + [False]])
        h = both.frame_decoder(x, real, memory=memory)[0, -1]
        center, width = model.window(h).sigmoid().view(3, 2).T
        masked = torch.cat([torch.tensor([False]), hidden[m, :count]])
        w = torch.where(masked[:, None], both.word(both.mask_word), w) + places
        target = ids[m, :count].tolist() + [0] * end
        sampled = x[:, [math.floor(k * (DIMS.num_frames - 1) / 6 + 1e-6) for k in range(7)]]
        place = torch.arange(7) / 6
        for p in range(3):
            bell = (-((place - center[p]) ** 2) / (2 * (width[p] / 9) ** 2)).exp()
            g = (bell / bell.max())[None]
            seen = both.frame_decoder(sampled, weights=g)
            states = both.word_decoder(w[None, : len(target)], memory=seen, memory_weights=g)[0]
            logp = model.vocabulary(states).log_softmax(dim=1)
            nll = [-0.9 * row[i] - 0.1 * row.mean() for row, i in zip(logp, target, strict=True)]
            assert out.nll[m, p].item() == pytest.approx(sum(nll).item() / len(target), rel=1e-4)
        reference = both.word_decoder(w[None, : len(target)], memory=both.frame_decoder(sampled))[0]
        logp = model.vocabulary(reference).log_softmax(dim=1)
        nll = [-0.9 * row[i] - 0.1 * row.mean() for row, i in zip(logp, target, strict=True)]
        whole = sum(nll).item() / len(target)
        assert out.other_nll[m, 0].item() == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("end", [True, False])
def test_a_sentence_has_the_scores_it_has_alone(end: bool) -> None:
    model = built(end_word=end)
    samples = [make_sample(index, size) for index, size in enumerate((2, 4, 1))]
    together = ground(model, collate(samples)).scores
    alone = torch.cat([ground(model, collate([sample])).scores for sample in samples])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(
        together, ground(model, join([collate([sample]) for sample in samples])).scores, atol=1e-5
    )


def test_a_term_that_is_not_wanted_is_not_computed() -> None:
    model, batch = built(), make_batch()
    assert model(batch, frozenset({"diversity"})).other_nll is None
    assert model(batch, frozenset({"rank"})).other_nll is not None


def test_at_first_every_word_is_as_likely() -> None:
    """8,001 words: 8.99 nats, within what the first weights say."""
    dims = dataclasses.replace(DIMS, vocab_size=8001)
    torch.manual_seed(0)
    out = CPL(dims, layers=1, hidden_size=64).eval()(make_batch())
    assert 8.9 < out.nll.mean() < 9.4


def test_the_gap_is_what_the_frames_tell() -> None:
    model, batch = built(), make_batch((2, 3))
    assert model.inspect(batch)["reconstruction_gap"].abs() > 1e-5
    twins = dataclasses.replace(batch, video=batch.video[:1].expand(2, -1, -1))
    assert model.inspect(twins)["reconstruction_gap"] == 0


def test_the_command_reads_the_release_s_file_and_its_words(tmp_path) -> None:
    """Of the words in the pickle some are words of the corpus too, in another order."""
    import pickle
    from collections import Counter

    from lib.commands import best_test, import_checkpoint
    from lib.datasets.synthetic import WorldOptions, write_world
    from lib.training import checkpoint
    from tests.test_training import call

    world = WorldOptions(train=8, val=4, test=4, feature_dim=8, word_dim=6, rows_per_second=0.5)
    write_world(tmp_path / "data" / "world", world)
    experiment = tmp_path / "experiments" / "tiny.yaml"
    experiment.parent.mkdir()
    experiment.write_text(
        """
DATASET: {NAME: activitynet, DIR: world, FEATURES: features.hdf5, NUM_FRAMES: 16, NUM_CLIPS: 8,
  VOCAB_SIZE: 5}
MODEL: {NAME: cpl, PARAMS: {hidden_size: 8, heads: 2, layers: 1, proposals: 3, sampled_frames: 8}}
LOSS: {WEIGHTS: {reconstruction: 1}}
TRAIN: {SELECT_BY: "svmr/R@1,IoU=0.5"}
TEST: {RESAMPLES: 20}
WORKERS: 0
GPUS: cpu
""",
        "utf-8",
    )
    dims = dataclasses.replace(DIMS, video_dim=8, word_dim=6, num_frames=16, vocab_size=7)
    model = CPL(dims, hidden_size=8, heads=2, layers=1, proposals=3, sampled_frames=8)
    names = LAYOUTS["cpl"].names(model)
    weights = {
        next(there + key[len(ours) :] for ours, there in names.items() if key.startswith(ours)): w
        for key, w in model.state_dict().items()
    }
    weights |= {"fc_comp.weight": torch.rand(4, 8), "fc_comp.bias": torch.rand(4)}
    file, words = tmp_path / "model-best.pt", tmp_path / "words.pkl"
    torch.save({"num_updates": 1, "config": {}, "model_parameters": weights}, file)
    counter = Counter({"zebra": 2, "the": 3, "a": 3, "yeti": 1})
    words.write_bytes(pickle.dumps({"counter": counter, "w2id": {}, "id2vec": []}))
    flags = ("--dataDir", tmp_path / "data", "--modelDir", tmp_path / "save")
    flags = ("--cfg", experiment, *flags)
    source = ("--layout", "cpl", "--from", file)
    outcome = call(import_checkpoint.main, *flags, *source)
    assert outcome.status == 2 and "fc_comp.weight (4×8, expected 7×8)" in outcome.err
    outcome = call(import_checkpoint.main, *flags, *source, "--words", words)
    assert outcome.status == 0, outcome.err
    assert "DATASET.NUM_FRAMES=200" in outcome.out
    assert "DATASET.NORMALIZE=false" in outcome.out
    assert "2 of its 3 words have an id here" in outcome.out
    found = checkpoint.load(tmp_path / "save" / "tiny" / "best.pt")["model"]["vocabulary.weight"]
    theirs = weights["fc_comp.weight"]
    rows = [next((i for i in range(4) if torch.equal(row, theirs[i])), None) for row in found]
    assert rows[0] == 0 and rows[1] is None and {1, 2} <= set(rows) and 3 not in rows
    assert call(best_test.main, *flags).status == 0
    outcome = call(import_checkpoint.main, *flags, *source, "--words", file, "--overwrite")
    assert outcome.status == 2
