import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.external.reference import load_reference
from sonokit.experts.folder import Expert, load_single_expert
from sonokit.experts.recipes import clip_features, clip_table
from sonokit.features.store import EmbeddingStore


def test_make_reference__figures_by_hand(expert: Expert, home: EmbeddingStore) -> None:
    found, table, inputs = expert.reference, clip_table(home), clip_features(home, "mean").X
    assert found is not None
    assert (found.clips, found.patients) == (120, 60)
    ill = table["finding"] == "ill"
    assert found.label["classes"]["ill"] == {"clips": int(ill.sum()), "patients": table["patient_id"][ill].nunique()}
    np.testing.assert_allclose(found.prior, [ill.mean(), 1 - ill.mean()])
    np.testing.assert_array_equal(found.constant, [float(ill.mean() > 0.5), float(ill.mean() <= 0.5)])
    np.testing.assert_allclose(found.features[:, 0], inputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.features[:, 1], inputs.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.features[:, [2, 5, 8]].T, np.quantile(inputs, [0, 0.5, 1], axis=0), rtol=1e-5)
    assert found.metadata["probe"] == pytest.approx((table["probe"].value_counts() / 120).to_dict())
    assert found.metadata["frame_rate"] == {"quantiles": [25.0] * 7, "unknown": 0.0}
    assert sum(found.predicted["top"]) == pytest.approx(1)


def test_make_reference__kept_draws_have_the_interval(expert: Expert) -> None:
    found = expert.reference
    assert found is not None
    kept = found.scores["balanced_accuracy"]
    drawn = found.score_draws("balanced_accuracy", 20_000, seed=3)
    assert drawn is not None
    assert drawn[0] == kept["value"]
    np.testing.assert_allclose(np.quantile(drawn[1:], [0.025, 0.975]), [kept["low"], kept["high"]], atol=0.004)
    assert found.score_draws("no such score", 10, seed=0) is None


def test_load_reference__round_trip(expert: Expert, folder: Path) -> None:
    found, kept = load_single_expert(folder).reference, expert.reference
    assert found is not None
    assert kept is not None
    for name, value in vars(kept).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value)
        else:
            assert getattr(found, name) == value


def test_save_reference__names_nobody(folder: Path, home: EmbeddingStore) -> None:
    table = clip_table(home)
    everything = (folder / "reference.json").read_text() + (folder / "expert.json").read_text()
    names = [*table["clip_id"], *table["patient_id"], *table["content_hash"]]
    assert not [name for name in names if name in everything]
    with np.load(folder / "reference.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "features": (8, 9), "embedding": (8, 9), "training_contents": (120,), "held_out_contents": (0,),
        }  # fmt: skip


def test_load_reference__absent_damaged_newer(folder: Path, tmp_path: Path) -> None:
    assert load_reference(tmp_path) is None
    content = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").write_text(json.dumps(content | {"schema_version": 2}))
    with pytest.raises(SonokitError, match="update sonokit"):
        load_reference(folder)
    (folder / "reference.json").write_text(json.dumps(content))
    (folder / "reference.npz").write_bytes(b"PK")
    with pytest.raises(SonokitError, match="damaged"):
        load_reference(folder)


def test_make_reference__nothing_is_written_into_the_store(
    hospital: Callable[..., EmbeddingStore], fit_here: Callable[..., Expert]
) -> None:
    store = hospital("untouched", patients=20)
    before = sorted(path.relative_to(store.folder) for path in store.folder.rglob("*"))
    fit_here(store, draws=10)
    assert sorted(path.relative_to(store.folder) for path in store.folder.rglob("*")) == before
