"""What is installed, which device will be used, and what would make sonokit faster here."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

# What each package does for the user, so that a missing one is told by its use.
_NEEDED = {
    "torch": "networks",
    "timm": "backbones",
    "lightly": "self-supervised losses and heads",
    "pytorch-lightning": "the training loop",
    "av": "video decoding",
    "pydicom": "DICOM",
    "faiss-cpu": "the vector index",
    "pyarrow": "the embedding store",
    "universal-pathlib": "stores behind URLs",
    "captum": "maps of where a finding is seen",
    "scikit-learn": "linear heads, splits and scores",
    "xgboost": "boosted heads",
    "skops": "safe files for linear heads",
}
_OPTIONAL = {
    "openvino": ("the fastest forward passes on a CPU", "pip install 'sonokit[openvino]'"),
    "onnxruntime": ("fast forward passes on any CPU", "pip install 'sonokit[onnxruntime]'"),
    "ray": ("extract-features --engine ray", "pip install 'sonokit[ray]'"),
    "decord2": ("peeking at a few frames of mp4 files", "pip install 'sonokit[decord]'"),
    "python-gdcm": ("JPEG-lossless, JPEG-LS and JPEG 2000 inside DICOM", "pip install 'sonokit[dicom]'"),
}


def examination() -> Iterator[str]:
    """Yield the lines of the report, from the machine to the advice."""
    yield from _machine()
    yield ""
    yield from _packages()
    yield ""
    yield from _device()


def _machine() -> Iterator[str]:
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    yield f"python    {sys.version.split()[0]}"
    yield f"cores     {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    yield f"memory    {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield f"disk      {disk.free / 2**30:.1f} GiB free here"


def _packages() -> Iterator[str]:
    for name, use in _NEEDED.items():
        version = _version(name)
        yield f"{'ok' if version else 'MISSING':<8}  {name:<18} {version or '-':<10} {use}"
    for name, (use, remedy) in _OPTIONAL.items():
        version = _version(name)
        yield f"{'ok' if version else 'absent':<8}  {name:<18} {version or '-':<10} {use}" + ("" if version else f": {remedy}")
    if _version("decord") and _version("decord2"):
        yield "FAULT     decord and decord2 are both installed and share one import name: pip uninstall decord"
    if _version("lightning"):
        yield "note      lightning is a second copy of pytorch-lightning; sonokit uses the latter"


def _device() -> Iterator[str]:
    if importlib.util.find_spec("torch") is None:
        yield "device    unknown: torch is missing"
        return
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield f"device    cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        yield f"          mixed precision in {'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'}"
        return
    yield f"device    cpu, {torch.get_num_threads()} threads"
    yield "faster    a CUDA GPU would speed up pretraining most: with one, look whether torch was built for it"
    yield f"          (this build: torch {torch.__version__}, CUDA {torch.version.cuda or 'none'})"
    yield "          pretraining at --size 96 or 112 costs a quarter of 224; sonokit prepare decodes every clip only once"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
