import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.clips.cache import CachedClip
from sonokit.errors import SonokitError
from sonokit.features.extraction import engines
from sonokit.features.extraction.engines import UnitNetwork, choose_runtime, compile_network, parity
from sonokit.features.extraction.forward import FeaturePass
from sonokit.features.extractors.biomarkers import SegmentPlan

CPU = torch.device("cpu")
SIZE = 32


def clip_of(frames, name="clip", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, SIZE, SIZE), dtype=np.uint8)
    return CachedClip(name, name, pixels, np.arange(frames, dtype=np.float32) / 25, 25.0, "mp4", frames, frames)


@pytest.fixture(scope="module")
def some():
    return [clip_of(n, f"clip-{i}", seed=i) for i, n in enumerate((16, 1, 5, 16, 3, 9))]


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def runtime(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module", params=[0.0, 0.125], ids=["single frames", "temporal shift"])
def network(request):
    """Its normalisation layers disturbed, so that folding them wrongly would show."""
    backbone = build_backbone("test_resnet", seed=3, temporal_shift=request.param).eval()
    generator = torch.Generator().manual_seed(0)
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return backbone


@pytest.fixture(scope="module")
def forward(network, runtime):
    """One pass for all tests: it takes seconds to compile."""
    done = FeaturePass(network, SegmentPlan(4, 4), CPU, runtime)
    list(done.over([clip_of(16)]))
    assert done.runtime == runtime
    return done


def test_forward__runtimes_give_what_the_plain_network_gives(forward, network, some):
    for clip, segments in zip(some, forward.over(some), strict=True):
        chosen = forward.plan.choose(len(clip.frames))
        frames = torch.from_numpy(clip.frames[chosen.numpy()]).float()[:, :, None] / 255  # [S, F, 1, H, W]
        with torch.inference_mode():
            expected = network(frames).mean(dim=1)
        assert segments.clip is clip
        torch.testing.assert_close(segments.features, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
        assert torch.equal(segments.start_s, torch.from_numpy(clip.times_s)[chosen[:, 0]])


def test_forward__features_do_not_depend_on_company(forward, some):
    together = {s.clip.clip_id: s.features for s in forward.over(some)}
    for order in ([5, 0, 3], [3], [1, 2, 4, 5, 0]):
        for s in forward.over([some[i] for i in order]):
            assert torch.equal(s.features, together[s.clip.clip_id])


def test_forward__features_do_not_depend_on_the_number_of_threads(forward, network, some):
    alone = [s.features for s in forward.over(some)]
    torch.set_num_threads(3)
    try:
        several = FeaturePass(network, SegmentPlan(4, 4), CPU, forward.runtime)
        assert all(torch.equal(a, s.features) for a, s in zip(alone, several.over(some), strict=True))
    finally:
        torch.set_num_threads(1)


def test_forward__clips_are_asked_for_while_few_wait(forward, monkeypatch):
    monkeypatch.setattr("sonokit.features.extraction.forward._WAITING_UNITS", 8)
    asked, worst = 0, 0

    def clips():
        nonlocal asked
        for i in range(40):
            asked += 1
            yield clip_of(16, f"clip-{i}")

    for done, _ in enumerate(forward.over(clips()), start=1):
        worst = max(worst, asked - done)
    assert asked == 40
    assert worst <= 3  # with 8 units in all: no more than a clip of 16 single frames or two of 4 segments, and the next one


def test_forward__an_early_end_leaves_no_threads(forward, some):
    results = forward.over(some)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("forward")]


def test_compile_network__what_differs_from_torch_is_refused(some, monkeypatch, caplog):
    backbone = build_backbone("test_resnet", seed=3).eval()
    units = some[0].frames[:4, None]
    truth = UnitNetwork(backbone)

    def wrong(network, example, runtime, threads):
        return lambda frames: network(torch.from_numpy(frames)).detach().numpy() * 1.01

    monkeypatch.setattr(engines, "_compile", wrong)
    with caplog.at_level(logging.WARNING):
        assert compile_network(backbone, units, "openvino", 1) is None
    assert "relative difference 1.0e-02, allowed 1e-03" in caplog.text
    caplog.clear()
    monkeypatch.setattr(engines, "_compile", lambda *a: 1 / 0)
    assert compile_network(backbone, units, "openvino", 1) is None
    assert "openvino cannot run test_resnet (division by zero)" in caplog.text
    with torch.inference_mode():
        exact = np.stack([truth(torch.from_numpy(u)).numpy() for u in units])
    assert parity(truth, units, exact) == 0
    assert parity(truth, units, np.full_like(exact, np.nan)) == np.inf
    off = exact.copy()
    off[2, 5] += 0.5 * np.abs(exact).max()
    assert parity(truth, units, off) == pytest.approx(0.5, rel=1e-5)


def test_forward__torch_takes_over_from_a_runtime_that_is_wrong(some, monkeypatch):
    backbone = build_backbone("test_resnet", seed=3).eval()
    monkeypatch.setattr(engines, "_compile", lambda *a: lambda frames: np.zeros(backbone.num_features, np.float32))
    monkeypatch.setattr(engines, "_lacking", lambda name: [])
    doubtful = FeaturePass(backbone, SegmentPlan(4, 4), CPU, "openvino")
    plain = FeaturePass(backbone, SegmentPlan(4, 4), CPU)
    for a, b in zip(doubtful.over(some), plain.over(some), strict=True):
        assert torch.equal(a.features, b.features)
    assert doubtful.runtime == "torch"


def test_choose_runtime__by_what_is_installed(monkeypatch):
    absent = set()
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name in absent else object())
    assert choose_runtime("auto", CPU) == "openvino"
    absent.add("openvino")
    assert choose_runtime("auto", CPU) == "onnxruntime"
    absent.add("onnxscript")
    assert choose_runtime("auto", CPU) == "torch"
    with pytest.raises(SonokitError, match=r"onnxscript is not installed: pip install 'sonokit\[onnxruntime\]'"):
        choose_runtime("onnxruntime", CPU)
    assert choose_runtime("auto", torch.device("cuda")) == "torch"
    with pytest.raises(SonokitError, match="CPU only"):
        choose_runtime("openvino", torch.device("cuda"))
    with pytest.raises(SonokitError, match="one of auto, torch"):
        choose_runtime("tensorrt", CPU)


REPORTING = """
import sys
import torch
from sonokit.features.extraction.engine_openvino import compile_openvino
assert compile_openvino(torch.nn.Linear(2, 2), torch.zeros(1, 2), 1)(torch.ones(1, 2).numpy()).shape == (1, 2)
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


def test_openvino__reports_to_nobody_and_says_nothing():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", REPORTING], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_units__a_frame_that_is_chosen_twice_is_one_unit(network):
    single = FeaturePass(network, SegmentPlan(2, 4), CPU)
    clip = clip_of(3)  # segments of the frames 0 and 1, 2: chosen 0 0 0 0, 1 1 2 2
    units, place = single._units(clip, single.plan.choose(3))
    if network.temporal_shift:
        assert units.shape == (2, 4, SIZE, SIZE)
        assert place.tolist() == [[0], [1]]
    else:
        assert np.array_equal(units, clip.frames[:, None])
        assert place.tolist() == [[0, 0, 0, 0], [1, 1, 2, 2]]
