import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sonokit import cli_store
from sonokit.command_line import run_commands
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

HEADER = StoreHeader(fingerprint="abc", kind="backbone", model="tiny", dimensions=3)


def make(folder, numbers, header=HEADER):
    store = EmbeddingStore.create(folder, header)
    for number in numbers:
        names = {"clip_id": [f"clip-{number}"], "content_hash": f"hash-{number}", "patient_id": f"patient-{number % 3}"}
        frame = pd.DataFrame({**names, "segment": 0})
        store.append(make_rows(header, frame, np.full((1, 3), number)))
    store.update_counts()
    return store


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "banks" / "store", range(6))


@pytest.fixture
def run(capsys):
    def command(*words):
        try:
            status = run_commands({"store": cli_store.COMMANDS}, "Test.", "0", ["store", *map(str, words)])
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return status, out, err

    return command


def test_group__is_described_by_its_module(run, capsys):
    assert run_commands({"store": cli_store.COMMANDS}, "Test.", "0", []) == 0
    assert "store  Look after embedding stores" in capsys.readouterr().out
    for name in cli_store.COMMANDS:
        status, out, _ = run(name, "--help")
        assert status == 0
        assert "usage" in out


def test_info(run, store):
    status, out, _ = run("info", store.folder)
    assert status == 0
    assert "6 of 6 clips of 3 patients" in out
    status, _, err = run("info", store.folder / "nothing")
    assert status == 2
    assert "not an embedding store" in err


def test_verify__status(run, store):
    status, out, _ = run("verify", store.folder)
    assert status == 0
    assert out.endswith("is whole: 6 rows of 6 clips in 6 parts of 1 stores\n")
    part = store.folder / "rows" / store.parts.names()[2]
    content = bytearray(part.read_bytes())
    content[40] ^= 1
    part.write_bytes(content)
    status, out, _ = run("verify", store.folder)
    assert status == 1
    assert part.name in out
    assert "is whole" not in out


def test_compact__a_store_and_its_floor(run, store):
    make(store.folder / "floor", range(6))
    status, out, _ = run("compact", store.folder)
    assert status == 0
    assert out.count("6 parts -> 1") == 2


def test_drop__only_with_yes(run, store):
    expert = store.folder.parent / "expert" / "expert.json"
    expert.parent.mkdir()
    expert.write_text(json.dumps({"store": {"fingerprint": "abc"}}))
    status, out, _ = run("drop", store.folder, "--patient", "patient-1")
    assert status == 0
    assert "would erase: 2 rows of 2 clips" in out
    assert "Nothing was changed" in out
    assert f"yours to decide: {expert}" in out
    assert len(store.done()) == 6
    status, out, _ = run("drop", store.folder, "--patient", "patient-1", "--yes", "true")
    assert out.startswith("erased: 2 rows of 2 clips")
    assert f"yours to decide: {expert}" in out
    assert sorted(EmbeddingStore.open(store.folder).done()) == [(f"clip-{n}", f"hash-{n}") for n in (0, 2, 3, 5)]
    status, out, _ = run("drop", store.folder, "--clip", "clip-0,clip-2", "--yes", "true")
    assert status == 0
    assert len(store.done()) == 2
    assert run("drop", store.folder)[0] == 2


@pytest.mark.parametrize("words", [["--patient", "nobody"], ["--patient", "null"], ["--clip", "clip"]])
@pytest.mark.parametrize("yes", [[], ["--yes", "true"]])
def test_drop__a_mistyped_name_is_no_success(run, store, words, yes):
    report = store.folder.parent / "report.json"
    report.write_text(json.dumps(["nobody"]))
    status, out, err = run("drop", store.folder, *words, *yes)
    assert status == 2
    assert "erase" not in out
    assert f"is of '{words[1]}'" in err
    assert "store compact" in err
    assert (f"yours to decide: {report}" in out) == (words[1] == "nobody")
    assert len(store.done()) == 6


def test_drop__only_leftovers_go_but_the_name_is_unknown_all_the_same(run, store):
    left = store.folder / "rows" / ".tmp-abc-part-000001-00000000.parquet"
    left.write_text("perhaps nobody")
    status, out, _ = run("drop", store.folder, "--patient", "nobody", "--yes", "true")
    assert status == 2
    assert "1 files that killed runs left" in out
    assert not left.exists()


def test_drop__names_with_commas_and_names_that_yaml_takes_for_something_else(run, store):
    for clip_id, patient in [("a,b", "null"), ("c", "1e5")]:
        frame = pd.DataFrame({"clip_id": [clip_id], "content_hash": clip_id, "patient_id": patient, "segment": 0})
        store.append(make_rows(HEADER, frame, np.ones((1, 3))))
    assert run("drop", store.folder, "--clip", '["a,b", "clip-0"]', "--yes", "true")[0] == 0
    assert run("drop", store.folder, "--patient", "1e5", "--yes", "true")[0] == 0
    assert {c for c, _ in store.done()} == {f"clip-{n}" for n in range(1, 6)}
    status, _, err = run("drop", store.folder, "--clip", "[1, 2]")
    assert status == 2
    assert "JSON list" in err


def test_drop__clips_without_rows_by_the_manifest_and_paths_by_name(run, store, tmp_path):
    (store.folder / "rejected.csv").write_text("clip_id,path,reason\nodd,odd.mp4,empty\n")
    (tmp_path / "manifest.csv").write_text("clip_id,path,patient_id\nodd,odd.mp4,patient-9\nx,x.mp4,patient-8\n")
    cache = tmp_path / "cache"
    cache.mkdir()
    memo = {"path": ["/b/patient-9/z.mp4", "/b/odd.mp4"], "stamp": "1", "content_hash": ["z", "o"]}
    pd.DataFrame(memo).to_parquet(cache / "sources.parquet", index=False)
    words = ["drop", store.folder, "--patient", "patient-9", "--cache", cache, "--manifest", tmp_path / "manifest.csv"]
    status, out, err = run(*words)
    assert status == 0, err
    assert "by its name: /b/patient-9/z.mp4" in out
    assert "odd.mp4" not in out
    assert run(*words, "--yes", "true")[0] == 0
    assert (store.folder / "rejected.csv").read_text() == "clip_id,path,reason\n"
    assert pd.read_parquet(cache / "sources.parquet")["path"].tolist() == ["/b/odd.mp4"]


@pytest.mark.parametrize("name", ["compact", "drop"])
def test_folder_above_a_store_is_none(run, store, name):
    status, _, err = run(name, store.folder.parent, *(["--patient", "patient-1", "--yes", "true"] if name == "drop" else []))
    assert status == 2
    assert "no store.json and no set.json" in err
    assert len(store.done()) == 6
    assert len(store.parts.names()) == 6


def test_merge_and_export(run, store, tmp_path):
    make(tmp_path / "more", range(4, 9))
    status, out, err = run("merge", f"{store.folder},{tmp_path / 'more'}", "--out", tmp_path / "all")
    assert status == 0, err
    assert "9 clips added, 9 clips" in out
    for kind, name in [("csv", "rows.csv"), ("parquet", "rows.parquet"), ("numpy", "plain")]:
        status, out, _ = run("export", tmp_path / "all", "--out", tmp_path / name, "--format", kind)
        assert status == 0
        assert out.startswith("9 rows")
        assert (tmp_path / name).exists()
    other = make(tmp_path / "other", [1], dataclasses.replace(HEADER, fingerprint="xyz"))
    status, _, err = run("merge", f"{store.folder}, {other.folder}", "--out", tmp_path / "mixed")
    assert status == 2
    assert "fingerprint" in err
