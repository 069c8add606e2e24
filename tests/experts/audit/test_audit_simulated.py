from pathlib import Path

import pytest
from sonokit.cli import main
from sonokit.experts.audit import AuditReport, audit
from sonokit.features.store import open_stores


def audited(folder: Path, shortcut: bool) -> AuditReport:
    """Really drawn and encoded clips, read back through a tiny network with random weights."""
    steps = [
        ["simulate", "--out", folder / "clips", "--patients", 30, "--clips_per_patient", 1, "--seconds", 0.4, "--size", 96,
         "--shortcut", str(shortcut).lower()],
        ["extract-features", folder / "clips" / "manifest.csv", "test_resnet", "--out", folder / "store", "--size", 64,
         "--frames", 4, "--cache", folder / "cache"],
    ]  # fmt: skip
    for step in steps:
        assert main([str(word) for word in step]) == 0
    return audit(open_stores(folder / "store"), "diagnosis", folds=3, repeats=2, draws=300, permutations=399)


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", [True, False])
def test_audit__simulated_shortcut_is_named_exactly_when_it_is_there(shortcut: bool, tmp_path: Path) -> None:
    report = audited(tmp_path, shortcut)
    named = report.sentence.startswith("The site, the container and the frame rate tell the diagnosis")
    assert named == shortcut
    assert (report.level == "stop") == shortcut
    assert report.finding("site").level == ("stop" if shortcut else "fine")
