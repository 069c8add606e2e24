"""Run by test_cache.py: prepares one manifest again and again in forked children, each of which is stopped at another point.

python prepare_until_killed.py MANIFEST FOLDER POINT…   each in FOLDER/POINT, killed before the n-th call of a function
python prepare_until_killed.py MANIFEST FOLDER together  two children at once in FOLDER/together, not killed
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sonokit.clips import cache, shards
from sonokit.clips.cache import CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling


def prepare(manifest: Path, folder: Path) -> None:
    shards.SHARD_BYTES = 3 * 4 * 32 * 32
    clips = read_manifest(manifest)
    cache.prepare(clips, folder, CacheSettings(32, Sampling(frames=4)), workers=2, progress=False)


def kill_before(place: Any, name: str, call: int) -> None:
    original, calls = getattr(place, name), []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(place, name, counted)


def child(manifest: Path, folder: Path, point: str) -> int:
    """Fork; nothing has started a thread yet in this process, so that is safe."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if point != "together":
            name, call = point.split("-")
            kill_before({"replace": os, "fsync": os, "read_clip": cache}[name], name, int(call))
        prepare(manifest, folder)
        status = 0
    finally:
        os._exit(status)


def main(manifest: Path, folder: Path, points: list[str]) -> None:
    for point in points:
        times = 2 if point == "together" else 1
        children = [child(manifest, folder / point, point) for _ in range(times)]
        for process in children:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            print(point, status, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
