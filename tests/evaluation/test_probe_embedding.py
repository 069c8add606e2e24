from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.errors import SonokitError
from sonokit.evaluation.embedding import embed_clips
from torch.nn import functional as F

RANDOM = np.random.default_rng(0)
CLIPS = [SimpleNamespace(frames=RANDOM.integers(0, 256, (count, 40, 40), dtype=np.uint8)) for count in (5, 1, 3, 7)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("test_resnet", seed=1)


def test_embed_clips__equals_a_plain_loop(backbone: Backbone) -> None:
    found = embed_clips(backbone, CLIPS, size=32)
    backbone.eval()
    for row, clip in enumerate(CLIPS):
        features = []
        for frame in clip.frames:
            grey = torch.from_numpy(frame / 255.0).float()[None, None]
            small = F.interpolate(grey, size=(32, 32), mode="bilinear", antialias=True)
            with torch.no_grad():
                features.append(backbone(small)[0].numpy())
        expected = np.concatenate([np.mean(features, axis=0), np.std(features, axis=0)])
        np.testing.assert_allclose(found[row], expected, atol=1e-4)
    assert found.dtype == np.float32
    assert found.shape == (4, 2 * backbone.num_features)
    assert (found[1, backbone.num_features :] == 0).all()  # one frame has no spread


def test_embed_clips__leaves_mode_weights_statistics_and_generators_alone(backbone: Backbone) -> None:
    backbone.train()
    next(m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
    modes = [module.training for module in backbone.modules()]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    embed_clips(backbone, CLIPS, size=32)
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    drawn, numpy_drawn = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(drawn, torch.rand(3))
    assert np.array_equal(numpy_drawn, np.random.rand(3))  # noqa: NPY002


def test_embed_clips__training_mode_and_neighbours_change_nothing(backbone: Backbone) -> None:
    together = embed_clips(backbone.eval(), CLIPS, size=32)
    np.testing.assert_array_equal(embed_clips(backbone.train(), CLIPS, size=32), together)
    np.testing.assert_array_equal(embed_clips(backbone, CLIPS[3:], size=32)[0], together[3])


def test_embed_clips__small_batches_give_the_same(backbone: Backbone) -> None:
    whole, cut = embed_clips(backbone, CLIPS, size=32), embed_clips(backbone, CLIPS, size=32, batch_images=2)
    np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_embed_clips__no_clips_and_broken_weights(backbone: Backbone) -> None:
    assert embed_clips(backbone, [], size=32).shape == (0, 2 * backbone.num_features)
    broken = build_backbone("test_resnet")
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(SonokitError, match="not finite"):
        embed_clips(broken, CLIPS, size=32)
