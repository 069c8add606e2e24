import dataclasses

import numpy as np
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.errors import SonokitError
from sonokit.features.extraction.forward import to_input
from sonokit.features.extractors import partial_tuning
from sonokit.features.extractors.biomarkers import BiomarkerExtractor, SegmentPlan, segment_features
from sonokit.features.extractors.folder import load_extractor
from sonokit.features.extractors.head_fitting import fit_head, logits_from_features, seeded
from sonokit.features.extractors.partial_tuning import features_from_maps, fit_part, join_backbone, split_backbone, stage_maps
from sonokit.features.extractors.settings import BiomarkerSettings
from sonokit.features.extractors.tuning import tuning_of
from sonokit.features.extractors.weak_labels import binary_labels
from sonokit.features.extractors.weak_training import train_biomarkers

CPU = torch.device("cpu")
PLAN = SegmentPlan(4, 2)
SETTINGS = BiomarkerSettings(
    ("bright", "split"),
    embedding=8,
    segments=4,
    segment_frames=2,
    learning_rate=1e-2,
    backbone_learning_rate=1e-3,
    tune="part",
    epochs=2,
    calibration="none",
)


@pytest.fixture(scope="module")
def lively():
    """A ResNet whose residual branches and statistics all matter (timm begins with branches that add nothing)."""
    network = build_backbone("resnet10t", seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.ones_(norm.weight)
        norm.running_mean.copy_(0.1 * torch.randn(norm.num_features, generator=generator))
    return network


def frames(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def fit(settings, clips, backbone):
    """The way of tuning, and an extractor that it fitted to all clips."""
    tuning = tuning_of(settings, clips, backbone, CPU, progress=False)
    labels = binary_labels(clips.manifest, settings.biomarkers)
    return tuning, tuning.fit(np.ones(len(clips), dtype=bool), labels, 5)


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_lite0", "mobilenetv3_small_050", "regnetx_002", "convnext_atto"])
def test_split_backbone__one_part_after_the_other_is_the_whole(name):
    whole = build_backbone(name, seed=0).eval()
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    for stages in (1, 2):
        front, tail = split_backbone(whole, stages, 64)
        x = frames(2, 3, 1, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(tail(front(x)), whole(x), rtol=1e-4, atol=1e-5)
        both = [set(part.model.state_dict()) for part in (front, tail)]
        assert both[0] | both[1] == set(whole.model.state_dict())
        assert not both[0] & both[1]
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())


def test_split_backbone__temporal_shift_acts_in_both_parts():
    whole = build_backbone("efficientnet_lite0", temporal_shift=0.25, seed=0).eval()
    front, tail = split_backbone(whole, 3, 64)
    x = frames(2, 4, 1, 64, 64)
    with torch.inference_mode():
        maps = front(x)
        torch.testing.assert_close(tail(maps), whole(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tail(maps), tail(maps.flatten(0, 1)).unflatten(0, (2, 4)), rtol=1e-3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "densenet121"])
def test_split_backbone__a_model_that_is_no_row_of_stages_is_refused(name):
    with pytest.raises(SonokitError, match=f"{name} does not run as a row of stages.*set tune to all or none"):
        split_backbone(build_backbone(name, seed=0), 1, 64)


def test_split_backbone__stages_that_there_are_not(lively):
    with pytest.raises(SonokitError, match=r"stages must lie in 1 … 3 for resnet10t, it is 4; tune all trains all"):
        split_backbone(lively, 4, 64)


def test_stage_maps__give_the_features_of_the_whole_and_of_the_mirror_image(clips, lively, monkeypatch):
    monkeypatch.setattr(partial_tuning, "_IN_MEMORY", 0)  # they lie in a file
    front, tail = split_backbone(lively, 1, 32)
    maps = stage_maps(clips, front, PLAN, CPU, progress=False)
    assert maps.values.dtype == torch.float16
    assert maps.present.sum(dim=1).tolist()[:3] == [4, 4, 1]  # of 16, 5 and 1 frames
    rows = torch.tensor([2, 0])
    found = features_from_maps(tail, maps, rows, CPU)
    for position, row in enumerate(rows.tolist()):
        chosen = PLAN.choose(len(clips[row].frames))
        batch = to_input(torch.from_numpy(clips[row].frames[chosen.numpy()]), 1)
        with torch.inference_mode():
            expected, mirrored = segment_features(lively, batch), segment_features(lively, batch.flip(-1))
            turned = segment_features(tail, maps.values[1, row, : len(chosen)].float())
        torch.testing.assert_close(found.values[position, : len(chosen)], expected, rtol=1e-2, atol=5e-3)
        torch.testing.assert_close(turned, mirrored, rtol=1e-2, atol=5e-3)
        assert not torch.allclose(expected, mirrored, rtol=1e-2, atol=5e-3)
        assert (found.values[position, len(chosen) :] == 0).all()


def test_part__without_a_learning_rate_is_the_frozen_extractor(clips, lively):
    everyone = np.ones(len(clips), dtype=bool)
    settings = dataclasses.replace(SETTINGS, tune="none", epochs=30, learning_rate=1e-3, backbone_learning_rate=1e-4)
    frozen, extractor = fit(settings, clips, lively)
    labels = torch.from_numpy(binary_labels(clips.manifest, settings.biomarkers))
    front, tail = split_backbone(lively, 1, 32)
    maps = stage_maps(clips, front, PLAN, CPU, progress=False)
    with seeded(5):
        part = BiomarkerExtractor(tail, settings.biomarkers, plan=PLAN, size=32, embedding=8, dropout=settings.dropout)
        features = features_from_maps(tail, maps, torch.arange(len(clips)), CPU)
        fit_head(part, features, labels, settings.fitting())
        before = {key: value.clone() for key, value in part.state_dict().items()}
        still = dataclasses.replace(settings.fitting(), epochs=2, learning_rate=0.0, backbone_learning_rate=0.0)
        fit_part(part, maps, torch.arange(len(clips)), labels, still, CPU, progress=False)
    assert all(torch.equal(value, before[key]) for key, value in part.state_dict().items())
    ours = logits_from_features(part, features)
    torch.testing.assert_close(ours, torch.from_numpy(frozen.logits(extractor, everyone)), rtol=1e-2, atol=1e-2)
    assert ours.std() > 0.3


def test_part__trains_the_last_stage_and_not_a_bit_of_what_is_before(clips, lively):
    _, extractor = fit(SETTINGS, clips, lively)
    after, before = extractor.backbone.model.state_dict(), lively.model.state_dict()
    same = {key: torch.equal(after[key], before[key]) for key in before}
    assert all(same[key] for key in before if not key.startswith("layer4."))
    assert all(same[key] for key in before if "running_" in key)  # the statistics are frozen
    assert not any(same[key] for key in before if key.startswith("layer4.") and key.endswith("conv1.weight"))


def test_part__a_set_loads_and_gives_the_numbers_that_it_had_in_memory(make_clips, lively, divide, tmp_path):
    clips = make_clips(patients=4)
    settings = dataclasses.replace(SETTINGS, epochs=1, seed=5)
    out = train_biomarkers(clips, lively, tmp_path, settings, splits=divide(clips), config={}, progress=False, device="cpu")
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"fold-0", "fold-1", "final"}
    tuning, in_memory = fit(settings, clips, lively)
    loaded = load_extractor(out / "final")
    x = frames(3, 4, 2, 1, 32, 32)
    with torch.inference_mode():
        for theirs, ours in zip(loaded(x), in_memory(x), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
    rows = np.ones(len(clips), dtype=bool)
    whole = tuning_of(dataclasses.replace(settings, tune="all"), clips, lively, CPU, progress=False)  # decodes and runs it all
    ours, theirs = (torch.from_numpy(way.logits(loaded, rows)) for way in (tuning, whole))
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_joined__carries_the_trained_stages(lively):
    _, tail = split_backbone(lively, 1, 64)
    with torch.no_grad():
        for weight in tail.parameters():
            weight.mul_(1.1)
    joined = join_backbone(lively, tail)
    x = frames(1, 1, 64, 64)
    front, _ = split_backbone(lively, 1, 64)
    with torch.inference_mode():
        torch.testing.assert_close(joined(x), tail(front(x)), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(joined(x), lively(x), rtol=1e-2)
