"""Run by the store's tests: writes, compacts or erases in forked children that are stopped at chosen points. Needs no torch.

python store_until_killed.py write FOLDER SEED   20 rounds of two writers on FOLDER, each killed somewhere; then both finish
python store_until_killed.py compact FOLDER      FOLDER/1, FOLDER/2, …: copies of FOLDER/whole, killed before their n-th step
python store_until_killed.py drop FOLDER         the same for erasing patient-2, with FOLDER/n/store and FOLDER/n/cache

A step is a write, a flush, a renaming or a removal of a file; one half of the writes are killed half-way.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows
from sonokit.features.store.compact import compact

HEADER = StoreHeader(fingerprint="abc", kind="backbone", model="tiny", dimensions=4)
CLIPS, ROUNDS, SMALL = 60, 20, 3000


def rows_of(clip: int, content: str = "v1") -> Any:
    segments = 1 + clip % 3
    frame = pd.DataFrame(
        {
            "clip_id": f"clip-{clip:02d}",
            "content_hash": content,
            "segment": range(segments),
            "patient_id": f"patient-{clip % 7}",
            "severity": float(clip),
        }
    )
    return make_rows(HEADER, frame, np.random.default_rng(clip).normal(size=(segments, 4)))


def write(folder: Path, worker: int) -> None:
    """Both workers want all clips, from different ends; the second compacts now and then."""
    store = EmbeddingStore.create(folder, HEADER)
    mine = range(CLIPS) if worker == 0 else range(CLIPS - 1, -1, -1)
    for count, clip in enumerate(mine):
        if (f"clip-{clip:02d}", "v1") not in store.done():
            store.append(rows_of(clip))
        if worker == 1 and count % 9 == 8:
            compact(store, SMALL)
    store.update_counts()


def kill_before(step: int, half: bool) -> None:
    """Have this process killed before its n-th step from now, or in the middle of it where it is a write."""
    steps: list[None] = []

    def counted(original: Callable[..., Any], torn: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            steps.append(None)
            if len(steps) == step:
                if torn and half:
                    original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    os.replace = counted(os.replace, False)  # type: ignore[assignment]
    os.fsync = counted(os.fsync, False)
    Path.unlink = counted(Path.unlink, False)  # type: ignore[method-assign]
    Path.write_bytes = counted(Path.write_bytes, True)  # type: ignore[method-assign]


def child(action: Callable[[], None], step: int | None, half: bool) -> int:
    """Fork; nothing has started a thread yet in this process, so that is safe."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if step is not None:
            kill_before(step, half)
        action()
        status = 0
    finally:
        os._exit(status)


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def two_writers(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        points = [(chance.randint(1, 9), chance.random() < 0.5) for _ in range(2)]
        both = [child(lambda w=worker: write(folder, w), *point) for worker, point in enumerate(points)]
        print(*map(wait, both), flush=True)
    both = [child(lambda w=worker: write(folder, w), None, False) for worker in range(2)]
    print(*map(wait, both), flush=True)


def at_every_step(folder: Path, action: Callable[[Path], None]) -> None:
    """Until a child comes through; the last line is that of the undisturbed one."""
    step, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        step += 1
        place = folder / str(step)
        shutil.copytree(folder / "whole", place)
        status = wait(child(lambda p=place: action(p), step, step % 2 == 0))
        print(step, status, flush=True)


def drop(place: Path) -> None:
    from sonokit.features.store.erasure import erase, plan_erasure

    erase(plan_erasure(place / "store", patient="patient-2", cache=place / "cache"))


def main(action: str, folder: Path, *seed: str) -> None:
    if action == "write":
        two_writers(folder, int(seed[0]))
    elif action == "compact":
        at_every_step(folder, lambda place: print(compact(EmbeddingStore.open(place), SMALL)))
    else:
        import sonokit.features.store.erasure  # noqa: F401  # once, not in every child

        at_every_step(folder, drop)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
