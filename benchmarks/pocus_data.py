"""What the studies on the public POCUS clips share: telling the data."""

import hashlib
from pathlib import Path


def data_fingerprint(data: Path) -> str:
    """16 hex digits of a SHA-256 over the manifest and the clips, in order of their names."""
    digest = hashlib.sha256((data / "manifest.csv").read_bytes())
    for file in sorted((data / "clips").iterdir()):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
