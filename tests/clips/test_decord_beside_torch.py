import subprocess
import sys
from importlib.util import find_spec

import pytest

MATRIX_PRODUCT_AFTER_DECORD = """
from sonokit.clips import video
assert video._decord() is not None
import torch
x = torch.arange(40000.0).reshape(200, 200)
assert torch.equal(x @ torch.eye(200), x)
"""


@pytest.mark.skipif(find_spec("decord") is None, reason="decord2 is not installed")
def test_decord__leaves_torch_working() -> None:
    """decord2 3.4 imported before torch makes torch's first matrix product crash the process."""
    done = subprocess.run([sys.executable, "-c", MATRIX_PRODUCT_AFTER_DECORD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
