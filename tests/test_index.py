"""An index is whole whatever happens to its writer, and its first stage loses little."""

from __future__ import annotations

import itertools
import json
import mmap
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.index import Item, Layout, Snapshot, Store, first_stage, neighbours, segment, store
from lib.index.first_stage import Quantizer, float_products, integer_products, scores_of
from lib.index.places import places_of
from lib.index.recall import recall
from moment_localization import index_bench
from tests import index_kills
from tests.disk import room_for
from tests.several import together

WIDTH, PLACES = 16, 3
LAYOUT = Layout({"rows": ((2, 5), "float16"), "length": ((), "int64")}, PLACES, WIDTH)


def vectors(count: int, width: int = WIDTH, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, PLACES, width)).astype(np.float32)


def create(folder: Path, layout: Layout = LAYOUT, width: int = WIDTH) -> Store:
    return Store.create(
        folder,
        header={"run": "ä", "epoch": 3},
        layout=layout,
        embedding_width=width,
        sample=vectors(200, width),
    )


def rows_of(number: int) -> np.ndarray:
    return np.full((2, 5), number, np.float16)


def add(writer: Any, numbers: Any, *, width: int = WIDTH, windows: int = 1) -> None:
    """Videos of these numbers, each of some windows, with vectors of the video's number."""
    owners = [number for number in numbers for _ in range(windows)]
    all_vectors = vectors(1000, width)
    writer.append(
        [{"id": f"v{number}", "title": f"Nr. {number} ü"} for number in numbers],
        [Item(f"v{owner}", at % windows, at % windows + 1) for at, owner in enumerate(owners)],
        all_vectors[owners],
        {
            "rows": np.stack([rows_of(owner) for owner in owners]),
            "length": np.array(owners),
        },
    )


def found(snapshot: Snapshot, number: int, count: int = 1) -> list[str]:
    shortlist = snapshot.shortlist(vectors(1000)[number], count)
    return [item.video for item in snapshot.items(shortlist)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


class TestWhatIsAdded:
    def test_is_found_and_comes_back_as_it_was(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(5), windows=2)
            add(writer, range(5, 40))
        snapshot = Store.open(folder).snapshot()
        assert Store.open(folder).header == {"run": "ä", "epoch": 3}
        assert (snapshot.num_videos, snapshot.num_items) == (40, 45)
        assert "v7" in snapshot and "v40" not in snapshot
        assert snapshot.record("v7") == {"id": "v7", "title": "Nr. 7 ü"}
        assert list(snapshot.video_ids()) == [f"v{number}" for number in range(40)]
        assert snapshot.items(snapshot.items_of("v3")) == [Item("v3", 0, 1), Item("v3", 1, 2)]
        for number in (0, 4, 5, 39):
            assert found(snapshot, number) == [f"v{number}"]
        numbers = np.array([44, 0, 13, 9, 13])  # of two segments, not in order, one of them twice
        owners = [int(item.video[1:]) for item in snapshot.items(numbers)]
        tensors = snapshot.tensors(numbers)
        assert tensors["length"].tolist() == owners == [39, 0, 8, 4, 8]
        assert (tensors["rows"] == np.stack([rows_of(owner) for owner in owners])).all()
        assert tensors["rows"].dtype == np.float16
        assert snapshot.tensors(np.array([], np.int64))["rows"].shape == (0, 2, 5)

    def test_may_have_its_items_in_any_order(self, folder: Path) -> None:
        with create(folder).writer() as writer:
            writer.append(
                [{"id": "a"}, {"id": "b"}],
                [Item("b", 0, 1), Item("a", 0, 1), Item("b", 1, 2)],
                vectors(3),
                {"rows": np.zeros((3, 2, 5)), "length": np.array([10, 20, 30])},
            )
        snapshot = Store.open(folder).snapshot()
        for video, lengths in (("a", [20]), ("b", [10, 30])):
            numbers = snapshot.items_of(video)
            assert snapshot.tensors(numbers)["length"].tolist() == lengths

    def test_is_seen_by_the_next_snapshot_and_not_by_one_that_was_taken(self, folder: Path) -> None:
        index, reader = create(folder), Store.open(folder)
        empty = reader.snapshot()
        assert reader.snapshot() is empty
        assert empty.shortlist(vectors(1)[0], 5).size == 0 and list(empty.video_ids()) == []
        with index.writer() as writer:
            add(writer, range(10))
            first = reader.snapshot()
            add(writer, range(10, 20))
            writer.remove(["v3"])
            writer.compact()
        assert (empty.num_videos, first.num_videos, reader.snapshot().num_videos) == (0, 10, 19)
        # Its files are gone by now, but not what it has mapped.
        assert found(first, 3) == ["v3"] and first.record("v3")["id"] == "v3"
        first.verify()

    def test_can_be_an_id_of_any_characters(self, folder: Path) -> None:
        ids = ["a b", "../x", "日本", "\udcff", '"', "x\0y"]
        with create(folder).writer() as writer:
            writer.append(
                [{"id": video_id} for video_id in ids],
                [Item(video_id, 0, 1) for video_id in ids],
                vectors(len(ids)),
                {"rows": np.zeros((len(ids), 2, 5)), "length": np.arange(len(ids))},
            )
        snapshot = Store.open(folder).snapshot()
        assert list(snapshot.video_ids()) == ids
        assert all(snapshot.record(video_id)["id"] == video_id for video_id in ids)

    def test_is_told_apart_where_two_ids_have_one_key(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("segment", "snapshot", "store"):
            monkeypatch.setattr(f"lib.index.{module}.key_of", lambda video_id: len(video_id))
        with create(folder).writer() as writer:
            add(writer, range(10, 20))
            assert writer.remove(["v13"]) == 1
            add(writer, [20])
        snapshot = Store.open(folder).snapshot()
        assert snapshot.record("v17")["id"] == "v17" and "v13" not in snapshot
        assert "v20" in snapshot and "v99" not in snapshot

    @pytest.mark.parametrize("ids", [["v3"], ["w", "w"]])
    def test_is_refused_twice(self, folder: Path, ids: list[str]) -> None:
        with create(folder).writer() as writer:
            add(writer, range(5))
            tensors = {"rows": np.zeros((1, 2, 5)), "length": np.zeros(1)}
            with pytest.raises(InputError, match=r"'v3' already; remove it|'w' is given twice"):
                writer.append(
                    [{"id": video_id} for video_id in ids],
                    [Item(ids[0], 0, 1)],
                    vectors(1),
                    tensors,
                )
        assert Store.open(folder).snapshot().num_videos == 5

    @pytest.mark.parametrize(
        ("what", "value"), [("vectors", np.nan), ("rows", 1e6), ("rows", np.inf)]
    )
    def test_must_be_finite_as_it_is_kept(self, folder: Path, what: str, value: float) -> None:
        given = {"vectors": vectors(2), "rows": np.zeros((2, 2, 5)), "length": np.zeros(2)}
        given[what][1, 0] = value
        with create(folder).writer() as writer:
            first = given.pop("vectors")
            with pytest.raises(InputError, match=f"video 'b': its {what} hold numbers that are n"):
                writer.append(
                    [{"id": "a"}, {"id": "b"}], [Item("a", 0, 1), Item("b", 0, 1)], first, given
                )

    def test_must_have_the_layout(self, folder: Path) -> None:
        with create(folder).writer() as writer:
            rows, length = np.zeros((1, 2, 5)), np.zeros(1)
            video, item = [{"id": "a"}], [Item("a", 0, 1)]
            with pytest.raises(ValueError, match="expected"):
                writer.append(video, item, vectors(1), {"rows": rows})
            with pytest.raises(ValueError, match="rows: .* expected"):
                writer.append(video, item, vectors(1), {"rows": rows[0], "length": length})
            with pytest.raises(ValueError, match="not given: .*'c'"):
                writer.append(
                    video, [Item("c", 0, 1)], vectors(1), {"rows": rows, "length": length}
                )


class TestWhatIsRemoved:
    def test_never_answers(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(300))
            gone = [f"v{number}" for number in range(0, 300, 3)]
            assert writer.remove([*gone, "v0", "nobody"]) == 100
            before = index.snapshot()
            writer.compact()
        for snapshot in (before, index.snapshot()):
            assert (snapshot.num_videos, snapshot.num_items) == (200, 200)
            assert not set(gone) & set(snapshot.video_ids())
            everything = snapshot.shortlist(vectors(1000)[3], 1000)
            assert len(everything) == 200 == len(snapshot.item_numbers())
            assert set(everything) == set(snapshot.item_numbers())
            assert not set(gone) & {item.video for item in snapshot.items(everything)}
            assert set(np.concatenate([n for n, _ in snapshot.places()])) == set(everything)
            assert "v3" not in snapshot
            with pytest.raises(InputError, match='holds no video "v3"'):
                snapshot.record("v3")
            with pytest.raises(InputError, match='holds no video "v3"'):
                snapshot.items_of("v3")

    def test_may_come_again(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(5))
            writer.remove(["v3"])
            add(writer, [3], windows=2)
            assert index.snapshot().items_of("v3").tolist() == [5, 6]
            writer.compact()
        snapshot = index.snapshot()
        assert list(snapshot.video_ids()) == ["v0", "v1", "v2", "v4", "v3"]
        assert len(snapshot.items_of("v3")) == 2 and found(snapshot, 3) == ["v3"]

    def test_gives_its_space_back_when_compacted(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(1000))
            full = size_of(folder)
            writer.remove([f"v{number}" for number in range(990)])
            assert size_of(folder) == full
            writer.compact()
            assert size_of(folder) < full / 3
            generation = index.snapshot().generation
            writer.compact()
            assert index.snapshot().generation == generation  # nothing left to do
            writer.remove(list(index.snapshot().video_ids()))
            writer.compact()
        assert index.snapshot().num_videos == 0 and not list(folder.glob("segment-*"))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("segment-*"))


class TestAReader:
    def test_goes_on_when_files_of_what_it_read_are_gone(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer merges between its reading of the manifest and its opening of the segments."""
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(5))
            add(writer, range(5, 10))
            read = iter([(folder / "manifest.json").read_bytes()])
            writer.compact()
        monkeypatch.setattr(store, "read_bytes", lambda path: next(read, None) or path.read_bytes())
        reader = Store(folder, index.header, LAYOUT, index._quantizer)
        assert reader.snapshot().num_videos == 10
        assert [entry.number for entry in reader.snapshot().manifest.entries] == [3]

    def test_asks_for_all_it_will_read_at_once(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(10))
            add(writer, range(10, 20))
        snapshot, asked = index.snapshot(), []
        monkeypatch.setattr(segment.Segment, "_advise", lambda _, *what: asked.append(what))
        snapshot.tensors(np.array([9, 3, 19, 4, 5, 3, 11]))
        ranges = [(3, 6), (9, 10), (1, 2), (9, 10)]  # of the first segment, then of the second
        for name in ("tensor rows", "tensor length"):
            found = [what[2:] for what in asked if what[:2] == (mmap.MADV_WILLNEED, name)]
            assert found == ranges
        assert len(asked) == 8


class TestSegments:
    def test_stay_few_and_merging_changes_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index = create(folder)
        counts: list[int] = []
        copied: list[int] = []

        def write_merged(path: Path, layout: Layout, segments: Any, kept: Any) -> Any:
            copied.append(sum(map(len, kept)))
            return segment.write_merged(path, layout, segments, kept)

        monkeypatch.setattr(store, "write_merged", write_merged)
        with index.writer() as writer:
            for number in range(100):
                add(writer, [number])
                counts.append(len(list(folder.glob("segment-*"))))
        assert max(counts) < 24 and sum(copied) < 4 * 100
        assert len(index.snapshot().manifest.entries) == counts[-1]
        snapshot = index.snapshot()
        assert list(snapshot.video_ids()) == [f"v{number}" for number in range(100)]
        for number in range(0, 100, 7):
            assert found(snapshot, number) == [f"v{number}"]
            tensors = snapshot.tensors(snapshot.items_of(f"v{number}"))
            assert (tensors["rows"] == rows_of(number)).all()
        snapshot.verify()

    def test_of_large_size_are_left_alone(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "_LARGE", 10)
        index = create(folder)
        with index.writer() as writer:
            for number in range(12):
                add(writer, range(10 * number, 10 * number + 10))
            assert len(list(folder.glob("segment-*"))) == 12
            writer.remove(["v5", "v77"])
            files = set(folder.glob("segment-*"))
            writer.compact()
            assert len(files & set(folder.glob("segment-*"))) == 10
        assert index.snapshot().num_videos == 118 and found(index.snapshot(), 76) == ["v76"]


class TestTheFirstStage:
    @pytest.mark.parametrize("sentences", [1, 2, 5])
    @pytest.mark.parametrize("places", [1, 2, 4])
    def test_is_the_best_way_in_order(self, sentences: int, places: int) -> None:
        torch.manual_seed(0)
        query = torch.randint(-127, 128, (sentences, 6), dtype=torch.int8)
        stored = torch.randint(-127, 128, (places, 50, 6), dtype=torch.int8)
        each = torch.einsum("sw,pnw->spn", query.int(), stored.int())
        ways = itertools.combinations_with_replacement(range(places), sentences)
        expected = torch.stack([sum(each[s, p] for s, p in enumerate(way)) for way in ways]).amax(
            dim=0
        )
        assert torch.equal(scores_of(query, stored, ordered=True), expected.int())
        free = each.amax(dim=1).sum(dim=0)
        assert torch.equal(scores_of(query, stored, ordered=False), free.int())

    def test_has_the_same_bits_without_integer_products(self) -> None:
        assert first_stage.products is integer_products  # what is installed here has them
        torch.manual_seed(0)
        for width, count, sentences in ((1, 1, 1), (7, 33, 3), (128, 500, 4), (1040, 20, 2)):
            rows = torch.randint(-127, 128, (count, width), dtype=torch.int8)
            query = torch.randint(-127, 128, (sentences, width), dtype=torch.int8)
            query[0], rows[0] = 127, -127  # the largest sum there is
            exact = integer_products(rows, query)
            assert torch.equal(exact, float_products(rows, query))
            assert torch.equal(exact.long(), rows.long() @ query.long().t())

    def test_does_without_a_function_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(torch, "_int_mm")
        assert first_stage._best_products() is float_products

    def test_ranks_as_the_cosines_do(self, folder: Path) -> None:
        layout = Layout({}, PLACES, 32, ordered=False)
        index = create(folder, layout, width=32)
        given = 7 * vectors(500, 32, seed=1)  # of any length
        given[5] = 0
        with index.writer() as writer:
            writer.append(
                [{"id": str(n)} for n in range(500)],
                [Item(str(n), 0, 1) for n in range(500)],
                given,
                {},
            )
        query = vectors(1, 32, seed=2)[0]
        cosines = first_stage.normalised(query) @ first_stage.normalised(given).transpose(0, 2, 1)
        expected = cosines.max(axis=2).sum(axis=1)
        snapshot = index.snapshot()
        scores = snapshot.first_scores(query, np.arange(500))
        scale = (scores * expected).sum() / (scores * scores).sum()
        assert np.abs(scores * scale - expected).max() < 0.04
        shortlist = snapshot.shortlist(query, 20)
        assert (np.diff(scores[shortlist]) <= 0).all() and scores[5] == 0
        assert len(set(shortlist[:10]) & set(np.argsort(-expected)[:10])) >= 9

    def test_projects_wide_vectors_with_little_loss(self, folder: Path) -> None:
        """Vectors that lie in 20 of 300 directions, and some noise."""
        rng = np.random.default_rng(0)
        basis = rng.standard_normal((20, 300))

        def draw(count: int) -> np.ndarray:
            signal = rng.standard_normal((count, PLACES, 20)) @ basis
            return (signal + 0.3 * rng.standard_normal(signal.shape)).astype(np.float32)

        quantizer = Quantizer.fit(draw(400), 24)
        assert quantizer.projection.shape == (24, 300) and 0.97 < quantizer.kept < 1
        assert np.allclose(quantizer.projection @ quantizer.projection.T, np.eye(24), atol=1e-5)
        given = draw(300)
        stored = quantizer.stored(given).astype(np.float32) * (quantizer.limit / 127)
        unit = first_stage.normalised(given)
        products = np.einsum("pnw,qmw->pnqm", stored, stored)
        exact = np.einsum("npd,mqd->pnqm", unit, unit)
        assert np.abs(products - exact).max() < 0.08
        narrow = Quantizer.fit(draw(400), 10)
        assert narrow.kept < 0.8  # and says so
        assert Quantizer.fit(draw(5), 2).limit == 1  # no component of a unit vector is larger
        index = Store.create(
            folder, header={}, layout=Layout({}, PLACES, 24), embedding_width=300, sample=given
        )
        again = Store.open(folder)
        assert again.kept == index.kept and again.embedding_width == 300
        with pytest.raises(ValueError, match="expected .sentences, 300"):
            again.snapshot().shortlist(np.zeros((2, 24)), 5)

    def test_spreads_what_lies_in_few_components(self) -> None:
        """One component that is large in all vectors must not cost the others their steps."""
        given = 0.02 * vectors(500, 64)
        given[..., 0] += 1
        quantizer = Quantizer.fit(given, 64)
        stored = quantizer.stored(given).astype(np.float32)
        assert np.abs(stored).max() <= 127
        rounded = stored.transpose(1, 0, 2) * (quantizer.limit / 127) @ quantizer.projection
        error = np.linalg.norm(rounded - first_stage.normalised(given), axis=-1)
        assert error.max() < 0.02

    def test_finds_what_the_exact_score_finds_in_20_000(self, folder: Path) -> None:
        count = 20_000
        events, clips = index_bench.make_videos(0, count)
        places = places_of(clips, 5)
        index = Store.create(
            folder,
            header={},
            layout=Layout(index_bench.TENSORS, 5, index_bench.WIDTH),
            embedding_width=index_bench.WIDTH,
            sample=places[:2000],
        )
        names = [str(number) for number in range(count)]
        with index.writer() as writer:
            writer.append(
                [{"id": name} for name in names],
                [Item(name, 0.0, 1.0) for name in names],
                places,
                {"clips": clips.astype(np.float16)},
            )
        snapshot = index.snapshot()
        rng = np.random.default_rng(1)
        queries = [index_bench.make_query(events[n], 2.5, rng) for n in range(0, count, count // 8)]
        best = dict(
            zip(map(id, queries), index_bench.exact_best(snapshot, np.stack(queries)), strict=True)
        )

        def exact(query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            """As far as it matters: the ranks of the best ten."""
            order = {number: -rank for rank, number in enumerate(best[id(query)])}
            return np.array([order.get(number, -np.inf) for number in numbers.tolist()])

        long = recall(snapshot, queries, exact, count=1000)
        short = recall(snapshot, queries, exact, count=15)
        assert long >= 0.99 and 0.1 < short < long

    def test_is_the_same_on_several_threads(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lib.index.snapshot.CHUNK", 16)
        with (index := create(folder)).writer() as writer:
            add(writer, range(70))
            add(writer, range(70, 201))
            writer.remove(["v7", "v90"])
        snapshot, query = index.snapshot(), vectors(1000)[5]
        alone = snapshot.shortlist(query, 150).tolist()
        seen: list[int] = []

        def scores_here(*args: Any, **keywords: Any) -> torch.Tensor:
            seen.append(threading.get_ident())
            return scores_of(*args, **keywords)

        monkeypatch.setattr("lib.index.snapshot.scores_of", scores_here)
        try:
            torch.set_num_threads(3)
            assert snapshot.shortlist(query, 150).tolist() == alone
            assert threading.get_ident() not in seen
            assert torch.get_num_threads() == 3
            with ThreadPoolExecutor(1) as other:
                assert other.submit(torch.get_num_threads).result() == 3
        finally:
            torch.set_num_threads(1)
        assert snapshot.shortlist(query, 150).tolist() == alone

        def in_a_fork() -> list[int]:
            torch.set_num_threads(3)
            return snapshot.shortlist(query, 150).tolist()

        assert together(in_a_fork, tmp_path) == [alone, alone]

    def test_s_recall_among_a_longer_shortlist(self, folder: Path) -> None:
        with (index := create(folder)).writer() as writer:
            add(writer, range(100))
        snapshot, query = index.snapshot(), vectors(1000)[5]
        first = snapshot.shortlist(query, 100)

        def reverse(query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            return np.array([np.flatnonzero(first == number)[0] for number in numbers])

        shares = [
            recall(snapshot, [query], reverse, count=count, among=20) for count in (10, 15, 20)
        ]
        assert shares == [0.0, 0.5, 1.0]
        assert recall(snapshot, [query], reverse, count=95) == 0.5  # the worst ten of all

    def test_is_shared_by_processes(self, folder: Path, tmp_path: Path) -> None:
        with (index := create(folder)).writer() as writer:
            add(writer, range(70))
            add(writer, range(70, 200))
            writer.remove([f"v{number}" for number in range(60, 80)])
        queries = vectors(1000)[[3, 65, 150]]

        def search() -> list[list[int]]:
            snapshot = Store.open(folder).snapshot()
            return [snapshot.shortlist_across(query, 30).tolist() for query in queries]

        expected = [index.snapshot().shortlist(query, 30).tolist() for query in queries]
        assert together(search, tmp_path) == [expected, expected]
        assert search() == expected  # alone

    def test_by_faiss_gives_the_same_items(self, folder: Path) -> None:
        pytest.importorskip("faiss", reason="faiss is not installed")
        with (index := create(folder)).writer() as writer:
            add(writer, range(300))
            writer.remove([f"v{number}" for number in range(100)])
        snapshot = index.snapshot()
        flat = neighbours.Neighbours(snapshot, "Flat")
        lists = neighbours.Neighbours(snapshot, "IVF4,SQ8", probes=4)
        for query in vectors(1000)[100:120]:
            scan = snapshot.shortlist(query, 200)
            assert flat.shortlist(query, 600).tolist() == scan.tolist()
            assert lists.shortlist(query, 20)[0] == scan[0]
        with pytest.raises(InputError, match="faiss cannot build 'Nonsense' over 200 items"):
            neighbours.Neighbours(snapshot, "Nonsense")

    def test_by_faiss_says_that_it_is_missing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "faiss", None)
        with pytest.raises(InputError, match="not installed; pip install faiss-cpu"):
            neighbours.Neighbours(create(folder).snapshot())


class TestAnIndexThatIsNotWhole:
    def test_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no index .no header.json.; make one first"):
            Store.open(tmp_path)

    def test_is_not_made_over_something_else(self, folder: Path) -> None:
        create(folder)
        with pytest.raises(InputError, match=r"is not empty .header.json.; name another"):
            create(folder)
        (folder.parent / "file").write_text("")
        with pytest.raises(InputError, match="cannot be made an index"):
            create(folder.parent / "file")

    def test_is_made_after_a_killed_attempt(self, folder: Path) -> None:
        create(folder)
        (folder / "header.json").unlink()
        assert create(folder).snapshot().num_videos == 0

    def test_is_of_a_newer_version(self, folder: Path) -> None:
        create(folder)
        content = json.loads((folder / "header.json").read_text())["content"]
        store.write_sealed(folder / "header.json", {**content, "format": 2})
        with pytest.raises(
            InputError, match="is an index of format 2, this version reads format 1"
        ):
            Store.open(folder)

    @pytest.mark.parametrize("name", ["header.json", "projection.npy", "manifest.json"])
    @pytest.mark.parametrize("how", ["cut", "changed", "emptied"])
    def test_has_a_damaged_file(self, folder: Path, name: str, how: str) -> None:
        with create(folder).writer() as writer:
            add(writer, range(3))
        damage(folder / name, how)
        with pytest.raises(InputError, match=rf"{name} is damaged .*; put a copy of it back, or"):
            Store.open(folder).snapshot()

    @pytest.mark.parametrize("how", ["cut", "emptied", "grown", "exchanged", "described"])
    def test_has_a_segment_that_is_another(self, folder: Path, how: str) -> None:
        with create(folder).writer() as writer:
            add(writer, range(3))
            add(writer, range(3, 6))
        damage(folder / "segment-000001", how)
        with pytest.raises(InputError, match=r"segment-000001 is damaged .*; put a copy") as caught:
            Store.open(folder).snapshot()
        assert "\n" not in str(caught.value)

    def test_lacks_a_segment(self, folder: Path) -> None:
        with create(folder).writer() as writer:
            add(writer, range(3))
        (folder / "segment-000001").unlink()
        with pytest.raises(InputError, match="segment-000001 is missing; put a copy of it back"):
            Store.open(folder).snapshot()

    def test_has_a_changed_byte_which_reading_all_of_it_finds(self, folder: Path) -> None:
        with create(folder).writer() as writer:
            add(writer, range(300))
        Store.open(folder).snapshot().verify()
        path = folder / "segment-000001"
        content = bytearray(path.read_bytes())
        content[content.index(np.full(10, 77, np.float16).tobytes())] ^= 1
        path.write_bytes(content)
        snapshot = Store.open(folder).snapshot()
        with pytest.raises(InputError, match=r"damaged .its tensor rows have changed."):
            snapshot.verify()

    @pytest.mark.parametrize("instead", [b"\x00", b"\xff", b"[", b"7"])
    def test_has_a_video_that_cannot_be_read(self, folder: Path, instead: bytes) -> None:
        with create(folder).writer() as writer:
            add(writer, range(3))
        path = folder / "segment-000001"
        content = path.read_bytes()
        first = content.index(b'{"id"')
        length = len(content[first:].partition(b"}")[0]) + 1
        path.write_bytes(content[:first] + instead * length + content[first + length :])
        with pytest.raises(InputError, match=r"segment-000001 is damaged .what it says of its v"):
            list(Store.open(folder).snapshot().video_ids())


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    half = len(content) // 2
    if how == "changed":
        # The last digit of a file of JSON, or a byte of the matrix.
        at = max(half, *(content.rfind(digit) for digit in (b"1", b"2", b"3")))
        content = content[:at] + bytes([content[at] ^ 2]) + content[at + 1 :]
    elif how == "described":  # another description of the same length
        content = content.replace(b'"crc32": 1', b'"crc32": 2').replace(b"[3, 2]", b"[2, 3]")
    elif how == "exchanged":
        content = (path.parent / "segment-000002").read_bytes()
    else:
        content = {"cut": content[:half], "emptied": b"", "grown": content + b"\0"}[how]
    path.write_bytes(content)


class TestAWriter:
    def test_is_alone(self, folder: Path) -> None:
        index = create(folder)
        with (
            index.writer(),
            pytest.raises(
                InputError, match=rf"use by another process .number {os.getpid()}.; wait"
            ),
            Store.open(folder).writer(),
        ):
            pass
        with Store.open(folder).writer():
            pass

    def test_removes_what_a_killed_one_left(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(3))
        for name in ("segment-000002", "segment-000099", ".manifest.json.new"):
            (folder / name).write_bytes(b"half")
        with index.writer() as writer:
            assert sorted(path.name for path in folder.glob("*segment*")) == ["segment-000001"]
            assert not (folder / ".manifest.json.new").exists()
            add(writer, range(3, 6))
        assert index.snapshot().num_videos == 6

    @room_for(60_000)
    def test_on_a_full_disk_changes_nothing(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(10))
            with pytest.raises(
                InputError, match=r"segment-000002 cannot be written .File too large.; what was th"
            ):
                add(writer, range(10, 1000))
            assert not (folder / "segment-000002").exists()
            assert index.snapshot().num_videos == 10
            add(writer, range(10, 20))
        assert Store.open(folder).snapshot().num_videos == 20

    def test_without_room_for_the_manifest_changes_nothing(self, folder: Path) -> None:
        index = create(folder)
        with index.writer() as writer:
            add(writer, range(10))
            with room_for(100), pytest.raises(InputError, match=r"manifest.json cannot be written"):
                writer.remove(["v1"])
            assert "v1" in Store.open(folder).snapshot()
            monkey = pytest.MonkeyPatch()
            with monkey.context() as patch:
                patch.setattr(store.Manifest, "write", refuse)
                with pytest.raises(InputError, match="no room"):
                    add(writer, range(10, 20))
        assert sorted(path.name for path in folder.glob("segment-*")) == ["segment-000001"]
        assert Store.open(folder).snapshot().num_videos == 10

    def test_may_be_killed_at_any_moment(self, folder: Path) -> None:
        came = index_kills.kill_writers(folder, 20, longest=0.15)
        assert came["kills"] == 20 and came["changes"] > 0 and came["reads"] > 20

    def test_and_two_readers_at_once(self, folder: Path) -> None:
        index = index_kills.create(folder)
        context = multiprocessing.get_context("fork")
        stop = context.Event()
        readers = [context.Process(target=read_until, args=(folder, stop)) for _ in range(2)]
        for reader in readers:
            reader.start()
        end = time.monotonic() + 1.5
        with index.writer() as writer:
            group = 0
            while time.monotonic() < end or group < 12:
                index_kills.add(writer, group)
                if group % 3 == 2:
                    writer.remove(index_kills.ids_of(group - 1))
                if group % 10 == 9:
                    writer.compact()
                group += 1
        stop.set()
        for reader in readers:
            reader.join(60)
        assert [reader.exitcode for reader in readers] == [0, 0]


def refuse(manifest: Any, path: Path) -> None:
    raise InputError("no room")


def read_until(folder: Path, stop: Any) -> None:
    torch.set_num_threads(1)
    reader, generations = Store.open(folder), set()
    while not stop.is_set() or len(generations) < 2:
        snapshot = reader.snapshot()
        index_kills.check(snapshot)
        generations.add(snapshot.generation)


def test_the_benchmark_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(spec: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(index_bench.measure(spec)))

    monkeypatch.setattr(index_bench, "run_case", in_this_process)
    monkeypatch.setattr(index_bench, "BATCH", 300)
    out = tmp_path / "page"
    flags = ["--sizes", "500,1000", "--queries", "4", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["index_bench.py", *flags])
    monkeypatch.setattr(index_bench.tempfile, "tempdir", str(tmp_path / "at"))
    (tmp_path / "at").mkdir()
    index_bench.main()
    results = json.loads(out.with_suffix(".json").read_text())
    text = out.with_suffix(".md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    cases = [(found["size"], found["places"]) for found in results["cases"]]
    assert cases == [(500, 5), (1000, 5), (500, 4)]
    assert "| 500 | 4 |" in text and "| 1,000 | 5 |" in text
    for found in results["cases"]:
        assert found["search"]["recall"]["1000"] == [1.0, 1.0, 1.0]
        assert found["search"]["found_first"][0] == 1.0
    assert not list((tmp_path / "at").iterdir())  # nothing is left behind


class TestPlaces:
    def test_are_cut_where_the_clips_change(self) -> None:
        rng = np.random.default_rng(0)
        events = rng.standard_normal((3, 8))
        owner = np.array([[0, 0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 1, 1, 2]])
        clips = events[owner] + 0.01 * rng.standard_normal((2, 7, 8))
        units = clips / np.linalg.norm(clips, axis=2, keepdims=True)
        found = places_of(clips, 3)
        for video in range(2):
            expected = [units[video][owner[video] == event].mean(axis=0) for event in range(3)]
            assert np.allclose(found[video], expected, atol=1e-5)

    @pytest.mark.parametrize("count", [1, 2, 4, 6])
    def test_are_the_best_of_all_ways(self, count: int) -> None:
        rng = np.random.default_rng(0)
        clips = rng.standard_normal((5, 6, 4))
        units = clips / np.linalg.norm(clips, axis=2, keepdims=True)
        for video, means in zip(units, places_of(clips, count), strict=True):
            ways = []
            for inner in itertools.combinations(range(1, 6), count - 1):
                runs = np.split(video, inner)
                ways.append((sum(np.linalg.norm(run.sum(axis=0)) for run in runs), inner))
            expected = [run.mean(axis=0) for run in np.split(video, max(ways)[1])]
            assert np.allclose(means, expected, atol=1e-5)

    def test_repeat_the_last_of_few_clips(self) -> None:
        clips = np.eye(4)[None, :2]
        assert (places_of(clips, 4)[0] == np.eye(4)[[0, 1, 1, 1]]).all()


def test_the_attention_keeps_the_order() -> None:
    """Against the sum over all alignments."""
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(2, 3, 8), dim=-1)
    clips = torch.nn.functional.normalize(torch.randn(5, 4, 8), dim=-1)
    cosines = torch.einsum("qsd,nkd->qnsk", queries, clips).double() / index_bench.SHARPNESS
    ways = itertools.combinations_with_replacement(range(4), 3)
    sums = torch.stack([cosines[:, :, torch.arange(3), torch.tensor(way)].sum(-1) for way in ways])
    expected = index_bench.SHARPNESS * sums.logsumexp(dim=0)
    assert torch.allclose(index_bench.attention(queries, clips).double(), expected, atol=1e-5)
