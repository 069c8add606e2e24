from dataclasses import replace

import av
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.stats.contingency import association
from sonokit.clips.simulation import simulate as module
from sonokit.clips.simulation.patients import DIAGNOSES, draw_patient, draw_site, site_of
from sonokit.clips.simulation.simulate import SimulationSettings, draw_clip, plan_patient, scan_of, simulate
from sonokit.errors import SonokitError

SMALL = {"patients": 3, "clips_per_patient": 2, "seconds": 0.3, "size": 80, "seed": 4, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated")
    simulate(out, **SMALL)
    return out


def first_clips(seed=0, patients=9):
    settings = SimulationSettings(patients=patients, seed=seed)
    return [next(iter(plan_patient(settings, n))) for n in range(patients)]


def test_simulate__manifest_and_readable_files(folder):
    table = pd.read_csv(folder / "manifest.csv")
    assert list(table) == [
        "path", "clip_id", "patient_id", "site", "probe", "diagnosis", "severity", "a_lines", "b_lines", "consolidation",
        "effusion", "pleural_irregularity", "sf_ratio",
    ]  # fmt: skip
    assert len(table) == 6
    assert table["clip_id"].is_unique
    assert set(table["diagnosis"]) == set(DIAGNOSES)
    assert table["sf_ratio"].between(100, 475).all()
    assert (table.groupby("patient_id")[["site", "diagnosis", "probe", "sf_ratio"]].nunique() == 1).all(axis=None)
    assert {p.rsplit(".")[-1] for p in table["path"]} == {"mp4", "avi", "gif"}
    for row in table.itertuples():
        rate = draw_site(4, int(row.site.removeprefix("site-")) - 1).frame_rate
        with av.open(str(folder / row.path)) as container:
            frames = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
            assert float(container.streams.video[0].average_rate) == pytest.approx(rate, rel=0.02)
        assert len(frames) == round(0.3 * rate)
        assert 70 <= frames[0].shape[0] <= 90
        assert frames[0].max() > 200


def test_simulate__files_hold_the_drawn_frames(folder):
    settings = SimulationSettings(**{k: v for k, v in SMALL.items() if k != "progress"})
    for number in range(3):
        clip = next(iter(plan_patient(settings, number)))
        drawn = draw_clip(clip, seconds=0.3, size=80).frames
        with av.open(str(folder / "clips" / f"{clip.clip_id}.{clip.site.container}")) as container:
            read = np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])
        assert read.shape == drawn.shape
        assert np.abs(read.astype(int) - drawn).mean() < 4


def test_simulate__again_changes_nothing(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert simulate(folder, **SMALL) == folder / "manifest.csv"
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_simulate__other_settings_in_the_folder_are_refused(folder):
    with pytest.raises(SonokitError, match=r"seed: 4 there, 5 now.*another folder"):
        simulate(folder, **{**SMALL, "seed": 5})


def test_simulate__foreign_manifest_is_not_overwritten(tmp_path):
    (tmp_path / "manifest.csv").write_text("path\na.mp4\n")
    with pytest.raises(SonokitError, match="not simulated"):
        simulate(tmp_path, **SMALL)


def test_simulate__an_interrupted_run_completes_to_the_same(folder, tmp_path, monkeypatch):
    written, write = [], module.write_video

    def write_two_then_stop(path, frames, rate):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, frames, rate)

    monkeypatch.setattr(module, "write_video", write_two_then_stop)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, **SMALL)
    assert not (tmp_path / "manifest.csv").exists()
    monkeypatch.setattr(module, "write_video", write)
    simulate(tmp_path, **SMALL)
    assert (tmp_path / "manifest.csv").read_bytes() == (folder / "manifest.csv").read_bytes()
    for path in (folder / "clips").iterdir():
        assert (tmp_path / "clips" / path.name).read_bytes() == path.read_bytes()


def test_simulate__a_lost_clip_is_drawn_again(tmp_path):
    alone = {**SMALL, "patients": 1, "clips_per_patient": 1}
    manifest = simulate(tmp_path, **alone)
    clip = tmp_path / pd.read_csv(manifest)["path"][0]
    content = clip.read_bytes()
    clip.unlink()
    simulate(tmp_path, **alone)
    assert clip.read_bytes() == content


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"seconds": 0.0}, {"size": 10}, {"sites": 0}, {"seed": -1}])
def test_simulate__senseless_settings(tmp_path, wrong):
    with pytest.raises(SonokitError, match=next(iter(wrong))):
        simulate(tmp_path / "new", **{**SMALL, **wrong})
    assert not (tmp_path / "new").exists()


def test_draw_clip__same_seed_same_frames_other_seed_others():
    clip = first_clips()[0]
    once, again = draw_clip(clip, seconds=0.2, size=80), draw_clip(clip, seconds=0.2, size=80)
    np.testing.assert_array_equal(once.frames, again.frames)
    assert once.labels == again.labels
    other = draw_clip(replace(clip, texture_seed=clip.texture_seed + 1), seconds=0.2, size=80)
    assert (other.frames != once.frames).mean() > 0.2


def test_draw_clip__black_outside_the_fan():
    for clip in first_clips(patients=4):
        plain = replace(clip, site=replace(clip.site, ticks="none", text="", grey_bar=False))
        drawn = draw_clip(plain, seconds=0.1, size=80)
        assert not drawn.frames[:, ~drawn.mask].any()
        assert drawn.frames[:, drawn.mask].mean() > 10


def test_draw_clip__one_frame_at_least():
    assert len(draw_clip(first_clips()[0], seconds=0.001, size=64).frames) == 1


def test_plan_patient__does_not_depend_on_the_number_of_patients():
    few, many = SimulationSettings(patients=2, seed=3), SimulationSettings(patients=50, seed=3)
    assert list(plan_patient(few, 1)) == list(plan_patient(many, 1))


def test_patients__look_more_like_themselves_than_like_others():
    """Blurred time averages of the chest wall, in beam space so that neither site nor overlay can help."""
    settings, site = SimulationSettings(clips_per_patient=2), draw_site(0, 0)
    pictures = []
    for number in [n for n in range(60) if draw_patient(0, n).probe == "convex"][:8]:
        for clip in plan_patient(settings, number):
            scan = scan_of(
                replace(clip, site=site, view=replace(clip.view, lost_left=0.0, lost_right=0.0)), seconds=0.1, size=80
            )
            mean = np.concatenate(list(scan.beam_frames(np.random.default_rng(clip.texture_seed)))).mean(axis=0)
            shallow = scan.grid.depth_mm < 35
            pictures.append(ndimage.zoom(ndimage.gaussian_filter(mean[shallow], (0.5, 12)), (40 / shallow.sum(), 0.2)).ravel())
    like = np.corrcoef(pictures)
    patient = np.arange(len(pictures)) // 2
    same = (patient[:, None] == patient) & ~np.eye(len(patient), dtype=bool)
    assert like[same].mean() > like[patient[:, None] != patient].mean() + 0.15
    np.fill_diagonal(like, -1)
    assert (patient[like.argmax(axis=1)] == patient).mean() >= 0.6  # by chance 1 in 15


@pytest.mark.parametrize(("shortcut", "low", "high"), [(True, 0.7, 1.0), (False, 0.0, 0.2)])
def test_site_of__tells_the_diagnosis_only_with_the_shortcut(shortcut, low, high):
    diagnoses = [draw_patient(7, n).diagnosis for n in range(90)]
    sites = [site_of(7, n, d, 3, shortcut) for n, d in enumerate(diagnoses)]
    cramers_v = association(pd.crosstab(pd.Series(diagnoses), pd.Series(sites)).to_numpy(), method="cramer")
    assert low <= cramers_v <= high


def test_diagnoses__bring_their_signs():
    """Planned, not drawn: 120 clips, sign by sign."""
    settings = SimulationSettings(patients=60, clips_per_patient=2)
    rows = []
    for number in range(60):
        for clip in plan_patient(settings, number):
            signs = clip.signs
            large = max((c.depth for c in signs.consolidations), default=0.0) > 15
            rows.append((clip.patient.diagnosis, len(signs.b_lines) > 2, large, signs.irregularity > 0, signs.a_lines > 0))
    table = pd.DataFrame(rows, columns=["diagnosis", "many_b", "large", "irregular", "a"]).groupby("diagnosis").mean()
    assert table["many_b"].idxmax() == "covid19"
    assert table["irregular"].idxmax() == "covid19"
    assert table["large"].idxmax() == "bacterial_pneumonia"
    assert table["a"].idxmax() == "normal"
    assert table.loc["normal", ["many_b", "large"]].sum() == 0
    assert 0 < table.loc["covid19", "a"] < table.loc["normal", "a"] < 1, (
        "signs overlap: no one of them gives the diagnosis away"
    )


def test_sf_ratio__falls_with_severity():
    ratios = [[module._sf_ratio([s], np.random.default_rng(k)) for k in range(40)] for s in range(4)]
    means = np.mean(ratios, axis=1)
    assert np.all(np.diff(means) < -50)
    assert np.min(ratios) >= 100
    assert np.max(ratios) <= 475
