#!/usr/bin/env python
"""Measure the two-stage search of lib/index on synthetic videos: size, time, memory and recall.

    python index_bench.py --out ../docs/index       three sizes; needs some 6 GB and half an hour
    python index_bench.py --sizes 10000             a quick look

A synthetic video has five events in random directions; its 16 clips lie in them, in order, each a
little off. A paragraph has a sentence for four of the events, in order, with noise of a stated
length. The first stage has the means of a few runs of clips (lib/index/places.py). The exact score
is an attention of the sentences over all 16 clips, over the alignments that keep their order. Each
measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Before torch starts its threads: on a busy machine, ones that spin while they wait slow all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.base.command import run_script
from lib.base.errors import InputError
from lib.base.files import write_bytes
from lib.index import Item, Layout, Snapshot, Store
from lib.index.places import places_of

EVENTS, CLIPS, WIDTH, SENTENCES = 5, 16, 128, 4
CLIP_NOISE = 0.3  # length of what sets a clip off from its event, which has length 1
NOISES = (1.0, 2.5, 4.0)  # the same of a sentence
SHORTLISTS = (100, 1000, 3000)
TOP = 10
SHARPNESS = 0.05  # of the attention: a cosine higher by this much weighs e times as much
BATCH = 20_000  # videos made and added at once
TENSORS = {"clips": ((CLIPS, WIDTH), "float16")}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        default="10000,100000,1000000",
        metavar="N,…",
        help="videos (default: %(default)s)",
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=50,
        metavar="N",
        help="paragraphs of each noise (default: 50)",
    )
    parser.add_argument(
        "--places",
        default="5,4",
        metavar="P,…",
        help="vectors of a video in the first stage; all but the first for all but the largest "
        "size (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="(default: 2)")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keep indexes and measurements there for a later run, which measures again what is "
        "deleted (default: a temporary one)",
    )
    parser.add_argument("--out", metavar="NAME", help="write NAME.md and NAME.json")
    parser.add_argument("--one", metavar="JSON", help=argparse.SUPPRESS)  # in a child
    return parser.parse_args()


# The synthetic world.


def unit(vectors: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def noise(rng: np.random.Generator, *shape: int) -> Float[np.ndarray, "*n D"]:
    """Random vectors of length 1 or nearly so."""
    return rng.standard_normal((*shape, WIDTH), np.float32) / np.float32(WIDTH**0.5)


def make_videos(
    first: int, count: int
) -> tuple[Float[np.ndarray, "n E D"], Float[np.ndarray, "n K D"]]:
    """Events and clips of ``count`` videos from number ``first`` on."""
    rng = np.random.default_rng([0, first])
    events = unit(noise(rng, count, EVENTS))
    # Where the second and later events start: four different clips out of those after the first.
    starts = rng.random((count, CLIPS - 1)).argsort(axis=1)[:, : EVENTS - 1] + 1
    event_of_clip = (np.arange(CLIPS) >= starts[..., None]).sum(axis=1)
    clips = np.take_along_axis(events, event_of_clip[..., None], axis=1)
    return events, unit(clips + CLIP_NOISE * noise(rng, count, CLIPS))


def make_query(
    events: Float[np.ndarray, "E D"], length: float, rng: np.random.Generator
) -> Float[np.ndarray, "S D"]:
    """A paragraph about a video, with noise of this length in every sentence."""
    described = np.sort(rng.permutation(EVENTS)[:SENTENCES])
    return unit(events[described] + length * noise(rng, SENTENCES))


def attention(
    queries: Float[Tensor, "Q S D"], clips: Float[Tensor, "n K D"]
) -> Float[Tensor, "Q n"]:
    """The exact score: the log of the sum over alignments in order of the exponential of their
    cosines, in the unit of ``SHARPNESS``."""
    Q, S, D = queries.shape
    n, K, _ = clips.shape
    cosines = (queries.reshape(Q * S, D) @ clips.reshape(n * K, D).t()).view(Q, S, n, K)
    cosines = cosines.permute(1, 3, 0, 2).contiguous()  # (S, K, Q, n)
    highest = cosines.amax(dim=1, keepdim=True)
    weights = ((cosines - highest) / SHARPNESS).exp()
    reach = weights[0]
    for sentence in weights[1:]:  # order is the point
        reach = reach.cumsum(dim=0) * sentence
    return SHARPNESS * reach.sum(dim=0).clamp(min=1e-38).log() + highest.sum(dim=(0, 1))


def second_stage(
    snapshot: Snapshot, query: Float[np.ndarray, "S D"], numbers: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """The exact scores of some items."""
    clips = torch.from_numpy(snapshot.tensors(numbers)["clips"]).float()
    return attention(torch.from_numpy(query)[None], clips)[0].numpy()


def best_of(scores: np.ndarray, numbers: Int[np.ndarray, " k"]) -> Int[np.ndarray, " t"]:
    return numbers[np.argsort(-scores, kind="stable")[:TOP]]


# In a child process: one measurement.


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(spec["threads"])
    kinds = {"build": build, "exact": exact, "search": search, "cold": cold, "change": change}
    before = os.getloadavg()[0]
    result = kinds[spec["kind"]](Path(spec["folder"]), spec)
    return result | {"load": [before, os.getloadavg()[0]]}


def build(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """An index of synthetic videos, and beside it paragraphs about some of them."""
    size, places, count = spec["size"], spec["places"], spec["queries"] * len(NOISES)
    store = Store.create(
        folder,
        header={},
        layout=Layout(TENSORS, places, WIDTH, ordered=True),
        embedding_width=WIDTH,
        sample=places_of(make_videos(0, 2000)[1], places),
    )
    rng = np.random.default_rng(1)
    asked = np.linspace(0, size - 1, count).astype(int)
    queries, adding = [], 0.0
    start = time.perf_counter()
    for first in range(0, size, BATCH):
        events, clips = make_videos(first, min(BATCH, size - first))
        for query, video in enumerate(asked):
            if first <= video < first + len(events):
                length = NOISES[query % len(NOISES)]
                queries.append(make_query(events[video - first], length, rng))
        names = [f"v{number:07d}" for number in range(first, first + len(events))]
        vectors, halves = places_of(clips, places), clips.astype(np.float16)
        began = time.perf_counter()
        with store.writer() as writer:
            writer.append(
                [{"id": name, "path": f"videos/{name}.mp4", "duration": 120.0} for name in names],
                [Item(name, 0.0, 120.0) for name in names],
                vectors,
                {"clips": halves},
            )
        adding += time.perf_counter() - began
    whole = time.perf_counter() - start
    np.savez(folder / ".queries.npz", queries=np.stack(queries), asked=asked)
    return {
        "making": whole - adding,
        "adding": adding,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "first_stage_bytes": size * places * WIDTH,
        "segments": len(list(folder.glob("segment-*"))),
    }


def exact(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """The best videos of every paragraph by the exact score of all, written beside the index."""
    queries = np.load(folder / ".queries.npz")["queries"]
    began = time.perf_counter()
    np.save(folder / ".exact.npy", exact_best(Store.open(folder).snapshot(), queries))
    return {"seconds": (time.perf_counter() - began) / len(queries)}


def search(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Memory, latency and recall, with the files in the page cache."""
    saved = np.load(folder / ".queries.npz")
    queries = saved["queries"]
    began = time.perf_counter()
    snapshot = Store.open(folder).snapshot()
    opening = time.perf_counter() - began
    for query in queries[:10]:
        snapshot.shortlist(query, max(SHORTLISTS))
    memory = {"first_stage": resident()}
    numbers = snapshot.item_numbers()
    for rows in np.array_split(numbers, max(1, len(numbers) // 4096)):
        snapshot.tensors(rows)  # into the page cache
    times: dict[str, dict[str, list[float]]] = {}
    shortlists: dict[int, list[np.ndarray]] = {count: [] for count in SHORTLISTS}
    for count in SHORTLISTS:
        spent = times[str(count)] = {"first": [], "second": [], "both": [], "cpu": []}
        for query in queries:
            computed = time.process_time()
            began = time.perf_counter()
            shortlist = snapshot.shortlist(query, count)
            between = time.perf_counter()
            best_of(second_stage(snapshot, query, shortlist), shortlist)
            ended = time.perf_counter()
            computed = time.process_time() - computed
            values = (between - began, ended - between, ended - began, computed)
            for name, value in zip(spent, values, strict=True):
                spent[name].append(1000 * value)
            shortlists[count].append(shortlist)
    memory["both_stages"] = resident()
    load = os.getloadavg()[0]
    best_of_all = np.load(folder / ".exact.npy")
    recalls = {}
    for count in SHORTLISTS:
        shares = [
            np.isin(best, shortlist).mean()
            for shortlist, best in zip(shortlists[count], best_of_all, strict=True)
        ]
        recalls[str(count)] = [
            float(np.mean(shares[kind :: len(NOISES)])) for kind in range(len(NOISES))
        ]
    found = np.array([f"v{video:07d}" for video in saved["asked"]]) == [
        item.video for item in snapshot.items(best_of_all[:, 0])
    ]
    return {
        "opening": opening,
        "milliseconds": {
            count: {name: quantiles(values) for name, values in spent.items()}
            for count, spent in times.items()
        },
        "load_of_queries": load,
        "recall": recalls,
        "found_first": [float(found[kind :: len(NOISES)].mean()) for kind in range(len(NOISES))],
        "memory": memory,
        "queries": len(queries),
    }


def exact_best(snapshot: Snapshot, queries: Float[np.ndarray, "Q S D"]) -> Int[np.ndarray, "Q t"]:
    """The best items of every query by the exact score of all items."""
    asked = torch.from_numpy(queries)
    best_scores = torch.full((len(queries), TOP), -torch.inf)
    best_numbers = torch.zeros(len(queries), TOP, dtype=torch.int64)
    numbers = snapshot.item_numbers()
    for rows in np.array_split(numbers, max(1, len(numbers) // 256)):
        clips = torch.from_numpy(snapshot.tensors(rows)["clips"]).float()
        scores = torch.cat([best_scores, attention(asked, clips)], dim=1)
        candidates = torch.cat(
            [best_numbers, torch.from_numpy(rows).expand(len(queries), -1)], dim=1
        )
        best_scores, places = scores.topk(TOP, dim=1)
        best_numbers = candidates.gather(1, places)
    return best_numbers.numpy()


def cold(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """The first query, and second stages of later ones, after the files left the page cache."""
    queries = np.load(folder / ".queries.npz")["queries"]
    for path in folder.glob("segment-*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    count = max(SHORTLISTS)
    began = time.perf_counter()
    snapshot = Store.open(folder).snapshot()
    opening = time.perf_counter() - began
    first, second = [], []
    for query in queries[:20]:
        began = time.perf_counter()
        shortlist = snapshot.shortlist(query, count)
        between = time.perf_counter()
        second_stage(snapshot, query, shortlist)
        first.append(1000 * (between - began))
        second.append(1000 * (time.perf_counter() - between))
    return {
        "opening": opening,
        "first_stage_of_first": first[0],
        "second_stage": quantiles(second),
        "shortlist": count,
    }


def change(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Adding one video and removing it again."""
    store = Store.open(folder)
    _, clips = make_videos(10**9, 1)
    with store.writer() as writer:
        store.snapshot()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            writer.append(
                [{"id": "new"}],
                [Item("new", 0.0, 1.0)],
                places_of(clips, store.layout.places),
                {"clips": clips.astype(np.float16)},
            )
            added = time.perf_counter()
            writer.remove(["new"])
            times.append((added - began, time.perf_counter() - added))
        writer.compact()
    adding, removing = np.median(times, axis=0)
    return {"adding_one": float(adding), "removing_one": float(removing)}


def quantiles(values: list[float]) -> dict[str, float]:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return {"p50": float(p50), "p95": float(p95)}


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own, and of mapped files, which the system can take
    back."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: 1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")}


# In the parent process: the list of measurements, and their tables.


def run_all(args: argparse.Namespace, folder: Path, *, keep: bool) -> dict[str, Any]:
    sizes, places = numbers_of(args.sizes), numbers_of(args.places)
    results: dict[str, Any] = {
        "machine": f"{processor()}, {args.threads} threads; torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "cases": [],
    }
    plan = [(size, places[0]) for size in sizes]
    plan += [(size, count) for count in places[1:] for size in sizes if size < max(sizes)]
    for size, count in plan:
        index = folder / f"{size}-{count}"
        spec = {
            "folder": str(index),
            "size": size,
            "places": count,
            "threads": args.threads,
            "queries": args.queries,
        }
        try:
            found = {"size": size, "places": count} | {
                kind: run_once(index / f".{kind}.json", spec | {"kind": kind})
                for kind in ("build", "exact", "search", "cold", "change")
            }
        finally:
            if not keep:
                shutil.rmtree(index, ignore_errors=True)
        results["cases"].append(found)
        print(json.dumps(found), file=sys.stderr)
    return results


def run_once(path: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """A measurement that an earlier run may have made."""
    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text())
        return result
    result = run_case(spec)
    path.write_text(json.dumps(result))
    return result


def run_case(spec: dict[str, Any]) -> dict[str, Any]:
    """Raises InputError with the message of the process, or the last line of one that failed."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(spec)], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{spec['kind']} of {spec['size']:,}: {last.removeprefix('error: ')}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        return name.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.machine()


PAGE = """# Search in an index

Written by `python moment_localization/index_bench.py --out docs/index`.

{machine}.

Synthetic videos, of five events in 16 clips of 128 numbers, and paragraphs of four sentences about
four of the events. Noise of length 1, 2.5 and 4 in the sentences leaves a mean cosine of about
0.68, 0.36 and 0.23 with a clip of the event. The first stage compares the sentences with the
places of every video, means of runs of its clips, in eight bits and in order; it gives a shortlist.
The second stage is the exact score of the shortlist, an attention of the sentences over all 16
clips in float16, in order. As many places as there are events is kind to the first stage; what real
videos lose is measured on their own index.

## Cost

Building is without the making of the videos. Memory is that of the process with Torch after the
first stage of ten queries; what is mapped is in the page cache, which the system can take back.
Opening is with warm files. Adding and removing one video are medians of five.

{cost}

## Recall

Share of the exact {top} best videos of all that are in the shortlist, at noise 1 / 2.5 / 4. `first`
is the share of paragraphs whose own video is the exact best one.

{recall}

## Latency

Milliseconds of a paragraph with warm files, p50 / p95, over {queries} paragraphs. `CPU` is what all
threads of the process computed. The load is that of the machine over the last minute, these threads
included; where it is above the number of cores, the process had to wait for them. `exact, all` is
the exact score of every video, for all paragraphs at once, per paragraph.

{latency}

## Cold files

Milliseconds after the files have left the page cache, with a shortlist of {longest}: the first
stage of the first query, which reads the vectors of all videos, and the second stages of 20
queries, p50 / p95.

{cold}
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    marks = ["---:"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, marks, *rows))


def page(results: dict[str, Any]) -> str:
    cost, recalls, latency, cold_rows = [], [], [], []
    for found in results["cases"]:
        videos = [f"{found['size']:,}", str(found["places"])]
        built, searched, changed = found["build"], found["search"], found["change"]
        memory = searched["memory"]["first_stage"]
        cost.append(
            [
                *videos,
                f"{built['bytes'] / 1e9:.2f}",
                f"{built['first_stage_bytes'] / 1e6:.0f}",
                f"{built['adding']:.1f}",
                str(built["segments"]),
                f"{1000 * searched['opening']:.0f}",
                f"{memory['RssAnon'] / 1e6:.0f}",
                f"{memory['RssFile'] / 1e6:.0f}",
                f"{1000 * changed['adding_one']:.0f} / {1000 * changed['removing_one']:.0f}",
            ]
        )
        recalls.append(
            [
                *videos,
                *(joined(searched["recall"][str(count)], ".3f") for count in SHORTLISTS),
                joined(searched["found_first"], ".2f"),
            ]
        )
        for count in SHORTLISTS:
            times = searched["milliseconds"][str(count)]
            latency.append(
                [
                    *videos,
                    f"{count:,}",
                    *(joined(each.values(), ".1f") for each in times.values()),
                    f"{1000 * found['exact']['seconds']:.0f}",
                    f"{searched['load_of_queries']:.1f}",
                ]
            )
        cold_rows.append(
            [
                *videos,
                f"{found['cold']['first_stage_of_first']:.0f}",
                joined(found["cold"]["second_stage"].values(), ".0f"),
                f"{found['cold']['load'][1]:.1f}",
            ]
        )
    return PAGE.format(
        machine=results["machine"],
        top=TOP,
        longest=f"{max(SHORTLISTS):,}",
        queries=results["cases"][0]["search"]["queries"],
        cost=table(
            [
                "videos",
                "places",
                "GB on disk",
                "MB of the first stage",
                "building, s",
                "segments",
                "opening, ms",
                "own memory, MB",
                "mapped, MB",
                "add / remove one, ms",
            ],
            cost,
        ),
        recall=table(
            ["videos", "places", *(f"shortlist {count:,}" for count in SHORTLISTS), "first"],
            recalls,
        ),
        latency=table(
            [
                "videos",
                "places",
                "shortlist",
                "first stage",
                "second stage",
                "both",
                "CPU",
                "exact, all",
                "load",
            ],
            latency,
        ),
        cold=table(["videos", "places", "first stage", "second stage", "load"], cold_rows),
    )


def numbers_of(text: str, flag: str = "") -> list[int]:
    """Raises InputError."""
    if not all(number.isdigit() and int(number) > 0 for number in text.split(",")):
        raise InputError(f"--{flag}: found {text!r}, expected numbers by comma")
    return [int(number) for number in text.split(",")]


def joined(values: Any, form: str) -> str:
    return " / ".join(format(value, form) for value in values)


def main() -> None:
    args = parse_arguments()
    if args.one:
        print(json.dumps(measure(json.loads(args.one))))
        return
    for flag in ("sizes", "places"):
        numbers_of(getattr(args, flag), flag)
    for flag in ("queries", "threads"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag}: found {getattr(args, flag)}, expected at least 1")
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        results = run_all(args, args.folder, keep=True)
    else:
        with tempfile.TemporaryDirectory(prefix="index_bench-") as folder:
            results = run_all(args, Path(folder), keep=False)
    text = page(results)
    print(text)
    if args.out:
        for suffix, content in (("md", text), ("json", json.dumps(results, indent=1) + "\n")):
            write_bytes(Path(f"{args.out}.{suffix}"), content.encode())


if __name__ == "__main__":
    run_script(main)
