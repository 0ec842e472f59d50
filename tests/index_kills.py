"""Writers of an index that are killed at random moments, with a reader that checks all it sees.

python -m tests.index_kills 100     that many kills, and what came of them
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from lib.index import Item, Layout, Snapshot, Store

GROUP = 3  # videos added, and removed, together
WIDTH, PLACES, CLIPS = 8, 2, 3
LAYOUT = Layout({"clips": ((CLIPS, WIDTH), "float16")}, PLACES, WIDTH)


def vectors_of(video: int) -> np.ndarray:
    return np.random.default_rng(video).standard_normal((PLACES, WIDTH)).astype(np.float32)


def clips_of(video: int) -> np.ndarray:
    return np.full((CLIPS, WIDTH), video % 2048, np.float16)


def create(folder: Path) -> Store:
    sample = np.stack([vectors_of(video) for video in range(50)])
    return Store.create(folder, header={}, layout=LAYOUT, embedding_width=WIDTH, sample=sample)


def videos_of(group: int) -> range:
    return range(GROUP * group, GROUP * (group + 1))


def ids_of(group: int) -> list[str]:
    return [f"v{video}" for video in videos_of(group)]


def add(writer, group: int) -> None:
    videos = videos_of(group)
    writer.append(
        [{"id": f"v{video}", "group": group} for video in videos],
        [Item(f"v{video}", 0.0, float(video)) for video in videos],
        np.stack([vectors_of(video) for video in videos]),
        {"clips": np.stack([clips_of(video) for video in videos])},
    )


def check(snapshot: Snapshot) -> set[int]:
    """The groups that are there; each is there as a whole, found, and what it was."""
    groups = Counter(int(video_id[1:]) // GROUP for video_id in snapshot.video_ids())
    assert set(groups.values()) <= {GROUP}, "a part of a group"
    assert snapshot.num_videos == GROUP * len(groups)
    if not groups:
        return set()
    for group in random.sample(sorted(groups), min(3, len(groups))):
        for video, video_id in zip(videos_of(group), ids_of(group), strict=True):
            assert snapshot.record(video_id) == {"id": video_id, "group": group}
            numbers = snapshot.items_of(video_id)
            assert snapshot.items(numbers) == [Item(video_id, 0.0, float(video))]
            assert (snapshot.tensors(numbers)["clips"] == clips_of(video)).all()
            assert numbers[0] in snapshot.shortlist(vectors_of(video), 5)
    return set(groups)


def change(folder: Path, seed: int, first: int, said: int) -> None:
    """Change the index for ever, and say before each change what it is and after it that it is
    done."""
    rng, store = random.Random(seed), Store.open(folder)
    with store.writer() as writer:
        groups, new = sorted(check(store.snapshot())), first
        while True:
            what = rng.choices(["add", "remove", "compact"], [8, 3, 1])[0]
            group = rng.choice(groups) if groups and what == "remove" else new
            what = "add" if what == "remove" and group == new else what
            os.write(said, f"{what} {group}\n".encode())
            if what == "add":
                add(writer, group)
                groups.append(group)
                new += 1
            elif what == "remove":
                assert writer.remove(ids_of(group)) == GROUP
                groups.remove(group)
            else:
                writer.compact()
            os.write(said, b"done\n")


def kill_writers(
    folder: Path, kills: int, *, seed: int = 0, longest: float = 0.3
) -> dict[str, int]:
    """Raises AssertionError for a wrong read, or a change that was done and is not there."""
    rng, store = random.Random(seed), create(folder)
    there: set[int] = set()
    reads = changes = leftovers = 0
    for number in range(kills):
        hears, says = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                os.close(hears)
                change(folder, seed + number, 1_000_000 + 1000 * number, says)
            except BaseException as fault:
                os.write(2, f"{fault!r}\n".encode())
            finally:
                os._exit(1)
        os.close(says)
        end = time.monotonic() + rng.uniform(0.02, longest)
        while time.monotonic() < end:
            check(store.snapshot())
            reads += 1
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the writer ended by itself"
        with os.fdopen(hears) as heard:
            lines = heard.read().splitlines()
        begun, last = [], None
        for line in lines:
            if line == "done":
                begun.append(last)
                last = None
            else:
                last = line
        for line in begun:
            there = _after(there, line)
        changes += len(begun)
        found = check(Store.open(folder).snapshot())
        assert found in (there, _after(there, last)), "a change was lost or half done"
        there = found
        named = {entry.file for entry in store.snapshot().manifest.entries}
        files = {path.name for path in folder.iterdir()}
        leftovers += len(
            files - named - {"header.json", "manifest.json", "projection.npy", ".lock"}
        )
    with store.writer():
        named = {entry.file for entry in store.snapshot().manifest.entries}
        left = {path.name for path in folder.iterdir()} - named
        assert left == {"header.json", "manifest.json", "projection.npy", ".lock"}
    store.snapshot().verify()
    return {
        "kills": kills,
        "reads": reads,
        "changes": changes,
        "generation": store.snapshot().generation,
        "leftovers": leftovers,
    }


def _after(groups: set[int], line: str | None) -> set[int]:
    what, group = (line or "compact 0").split()
    if what == "add":
        return groups | {int(group)}
    return groups - {int(group)} if what == "remove" else groups


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp())
    try:
        print(kill_writers(place / "index", int(sys.argv[1]), seed=int(time.time())))
    finally:
        shutil.rmtree(place)
