import numpy as np
import pytest
from sonokit.distill.knowledge.run_lengths import (
    decode_text,
    encode_text,
    mask_of_row_runs,
    mask_of_runs,
    row_runs,
    run_lengths,
)

ROWS, COLUMNS = np.mgrid[:40, :60]

# mask, and its counts as pycocotools 2.0.11 encodes them
REFERENCE = {
    "disc": (
        ((COLUMNS - 25) / 18) ** 2 + ((ROWS - 17) / 12) ** 2 < 1,
        "^:7o04M2N2N2O0O2O0O2O0O2O0000000000000000000000000001N101N101N101N2N2N3Lld0",
    ),
    "stripes": ((COLUMNS % 7 < 3) & (ROWS > 4), "5S15000P50PK000P50PK000P50PK000P50PK000P50PK000P50PK000P50PK000P50PK000S1"),
    "one pixel": ((COLUMNS == 59) & (ROWS == 39), "oZ21"),
    "everything": (np.ones((40, 60), dtype=bool), "0P[2"),
    "tall": (np.tile(np.arange(300)[:, None] >= 150, (1, 3)), "f4f4f4000"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_text__is_that_of_pycocotools(name: str) -> None:
    mask, text = REFERENCE[name]
    assert encode_text(run_lengths(mask)) == text
    np.testing.assert_array_equal(mask_of_runs(decode_text(text), *mask.shape), mask)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_run_lengths__equal_counting_pixel_by_pixel(share: float) -> None:
    mask = np.random.default_rng(0).random((9, 13)) < share
    for runs, pixels in ((run_lengths(mask), mask.T.ravel()), (row_runs(mask), mask.ravel())):
        expected, value = [0], False
        for pixel in pixels:
            if pixel != value:
                expected.append(0)
                value = not value
            expected[-1] += 1
        assert runs.tolist() == expected
    np.testing.assert_array_equal(mask_of_runs(run_lengths(mask), 9, 13), mask)
    np.testing.assert_array_equal(mask_of_row_runs(row_runs(mask), 9, 13), mask)
    np.testing.assert_array_equal(decode_text(encode_text(run_lengths(mask))), run_lengths(mask))


@pytest.mark.parametrize("runs", [[5, 4], [5, 6], [11, -1]])
def test_mask_of_runs__that_do_not_fill_the_frame(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fill 2 × 5"):
        mask_of_runs(np.array(runs), 5, 2)


@pytest.mark.parametrize("text", ["5S", "5 1", "õ"])
def test_decode_text__damaged(text: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        decode_text(text)
