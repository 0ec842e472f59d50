"""Turn videos into the HDF5 file of feature rows read here, with the recipe they were made by.

python extract_features.py ../videos --backbone s3d --out ../data/mine/s3d.hdf5

What is done is kept: the same command continues after it was stopped, and adds new videos. Exit
status: 0 all videos, 3 some were skipped (each is named), 2 none could be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..base.command import COUNT, POSITIVE, SOME_SKIPPED, number_from
from ..base.runtime import Runtime
from ..videos.backbones import Options, load_backbone
from ..videos.extract import extract


def main() -> None:
    args = _parser().parse_args()
    options = Options(
        weights=args.weights,
        rate=args.rate,
        frames=args.frames,
        stride=args.stride,
        tap=args.tap,
        channels=args.channels,
        mean=args.mean,
        projection=args.projection,
    )
    runtime = Runtime.start(args.gpus, tqdm.write)
    precision = args.precision or ("bfloat16" if runtime.pin_memory else "float32")
    done = extract(
        args.videos,
        load_backbone(args.backbone, options),
        args.out,
        runtime=Runtime(runtime.device, precision),
        layout=args.layout,
        dtype=args.dtype,
        batch=args.batch,
        decoders=args.decoders,
        ends_early=args.ends_early,
        retry=args.retry,
        save_every=args.save_every,
        log=tqdm.write,
    )
    print(
        f"written: {done.out} ({len(done.videos):,} videos; now {done.rows:,} rows of "
        f"{done.frames:,} frames in {done.seconds:,.0f} s, {done.frames / done.seconds:,.1f} "
        f"frames/s; recipe {done.recipe.sha256[:12]})"
    )
    if done.skipped:
        print(f"skipped: {len(done.skipped):,} video(s), named above")
        sys.exit(SOME_SKIPPED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("videos", type=Path, nargs="+", metavar="VIDEOS", help="files, and folders of them")
    add(
        "--backbone",
        required=True,
        metavar="NAME",
        help="c3d, i3d, s3d, r3d_18, mvit_v2_s, open_clip/MODEL, or a reference file.py:build",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="is added to if it is there")
    add("--weights", metavar="FILE", help="or a tag of open_clip; default: the library's own")
    add("--rate", metavar="R", help="sampled frames per second, or container: every frame")
    add("--frames", type=POSITIVE, metavar="N", help="sampled frames per window")
    add("--stride", type=POSITIVE, metavar="N", help="sampled frames from window to window")
    add("--tap", help="where the row is taken, for a backbone that has several places")
    add("--channels", choices=("rgb", "bgr"), help="channel order, of c3d")
    add("--mean", type=Path, metavar="FILE", help="the mean cube of c3d, .npy")
    add("--projection", type=Path, metavar="FILE", help="ActivityNet's PCA of c3d, HDF5")
    add("--layout", choices=("plain", "activitynet"), default="plain")
    add("--dtype", choices=("float16", "float32"), default="float16", help="of the stored rows")
    add("--batch", type=POSITIVE, default=8, metavar="N", help="windows at a time (default: 8)")
    add("--decoders", type=COUNT, default=0, metavar="N", help="files decoded at a time")
    add("--gpus", default="", metavar="N", help="GPU to use; cpu or -1 for none")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of matrix products; default: bfloat16 on a GPU, float32 on the CPU",
    )
    add(
        "--ends-early",
        choices=("skip", "keep"),
        default="skip",
        help="videos whose picture ends before their head says (default: skip)",
    )
    add(
        "--save-every",
        type=number_from(0),
        default=120.0,
        metavar="SECONDS",
        help="after which the rows of a long video are saved before it is done (default: 120)",
    )
    add("--retry", action="store_true", help="try videos again that failed before")
    return parser
