import dataclasses
import hashlib
import os

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sonokit.clips import shards
from sonokit.clips.cache_erasure import CacheTraces, erase_from_cache, find_in_cache
from sonokit.clips.mentions import Names
from sonokit.clips.shards import ShardWriter, StoredFrames, open_shards
from sonokit.errors import SonokitError


def content(number):
    return hashlib.sha256(f"file {number}".encode()).hexdigest()


def frames_of(number, size, count=3):
    return np.random.default_rng(number).integers(0, 256, (count, size, size), dtype=np.uint8)


def clip(number, size):
    return StoredFrames(content(number), frames_of(number, size), np.arange(3), "mp4", 25.0, 30, None if number % 2 else 30)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Nine clips in two settings, three a shard, and what is remembered of them; clip n is of patient-{n % 3}."""
    for size in (8, 16):
        folder = tmp_path / f"grey-{size}-3frames"
        folder.mkdir()
        monkeypatch.setattr(shards, "SHARD_BYTES", 9 * size**2)
        writer = ShardWriter(folder)
        for number in range(9):
            writer.add(clip(number, size))
        writer.flush()
        lines = "clip_id,path,reason\nodd,/data/patient-1/odd.mp4,no frames\nother,/data/patient-11/other.mp4,empty\n"
        (folder / "rejected.csv").write_text(lines)
    paths = [f"/data/patient-{n % 3}/{n}.mp4" for n in range(9)]
    memo = {"path": paths, "stamp": "1-1", "content_hash": [content(n) for n in range(9)]}
    pd.DataFrame(memo).to_parquet(tmp_path / "sources.parquet", index=False)
    return tmp_path


def everything(folder):
    """All bytes of all files, and what the Parquet files hold when they are unpacked, their statistics too."""
    texts = []
    for path in folder.rglob("*"):
        if path.is_file():
            texts += [path.name.encode(), path.read_bytes()]
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                texts += [str(file.read().to_pydict()).encode(), str(file.metadata.to_dict()).encode()]
                texts += [str(file.schema_arrow.metadata).encode()]
    return b"\n".join(texts)


def test_erase__no_byte_of_the_clips_is_left(cache):
    mine = Names.of(["patient-1"], ["clip-1", "clip-4", "clip-7"], map(content, (1, 4, 7)))
    before = everything(cache)
    for number in (1, 4, 7):
        assert content(number).encode() in before
        assert frames_of(number, 8).tobytes() in before
    found = find_in_cache(cache, mine)
    assert everything(cache) == before  # looking changes nothing
    assert found == erase_from_cache(cache, mine) == CacheTraces(clips=6, sources=3, rejected=2)
    after = everything(cache)
    for number in (1, 4, 7):
        assert content(number).encode() not in after
        assert bytes.fromhex(content(number)) not in after
        for size in (8, 16):
            assert all(frame.tobytes() not in after for frame in frames_of(number, size))
    assert b"patient-1/" not in after
    assert b"patient-11" in after
    assert not find_in_cache(cache, mine)


def test_erase__the_others_keep_frames_and_details(cache):
    before = {size: open_shards(cache / f"grey-{size}-3frames", size) for size in (8, 16)}
    kept = [0, 2, 3, 5, 6, 8]
    tables = {}
    for size, stored in before.items():
        order = stored.find(pd.Series([content(n) for n in kept]))
        tables[size] = stored.take(order).table
    erase_from_cache(cache, Names.of(content_hashes=map(content, (1, 4, 7))))
    for size in before:
        stored = open_shards(cache / f"grey-{size}-3frames", size)
        assert len(stored) == 6
        order = stored.find(pd.Series([content(n) for n in kept]))
        pd.testing.assert_frame_equal(stored.take(order).table, tables[size])
        for number, place in zip(kept, order, strict=True):
            np.testing.assert_array_equal(stored.frames(place), frames_of(number, size))
            assert stored.frame_numbers(place).tolist() == [0, 1, 2]


def test_erase__untouched_shards_stay_as_they_are(cache):
    folder = cache / "grey-8-3frames"
    concerned = [p for p in folder.glob("*.parquet") if content(0) in pq.read_table(p)["content_hash"].to_pylist()]
    before = {p.name for p in folder.iterdir()}
    erase_from_cache(cache, Names.of(content_hashes=[content(0)]))
    gone = before - {p.name for p in folder.iterdir()}
    assert gone == {concerned[0].name, concerned[0].with_suffix(".bin").name}


def test_erase__a_path_that_names_the_patient_tells_of_contents_that_nobody_named(cache):
    # the file was replaced since the store was made, or was never in one
    traces = erase_from_cache(cache, Names.of(["patient-2"]))
    assert traces == CacheTraces(clips=6, sources=3, rejected=0)
    assert content(2).encode() not in everything(cache)


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5, 6, 7, 8])
def test_erase__stopped_and_done_again(cache, monkeypatch, failing):
    mine = Names.of(["patient-1"], [], map(content, (1, 4, 7)))
    calls = []

    def counted(original):
        def call(*arguments, **options):
            calls.append(None)
            if len(calls) == failing:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(os, "replace", counted(os.replace))
        stopped.setattr("pathlib.Path.unlink", counted(__import__("pathlib").Path.unlink))
        erase_from_cache(cache, mine)
    erase_from_cache(cache, mine)
    after = everything(cache)
    for number in (1, 4, 7):
        assert content(number).encode() not in after
        assert frames_of(number, 8)[0].tobytes() not in after
    assert len(open_shards(cache / "grey-8-3frames", 8)) == 6
    assert not list(cache.rglob(".tmp-*"))


def test_find__faults(cache, tmp_path):
    with pytest.raises(SonokitError, match="no frame cache"):
        find_in_cache(tmp_path / "nothing", Names.of(["p"]))
    next((cache / "grey-8-3frames").glob("*.parquet")).write_bytes(b"broken")
    with pytest.raises(SonokitError, match="damaged"):
        find_in_cache(cache, Names.of(["p"]))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("patient-1", True),
        ("/data/patient-1/clip.mp4", True),
        ("the clip of patient-1.", True),
        ("patient-1_b", True),
        ("patient-11", False),
        ("xpatient-1", False),
        ("inpatient-1", False),
        ("7", True),
        ("7 of 9", False),
        ("/data/7/clip.mp4", False),
    ],
)
def test_names__are_words_of_their_own(text, named):
    assert Names.of(["patient-1", "7"]).are_value(text) is named


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/data/P01/clip.mp4", True),
        ("P01/clip", True),
        ("/data/P01.mp4", True),
        ("P01", True),
        ("s3://bank/1234567/x.mp4", True),
        ("C:\\data\\P01\\x.mp4", True),
        ("/data/P012/clip.mp4", False),
        ("/data/xP01/clip.mp4", False),
        ("/data/P01.old/clip.mp4", False),
        ("/data/patient/x.mp4", True),
        ("/data/patient-2/x.mp4", False),
        ("/data/my_patient.mp4", False),
        ("/data/pat-1_view2.mp4", True),
        ("/data/pat-12_view2.mp4", False),
        ("/siteB/other/video1.mp4", False),
        ("video1", True),
        ("/data/view1/a.mp4", False),
        ("/data/s-9/view1.mp4", True),
        ("/data/s-9/view12.mp4", False),
        ("/known/x.mp4", True),
        ("/other/known/x.mp4", False),
    ],
)
def test_names__in_paths(path, named):
    names = Names.of(["P01", "1234567", "patient", "pat-1"], ["video1", "s-9/view1"], ["0" * 64], ["/known/x.mp4"])
    assert names.are_in_path(path) is named


def test_find__a_shard_that_lost_its_frames_and_what_killed_runs_left(cache):
    folder = cache / "grey-8-3frames"
    lost = next(p for p in folder.glob("*.parquet") if content(0) in pq.read_table(p)["content_hash"].to_pylist())
    lost.with_suffix(".bin").unlink()
    (folder / ".tmp-shard-abc.bin").write_bytes(frames_of(1, 8).tobytes())
    (folder / "shard-abc.bin").write_bytes(frames_of(1, 8).tobytes())
    (cache / ".tmp-abc-sources.parquet").write_text("patient-1")
    (folder / ".tmp-abc-rejected.csv").write_text("patient-1")
    mine = Names.of(content_hashes=[content(0)])
    assert find_in_cache(cache, mine).leftovers == 4
    erase_from_cache(cache, mine)
    assert content(0).encode() not in everything(cache)
    assert not list(cache.rglob(".tmp-*"))
    assert not find_in_cache(cache, mine)


def test_find__contents_of_others_are_spared_whatever_their_paths(cache):
    found = find_in_cache(cache, Names.of(["patient-1"]), {content(1), content(4)})
    assert (found.sources, found.clips, found.by_name) == (1, 2, ("/data/patient-1/7.mp4",))
    erase_from_cache(cache, Names.of(["patient-1"]), {content(1), content(4)})
    assert len(open_shards(cache / "grey-8-3frames", 8)) == 8


def test_names__in_trees():
    names = Names.of(["patient-1"], ["a/b"], ["0123456789abcdef" * 4])
    assert names.are_in_tree({"x": [1, {"y": "a/b"}]})
    assert names.are_in_tree({"patient-1": None})
    assert names.are_in_tree(["clip (0123456789abcdef)"])
    assert not names.are_in_tree({"x": [1, None, "a/bc", 2.0]})
    assert names.erased_from({"m": "/d/patient-1/m.csv", "n": [1, "a/b"]}) == {"m": "/d/erased/m.csv", "n": [1, "erased"]}
    assert names.are_in("<td>a/b</td>")
    assert not names.are_in("a/b")  # too short to be told from chance in a text
    assert names.are_in("of patient-1, twice")
    assert Names.of(["p&1x"]).are_in("<td>p&amp;1x</td>")
    assert dataclasses.is_dataclass(names)
