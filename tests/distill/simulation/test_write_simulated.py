import numpy as np
import pytest
from sonokit.clips.decode import read_clip
from sonokit.clips.manifest import read_manifest
from sonokit.distill.knowledge.coco import read_coco
from sonokit.distill.knowledge.gaze_files import Screen, read_gaze_csv
from sonokit.distill.knowledge.region_tables import read_mask_files
from sonokit.distill.landmarks.landmark_files import read_landmarks_csv
from sonokit.distill.simulation.cues import simulate_cues
from sonokit.distill.simulation.marked_signs import simulate_marked_signs
from sonokit.distill.simulation.planes import simulate_planes
from sonokit.distill.simulation.write import write_simulated
from sonokit.errors import SonokitError


def test_write_simulated__planes_are_read_back_the_same(tmp_path):
    images = simulate_planes(4, size=(80, 64), seed=0)
    manifest = read_manifest(write_simulated(tmp_path / "planes", images, split="train"))
    assert manifest.table["label"].tolist() == ["head", "abdomen", "femur", "head"]
    assert manifest.table["patient_id"].tolist() == images.subjects.tolist()
    assert set(manifest.table["split"]) == {"train"}
    for path, frame in zip(manifest.table["path"], images.frames, strict=True):
        np.testing.assert_array_equal(read_clip(str(tmp_path / "planes" / path)).frames.squeeze(), frame)

    points, faults = read_landmarks_csv(tmp_path / "planes" / "landmarks.csv")
    assert points.images == images.images == tuple(manifest.table["clip_id"])
    assert not faults["outside_frame"]
    np.testing.assert_array_equal(points.points, images.points)
    np.testing.assert_array_equal(points.spacing, images.spacing)

    gaze, _ = read_gaze_csv(tmp_path / "planes" / "gaze.csv", Screen((80, 64)))
    for name, truth in zip(images.images, images.gaze(), strict=True):
        np.testing.assert_array_equal(gaze[name].points, truth.points)
        np.testing.assert_array_equal(gaze[name].durations, truth.durations)

    sizes = dict.fromkeys(images.images, (80, 64))
    from_coco = read_coco(tmp_path / "planes" / "regions.json", sizes)
    from_masks = read_mask_files(tmp_path / "planes" / "regions" / "regions.csv", sizes=sizes)
    for name, mask in zip(images.images, images.structures, strict=True):
        np.testing.assert_array_equal(from_coco.images[name].mask(), mask > 0)
        np.testing.assert_array_equal(from_masks.images[name].mask(), mask > 0)


def test_write_simulated__cues_have_the_labels_that_were_given(tmp_path):
    images = simulate_cues(6, label_noise=0.5, seed=0)
    table = read_manifest(write_simulated(tmp_path, images)).table
    assert table["label"].tolist() == [images.class_names[label] for label in images.given]
    assert not (tmp_path / "landmarks.csv").exists()
    assert (tmp_path / "gaze.csv").exists()


def test_write_simulated__images_without_annotation_have_no_region(tmp_path):
    images = simulate_marked_signs(6, shortcut=0.0, annotated=0.5, seed=0)
    write_simulated(tmp_path, images)
    read = read_coco(tmp_path / "regions.json")
    assert [bool(read.images[name].regions) for name in images.images] == images.annotated.tolist()


def test_write_simulated__refuses_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SonokitError, match="not an empty folder"):
        write_simulated(tmp_path, simulate_cues(2, seed=0))
