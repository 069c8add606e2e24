import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sonokit.clips.cache import CachedClip
from sonokit.errors import SonokitError
from sonokit.features.explain.explanation import ExplainSettings, explain_clip, picture_box, sliding_segments
from sonokit.features.explain.overlay import map_on_frame, overlaid
from sonokit.features.extraction.forward import to_input
from sonokit.features.extractors.biomarkers import BiomarkerExtractor, SegmentPlan

SIZE = 64
NAN = float("nan")


def a_clip(height=SIZE, width=SIZE, count=12, rate=10.0, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    times = np.where(np.arange(count) == 0, 0, np.arange(count) / rate).astype(np.float32)
    return CachedClip("clip", "0" * 64, frames, times, rate, "mp4", count, count)


@pytest.fixture(scope="module")
def extractor(backbone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BiomarkerExtractor(backbone, ("one", "two"), plan=SegmentPlan(4, 3), size=SIZE, embedding=8).eval()


def test_sliding_segments__by_hand():
    windows = sliding_segments(SegmentPlan(4, 4), 16)
    assert windows[0].tolist() == [0, 0, 0, 1]
    assert windows[2].tolist() == [0, 1, 2, 3]  # the plan's own first segment
    assert windows[15].tolist() == [13, 14, 15, 15]
    assert sliding_segments(SegmentPlan(2, 2), 8)[4].tolist() == [2, 4]  # two frames apart, as in the plan: 1, 3
    assert sliding_segments(SegmentPlan(4, 3), 1).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("frames", [1, 2, 5, 30])
@pytest.mark.parametrize("count", [1, 3, 16, 41])
def test_sliding_segments__every_frame_stands_in_the_middle_of_its_own(frames, count):
    windows = sliding_segments(SegmentPlan(4, frames), count)
    assert windows[:, frames // 2].tolist() == list(range(count))
    assert (windows.diff(dim=1) >= 0).all()
    assert 0 <= windows.min() <= windows.max() < count


def test_picture_box__by_hand():
    assert picture_box(100, 200, 50) == (12, 0, 25, 50)
    assert picture_box(300, 100, 30) == (0, 10, 30, 10)
    assert picture_box(64, 64, 64) == (0, 0, 64, 64)


def test_explain_clip__probabilities_are_the_extractors_own(extractor):
    clip = a_clip()
    explanation = explain_clip(extractor, clip, ExplainSettings(checks=False))
    own = torch.from_numpy(clip.frames[extractor.plan.choose(12).numpy()])
    windows = torch.from_numpy(clip.frames[sliding_segments(extractor.plan, 12).numpy()])
    with torch.inference_mode():
        embedding, logits = extractor(to_input(own, 1)[None])
        of_clip = extractor.clip_logits(logits, None, embedding)
        every = extractor(to_input(windows, 1)[None])[1]
    for mine, expected in (
        (explanation.segment_probabilities, logits[0]),
        (explanation.clip_probabilities, of_clip[0]),
        (explanation.probabilities, every[0]),
    ):
        np.testing.assert_allclose(mine, extractor.head.probabilities(expected), atol=1e-5)
    np.testing.assert_allclose(explanation.segment_times_s, [[0, 0.2], [0.3, 0.5], [0.6, 0.8], [0.9, 1.1]], atol=1e-6)
    np.testing.assert_allclose(explanation.times_s, np.arange(12) / 10, atol=1e-6)
    assert (explanation.frames == clip.frames).all()
    assert [check.random_head for check in explanation.checks] == [None, None]


def test_explain_clip__own_segments_and_some_biomarkers(extractor):
    settings = ExplainSettings(biomarkers=("two",), moments="segments", checks=False)
    explanation = explain_clip(extractor, a_clip(), settings)
    everything = explain_clip(extractor, a_clip(), ExplainSettings(checks=False))
    assert explanation.frame_numbers.tolist() == [1, 4, 7, 10]
    np.testing.assert_allclose(explanation.probabilities, explanation.segment_probabilities, atol=1e-6)
    assert explanation.maps.shape[:2] == (4, 1)
    np.testing.assert_allclose(explanation.maps[1, 0], everything.maps[4, 1], atol=1e-6)  # the same segment
    assert explanation.biomarkers == ("one", "two")


def test_explain_clip__twice_is_the_same(extractor):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = tuple("abcdef")  # some have a map that is not empty
        extractor = BiomarkerExtractor(extractor.backbone, names, plan=extractor.plan, size=SIZE, embedding=8).eval()
    one, other = (explain_clip(extractor, a_clip(), ExplainSettings(seed=2)) for _ in range(2))
    assert (one.maps == other.maps).all()
    assert one.as_dict() == other.as_dict()
    assert any(check.random_head is not None for check in one.checks)
    assert any(check.random_network is not None for check in one.checks)


def test_explain_clip__of_one_frame_without_a_frame_rate(extractor):
    explanation = explain_clip(extractor, a_clip(count=1, rate=NAN), ExplainSettings(checks=False))
    assert explanation.maps.shape[0] == len(explanation.segment_probabilities) == 1
    np.testing.assert_allclose(explanation.clip_probabilities, explanation.probabilities[0], atol=1e-6)
    untimed = explain_clip(extractor, a_clip(count=3, rate=NAN), ExplainSettings(checks=False)).as_dict()
    assert [moment["time_s"] for moment in untimed["moments"]] == [0.0, None, None]
    json.dumps(untimed, allow_nan=False)


def test_explain_clip__unknown_biomarker(extractor):
    with pytest.raises(SonokitError, match="no biomarker three; it has one, two"):
        explain_clip(extractor, a_clip(), ExplainSettings(biomarkers=("one", "three")))


def test_map_on_frame__takes_the_letterbox_away(extractor):
    wide = explain_clip(extractor, a_clip(height=20, width=40), ExplainSettings(checks=False))  # a picture of 32 of 64 rows
    maps = np.zeros((len(wide.frames), 2, 8, 8), dtype=np.float32)
    maps[0, 0, 2:6] = 4  # the picture's rows of cells
    maps[1, 0, 2, 7] = 2  # its upper right cell
    maps[2, 0, 0] = 8  # in the black above, which is no part of the frame
    wide = replace(wide, maps=maps)
    whole = map_on_frame(wide, 0, 0, 20, 40)
    assert whole.shape == (20, 40)
    np.testing.assert_allclose(whole[4:-4], 0.5, atol=1e-6)  # 4 of the highest, 8; the outer rows blend into the black
    corner = map_on_frame(wide, 1, 0, 20, 40)
    assert np.unravel_index(corner.argmax(), corner.shape)[0] < 5
    assert np.unravel_index(corner.argmax(), corner.shape)[1] > 34
    assert map_on_frame(wide, 2, 0, 20, 40)[5:].max() == 0
    assert map_on_frame(wide, 0, 1, 20, 40).max() == 0  # nothing at all


def test_overlaid__leaves_the_frame_where_nothing_is():
    frame = np.arange(64, dtype=np.uint8).reshape(8, 8)
    strength = np.zeros((8, 8), dtype=np.float32)
    strength[0] = 1
    picture = overlaid(frame, strength)
    assert (picture[1:] == frame[1:, :, None]).all()
    assert (picture[0, :, 0] > picture[0, :, 2] + 100).all()  # yellow: red without blue
