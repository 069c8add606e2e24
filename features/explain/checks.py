"""What tells a map that means something from one that does not, as numbers.

A map that hardly changes when the network's head, or all of its weights, are drawn at random says nothing of what was learnt
(Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, 1810.03292). One that follows brightness, or lies beside the
sector, says little of the finding.
"""

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from ...backbones.build import build_backbone
from ...clips.augment_sector import sector_mask
from ..extractors.biomarkers import BiomarkerExtractor, BiomarkerHead
from ..extractors.head_fitting import seeded


@dataclass(frozen=True)
class MapChecks:
    """Of one biomarker's maps over a clip; each a number, or None where it is not defined or was not asked for.

    Attributes:
        in_sector: Share of the maps' mass inside the sector.
        sector_area: Share of the frame that the sector takes: what a map without preference would have inside.
        brightness: Mean rank correlation with the brightness of the frame, cell by cell.
        random_head: The same with the maps of the same backbone under random heads. Near 0: the map shows what was learnt.
        random_network: The same with the maps of a network of random weights.
        empty: Share of the maps in which nothing speaks for the biomarker.
    """

    in_sector: float | None
    sector_area: float | None
    brightness: float | None
    random_head: float | None
    random_network: float | None
    empty: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, rounded."""
        return {name: None if value is None else round(value, 4) for name, value in dataclasses.asdict(self).items()}


def check_maps(
    maps: Tensor, frames: Tensor, box: Tensor, random_heads: list[Tensor], random_networks: list[Tensor]
) -> list[MapChecks]:
    """Checks of every biomarker's maps.

    Args:
        maps: float32 [M, B, h, w], not negative.
        frames: The frames that they belong to, letterboxed, uint8 [M, S, S].
        box: Where the letterboxed picture lies, bool [S, S].
        random_heads: Maps of the same shape under random heads; none where that was not asked for.
        random_networks: The same of networks of random weights.
    """
    sector = sector_mask(frames[None, :, None])[0] & box  # [S, S]
    raster = (maps.shape[-2], maps.shape[-1])
    covered = F.adaptive_avg_pool2d(box[None].float(), raster)[0]  # [h, w]
    cells = covered > min(0.5, float(covered.max()) / 2)  # mostly picture; a very thin one fills no cell by half
    bright = F.adaptive_avg_pool2d(frames.float(), raster)[:, None].expand_as(maps)  # [M, B, h, w]
    inside, total = _masses(maps, sector)  # [B]
    found = not bool(sector.equal(box))
    return [
        MapChecks(
            in_sector=float(inside[b] / total[b]) if found and total[b] > 0 else None,
            sector_area=float(sector.float().mean()) if found else None,
            brightness=_mean_correlation(maps[:, b], [bright[:, b]], cells),
            random_head=_mean_correlation(maps[:, b], [other[:, b] for other in random_heads], cells),
            random_network=_mean_correlation(maps[:, b], [other[:, b] for other in random_networks], cells),
            empty=float((maps[:, b].amax(dim=(1, 2)) <= 0).float().mean()),
        )
        for b in range(maps.shape[1])
    ]


def random_head(extractor: BiomarkerExtractor, seed: int) -> BiomarkerHead:
    """The extractor's head with new weights; the standardisation stays."""
    head = copy.deepcopy(extractor.head)
    with seeded(seed), torch.no_grad():
        for module in head.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
    return head.eval()


def random_network(extractor: BiomarkerExtractor, seed: int) -> BiomarkerExtractor:
    """The same architecture with new weights throughout.

    Raises:
        SonokitError: timm does not know the backbone's name.
    """
    backbone = extractor.backbone
    other = build_backbone(backbone.name, in_chans=backbone.in_chans, temporal_shift=backbone.temporal_shift, seed=seed)
    other.mean.copy_(backbone.mean)
    other.std.copy_(backbone.std)
    twin = copy.copy(extractor)
    twin._modules = {**extractor._modules, "backbone": other.eval(), "head": random_head(extractor, seed)}
    return twin


def upsampled(maps: Tensor, size: int) -> Tensor:
    """[..., h, w] → [..., size, size], bilinear."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size=(size, size), mode="bilinear").reshape(*maps.shape[:-2], size, size)


def _masses(maps: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Mass of every biomarker's maps within ``region`` [S, S], and in all: [B] each. Moment by moment, to save memory."""
    inside, total = torch.zeros(maps.shape[1]), torch.zeros(maps.shape[1])
    for one in maps:
        fine = upsampled(one, region.shape[-1])  # [B, S, S]
        inside += (fine * region).sum(dim=(1, 2))
        total += fine.sum(dim=(1, 2))
    return inside, total


def _mean_correlation(maps: Tensor, others: list[Tensor], cells: Tensor) -> float | None:
    """Mean of Spearman's correlations between maps [M, h, w] and others, over ``cells`` [h, w]; None where none is defined."""
    values = [
        value
        for other in others
        for a, b in zip(maps[:, cells].numpy(), other[:, cells].numpy(), strict=True)
        if (value := _rank_correlation(a, b)) is not None
    ]
    return float(np.mean(values)) if values else None


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's, of [N] and [N]; None where one of them is the same everywhere."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
