import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sonokit.clips.manifest import read_manifest, scan_folder, write_manifest
from sonokit.errors import SonokitError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def manifest_of(folder: Path, text: str | bytes, **options):
    file = folder / "manifest.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(file, **options)


def faults_of(folder: Path, text: str | bytes, **options) -> str:
    with pytest.raises(SonokitError) as caught:
        manifest_of(folder, text, **options)
    return str(caught.value)


def test_read_manifest__text_stays_text_and_numbers_become_numbers(folder):
    clips = manifest_of(
        folder, "path,patient_id,site,severity,diagnosis,mixed\na.mp4,007,1,3,normal,1\nb.mp4,7,,,covid19,x\nc.mp4,7,1,0,,\n"
    )
    assert clips.table["patient_id"].tolist() == ["007", "7", "7"]
    assert clips.table["site"].tolist()[0] == "1"
    assert clips.table["site"].isna().tolist() == [False, True, False]
    assert clips.table["severity"].dtype == np.float64
    assert clips.table["severity"].isna().tolist() == [False, True, False]
    assert clips.table["mixed"].tolist()[:2] == ["1", "x"]
    assert clips.table["clip_id"].tolist() == ["a", "b", "c"]
    assert clips.label_columns == ["severity", "diagnosis", "mixed"]
    assert clips.patients().tolist() == ["007", "7", "7"]
    assert clips.locate(1) == str(folder / "b.mp4")
    assert len(clips) == 3


def test_read_manifest__all_faults_together_with_their_lines(folder):
    text = (
        "path,clip_id,b_lines,sf_ratio\n"  # line 1
        "a.mp4,one,1,310.5\n"
        "nowhere.mp4,two,0,100\n"  # 3: missing file
        '"b.mp4","a name over\ntwo lines",0,1\n'  # 4 and 5
        "b.mp4,one,2,10\n"  # 6: repeated, not 0/1
        "\n"
        ",five,0,much\n"  # 8: empty path, not a number
        "c.mp4,six,0,5,6,7\n"  # 9: too many cells
    )
    message = faults_of(folder, text, binary=["b_lines"], numeric=["sf_ratio"], required=["severity"])
    lines = message.splitlines()
    assert lines[0] == f"{folder / 'manifest.csv'} has 7 faults:"
    assert "line 1, column severity: is missing" in lines[1]
    assert lines[2].startswith("  line 3, column path: 'nowhere.mp4'; expected an existing file")
    assert lines[3] == "  line 6, column b_lines: '2'; expected 0 or 1, or nothing where unknown"
    assert lines[4] == "  line 6, column clip_id: 'one'; expected a clip_id of its own (line 2 has it too)"
    assert lines[5] == "  line 8, column path: is empty; expected the path of a clip"
    assert lines[6] == "  line 8, column sf_ratio: 'much'; expected a number, or nothing where unknown"
    assert lines[7].startswith("  line 9: 6 cells; expected 4")


def test_read_manifest__what_hospitals_send(folder):
    text = "\ufeff path ; patient_id; sf ratio ;;\r\n a.mp4 ;007;310,5;;\r\nb.mp4;8;2;;\r\n;;;;\r\nc.mp4;;1000;;\r\n".encode()
    clips = manifest_of(folder, text, required=["sf ratio"], numeric=["sf ratio"])
    assert list(clips.table.columns) == ["path", "clip_id", "patient_id", "sf ratio"]
    assert clips.table["path"].tolist() == ["a.mp4", "b.mp4", "c.mp4"]
    assert clips.table["sf ratio"].tolist() == [310.5, 2.0, 1000.0]
    assert clips.table["patient_id"].tolist()[:2] == ["007", "8"]


@pytest.mark.parametrize("unknown", ["", " ", "NA", "nan", "N/A", "NULL"])
def test_read_manifest__empty_is_unknown(folder, unknown):
    clips = manifest_of(folder, f"path,patient_id,b_lines\na.mp4,{unknown},{unknown}\nb.mp4,none,1\n", binary=["b_lines"])
    assert clips.table["patient_id"].isna().tolist() == [True, False]
    assert clips.table["b_lines"].tolist()[1] == 1
    assert np.isnan(clips.table["b_lines"].tolist()[0])


def test_read_manifest__binary_refuses_words_and_numeric_refuses_infinity(folder):
    message = faults_of(folder, "path,b,n\na.mp4,yes,inf\nb.mp4,0.5,1e3\nc.mp4,1.0,\n", binary=["b"], numeric=["n"])
    assert "has 3 faults" in message
    assert "line 2, column b: 'yes'" in message
    assert "line 2, column n: 'inf'" in message
    assert "line 3, column b: '0.5'" in message


def test_read_manifest__header_faults(folder):
    message = faults_of(folder, "Path,b,b,,frame_rate\na.mp4,1,1,5,30\n")
    assert "column path: is missing" in message
    assert "'Path' is near" in message
    assert "column b: stands 2 times" in message
    assert "a column has no name" in message
    assert "column frame_rate: sonokit writes a column of this name itself" in message


def test_read_manifest__long_lists_are_cut(folder):
    rows = "".join(f"gone{i}.mp4\n" for i in range(50))
    lines = faults_of(folder, "path\n" + rows).splitlines()
    assert "has 50 faults" in lines[0]
    assert len(lines) == 22
    assert lines[-1] == "  and 30 more"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "is empty"),
        (b"path,site\na.mp4,K\xf6ln\n", "line 2: not UTF-8"),
        ("path\na.mp4\n".encode("utf-16"), "CSV UTF-8"),
        (b"path\n", "no clips"),
        (b"path,site\n,\n,\n", "no clips"),
    ],
)
def test_read_manifest__unreadable(folder, data, word):
    assert word in faults_of(folder, data)


def test_read_manifest__wrong_files(tmp_path):
    with pytest.raises(SonokitError, match="sonokit scan"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    with pytest.raises(SonokitError, match="Save a spreadsheet as CSV"):
        read_manifest(tmp_path / "table.xlsx")
    (tmp_path / "table.parquet").write_bytes(b"text")
    with pytest.raises(SonokitError, match="not readable as Parquet"):
        read_manifest(tmp_path / "table.parquet")


def test_read_manifest__parquet_keeps_what_csv_keeps(folder):
    table = pd.DataFrame(
        {
            "path": ["a.mp4", "b.mp4"],
            "patient_id": [7.0, None],
            "probe": ["convex", None],
            "flag": [True, False],
            "ratio": [0.1, None],
        }
    )
    table.to_parquet(folder / "m.parquet")
    clips = read_manifest(folder / "m.parquet", binary=["flag"])
    assert clips.table["patient_id"].tolist()[0] == "7"
    assert clips.table["flag"].tolist() == [1, 0]
    assert clips.table["ratio"].tolist()[0] == 0.1
    assert clips.table["probe"].isna().tolist() == [False, True]
    table.assign(path=["a.mp4", "gone.mp4"]).to_parquet(folder / "m.parquet")
    with pytest.raises(SonokitError, match=r"row 2, column path: 'gone.mp4'"):
        read_manifest(folder / "m.parquet")


def test_read_manifest__parquet_of_whatever_type(folder):
    whole = pd.array([9007199254740993, None, 9007199254740992], dtype="int64[pyarrow]")  # floats could not tell these apart
    table = pd.DataFrame(
        {
            "path": pd.Categorical(["a.mp4", "b.mp4", "c.mp4"]),
            "patient_id": whole,
            "site": pd.array(["x", None, ""], dtype="string"),
            "flag": [True, None, False],
            "ratio": pd.array([0.5, None, 2.0], dtype="float32[pyarrow]"),
        }
    )
    for written in (table, table.set_index("patient_id"), table.set_index(pd.Index([5, 3, 9]))):
        written.to_parquet(folder / "m.parquet")
        clips = read_manifest(folder / "m.parquet", binary=["flag"], numeric=["ratio"])
        assert set(clips.table.columns) == {"path", "clip_id", "patient_id", "site", "flag", "ratio"}
        assert clips.groups().tolist() == ["9007199254740993", "clip b", "9007199254740992"]
        assert clips.table["site"].isna().tolist() == [False, True, True]
        np.testing.assert_array_equal(clips.table["flag"], [1, np.nan, 0])
        np.testing.assert_array_equal(clips.table["ratio"], [0.5, np.nan, 2])


def test_read_manifest__several_empty_paths(folder):
    text = faults_of(folder, "path,clip_id,x\n,,1\na.mp4,,2\n,,3\n")
    assert "2 faults" in text
    assert "line 2, column path: is empty" in text
    assert "line 4, column path: is empty" in text


def test_read_manifest__urls_and_files_that_need_not_exist(folder):
    clips = manifest_of(folder, "path\ns3://bucket/x.mp4\na.mp4\n")
    assert clips.locate(0) == "s3://bucket/x.mp4"
    assert len(manifest_of(folder, "path\ngone.mp4\n", check_files=False)) == 1


def test_patients__unknown_or_partly_empty_names_the_option(folder):
    with pytest.raises(SonokitError, match="--patient clip_id takes each clip as its own patient; the report will say so"):
        manifest_of(folder, "path\na.mp4\n").patients()
    partly = manifest_of(folder, "path,patient_id\na.mp4,b\nb.mp4,\nc.mp4,\n")
    with pytest.raises(SonokitError, match=r"empty for 2 of 3 clips \(b, c\)"):
        partly.patients()
    assert len(set(partly.groups())) == 3  # patient "b" is not the clip "b"
    assert manifest_of(folder, "path\na.mp4\nb.mp4\n").groups().tolist() == ["a", "b"]


def test_patients__the_users_column(folder):
    clips = manifest_of(folder, "path,subject\na.mp4,01\nb.mp4,1\n", patient="subject")
    assert clips.patients().tolist() == ["01", "1"]
    assert manifest_of(folder, "path\na.mp4\n", patient="clip_id").patients().tolist() == ["a"]
    assert "column subjekt: is missing" in faults_of(folder, "path,subject\na.mp4,1\n", patient="subjekt")


def test_labels_and_select(folder):
    clips = manifest_of(folder, "path,site,x\na.mp4,s,1\nb.mp4,s,2\nc.mp4,t,3\n")
    with pytest.raises(SonokitError, match="Its columns: x, site"):
        clips.labels("y")
    some = clips.select(np.array([False, True, True]))
    assert some.labels("x").tolist() == [2, 3]
    assert some.table.index.tolist() == [0, 1]
    assert some.locate(0) == str(folder / "b.mp4")
    assert len(clips) == 3


cell = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=8).filter(
    lambda text: text.lower() not in ("na", "n/a", "nan", "<na>", "null")
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=8, unique_by=lambda row: row[0]), st.booleans())
def test_write_manifest__read_back_is_the_same(tmp_path_factory, rows, parquet):
    table = pd.DataFrame(rows, columns=["clip_id", "patient_id", "site"])
    table.insert(0, "path", [f"{i}.mp4" for i in range(len(rows))])
    file = tmp_path_factory.mktemp("m") / ("m.parquet" if parquet else "m.csv")
    write_manifest(table, file)
    back = read_manifest(file, check_files=False).table
    assert back.astype(object).values.tolist() == table.values.tolist()


def test_write_manifest__other_ending(tmp_path):
    with pytest.raises(SonokitError, match=r"\.csv or a \.parquet"):
        write_manifest(pd.DataFrame({"path": ["a"]}), tmp_path / "m.xlsx")


def test_scan_folder__finds_and_names(tmp_path):
    pytest.importorskip("sonokit.clips.dicom")
    dicom = b"\0" * 128 + b"DICM"
    files = {
        "b/x.MP4": b"", "a/x.mp4": b"", "a/y.avi": b"", "a/y.gif": b"", "1.2.840.7": dicom, "1.2.840.8": dicom,
        "IM0001": dicom,
        "README": b"text", "notes.txt": dicom, ".hidden.mp4": b"", ".git/z.mp4": b"",
        "._a.mp4": b"", "d.dcm": b"", "8": b"short",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    table = scan_folder(tmp_path)
    own = table[~table["path"].str.contains("up/")]
    assert own["path"].tolist() == ["1.2.840.7", "1.2.840.8", "IM0001", "a/x.mp4", "a/y.avi", "a/y.gif", "b/x.MP4", "d.dcm"]
    assert own["clip_id"].tolist() == ["1.2.840.7", "1.2.840.8", "IM0001", "a/x", "a/y.avi", "a/y.gif", "b/x", "d"]
    assert len(own) == len(table)  # the link back up leads nowhere new


def test_scan_folder__names_never_collide(tmp_path):
    for name in ("a.mp4", "a.avi", "a.mp4.avi"):
        (tmp_path / name).touch()
    assert scan_folder(tmp_path)["clip_id"].tolist() == ["a.avi", "a.mp4", "a.mp4.avi"]


def test_scan_folder__nothing_there(tmp_path):
    with pytest.raises(SonokitError, match="no clip in"):
        scan_folder(tmp_path)
    with pytest.raises(SonokitError, match="no folder"):
        scan_folder(tmp_path / "gone")


def test_read_manifest__the_real_one(shared_data):
    clips = read_manifest(shared_data / "pocus" / "manifest.csv", binary=["a_lines", "b_lines"], numeric=["severity"])
    truth = pd.read_csv(shared_data / "pocus" / "manifest.csv")
    assert len(clips) == 96
    assert len(set(clips.patients())) == 40
    pd.testing.assert_series_equal(clips.labels("severity"), truth["severity"], check_dtype=False)
    assert all(os.path.isfile(clips.locate(i)) for i in range(len(clips)))  # noqa: PTH113


def test_manifest__without_torch():
    code = "import sys, sonokit.clips.manifest, sonokit.clips.splits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
