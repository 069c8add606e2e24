import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.comparison import compare_predictions
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.evaluation.probe import (
    LabelledClips,
    LinearProbe,
    NearestNeighbours,
    QuickProbe,
    knn_probe,
    linear_probe,
    quick_probe,
    sites_left_out,
)
from sonokit.experts.heads.linear import LinearHead

CLASSES = ("covid19", "normal", "pneumonia")
PATIENTS = np.array([f"p{k // 2:02d}" for k in range(60)])
TRUTH = np.repeat(np.arange(30) % 3, 2)
IDS = np.array([f"c{k:02d}" for k in range(60)])
SITES = np.array([f"s{k // 2 % 4}" for k in range(60)])
CLIPS = LabelledClips(IDS, PATIENTS, TRUTH, CLASSES, SITES)
TABLE = pd.DataFrame({"clip_id": IDS, "label": np.array(CLASSES)[TRUTH]})


def folds(repeats: int = 1) -> list[FoldRows]:
    splits = make_splits(TABLE, PATIENTS, label="label", patient_column="patient_id", folds=5, repeats=repeats)
    return fold_rows(splits, IDS, PATIENTS)


def noisy_features(seed: int = 0, signal: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    means = random.normal(size=(3, 8)) * signal
    return (means[TRUTH] + random.normal(size=(60, 8))).astype(np.float32)


def test_linear_probe__equals_a_loop_by_hand() -> None:
    features, divided = noisy_features().astype(np.float64), folds(repeats=2)
    found = linear_probe(CLIPS, features, divided)
    by_hand = np.full((2, 60, 3), np.nan)
    for fold in divided:
        scaler = StandardScaler().fit(features[fold.train])
        model = LogisticRegression(C=1, class_weight="balanced", max_iter=1000)
        model.fit(scaler.transform(features[fold.train]), TRUTH[fold.train])
        by_hand[fold.repeat, fold.test] = model.predict_proba(scaler.transform(features[fold.test]))
    np.testing.assert_allclose(found.values, by_hand, atol=1e-7)
    np.testing.assert_array_equal(found.clip_ids, IDS)
    expected = np.mean([balanced_accuracy_score(TRUTH, values.argmax(axis=1)) for values in by_hand])
    assert found.intervals(n=50)["balanced_accuracy"].value == pytest.approx(expected)


def test_linear_probe__reads_as_an_experts_linear_head() -> None:
    features = noisy_features()
    probe, head = LinearProbe().fit(features, TRUTH), LinearHead().fit(features, TRUTH)
    told = probe.predict_proba(features), head.predict_proba(features)
    np.testing.assert_allclose(*told, atol=0.01)  # the probe's solver stops a little before the optimum
    assert np.array_equal(*(values.argmax(axis=1) for values in told))


@pytest.mark.parametrize("neighbours", [None, 3])
def test_nearest_neighbours__equal_brute_force(neighbours: int | None) -> None:
    features = noisy_features().astype(np.float64)
    train, test = np.arange(0, 50), np.arange(50, 60)
    found = NearestNeighbours(neighbours).fit(features[train], TRUTH[train]).predict_proba(features[test])
    centre, spread = features[train].mean(axis=0), features[train].std(axis=0)
    unit = (features - centre) / spread
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for row, clip in enumerate(test):
        similarity = unit[train] @ unit[clip]
        nearest = np.argsort(-similarity)[: neighbours or 7]  # 7: the root of 50, rounded down
        votes = np.zeros(3)
        for k in nearest:
            votes[TRUTH[train][k]] += np.exp(similarity[k] / 0.07)
        np.testing.assert_allclose(found[row], votes / votes.sum(), atol=1e-6)


def test_nearest_neighbours__never_more_than_20_nor_than_there_are() -> None:
    random = np.random.default_rng(0)
    for count, expected in ((2000, 20), (100, 10), (3, 1)):
        fitted = NearestNeighbours().fit(random.normal(size=(count, 4)), np.arange(count) % 2)
        assert fitted.model_[-1].n_neighbors == expected


@pytest.mark.parametrize("reader", [linear_probe, knn_probe])
def test_probe__separable_features_score_one_and_shuffled_labels_near_chance(reader: object) -> None:
    assert callable(reader)
    separable = np.eye(3)[TRUTH] * 10 + np.random.default_rng(0).normal(size=(60, 3)) * 0.1
    assert reader(CLIPS, separable, folds()).by_repeat()[0]["balanced_accuracy"] == 1
    chance = []
    for seed in range(20):  # shuffled by patient, so that clips of a patient keep one label
        shuffled = np.repeat(np.random.default_rng(seed).permutation(TRUTH[::2]), 2)
        clips = LabelledClips(IDS, PATIENTS, shuffled, CLASSES, SITES)
        chance.append(reader(clips, separable, folds()).by_repeat()[0]["balanced_accuracy"])
    assert np.mean(chance) == pytest.approx(1 / 3, abs=0.1)


def test_probe__features_of_a_patients_own_are_of_no_use() -> None:
    """A feature that names the patient gives every label away, if and only if a patient is on both sides."""
    named = (PATIENTS[:, None] == np.unique(PATIENTS)[None, :]).astype(np.float64)
    clip_grouped = LabelledClips(IDS, IDS, TRUTH, CLASSES, SITES)
    splits = make_splits(TABLE, IDS, label="label", patient_column="clip_id", folds=5)
    leaky = knn_probe(clip_grouped, named, fold_rows(splits, IDS, IDS)).by_repeat()[0]["balanced_accuracy"]
    honest = knn_probe(CLIPS, named, folds()).by_repeat()[0]["balanced_accuracy"]
    assert leaky > 0.7
    assert honest < 0.5


def test_probe__each_fold_may_have_features_of_its_own() -> None:
    """One backbone a fold: fold k reads matrix k."""
    matrices = [noisy_features(seed) for seed in range(5)]
    together = linear_probe(CLIPS, lambda fold: matrices[fold.index], folds())
    for fold in folds():
        alone = linear_probe(CLIPS, matrices[fold.index], folds())
        np.testing.assert_array_equal(together.values[0, fold.test], alone.values[0, fold.test])


def test_probe__too_few_rows_of_features_are_refused() -> None:
    with pytest.raises(SonokitError, match="59 rows of features for 60 clips"):
        linear_probe(CLIPS, noisy_features()[:59], folds())


def test_probe__two_probes_of_the_same_clips_are_compared_in_pairs() -> None:
    weak, strong = (linear_probe(CLIPS, noisy_features(1, signal), folds()) for signal in (0.2, 3.0))
    difference = compare_predictions(strong, weak, n=200)["balanced_accuracy"]
    assert difference.low > 0


def test_sites_left_out__are_predicted_from_the_others() -> None:
    met: list[tuple[set[str], set[str]]] = []

    def features(fold: FoldRows) -> np.ndarray:
        met.append((set(SITES[fold.train]), set(SITES[fold.test])))
        return noisy_features()

    found = sites_left_out(CLIPS, features)
    assert not isinstance(found, str)
    assert met == [({"s0", "s1", "s2", "s3"} - {site}, {site}) for site in ("s0", "s1", "s2", "s3")]
    assert len(found.clip_ids) == 60


def test_sites_left_out__one_site_is_a_reason() -> None:
    one = LabelledClips(IDS, PATIENTS, TRUTH, CLASSES, np.full(60, "s0"))
    none = LabelledClips(IDS, PATIENTS, TRUTH, CLASSES, np.full(60, ""))
    assert sites_left_out(one, noisy_features()) == "one site only"
    assert sites_left_out(none, noisy_features()) == "no site is known"


def test_quick_probe__equals_the_probes_on_its_division() -> None:
    features, labels = noisy_features(), np.array(CLASSES)[TRUTH]
    ids = np.array([f"{row:09d}" for row in range(60)])
    table = pd.DataFrame({"clip_id": ids, "label": labels})
    splits = make_splits(table, PATIENTS, label="label", patient_column="patient", folds=5, seed=3)
    divided = fold_rows(splits, ids, PATIENTS)
    found = quick_probe(features, labels, PATIENTS, seed=3)
    for name, reader in (("linear", linear_probe), ("knn", knn_probe)):
        values = reader(CLIPS, features, divided).values[0]
        assert found[f"{name}_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(TRUTH, values.argmax(axis=1)))


def test_quick_probe__unlabelled_clips_and_rare_classes_take_no_part() -> None:
    features = noisy_features()
    labels = np.array(CLASSES, dtype=object)[TRUTH]
    more = np.concatenate([labels, [None, "", np.nan, "rare"]])
    people = np.concatenate([PATIENTS, ["q1", "q2", "q3", "q4"]])
    watched = QuickProbe(more, people, seed=1)
    assert watched.left_out == ("rare",)
    assert len(watched.clips) == 60
    padded = np.concatenate([features, np.full((4, 8), np.nan, dtype=np.float32)])
    assert watched(padded) == quick_probe(features, labels, PATIENTS, seed=1)


def test_quick_probe__too_few_patients_are_told_at_once() -> None:
    labels = np.where(np.arange(60) < 4, "a", "b")
    with pytest.raises(SonokitError, match="a: 2, b: 28"):
        QuickProbe(labels, PATIENTS)
