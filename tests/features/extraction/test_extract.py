import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import save_backbone
from sonokit.clips import cache
from sonokit.clips.cache import CacheSettings, prepare
from sonokit.clips.manifest import read_manifest, write_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.shards import open_shards
from sonokit.clips.streaming import stream
from sonokit.errors import SonokitError
from sonokit.features.extraction import extract, filling
from sonokit.features.extraction.extract import extract_features
from sonokit.features.extraction.forward import FeaturePass
from sonokit.features.extraction.models import frame_settings
from sonokit.features.extractors.biomarkers import SegmentPlan
from sonokit.features.extractors.folder import load_extractor
from sonokit.features.extractors.weak_training import BiomarkerSettings, train_biomarkers
from sonokit.features.search import search
from sonokit.features.store import EmbeddingStore, StoreSet, open_stores, row_id

SETTINGS = BiomarkerSettings(("bright", "split"), embedding=8, epochs=10, learning_rate=1e-2, segments=4, segment_frames=2)


def run(clips, model, out, **options):
    return extract_features(clips, model, out, progress=False, device="cpu", **options)


def rows_of(folder):
    """Everything in the store, in a form that compares bit for bit."""
    return EmbeddingStore.open(folder).table().to_pylist()


@pytest.fixture(scope="session")
def backbone_folder(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(backbone, folder, provenance={"fitted_on_labels": False})
    return folder


@pytest.fixture
def extractors(clips, backbone, divide, tmp_path):
    return train_biomarkers(
        clips, backbone, tmp_path / "extractors", SETTINGS, splits=divide(clips), config={}, device="cpu", progress=False
    )


def test_extract__backbone_rows_are_what_the_backbone_gives(clips, backbone, backbone_folder, tmp_path):
    store = EmbeddingStore.open(run(clips, backbone_folder, tmp_path / "out", dtype="float32"))
    embeddings, ids = store.embeddings()
    with torch.inference_mode():
        for i in range(len(clips)):
            frames = torch.from_numpy(clips.frames[i]).float()[:, None] / 255  # [T, 1, H, W]
            expected = backbone(frames).numpy()
            mine = embeddings[[ids.tolist().index(row_id(f"clip-{i:02d}", s)) for s in range(len(frames))]]
            np.testing.assert_allclose(mine, expected, atol=1e-4)
    assert store.header.row_count == sum(len(f) for f in clips.frames) == len(embeddings)
    assert store.header.clip_count == len(clips)
    assert (store.folder / "index.faiss").is_file()
    assert (store.folder / "rejected.csv").read_text().startswith("clip_id,path,reason\nbroken,")


def test_extract__rows_carry_times_labels_and_what_the_manifest_says(clips, backbone_folder, tmp_path):
    frame = EmbeddingStore.open(run(clips, backbone_folder, tmp_path, segments=2, segment_frames=2)).frame()
    first = frame[frame["clip_id"] == "clip-00"]  # 16 frames at 25 Hz: frames 2, 6 and 10, 14
    np.testing.assert_allclose(first["start_s"], [2 / 25, 10 / 25])
    np.testing.assert_allclose(first["end_s"], [6 / 25, 14 / 25])
    still = frame[frame["clip_id"] == "clip-02"]
    assert (len(still), still["start_s"].iloc[0], still["end_s"].iloc[0]) == (1, 0, 0)
    assert np.isnan(frame["split"][frame["clip_id"] == "clip-01"]).all()
    clip = frame[frame["clip_id"] == "clip-05"].iloc[0]
    assert (clip["diagnosis"], clip["bright"], clip["patient_id"], clip["site"]) == ("ill", 1.0, "patient-2", "here")
    assert (clip["path"], clip["container"], clip["frame_rate"]) == ("clip-5.mp4", "mp4", 25)
    assert not frame["extractor_trained_on"].any()
    assert frame["probe"].isna().all()


def test_extract__patient_column_of_another_name(clips, backbone_folder, tmp_path):
    clips = clips.with_labels(subject=clips.table["patient_id"] + "!")
    clips.manifest = dataclasses.replace(clips.manifest, patient_column="subject")
    frame = EmbeddingStore.open(run(clips, backbone_folder, tmp_path, segments=1)).frame()
    assert frame["patient_id"].tolist() == frame["subject"].tolist()


def test_extract__a_second_run_does_only_what_is_missing(clips, backbone_folder, tmp_path, monkeypatch):
    some = np.arange(len(clips)) < 5
    run(clips.select(some), backbone_folder, tmp_path / "out")
    worked_on = watch(monkeypatch)
    run(clips, backbone_folder, tmp_path / "out")
    assert worked_on == [f"clip-{i:02d}" for i in range(5, 16)]
    run(clips, backbone_folder, tmp_path / "out")
    assert len(worked_on) == 11
    run(clips, backbone_folder, tmp_path / "whole")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_extract__a_changed_clip_replaces_its_rows(make_clips, backbone_folder, tmp_path):
    clips, changed = make_clips(), make_clips()
    changed.frames[0] = changed.frames[0][:2]
    changed = changed.with_labels()  # hashes anew
    run(clips, backbone_folder, tmp_path / "out")
    run(changed, backbone_folder, tmp_path / "out")
    run(changed, backbone_folder, tmp_path / "fresh")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "fresh")


def test_extract__mended_labels_reach_the_store_without_another_pass(clips, backbone_folder, tmp_path, monkeypatch):
    run(clips, backbone_folder, tmp_path / "out")
    split = clips.table["split"].to_numpy().copy()
    split[1], split[5] = 1, np.nan
    mended = clips.with_labels(split=split, operator=[None] * 10 + ["new"] * 6)
    run(mended, backbone_folder, tmp_path / "fresh")
    worked_on = watch(monkeypatch)
    run(mended, backbone_folder, tmp_path / "out")
    assert worked_on == []
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "fresh")
    parts = len(EmbeddingStore.open(tmp_path / "out").parts.names())
    run(mended, backbone_folder, tmp_path / "out")
    assert len(EmbeddingStore.open(tmp_path / "out").parts.names()) == parts == 2


def test_extract__a_column_that_the_manifest_no_longer_has_stays_with_every_clip(clips, backbone_folder, tmp_path):
    graded = clips.with_labels(grade=np.arange(16.0), reader=[f"reader-{i % 3}" for i in range(16)])
    run(graded, backbone_folder, tmp_path)
    run(clips.with_labels(split=1 - clips.table["split"]), backbone_folder, tmp_path)
    frame = EmbeddingStore.open(tmp_path).frame().drop_duplicates("clip_id")
    assert frame["grade"].tolist() == list(range(16))
    assert frame["reader"].tolist() == [f"reader-{i % 3}" for i in range(16)]
    np.testing.assert_array_equal(frame["split"], 1 - clips.table["split"])


def test_extract__refused_into_another_sets_folder_leaves_that_as_it_was(clips, backbone, extractors, divide, tmp_path):
    options = {"config": {"model": "first"}}
    run(clips, extractors, tmp_path / "out", **options)
    before = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir() if f.is_file()}
    others = train_biomarkers(
        clips, backbone, tmp_path / "e", SETTINGS, splits=divide(clips, folds=3), config={}, device="cpu", progress=False
    )
    with pytest.raises(SonokitError, match="another model or setting"):
        run(clips, others, tmp_path / "out", config={"model": "second"})
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir() if f.is_file()} == before
    assert {"set.json", "splits.json", "config.yaml"} <= before.keys()
    assert len(open_stores(tmp_path / "out").folds) == 2


@pytest.mark.parametrize("stop_at", [1, 6, 15])
def test_extract__interrupted_and_resumed_equals_undisturbed(clips, backbone_folder, tmp_path, monkeypatch, stop_at):
    run(clips, backbone_folder, tmp_path / "whole")
    done = 0

    def over(self, some):
        nonlocal done
        for clip in some:
            done += 1
            if done == stop_at + 1:
                raise KeyboardInterrupt
            yield from original(self, [clip])

    original = FeaturePass.over
    monkeypatch.setattr(FeaturePass, "over", over)
    with pytest.raises(KeyboardInterrupt):
        run(clips, backbone_folder, tmp_path / "out")
    assert EmbeddingStore.open(tmp_path / "out").header.clip_count == stop_at  # what was done is kept
    run(clips, backbone_folder, tmp_path / "out")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
from sonokit.features.extraction import extract, filling

class Deadly(tiny.MemoryClips):
    def __getitem__(self, i):
        if i == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)

clips = tiny.make()
clips.__class__ = Deadly
filling._PART_CLIPS = 3
extract.extract_features(clips, sys.argv[2], Path(sys.argv[3]), progress=False, device="cpu")
"""


def test_extract__killed_and_resumed_equals_undisturbed(clips, backbone_folder, tmp_path):
    here = Path(__file__).parents[1] / "conftest.py"
    command = [sys.executable, "-c", KILLED, str(here), str(backbone_folder), str(tmp_path / "out")]
    killed = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert EmbeddingStore.open(tmp_path / "out").header.clip_count == 9  # three whole parts of three
    run(clips, backbone_folder, tmp_path / "out")
    run(clips, backbone_folder, tmp_path / "whole")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_forward__packed_batches_give_what_single_clips_give(clips, backbone, monkeypatch):
    # the path that a GPU takes, on the CPU: 7 segments a batch, clips of 1, 3 and 4 segments
    single = FeaturePass(backbone, SegmentPlan(4, 2), torch.device("cpu"))
    packed = FeaturePass(backbone, SegmentPlan(4, 2), torch.device("cpu"))
    packed._segments_a_batch = 7
    every = [clips[i] for i in range(len(clips))]
    for a, b in zip(single.over(every), packed._packed(every), strict=True):
        assert a.clip.clip_id == b.clip.clip_id
        torch.testing.assert_close(a.features, b.features, atol=1e-5, rtol=1e-4)
        assert torch.equal(a.end_s, b.end_s)


def test_extract__set_makes_one_store_a_fold_from_one_pass(clips, extractors, divide, tmp_path, monkeypatch):
    worked_on = watch(monkeypatch)
    stores = open_stores(run(clips, extractors, tmp_path / "out"))
    assert isinstance(stores, StoreSet)
    assert len(worked_on) == len(clips)  # frozen backbone: once for two folds and the final extractor
    assert len({s.header.fingerprint for s in [*stores.folds, stores.final]}) == 3
    assert stores.splits == divide(clips)
    for k, store in enumerate(stores.folds):
        frame = store.frame().drop_duplicates("clip_id").set_index("clip_id")
        assert store.header.fold == k
        assert len(frame) == len(clips)
        assert set(frame.index[~frame["extractor_trained_on"]]) == set(stores.splits.folds[k].test)
        assert frame["p_bright"].between(0, 1).all()
    assert stores.final.frame()["extractor_trained_on"].all()


def test_extract__probabilities_are_those_of_training(clips, extractors, tmp_path):
    # out of fold, training and extraction look at the same clips with the same extractor
    stores = open_stores(run(clips, extractors, tmp_path / "out", dtype="float32"))
    expected = pd.read_csv(extractors / "out_of_fold.csv").set_index("clip_id")
    for store in stores.folds:
        frame = store.frame()
        head = load_extractor(extractors / f"fold-{store.header.fold}").head
        slope, intercept = float(head.calibration_slope[0]), float(head.calibration_intercept[0])
        logit = (np.log(frame["p_bright"] / (1 - frame["p_bright"])) - intercept) / slope
        pooled = np.log(np.exp(logit).groupby(frame["clip_id"]).mean()) * slope + intercept  # lse over the segments
        mine = expected[expected["fold"] == store.header.fold]
        np.testing.assert_allclose(1 / (1 + np.exp(-pooled[mine.index])), mine["p_calibrated_bright"], atol=1e-4)


def test_extract__tuned_set_has_one_pass_a_backbone(make_clips, backbone, divide, tmp_path, monkeypatch):
    clips = make_clips(patients=4)
    settings = dataclasses.replace(SETTINGS, tune="all", epochs=1)
    extractors = train_biomarkers(
        clips, backbone, tmp_path / "e", settings, splits=divide(clips), config={}, device="cpu", progress=False
    )
    worked_on = watch(monkeypatch)
    stores = open_stores(run(clips, extractors, tmp_path / "out"))
    assert len(worked_on) == 3 * len(clips)
    assert [s.header.fold for s in [*stores.folds, stores.final]] == [0, 1, None]


def test_extract__stopped_set_is_unfinished_until_run_again(clips, extractors, tmp_path, monkeypatch):
    run(clips.select(np.arange(len(clips)) < 4), extractors, tmp_path / "out")
    original = EmbeddingStore.append

    def stop_at_final(self, table):
        if self.folder.name == "final":
            raise KeyboardInterrupt
        original(self, table)

    monkeypatch.setattr(EmbeddingStore, "append", stop_at_final)
    with pytest.raises(KeyboardInterrupt):
        run(clips, extractors, tmp_path / "out")
    monkeypatch.setattr(EmbeddingStore, "append", original)
    with pytest.raises(SonokitError, match="unfinished"):
        open_stores(tmp_path / "out")
    run(clips, extractors, tmp_path / "out")
    run(clips, extractors, tmp_path / "whole")
    for name in ("fold-0", "fold-1", "final"):
        assert rows_of(tmp_path / "out" / name) == rows_of(tmp_path / "whole" / name)


def test_extract__trained_on_follows_content_and_patient(clips, extractors, make_clips, tmp_path):
    new = make_clips(seed=1)  # other contents, but fold 0's training patients are patients 1, 3, 5, 7
    copied = new.with_labels(patient_id=[f"new-{i}" for i in range(16)])
    copied.frames[0] = clips.frames[2]  # a clip of patient-1 under another name
    copied = copied.with_labels()
    by_patient = EmbeddingStore.open(run(new, extractors / "fold-0", tmp_path / "a")).frame().drop_duplicates("clip_id")
    assert by_patient["extractor_trained_on"].tolist() == [i // 2 % 2 == 1 for i in range(16)]
    by_content = EmbeddingStore.open(run(copied, extractors / "fold-0", tmp_path / "b")).frame().drop_duplicates("clip_id")
    assert by_content["extractor_trained_on"].tolist() == [True] + [False] * 15


def test_extract__floor_is_the_same_network_with_random_weights(clips, backbone_folder, extractors, tmp_path):
    store = open_stores(run(clips, backbone_folder, tmp_path / "a", floor=True, dtype="float32"))
    embeddings, _ = store.floor.embeddings()
    random = build_backbone("test_resnet", seed=0).eval()
    with torch.inference_mode():
        expected = random(torch.from_numpy(clips.frames[0]).float()[:, None] / 255)
    np.testing.assert_allclose(embeddings[:16], expected, atol=1e-4)
    assert store.floor.header.fingerprint != store.header.fingerprint
    stores = open_stores(run(clips, extractors, tmp_path / "b", floor=True))
    assert stores.floor.header.biomarkers == ["bright", "split"]
    assert not stores.floor.header.fitted_on_labels
    assert not stores.floor.frame()["extractor_trained_on"].any()


def test_extract__timm_name_and_search(clips, tmp_path):
    store = EmbeddingStore.open(run(clips, "test_resnet", tmp_path, seed=3))
    found = search(store, "clip-00", 3)
    assert len(found) == 3
    assert "patient-0" not in set(found["patient_id"])


def test_frame_settings__of_an_extractor_and_of_a_backbone(extractors, backbone_folder):
    assert frame_settings(extractors).size == 32
    assert frame_settings(extractors / "fold-1").sampling.frames == 16
    assert frame_settings(backbone_folder) is None
    assert frame_settings("resnet18") is None


def test_extract__faults_are_named(clips, make_clips, backbone_folder, extractors, tmp_path):
    run(clips, backbone_folder, tmp_path / "a")
    with pytest.raises(SonokitError, match=r"another model or setting \(fingerprint.*model: 'test_resnet' there"):
        run(clips, extractors / "final", tmp_path / "a")
    with pytest.raises(SonokitError, match="holds a single store"):
        run(clips, extractors, tmp_path / "a")
    with pytest.raises(SonokitError, match="segments: 16 there, 2 now"):
        run(clips, backbone_folder, tmp_path / "a", segments=2)
    with pytest.raises(SonokitError, match=r"manifest.csv has columns .*: p_bright; rename"):
        run(clips.with_labels(p_bright=0.5), extractors / "final", tmp_path / "b")
    with pytest.raises(SonokitError, match="none of the manifest's clips"):
        run(clips.select(np.zeros(16, bool)), backbone_folder, tmp_path / "b")
    clips.settings = dataclasses.replace(clips.settings, size=64)
    with pytest.raises(SonokitError, match="prepare them with size 32"):
        run(clips, extractors, tmp_path / "c")
    (extractors / "report.json").unlink()
    with pytest.raises(SonokitError, match="unfinished"):
        run(make_clips(), extractors, tmp_path / "d")
    assert not (tmp_path / "b").exists()


@pytest.fixture
def files(tmp_path):
    """Six real files: a manifest of clips of 1 to 6 frames and of one that is no video."""
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(5):
        pictures = [Image.fromarray(p) for p in np.random.default_rng(i).integers(0, 256, (1 + i, 40, 48), dtype=np.uint8)]
        pictures[0].save(folder / f"{i}.gif", save_all=True, append_images=pictures[1:], duration=100)
    (folder / "5.gif").write_text("not a picture")
    write_manifest(pd.DataFrame({"path": [f"{i}.gif" for i in range(6)], "bright": 0.0}), folder / "manifest.csv")
    return read_manifest(folder / "manifest.csv")


STREAM = CacheSettings(32, Sampling(frames=4))


def test_extract__a_stream_gives_the_rows_of_cached_clips(files, backbone_folder, tmp_path):
    run(prepare(files, tmp_path / "a", STREAM, progress=False), backbone_folder, tmp_path / "cached")
    clips = stream(files, tmp_path / "b", STREAM, progress=False)
    run(clips, backbone_folder, tmp_path / "streamed", config={"model": "this"}, floor=True)
    assert rows_of(tmp_path / "streamed") == rows_of(tmp_path / "cached")
    assert len(rows_of(tmp_path / "streamed" / "floor")) == len(rows_of(tmp_path / "cached"))
    for name in ("a", "b"):
        assert (tmp_path / name / STREAM.key / "rejected.csv").read_text().startswith("clip_id,path,reason\n5,5.gif,")
    assert (tmp_path / "streamed" / "rejected.csv").read_text() == (tmp_path / "cached" / "rejected.csv").read_text()
    noted = json.loads((tmp_path / "streamed" / "environment.json").read_text())
    assert noted["forward"] == {"engine": "local", "device": "cpu", "runtime": "torch"}


def test_extract__a_clip_that_is_done_is_not_decoded_again(files, backbone_folder, tmp_path, monkeypatch):
    good = files.select(np.arange(6) < 5)
    run(stream(good, tmp_path / "cache", STREAM, progress=False), backbone_folder, tmp_path / "out")
    before = rows_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "cache")
    decoded, original = [], cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda path, *a: decoded.append(path) or original(path, *a))
    run(stream(good, tmp_path / "cache", STREAM, progress=False), backbone_folder, tmp_path / "out")
    assert (decoded, rows_of(tmp_path / "out")) == ([], before)
    mended = dataclasses.replace(good, table=good.table.assign(bright=1.0))
    run(stream(mended, tmp_path / "cache", STREAM, progress=False), backbone_folder, tmp_path / "out")
    assert (decoded, rows_of(tmp_path / "out")) == ([], [{**row, "bright": 1.0} for row in before])


def test_extract__interrupted_stream_keeps_frames_and_rows(files, backbone_folder, tmp_path, monkeypatch):
    run(stream(files, tmp_path / "a", STREAM, progress=False), backbone_folder, tmp_path / "whole")
    original, added = filling.Filler.add, []

    def add(self, position, segments):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(position)
        original(self, position, segments)

    monkeypatch.setattr(filling.Filler, "add", add)
    with pytest.raises(KeyboardInterrupt):
        run(stream(files, tmp_path / "b", STREAM, progress=False), backbone_folder, tmp_path / "out")
    monkeypatch.setattr(filling.Filler, "add", original)
    assert EmbeddingStore.open(tmp_path / "out").header.clip_count == 2
    assert len(open_shards(tmp_path / "b" / STREAM.key, 32)) >= 2
    run(stream(files, tmp_path / "b", STREAM, progress=False), backbone_folder, tmp_path / "out")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_extract__nothing_that_decodes_is_told(files, backbone_folder, tmp_path):
    with pytest.raises(SonokitError, match=r"No clip of .* can be decoded, of 1 \(5: "):
        run(stream(files.select(np.arange(6) == 5), tmp_path / "c", STREAM, progress=False), backbone_folder, tmp_path / "out")


def test_extract__the_runtime_is_chosen_by_all_clips_not_by_those_that_are_left(clips, backbone_folder, tmp_path, monkeypatch):
    asked = []
    original = FeaturePass.__init__

    def init(self, backbone, plan, device, runtime):
        asked.append(runtime)
        original(self, backbone, plan, device, "torch")

    monkeypatch.setattr(FeaturePass, "__init__", init)
    run(clips, backbone_folder, tmp_path / "few")  # 16 clips of up to 16 frames
    monkeypatch.setattr(extract, "_WORTH_COMPILING", 256)
    run(clips.select(np.arange(16) < 15), backbone_folder, tmp_path / "out")
    run(clips, backbone_folder, tmp_path / "out")  # one is left, and it goes on as a whole run would
    run(clips, backbone_folder, tmp_path / "named", runtime="torch")
    assert asked == ["torch", "torch", "auto", "torch"]


def watch(monkeypatch):
    """Collects the clip_ids that a backbone works on."""
    worked_on = []
    original = FeaturePass.over

    def over(self, some):
        for segments in original(self, some):
            worked_on.append(segments.clip.clip_id)
            yield segments

    monkeypatch.setattr(extract.FeaturePass, "over", over)
    return worked_on
