"""Ask the page's server from many clients at once, and look whether it keeps anything.

    python -m tests.stress.load_page --clients 50 --seconds 60

A server shows a small index of films made on the spot, or of the MP4 files in a folder. Each client
searches, asks for score maps, and reads random byte ranges of 64 KiB; one answer in twenty is
broken off half way. Clients that would have to wait too long are told so (503), which is counted
and is no error. Then the server's memory and open files must be what they were after a warm-up.
Exit status 0: every answer was right, and nothing was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from lib.serving import listen, serve
from tests.small_index import SmallIndex, source_of, write_video

RANGE = 65536
KEPT = 24  # MiB that the memory may have grown by
WORDS = (
    *("he", "she", "opens", "closes", "a", "the", "door", "fridge"),
    *("bottle", "and", "drinks", "eats", "looks", "sits", "down"),
)


def resident(process: int) -> float:
    """MiB of memory that a process has in use."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def opened(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


async def client(
    http: httpx.AsyncClient, sizes: dict[str, int], draw: random.Random, end: float, seen: Counter
) -> list[float]:
    """Ask until the end; seconds of each answer."""
    spent = []
    while time.monotonic() < end:
        began = time.monotonic()
        video = draw.choice(list(sizes))
        kind = draw.random()
        paragraph = " ".join(draw.choices(WORDS, k=8)) + ". He goes."
        if kind < 0.05:
            async with http.stream("GET", "/video", params={"id": video}) as response:
                async for _ in response.aiter_raw(1024):
                    break
            seen[f"broken off {response.status_code}"] += 1
            continue
        if kind < 0.75:
            start = draw.randrange(sizes[video])
            last = min(start + RANGE, sizes[video]) - 1
            asked = {"range": f"bytes={start}-{last}"}
            response = await http.get("/video", params={"id": video}, headers=asked)
            right = response.status_code == 206 and len(response.content) == last - start + 1
        elif kind < 0.95:
            response = await http.post("/search", json={"paragraph": paragraph})
            right = response.status_code == 503 or len(response.json()["hits"]) == len(sizes)
        else:
            asked = {"paragraph": paragraph, "video": video}
            response = await http.post("/score-maps", json=asked)
            right = response.status_code == 503 or len(response.json()["maps"]) == 2
        spent.append(time.monotonic() - began)
        seen[f"{response.status_code}" if right else "WRONG"] += 1
    return spent


async def load(port: int, sizes: dict[str, int], clients: int, seconds: float) -> tuple:
    seen: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30
    ) as http:
        end = time.monotonic() + seconds
        found = await asyncio.gather(
            *(client(http, sizes, random.Random(seed), end, seen) for seed in range(clients))
        )
    return seen, sorted(second for each in found for second in each)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="of MP4 files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(args.videos.glob("*.mp4"))[:10] if args.videos else []
        files = files or [write_video(Path(folder) / f"{n}.mp4", 30) for n in range(4)]
        index = SmallIndex({path.stem: source_of(path, 30.0) for path in files})
        sizes = {path.stem: path.stat().st_size for path in files}
        with listen("127.0.0.1", "0") as bound:
            port = bound.getsockname()[1]
            server = multiprocessing.get_context("fork").Process(target=serve, args=(index, bound))
            server.start()
        assert server.pid is not None
        try:
            asyncio.run(load(port, sizes, args.clients, 5))  # threads and pages come once
            time.sleep(6)  # what was kept alive is closed
            before = resident(server.pid), opened(server.pid)
            seen, spent = asyncio.run(load(port, sizes, args.clients, args.seconds))
            time.sleep(6)
            after = resident(server.pid), opened(server.pid)
        finally:
            server.terminate()
            server.join()
    print(f"{sum(seen.values()):,} answers in {args.seconds:g} s: {dict(sorted(seen.items()))}")
    print(
        f"median {1000 * statistics.median(spent):.0f} ms, 95th percentile "
        f"{1000 * spent[int(0.95 * len(spent))]:.0f} ms, longest {1000 * spent[-1]:.0f} ms"
    )
    print(f"resident {before[0]:.1f} -> {after[0]:.1f} MiB, open files {before[1]} -> {after[1]}")
    good = {"200", "206", "503", "broken off 200"}
    return int(not (set(seen) <= good and after[1] <= before[1] and after[0] < before[0] + KEPT))


if __name__ == "__main__":
    sys.exit(main())
