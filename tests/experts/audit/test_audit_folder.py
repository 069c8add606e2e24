import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sonokit.errors import SonokitError
from sonokit.experts.audit import AuditReport, audit, require_free, write_audit
from sonokit.features.store import EmbeddingStore


@pytest.fixture(scope="module")
def found(store: EmbeddingStore) -> AuditReport:
    return audit(store, "diagnosis", folds=3, repeats=2, draws=100, permutations=99)


def test_write_audit__whole_folder_and_self_contained_page(found: AuditReport, tmp_path: Path) -> None:
    out = write_audit(found, tmp_path / "audit", {"label": "diagnosis"}, seconds=1.0)
    assert {file.name for file in out.iterdir()} == {
        "audit.json", "audit.html", "config.yaml", "environment.json", "metrics.jsonl",
    }  # fmt: skip
    assert json.loads((out / "audit.json").read_text(encoding="utf-8")) == found.content
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 5  # four columns and the scores
    assert all(finding.title in page for finding in found.findings)
    assert found.sentence in page
    assert write_audit(found, out, {"label": "diagnosis"}) == out


def test_write_audit__foreign_folder_and_other_settings_are_refused(found: AuditReport, tmp_path: Path) -> None:
    out = write_audit(found, tmp_path / "audit", {"label": "diagnosis"})
    with pytest.raises(SonokitError, match="label: 'diagnosis' there, 'severity' now"):
        require_free(out, {"label": "severity"})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(SonokitError, match="no audit's folder"):
        write_audit(found, tmp_path / "thesis", {})


def test_audit__needs_no_torch(store: EmbeddingStore, tmp_path: Path) -> None:
    copy = shutil.copytree(store.folder, tmp_path / "s")
    code = (
        "import sys; from sonokit.features.store import EmbeddingStore; from sonokit.experts.audit import audit, write_audit; "
        "report = audit(EmbeddingStore.open(sys.argv[1]), 'diagnosis', folds=2, repeats=1, draws=10, permutations=9); "
        "write_audit(report, sys.argv[2], {}); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(copy), str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
