import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from sonokit.clips.manifest import read_manifest
from sonokit.clips.splits import Fold, Splits, make_splits, read_splits, write_splits
from sonokit.errors import SonokitError


def study(patients, labels, sites=None) -> tuple[pd.DataFrame, np.ndarray]:
    table = pd.DataFrame({"clip_id": [f"c{i:03}" for i in range(len(patients))], "y": labels})
    if sites is not None:
        table["site"] = sites
    return table, np.array([str(p) for p in patients])


def divide(table, patients, **options) -> Splits:
    return make_splits(table, patients, **{"label": "y", "patient_column": "patient_id", **options})


clips = st.lists(st.tuples(st.integers(0, 14), st.sampled_from(["a", "b", "c", None])), min_size=2, max_size=45)


@settings(max_examples=150, deadline=None)
@given(clips, st.integers(2, 5), st.integers(0, 5), st.sampled_from([0.0, 0.2]))
def test_make_splits__promises(rows, folds, seed, held_out):
    table, patients = study(*zip(*rows, strict=True))
    assume(len(set(patients)) >= 3)
    assume(table["y"].nunique() >= 2)
    try:
        splits = divide(table, patients, folds=folds, repeats=2, seed=seed, held_out=held_out)
    except SonokitError:
        several = any(len(set(rows)) > 1 for rows in pd.Series([r[1] for r in rows]).groupby(patients).agg(list))
        few = len(set(patients)) * (1 - held_out) < folds + 1
        assert few or several  # the only ways in which it may be impossible
        return
    of = dict(zip(table["clip_id"], patients, strict=True))
    held = set(splits.held_out)
    inside = {c: of[c] for c in of if c not in held}
    assert {of[c] for c in held}.isdisjoint(inside.values())
    for k, fold in enumerate(splits.folds):
        train, test = set(splits.train_ids(k)), set(fold.test)
        assert test
        assert train | test == set(inside)
        assert not {of[c] for c in train} & {of[c] for c in test}
        for kind in ("a", "b", "c"):
            having = {of[c] for c, y in zip(table["clip_id"], table["y"], strict=True) if y == kind and c in inside}
            trained = {of[c] for c, y in zip(table["clip_id"], table["y"], strict=True) if y == kind and c in train}
            assert len(having) < 2 or trained
    for repeat in range(2):  # every clip, labelled or not, is tested once a division
        tested = [c for fold in splits.folds if fold.repeat == repeat for c in fold.test]
        assert sorted(tested) == sorted(inside)


@settings(max_examples=40, deadline=None)
@given(clips, st.integers(0, 3), st.randoms(use_true_random=False))
def test_make_splits__order_and_repeated_rows_change_nothing(rows, seed, random):
    table, patients = study(*zip(*rows, strict=True))
    assume(len(set(patients)) >= 4)
    order = [*range(len(table)), 0, len(table) - 1]
    random.shuffle(order)
    try:
        once = divide(table, patients, folds=2, seed=seed)
    except SonokitError:
        return
    again = divide(table.iloc[order], patients[order], folds=2, seed=seed)
    assert once == again
    assert once.fingerprint() == again.fingerprint()


def test_make_splits__where_no_rule_is_broken_it_is_scikit_learns_division():
    table, patients = study([i // 2 for i in range(80)], ["a", "a", "b", "b"] * 20)
    splits = divide(table, patients, folds=4, repeats=3, seed=7)
    for repeat in range(3):
        reference = StratifiedGroupKFold(4, shuffle=True, random_state=7 + repeat).split(table, table["y"], patients)
        for (_, test), fold in zip(reference, [f for f in splits.folds if f.repeat == repeat], strict=True):
            assert list(fold.test) == table["clip_id"].iloc[test].tolist()


@pytest.mark.parametrize("seed", range(6))
def test_make_splits__rare_classes_are_trained_on_and_tested(seed):
    # two patients of c must part; five of b must each find a fold of their own
    table, patients = study(range(30), ["c"] * 2 + ["b"] * 5 + ["a"] * 23)
    splits = divide(table, patients, folds=5, seed=seed)
    kind = dict(zip(table["clip_id"], table["y"], strict=True))
    for k, fold in enumerate(splits.folds):
        assert sum(kind[c] == "b" for c in fold.test) == 1
        assert sum(kind[c] == "c" for c in splits.train_ids(k)) >= 1


def test_make_splits__every_class_smaller_than_the_folds():
    table, patients = study(range(10), list("aabbccddee"))
    splits = divide(table, patients, folds=5)
    kind = dict(zip(table["clip_id"], table["y"], strict=True))
    assert all({kind[c] for c in splits.train_ids(k)} == set("abcde") for k in range(5))


@pytest.mark.parametrize("seed", range(4))
def test_make_splits__held_out_is_stratified_and_spares_rare_classes(seed):
    table, patients = study([i // 2 for i in range(200)], ["a"] * 120 + ["b"] * 76 + ["c"] * 4)
    splits = divide(table, patients, held_out=0.25, seed=seed)
    kind = dict(zip(table["clip_id"], table["y"], strict=True))
    counts = pd.Series([kind[c] for c in splits.held_out]).value_counts()
    assert len(splits.held_out) == 50
    assert abs(counts["a"] - 30) <= 2
    assert "c" not in counts


def test_make_splits__a_continuous_label_is_spread():
    table, patients = study(range(80), np.random.default_rng(0).normal(size=80))
    splits = divide(table, patients, folds=4)
    value = dict(zip(table["clip_id"], table["y"], strict=True))
    high = [sum(value[c] > table["y"].median() for c in fold.test) for fold in splits.folds]
    assert max(high) - min(high) <= 2


def test_make_splits__without_a_label():
    table, patients = study([0, 0, 1, 2, 3], [None] * 5)
    splits = divide(table, patients, label=None, folds=2)
    assert splits.label is None
    assert sorted(c for fold in splits.folds for c in fold.test) == table["clip_id"].tolist()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"folds": 5}, "Use at most 4 folds"),
        ({"folds": 1}, "At least 2 folds"),
        ({"folds": 2, "held_out": 1.0}, "share of the patients"),
        ({"folds": 2, "held_out": 0.1}, "Use at least 0.25"),
        ({"folds": 2, "label": "z"}, "no column 'z'"),
    ],
)
def test_make_splits__what_cannot_be(options, word):
    table, patients = study([0, 1, 2, 3], list("aabb"))
    with pytest.raises(SonokitError, match=word):
        divide(table, patients, **options)


def test_make_splits__an_impossible_rule_names_the_remedy():
    table, patients = study([0, 0, 1, 1, 2, 2], list("abbcca"))  # three classes of two, each pair of patients shares one
    with pytest.raises(SonokitError, match="Use more folds"):
        divide(table, patients, folds=2)
    assert len(divide(table, patients, folds=3).folds) == 3


def test_make_splits__segments_that_disagree():
    table, patients = study([0, 1, 2], list("aba"))
    twice = pd.concat([table, table.iloc[:1].assign(y="b")])
    with pytest.raises(SonokitError, match="c000"):
        divide(twice, np.append(patients, patients[0]), folds=2)


def test_site_train_ids__a_patient_of_two_sites_stays_out_for_both():
    #        c000 c001 c002 c003 c004 c005
    table, patients = study([1, 1, 2, 3, 4, 5], list("ababab"), ["s", "t", "s", "t", "t", None])
    splits = divide(table, patients, folds=2)
    assert splits.sites == {"s": ("c000", "c002"), "t": ("c001", "c003", "c004")}
    assert splits.site_train_ids("s") == ("c003", "c004")
    assert splits.site_train_ids("t") == ("c002",)
    with pytest.raises(SonokitError, match="no site 'u'"):
        splits.site_train_ids("u")
    one_site = divide(*study([1, 2, 3], list("aba"), ["s", "s", None]), folds=2)
    assert one_site.sites == {}


def test_read_splits__what_was_written(tmp_path):
    table, patients = study([i // 2 for i in range(24)], list("ab") * 12, list("sst") * 8)
    splits = divide(table, patients, folds=3, repeats=2, held_out=0.2, seed=3)
    write_splits(splits, tmp_path / "splits.json")
    back = read_splits(tmp_path / "splits.json")
    assert back == splits
    assert back.fingerprint() == splits.fingerprint() != divide(table, patients, folds=3, repeats=2, held_out=0.2).fingerprint()
    assert back.repeats == 2
    assert json.loads((tmp_path / "splits.json").read_text())["schema"] == 1


def tamper(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def move_a_clip(content):
    content["folds"][1]["test"].append(content["folds"][0]["test"].pop())


def lose_a_clip(content):
    content["folds"][0]["test"].pop()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content.update(schema=2), "schema 2"),
        (lambda content: content.pop("folds"), "no whole splits"),
        (lambda content: content.pop("schema"), "no splits"),
        (lambda content: content.update(folds=[]), "no fold"),
        (lose_a_clip, "loses or repeats"),
        (move_a_clip, "both sides"),
    ],
)
def test_read_splits__what_is_wrong(tmp_path, change, word):
    file = tmp_path / "splits.json"
    write_splits(divide(*study([i // 3 for i in range(18)], list("ab") * 9), folds=2), file)
    tamper(file, change)
    with pytest.raises(SonokitError, match=word):
        read_splits(file)


def test_read_splits__no_file_and_no_json(tmp_path):
    with pytest.raises(SonokitError, match="sonokit split"):
        read_splits(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("path,clip_id")
    with pytest.raises(SonokitError, match="no splits"):
        read_splits(tmp_path / "x.json")


def test_check__unknown_absent_and_moved():
    splits = divide(*study([0, 1, 2, 3], list("aabb")), folds=2)
    assert splits.check(["c000", "c000", "c001"]) == ("c002", "c003")
    assert splits.check(splits.clip_ids, patients=["0", "1", "2", "3"]) == ()
    with pytest.raises(SonokitError, match=r"1 of 2 clips \(new\)"):
        splits.check(["c000", "new"])
    with pytest.raises(SonokitError, match=r"another patient than in the splits \(c001\)"):
        splits.check(["c000", "c001"], patients=["0", "0"])


def test_splits__by_hand():
    splits = Splits(("a", "b", "c"), None, "clip_id", 0, (Fold(0, 0, ("a",)), Fold(0, 1, ("b",))), {}, ("c",))
    assert splits.train_ids(0) == ("b",)
    assert splits.train_ids(1) == ("a",)


def test_make_splits__the_real_clips(shared_data):
    manifest = read_manifest(shared_data / "pocus" / "manifest.csv", check_files=False)
    clips = manifest.select((manifest.table["probe"] == "convex") & (manifest.table["diagnosis"] != "viral_pneumonia"))
    splits = divide(clips.table, clips.patients(), label="diagnosis", repeats=10)
    frame = clips.table.set_index("clip_id")
    for fold in splits.folds:  # 8 patients have covid19, so each of five folds can test all three classes
        assert frame.loc[list(fold.test), "diagnosis"].nunique() == 3


def test_make_splits__one_class_is_nothing_to_stratify_by():
    table, patients = study([0, 1, 2, 3], ["a", "a", "a", None])
    with pytest.raises(SonokitError, match="nothing to divide"):
        divide(table, patients, folds=2)
