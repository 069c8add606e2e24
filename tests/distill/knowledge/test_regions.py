import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sonokit.distill.knowledge.coco import read_coco, write_coco
from sonokit.distill.knowledge.cvat import read_cvat, write_cvat
from sonokit.distill.knowledge.label_maps import read_label_maps, write_label_maps
from sonokit.distill.knowledge.region_tables import read_boxes_csv, read_mask_files, write_boxes_csv, write_mask_files
from sonokit.distill.knowledge.regions import ImageRegions, Region, RegionSet, placed_mask
from sonokit.distill.placement import fitted
from sonokit.errors import SonokitError

SIZES = {"a.png": (12, 8), "deep/b.png": (9, 9), "bare.png": (5, 5)}


def box(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (12, 8)) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def marked(*, ragged: bool = True) -> dict[str, ImageRegions]:
    """Two instances of one name, another name, an image without any; ``ragged`` ones are no boxes and overlap nothing."""
    odd = box(6, 1, 11, 7)
    if ragged:
        odd &= np.random.default_rng(0).random((8, 12)) < 0.6
    a = ImageRegions(
        (12, 8), (Region.of("pleura", box(0, 0, 5, 2)), Region.of("b line", odd), Region.of("pleura", box(1, 4, 3, 8)))
    )
    b = ImageRegions((9, 9), (Region.of("b line", box(0, 0, 9, 9, (9, 9))),))
    return {"a.png": a, "deep/b.png": b, "bare.png": ImageRegions((5, 5))}


def assert_same(found: RegionSet, expected: dict[str, ImageRegions]) -> None:
    assert list(found.images) == list(expected)
    assert found.faults.counts == {"image_without_regions": 1}
    for image, there in expected.items():
        assert found.images[image].size == there.size
        assert [region.name for region in found.images[image].regions] == [region.name for region in there.regions]
        for one, other in zip(found.images[image].regions, there.regions, strict=True):
            np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize(("write", "read"), [(write_coco, read_coco), (write_cvat, read_cvat)])
def test_written_regions__are_read_back(tmp_path: Path, write: Callable[..., None], read: Callable[..., RegionSet]) -> None:
    write(tmp_path / "regions", marked())
    assert_same(read(tmp_path / "regions"), marked())
    assert_same(read(tmp_path / "regions", SIZES), marked())


def test_written_mask_files_and_boxes__are_read_back(tmp_path: Path) -> None:
    write_mask_files(tmp_path, marked())
    assert_same(read_mask_files(tmp_path / "regions.csv", sizes=SIZES), marked())
    write_boxes_csv(tmp_path / "boxes.csv", marked(ragged=False))
    assert_same(read_boxes_csv(tmp_path / "boxes.csv", SIZES), marked(ragged=False))
    believed = read_boxes_csv(tmp_path / "boxes.csv")
    assert {image: found.size for image, found in believed.images.items()} == {"a.png": (12, 8), "deep/b.png": (9, 9)}


def test_written_label_maps__are_read_back_by_name(tmp_path: Path) -> None:
    assert write_label_maps(tmp_path, marked()) == {1: "b line", 2: "pleura"}
    found = read_label_maps(tmp_path, sizes=SIZES)
    assert found.faults.counts == {"image_without_regions": 1}
    for image, there in marked().items():
        for name in ("pleura", "b line"):
            np.testing.assert_array_equal(found.images[image].mask(name), there.mask(name))
    overlapping = {"a.png": ImageRegions((12, 8), (Region.of("x", box(0, 0, 5, 5)), Region.of("y", box(4, 4, 6, 6))))}
    with pytest.raises(SonokitError, match="y overlaps another region"):
        write_label_maps(tmp_path / "no", overlapping)


def test_image_regions__mask_is_the_union_of_a_name() -> None:
    image = marked()["a.png"]
    np.testing.assert_array_equal(image.mask("pleura"), box(0, 0, 5, 2) | box(1, 4, 3, 8))
    assert image.mask().sum() == sum(region.area for region in image.regions)
    assert not image.mask("rib").any()
    assert image.names == ("pleura", "b line")


def test_placed_mask__halved_keeps_its_area() -> None:
    mask = np.zeros((64, 96), dtype=bool)
    mask[20:44, 31:63] = True
    found = placed_mask(mask, fitted((96, 64), (48, 48)))
    assert (found.shape, found.min(), found.max()) == ((48, 48), 0, 1)
    assert found.sum() == pytest.approx(mask.sum() / 4, rel=0.01)
    assert found[8 + 16, 23] == 1
    assert 0 < found[8 + 16, 15] < 1  # half of this column's pixels are covered


def coco(folder: Path, annotations: list[dict[str, object]], size: tuple[int, int] = (12, 8)) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "categories": [{"id": 3, "name": "pleura"}],
        "annotations": [{"image_id": 7, "category_id": 3, **annotation} for annotation in annotations],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def test_read_coco__every_form_of_a_shape(tmp_path: Path) -> None:
    shapes = [
        {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3], [6, 1, 8, 1, 8, 3, 6, 3]]},
        {"segmentation": {"size": [8, 12], "counts": [0, 8, 88]}},
        {"segmentation": {"size": [8, 12], "counts": "08h2"}},  # the same, compressed
        {"bbox": [1, 1, 3, 2]},
    ]
    regions = read_coco(coco(tmp_path, shapes)).images["a.png"].regions
    expected = [box(1, 1, 4, 3) | box(6, 1, 8, 3), box(0, 0, 1, 8), box(0, 0, 1, 8), box(1, 1, 4, 3)]
    for region, mask in zip(regions, expected, strict=True):
        np.testing.assert_array_equal(region.mask, mask)


def test_read_coco__every_fault_is_counted(tmp_path: Path) -> None:
    shapes: list[dict[str, object]] = [
        {"segmentation": [[-3, 1, 4, 1, 4, 3, -3, 3]]},  # cut at the left edge
        {"segmentation": [[20, 1, 24, 1, 24, 3, 20, 3]]},  # wholly beyond: also empty
        {"segmentation": [[1, 1, 4, 4]]},
        {"segmentation": {"size": [8, 12], "counts": [90]}},
        {"segmentation": {"size": [12, 8], "counts": [96]}},
        {"image_id": 8, "bbox": [1, 1, 3, 2]},
        {"category_id": 4, "bbox": [1, 1, 3, 2]},
        {"keypoints": [1, 2, 2]},
    ]
    source = coco(tmp_path, shapes)
    found = read_coco(source)
    assert found.faults.counts == {
        "outside_frame": 2,
        "empty_region": 1,
        "malformed_shape": 2,
        "size_mismatch": 1,
        "unknown_image": 1,
        "unknown_label": 1,
        "unsupported_shape": 1,
    }
    assert found.faults.checked == 8
    (kept,) = found.images["a.png"].regions
    np.testing.assert_array_equal(kept.mask, box(0, 1, 4, 3))
    assert read_coco(source, {"a.png": (8, 12)}).faults["size_mismatch"] == 6  # all of the image but the unknown label
    assert read_coco(source, {"other.png": (12, 8)}).faults["unknown_image"] == 7


@pytest.mark.parametrize(
    "shape",
    [
        {"segmentation": [[0, 0, float("nan"), 2, 2, 2]]},
        {"segmentation": [[0, 0, float("inf"), 2, 2, 2]]},
        {"segmentation": [[0, 0, 1e200, 2, 2, 2]]},
        {"bbox": [1, 1, float("nan"), 2]},
        {"bbox": [1, 2, 3]},
        {"segmentation": {"size": [8, 12], "counts": "o" * 20 + "0"}},
        {"segmentation": {"size": [8, 12], "counts": [10**400, 96]}},
        {"segmentation": {"size": [8, 12], "counts": [1.5, 1.5, 93]}},
    ],
)
def test_read_coco__what_is_no_shape_is_left_out(tmp_path: Path, shape: dict[str, object]) -> None:
    found = read_coco(coco(tmp_path, [shape]))
    assert found.faults.counts == {"malformed_shape": 1, "image_without_regions": 1}


def test_read_cvat__corners_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(CVAT.replace("6.00,1.00", "nan,1.00").replace('ybr="3.00"', 'ybr="inf"'))
    assert read_cvat(tmp_path / "a.xml").faults["malformed_shape"] == 3


def test_read_coco__drawn_twice(tmp_path: Path) -> None:
    nearly = [{"bbox": [1, 1, 9, 5]}, {"bbox": [1, 1, 9, 5.9]}, {"bbox": [1, 1, 4, 5]}]
    found = read_coco(coco(tmp_path, nearly))
    assert found.faults.counts == {"drawn_twice": 1}  # 45 of 54 pixels; 20 of 45 are another part
    assert len(found.images["a.png"].regions) == 3


def test_read_coco__is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"images": []}')
    with pytest.raises(SonokitError, match="is no COCO file"):
        read_coco(tmp_path / "x.json")
    with pytest.raises(SonokitError, match="There is no COCO file"):
        read_coco(tmp_path / "absent.json")


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><size>1</size></task></meta>
<image id="0" name="a.png" width="12" height="8">
  <box label="pleura" xtl="1.00" ytl="1.00" xbr="4.00" ybr="3.00" z_order="0"><attribute name="n">1</attribute></box>
  <box label="turned" xtl="2" ytl="3" xbr="6" ybr="5" rotation="90.0"/>
  <polygon label="rib" points="6.00,1.00;8.00,1.00;8.00,3.00;6.00,3.00"/>
  <mask label="b line" rle="1, 3, 2" left="2" top="4" width="3" height="2"/>
  <mask label="b line" rle="1, 3, 9" left="2" top="4" width="3" height="2"/>
  <polyline label="needle" points="1,1;2,2"/>
  <tag label="good"/>
</image>
<image id="1" name="bare.png" width="5" height="5"/>
</annotations>"""


def test_read_cvat__every_form_of_a_shape(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(CVAT)
    found = read_cvat(tmp_path / "a.xml")
    assert found.faults.counts == {"malformed_shape": 1, "unsupported_shape": 1, "image_without_regions": 1}
    image = found.images["a.png"]
    np.testing.assert_array_equal(image.mask("pleura"), box(1, 1, 4, 3))
    np.testing.assert_array_equal(image.mask("turned"), box(3, 2, 5, 6))  # 4 × 2 about (4, 4) stands upright
    np.testing.assert_array_equal(image.mask("rib"), box(6, 1, 8, 3))
    expected = np.zeros((8, 12), dtype=bool)
    expected[[4, 4, 5], [3, 4, 2]] = True  # along the rows of the box: .xx / x..
    np.testing.assert_array_equal(image.mask("b line"), expected)
    assert read_cvat(tmp_path / "a.xml", {"a.png": (24, 16)}).faults["size_mismatch"] == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "document type"),
        ("<annotations>", "not readable as XML"),
        ("<annotations><track id='0'/></annotations>", "CVAT for images"),
        ("<annotations><image name='a'/></annotations>", "an attribute is absent"),
    ],
)
def test_read_cvat__is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(SonokitError, match=message):
        read_cvat(tmp_path / "a.xml")


def test_read_label_maps__palette_unknown_value_and_colours(tmp_path: Path) -> None:
    values = np.zeros((8, 12), dtype=np.uint8)
    values[:2], values[6:] = 1, 9
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([0, 0, 0, 200, 10, 10] * 128)
    picture.save(tmp_path / "a.png")
    found = read_label_maps(tmp_path, {1: "pleura"}, {"a.jpg": (12, 8)})
    assert found.faults.counts == {"unknown_label": 1}
    np.testing.assert_array_equal(found.images["a.jpg"].mask("pleura"), values == 1)
    with pytest.raises(SonokitError, match=r"There is no .*labels.json"):
        read_label_maps(tmp_path)
    picture.convert("RGB").save(tmp_path / "a.png")
    with pytest.raises(SonokitError, match="is in colours"):
        read_label_maps(tmp_path, {1: "pleura"})


def test_read_label_maps__never_chooses_between_two_images(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 12), dtype=np.uint8)).save(tmp_path / "1.2.840.1.png")
    Image.fromarray(np.ones((8, 12), dtype=np.uint8)).save(tmp_path / "b.PNG", format="PNG")
    sizes = dict.fromkeys(("1.2.840.1", "1.2.840.1.5", "b.mp4"), (12, 8))  # numbers of studies, not endings
    found = read_label_maps(tmp_path, {1: "pleura"}, sizes)
    assert {image: len(there.regions) for image, there in found.images.items()} == {
        "1.2.840.1": 1,
        "1.2.840.1.5": 0,
        "b.mp4": 1,
    }
    either = read_label_maps(tmp_path, {1: "pleura"}, dict.fromkeys(("1.2.840.1.5", "1.2.840.1.6", "b.mp4"), (12, 8)))
    assert either.faults.counts == {"unknown_image": 1, "image_without_regions": 2}


def test_read_boxes_csv__by_hand(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("image,label,xmin,ymin,xmax,ymax\na.png,rib,1,1,3,2\na.png,rib,,1,3,2\nz.png,rib,1,1,3,2\n")
    found = read_boxes_csv(tmp_path / "b.csv", SIZES)
    assert found.faults.counts == {"malformed_shape": 1, "unknown_image": 1, "image_without_regions": 2}
    np.testing.assert_array_equal(found.images["a.png"].mask("rib"), box(1, 1, 3, 2))
    inclusive = read_boxes_csv(tmp_path / "b.csv", SIZES, last_pixel_inside=True)
    np.testing.assert_array_equal(inclusive.images["a.png"].mask("rib"), box(1, 1, 4, 3))
    with pytest.raises(SonokitError, match="no column 'width'"):
        read_boxes_csv(tmp_path / "b.csv")


def test_read_boxes_csv__a_box_turned_round_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,class,x0,y0,x1,y1\na.png,lesion,9,1,4,6\na.png,lesion,1,1,3,6\n")
    read = read_boxes_csv(tmp_path / "boxes.csv", SIZES)
    assert read.faults["malformed_shape"] == 1
    np.testing.assert_array_equal(read.images["a.png"].mask(), box(1, 1, 3, 6))


def test_read_mask_files__compares_boxes_and_sizes(tmp_path: Path) -> None:
    write_mask_files(tmp_path, marked())
    lines = (tmp_path / "regions.csv").read_text().splitlines()
    lines[1] = lines[1].replace("0,0,5,2", "0,0,5,3")
    (tmp_path / "regions.csv").write_text("\n".join(lines))
    found = read_mask_files(tmp_path / "regions.csv", sizes=SIZES | {"deep/b.png": (9, 10)})
    assert found.faults.counts == {"box_differs": 1, "size_mismatch": 1, "image_without_regions": 2}


def test_read_mask_files__of_the_real_radiographs(shared_data: Path) -> None:
    folder = shared_data / "regions" / "chest-xray"
    sizes = {}
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    found = read_mask_files(folder / "regions.csv", sizes=sizes)
    assert found.faults.counts == {"drawn_twice": 1}  # the right lung of one radiograph
    assert found.faults.checked == sum(len(image.regions) for image in found.images.values()) == 320
    assert len(found.images) == 75
