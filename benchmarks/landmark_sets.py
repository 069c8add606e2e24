"""What the study of landmark distillation is run on: real cephalograms, and simulated fetal heads."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sonokit.distill.landmarks.landmarks import Landmarks
from sonokit.distill.landmarks.predict import landmark_views, read_grey_images
from sonokit.distill.landmarks.public_sets import cephalometric_split, read_cephalometric
from sonokit.distill.placement import Placement, Size
from sonokit.distill.training.views import Views


@dataclass(frozen=True)
class LandmarkData:
    """Training and test images of one set.

    Attributes:
        train_views: With points.
        test_views, test_places: Without; where each image lies in its view.
        test: Truth of the test images.
        fingerprint: 16 hex digits of everything that was read.
        described: In a sentence.
        unit: Of the errors.
    """

    train_views: Views
    test_views: Views
    test_places: list[Placement]
    test: Landmarks
    fingerprint: str
    described: str
    unit: str


def cephalometric_data(folder: Path, size: Size) -> LandmarkData:
    """Cephalograms 001 to 150 to train, 151 to 300 to test."""
    landmarks, _ = read_cephalometric(folder)
    train, test = cephalometric_split(landmarks)
    digest = hashlib.sha256((folder / "points.csv").read_bytes())
    for image in landmarks.images:
        digest.update(hashlib.sha256((folder / "images" / image).read_bytes()).digest())
    described = "lateral cephalograms of the ISBI 2015 challenge, 0.5 mm a pixel; 001 to 150 to train, 151 to 300 to test"
    return _data(train, test, folder / "images", size, digest.hexdigest()[:16], described)


def _data(train: Landmarks, test: Landmarks, images: Path, size: Size, fingerprint: str, described: str) -> LandmarkData:
    train_views, _ = landmark_views(read_grey_images(train, images), train.points, size)
    test_views, places = landmark_views(read_grey_images(test, images), None, size)
    return LandmarkData(train_views, test_views, places, test, fingerprint, described, "mm")


def simulated_data(size: Size, *, train: int = 300, test: int = 300, seed: int = 0) -> LandmarkData:
    """Simulated heads; no fetus is on both sides."""
    from sonokit.distill.simulation.planes import simulate_planes

    sides = [simulate_planes(n, plane="head", size=size, seed=seed + k) for k, n in enumerate((train, test))]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(side.frames).tobytes() + side.points.tobytes() for side in sides))
    places = [Placement(size, size, (0, 0), size)] * test
    views = Views(sides[1].frames, np.arange(test))
    described = f"simulated planes of the fetal head: {train} images to train, {test} of other fetuses to test"
    own = sides[0].views()
    train_views = Views(own.frames, own.items, points=own.points)
    return LandmarkData(train_views, views, places, sides[1].landmarks(), digest.hexdigest()[:16], described, "mm")
