"""Every kind of source lists its files, with labels joined by row, never by order."""

import csv
import io
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import csv_manifest, lists, read_source, tables
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original, shown


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding)
    return path


def names(source: str) -> list[str]:
    samples = read_source(source)
    assert all(s.source == source and os.path.isabs(s.path) and s.frames == 0 for s in samples)
    return [s.name for s in samples]


@pytest.mark.parametrize("source", ["film:/data", "videos", "videos:", "/data/clips", ""])
def test_unknown_source(source):
    with pytest.raises(UserError, match=r"videos, list, csv, .*echonet_dynamic, .*dicom, phantom"):
        read_source(source)


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("b.avi", "a/x.mp4", "a/deep/y.MKV", "odd.bin", "noextension", ".hidden.avi"):
        write(tmp_path / "tree" / name, "")
    for name in (".git/z.avi", "labels.csv", "a/notes.TXT", "x.json", "README.md"):
        write(tmp_path / "tree" / name, "")
    return tmp_path / "tree"


def test_folder_lists_all_but_hidden_and_side_files(tree):
    expected = ["a/deep/y.MKV", "a/x.mp4", "b.avi", "noextension", "odd.bin"]
    assert names(f"videos:{tree}") == expected
    assert names(f"dicom:{tree}") == expected


def test_dicom_folder_without_its_directory_file(tree):
    write(tree / "DICOMDIR", "")
    assert "DICOMDIR" not in names(f"dicom:{tree}")


def test_a_folder_may_have_the_name_of_an_option(tmp_path):
    write(tmp_path / "a,b=1" / "x.dcm", "")
    for more in ("", "/*.dcm", "/x.dcm"):
        assert names(f"dicom:{tmp_path}/a,b=1{more}") == ["x.dcm"]
        assert names(f"dicom:{tmp_path}/a,b=1{more},modality=any") == ["x.dcm"]
    with pytest.raises(UserError, match=r"has no option 'modalities': .* modality=US"):
        read_source(f"dicom:{tmp_path}/a,b=1,modalities=any")


def test_glob_and_single_file(tree):
    assert names(f"videos:{tree}/a/*.mp4") == ["x.mp4"]
    assert names(f"videos:{tree}/**/*.[am]*") == ["a/x.mp4", "b.avi"]
    assert names(f"videos:{tree}/b.avi") == ["b.avi"]


def test_folders_that_a_glob_cannot_match_are_not_visited(tree, monkeypatch):
    """Unreadable ones stand for their files, but only where there could be some."""
    refused = {f"{tree}/lost+found", f"{tree}/a/deep"}
    (tree / "lost+found").mkdir()
    scandir = os.scandir

    def scan(path):
        if os.fspath(path) in refused:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert names(f"videos:{tree}/a*/*.mp4") == ["a/x.mp4"]
    assert names(f"videos:{tree}/a*/*/*.mkv") == ["a/deep"]
    assert names(f"videos:{tree}/**/*.mp4") == ["a/deep", "a/x.mp4", "lost+found"]


def test_name_with_glob_characters_is_that_file(tmp_path):
    write(tmp_path / "set [1]" / "a.avi", "")
    assert names(f"videos:{tmp_path}/set [1]") == ["a.avi"]
    assert names(f"videos:{tmp_path}/set [1]/a.avi") == ["a.avi"]


def test_relative_and_home_paths(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    assert names("videos:tree/a") == ["deep/y.MKV", "x.mp4"]
    monkeypatch.setenv("HOME", str(tree))
    assert names("videos:~/a") == ["deep/y.MKV", "x.mp4"]


@pytest.mark.parametrize("path", ["absent", "absent/*.avi", "empty", "empty/a**"])
def test_nothing_there(path, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=path.partition("/")[0]):
        read_source(f"videos:{tmp_path}/{path}")


def test_loops_of_links_end(tree):
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "a" / "self").symlink_to(tree / "a")
    assert names(f"videos:{tree}") == ["a/deep/y.MKV", "a/x.mp4", "b.avi", "noextension", "odd.bin"]
    assert names(f"videos:{tree}/**/*.avi") == ["b.avi"]


def test_linked_folder_is_followed(tree, tmp_path):
    write(tmp_path / "elsewhere" / "far.avi", "")
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    assert "link/far.avi" in names(f"videos:{tree}")


# --- the original's lists -------------------------------------------------------------------------


def test_list(tmp_path):
    text = "a.avi 0.5\nsub/my clip.avi -1\n\n/far/c.avi\t3e-1\n  d e.avi  \nf.avi nan\n../g.avi 2\n"
    path = write(tmp_path / "set" / "list.txt", "\ufeff" + text)
    samples = lists.read(str(path), "list:x")
    assert [(s.path, s.targets) for s in samples] == [
        (f"{tmp_path}/set/a.avi", {"label": 0.5}),
        (f"{tmp_path}/set/sub/my clip.avi", {"label": -1.0}),
        ("/far/c.avi", {"label": 0.3}),
        (f"{tmp_path}/set/d e.avi", {}),
        (f"{tmp_path}/set/f.avi", {}),
        (f"{tmp_path}/g.avi", {"label": 2.0}),
    ]


@pytest.mark.parametrize(
    ("line", "file", "label"),
    [
        ('"a b.avi" 0.5', "a b.avi", 0.5),
        ("'a b.avi' 1", "a b.avi", 1),
        ('"a.avi"', "a.avi", None),
        ('"a ""b"".avi" "2"', 'a "b".avi', 2),
        ("'it''s.avi' 2", "it's.avi", 2),
        ("it's a.avi 2", "it's a.avi", 2),
        ("'tis.avi 2", "'tis.avi", 2),
        ('"a".avi 2', '"a".avi', 2),
        ("a b.avi::3", "a b.avi", 3),
        ("a.avi :: -0.5", "a.avi", -0.5),
        ('"a::b.avi"::4', "a::b.avi", 4),
        ("a::b.avi 4", "a::b.avi", 4),
        ("a.avi::a heart beats", "a.avi", None),
        ("a.avi 0.5  # seen twice", "a.avi", 0.5),
        ("clip #1.avi 3", "clip #1.avi", 3),
        ("-a,b.avi 1", "-a,b.avi", 1),
        ("a.avi nan", "a.avi", None),
        ("a::b there.avi", "a::b there.avi", None),  # a file of this name is there
        ("#there.avi 1", "#there.avi", 1),
    ],
)
def test_lines_as_the_original_code_reads_them(tmp_path, line, file, label):
    write(tmp_path / "a::b there.avi", "")
    write(tmp_path / "#there.avi", "")
    text = f"\ufeff# a comment 1\r\n\r\n{line}\r\n  \r\n#another\r\nlast.avi 7\r\n"
    (tmp_path / "list.txt").write_bytes(text.encode())
    first, last = read_source(f"list:{tmp_path}/list.txt")
    assert first.path == f"{tmp_path}/{file}"
    assert first.targets == ({} if label is None else {"label": label})
    assert (last.path, last.targets) == (f"{tmp_path}/last.avi", {"label": 7})


@pytest.mark.parametrize(
    "line",
    [
        "\"a 1.avi\" MISS 'b 2.avi' 0.5",
        "a 1.avi::MISS::b 2.avi::0.5",
        '"a 1.avi" :: MISS :: b 2.avi :: "0.5"',
    ],
)
def test_lines_of_studies_in_quotes_or_with_colons(tmp_path, line):
    write(tmp_path / "l", "# three views" + chr(10) + line)
    samples = read_source(f"list_multiview:{tmp_path}/l")
    assert [(s.name, s.view, s.targets) for s in samples] == [
        ("a 1.avi", "view1", {"label": 0.5}),
        ("b 2.avi", "view3", {"label": 0.5}),
    ]
    assert samples[0].study == samples[1].study == "a 1.avi b 2.avi"


def test_labels_that_are_not_numbers_are_counted(tmp_path, caplog):
    read_source(f"list:{write(tmp_path / 'l', 'a.avi::one word' + chr(10) + 'b.avi::2')}")
    assert "ignored 1 label: not a number" in caplog.text


ODD_NAMES = [
    b"M\xfcller.avi", "Müller.avi".encode(), b"two\nlines.avi", b"a,b.avi", b'a "b".avi', b"-a.avi",
    b"a\\xfc.avi", b"a\\b.avi", b" a.avi", b"a\ta.avi", "a\u2028b.avi".encode(), b"\xff\xfe",
    b"%20.avi", b"a;b'c.avi", b"=1+1.avi", "心.avi".encode(), b"x" * 250 + b".avi", b"..avi",
]  # fmt: skip


def test_any_file_name_becomes_text_and_comes_back(tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    odd = [name for name in ODD_NAMES if not name.startswith(b".")]
    for name in odd:
        with open(os.path.join(folder, name), "wb"):
            pass
    samples = read_source(f"videos:{tmp_path}/odd")
    assert {os.fsencode(original(s.name)) for s in samples} == set(odd)
    assert len({s.name for s in samples}) == len(odd)
    for sample in samples:
        assert sample.name.isprintable()
        assert sample.name.encode().decode() == sample.name
        assert os.path.exists(sample.path)
        assert shown(os.path.basename(sample.path)) == sample.name
    assert "two\\x0alines.avi" in names(f"videos:{tmp_path}/odd")
    assert "M\\xfcller.avi" in names(f"videos:{tmp_path}/odd")
    assert "Müller.avi" in names(f"videos:{tmp_path}/odd")


def test_tables_that_name_files_by_their_bytes(tmp_path, caplog):
    """`ls > list.txt` writes names as they are."""
    (tmp_path / "list.txt").write_bytes(b"M\xfcller.avi 1\nb.avi 2\n")
    (tmp_path / "m.csv").write_bytes(
        b'Path,Patient,Gr\xf6\xdfe\nM\xfcller.avi,\xe4,gro\xdf\n"two\nlines.avi",p,klein\n'
    )
    for kind, file in (("list", "list.txt"), ("csv", "m.csv")):
        first, second = read_source(f"{kind}:{tmp_path}/{file}")
        assert os.fsencode(first.path) == os.fsencode(tmp_path) + b"/M\xfcller.avi"
        assert first.name == "M\\xfcller.avi"
    assert (first.patient, second.patient) == ("\\xe4", "p")
    assert first.classes == {"Gr\\xf6\\xdfe": "gro\\xdf"}
    assert second.classes == {"Gr\\xf6\\xdfe": "klein"}
    assert second.path == f"{tmp_path}/two\nlines.avi"
    assert "m.csv: kept the bytes of 4 texts: not UTF-8" in caplog.text


def test_tables_that_name_files_as_our_own_tables_do(tmp_path):
    for name in (b"M\xfcller.avi", rb"a\xfc.avi"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    (tmp_path / "m.csv").write_text("path\nM\\xfcller.avi\na\\xfc.avi\na\\\\xfc.avi\nb\\xfc.avi\n")
    samples = read_source(f"csv:{tmp_path}/m.csv")
    found = [os.path.basename(os.fsencode(sample.path)) for sample in samples]
    assert found == [b"M\xfcller.avi", rb"a\xfc.avi", rb"a\xfc.avi", rb"b\xfc.avi"]
    assert [sample.name for sample in samples[:2]] == [r"M\xfcller.avi", r"a\\xfc.avi"]


def test_list_names_do_not_depend_on_where_the_set_lies(tmp_path):
    for root in ("here", "there/deep"):
        folder = tmp_path / root
        absolute = f"{folder}/v/x/a.avi 1\n{folder}/v/b.avi 2\n"
        assert names(f"list:{write(folder / 'l.txt', absolute)}") == ["v/x/a.avi", "v/b.avi"]
        assert names(f"list:{write(folder / 'm.txt', '../v/a.avi 1')}") == ["up/v/a.avi"]


def test_names_of_tables_do_not_depend_on_what_else_is_listed(tmp_path):
    others = ("/elsewhere/b.avi", "../v/c.avi", "v/c.avi")
    expected = ["root/elsewhere/b.avi", "up/v/c.avi", "v/c.avi"]
    for kind, header, end in (
        ("list", "", " 1"),
        ("list_multiview", "", " 1"),
        ("csv", "path\n", ""),
    ):
        lines = [f"{other}{end}\n" for other in others]
        alone = [names(f"{kind}:{write(tmp_path / 't', header + line)}")[0] for line in lines]
        table = write(tmp_path / "t", header + "".join(lines))
        assert names(f"{kind}:{table}") == alone == expected


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00bad"])
def test_list_that_cannot_be_read(content, tmp_path):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"list\.txt"):
        read_source(f"list:{path}")


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
_LABELS = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.lists(_WORDS, min_size=1).map(" ".join), _LABELS), min_size=1))
def test_any_list_comes_back(tmp_path_factory, entries):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text("".join(f"/v/{name}.avi {label!r}\n" for name, label in entries), "utf-8")
    read = lists.read(str(path), "list:x")
    assert [s.targets["label"] for s in read] == [label for _, label in entries]
    assert [s.path for s in read] == [os.path.normpath(f"/v/{name}.avi") for name, _ in entries]


# --- CSV manifests --------------------------------------------------------------------------------


def test_csv(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    text = (
        "path,patient,study,view,split,ef,site,age,name\n"
        '"videos/a,1.avi",p1,s1,A4C,TRAIN,55.25,north,61,first\n'
        "/far/b.avi, p2 ,,,Val,,south,,second\n"
        "\n"
        "c.avi\n"
    )
    path = write(tmp_path / "m.csv", "\ufeff" + text)
    source = f"csv:{path}"
    assert read_source(source) == [
        Sample(
            "first", f"{tmp_path}/videos/a,1.avi", source, "p1", "s1", "A4C", "train",
            {"ef": 55.25, "age": 61.0}, classes={"site": "north"},
        ),
        Sample(
            "second", "/far/b.avi", source, patient="p2", split="val", classes={"site": "south"}
        ),
        Sample("c.avi", f"{tmp_path}/c.avi", source),
    ]  # fmt: skip
    warnings = [r.getMessage() for r in caplog.records]
    assert len(warnings) == 1
    assert "site (line 2)" in warnings[0]
    assert "north" not in warnings[0], "a cell may hold what must not reach a log"


def test_column_names_ignore_case_and_another_patient_column_is_reported(tmp_path, caplog):
    path = write(tmp_path / "m.csv", "Path,PATIENT,View,Split\na.avi,p,A4C,Test\n")
    (sample,) = read_source(f"csv:{path}")
    assert (sample.patient, sample.view, sample.split) == ("p", "A4C", "test")
    assert caplog.text == ""
    read_source(f"csv:{write(tmp_path / 'm.csv', 'path,Subject_ID' + chr(10) + 'a.avi,7')}")
    assert (
        "column 'Subject_ID' is not used as the patient; to use it, name it 'patient'"
        in caplog.text
    )


def test_csv_column_with_one_text_cell_is_not_a_target(tmp_path, caplog):
    path = write(tmp_path / "m.csv", "path,ef,id\na.avi,50,1_2\nb.avi,fifty,3\n")
    caplog.set_level(logging.INFO)
    samples = read_source(f"csv:{path}")
    assert [s.targets for s in samples] == [{}, {}]
    assert [s.classes for s in samples] == [{"ef": "50", "id": "1_2"}, {"ef": "fifty", "id": "3"}]
    assert "ef (line 3), id (line 2)" in caplog.text


def test_csv_none_is_a_class_where_others_are(tmp_path):
    path = write(tmp_path / "m.csv", "path,mr,x\na.avi,none,none\nb.avi,severe,3\nc.avi,,n/a\n")
    samples = read_source(f"csv:{path}")
    assert [s.classes for s in samples] == [{"mr": "none"}, {"mr": "severe"}, {}]
    assert [s.targets for s in samples] == [{}, {"x": 3}, {}]


def test_csv_with_semicolons_and_decimal_commas(tmp_path):
    """As spreadsheets of many European languages write it."""
    text = 'Path;EF;note\n"a;1.avi";55,5;"left, then right"\nb,2.avi;-1;1,2,3\n'
    samples = read_source(f"csv:{write(tmp_path / 'm.csv', text)}")
    assert [s.name for s in samples] == ["a;1.avi", "b,2.avi"]
    assert [s.targets for s in samples] == [{"EF": 55.5}, {"EF": -1}]
    assert [s.classes["note"] for s in samples] == ["left, then right", "1,2,3"]


def test_csv_column_may_contain_its_unit(tmp_path):
    path = write(tmp_path / "m.csv", "path,rvsp [kPa],ef [%],size\na.avi,4.2,55,3\n")
    (sample,) = read_source(f"csv:{path}")
    assert sample.targets == {"rvsp": 4.2, "ef": 55, "size": 3}
    assert sample.units == {"rvsp": "kPa", "ef": "%"}
    path = write(tmp_path / "m.csv", "path,rvsp [kPa],rvsp [mmHg]\na.avi,4.2,31.5\n")
    with pytest.raises(
        UserError, match=r"two columns for the label 'rvsp': 'rvsp \[kPa\]' and 'rvsp \[mmHg"
    ):
        read_source(f"csv:{path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dicm,ef\na.avi,3\n", r"m\.csv has no column 'path': add it; the header has dicm, ef"),
        ("File_name,ef\na,3\n", r"no column 'path': rename 'File_name' to 'path'; the"),
        ("id\tfile\n1\ta\n", r"no column 'path': separate the cells by commas; the header has"),
        ("path;ef\na;b.avi;3,5\n", r"line 2 has 3 cells, .* texts that contain ';' in"),
        ("", r"has no column 'path': add it; the header has nothing"),
        ("path,ef\na.avi,3\n,4\n", r"m\.csv: column 'path' is empty in line 3"),
        ("path,ef\nmy,file.avi,3\n", r"m\.csv: line 2 has 3 cells, but the header has 2"),
        ("path,ef,ef\na.avi,3,4\n", r"two columns with the same name"),
        ("path\n" + "x" * 200_000, r"not a CSV file"),
        (None, r"m\.csv cannot be read \(No such file"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, text, message):
    if text is not None:
        write(tmp_path / "m.csv", text)
    with pytest.raises(UserError, match=message):
        read_source(f"csv:{tmp_path}/m.csv")


_CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12).map(str.strip)
_ROW = {"path": _CELLS.filter(bool), "patient": _CELLS, "view": _CELLS}
_ROW["z"] = _LABELS.map(repr) | st.just("")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.fixed_dictionaries(_ROW), min_size=1))
def test_any_csv_comes_back(tmp_path_factory, rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, ["z", "view", "path", "patient"])
    writer.writeheader()
    writer.writerows(rows)
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(out.getvalue(), "utf-8", newline="")
    samples = csv_manifest.read(str(path), "csv:x")
    assert [(s.patient, s.view) for s in samples] == [(r["patient"], r["view"]) for r in rows]
    assert [s.targets for s in samples] == [{"z": float(r["z"])} if r["z"] else {} for r in rows]
    expected = [os.path.normpath(os.path.join(path.parent, r["path"])) for r in rows]
    assert [s.path for s in samples] == expected


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_number_reads_what_it_writes_and_rejects_the_rest(text):
    try:
        value = tables.number(text)
    except ValueError:
        return
    assert value is None or tables.number(repr(value)) == value


# --- EchoNet-Dynamic ------------------------------------------------------------------------------

HEADER = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"


def echonet(root: Path, rows: str, videos: tuple[str, ...] = ()) -> str:
    write(root / "FileList.csv", rows)
    for video in videos:
        write(root / "Videos" / video, "")
    return f"echonet_dynamic:{root}"


def test_echonet_dynamic(tmp_path, caplog):
    rows = "0X1A,55.5,40.1,90,112,112,50,200,TRAIN\n0X2B.avi,30,80,,112,112,50,99,Val\n"
    source = echonet(tmp_path, HEADER + rows, ("0X1A.avi", "0X2B.avi"))
    units = {"ef": "%", "esv": "ml", "edv": "ml"}
    assert read_source(source) == [
        Sample(
            "0X1A", f"{tmp_path}/Videos/0X1A.avi", source, "0X1A", split="train",
            targets={"ef": 55.5, "esv": 40.1, "edv": 90.0}, units=units,
        ),
        Sample(
            "0X2B", f"{tmp_path}/Videos/0X2B.avi", source, "0X2B", split="val",
            targets={"ef": 30.0, "esv": 80.0}, units=units,
        ),
    ]  # fmt: skip
    assert caplog.text == ""


def test_echonet_files_and_rows_that_do_not_match(tmp_path, caplog):
    source = echonet(tmp_path, HEADER + "0X1A,1,2,3,,,,,TEST\n", ("extra.avi", "more.avi"))
    assert names(source) == ["0X1A"], "a missing video is listed, for the scan to reject"
    assert "2 unused videos not in FileList.csv" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("FileName,EF,ESV,EDV\n", r"FileList\.csv has no column 'Split': .* EF, ESV, EDV"),
        (HEADER.replace("EF", "ef"), r"has no column 'EF'"),
        (HEADER + "a,high,1,2,,,,,TRAIN\n", r"line 2 of .*FileList\.csv: column 'EF' is"),
        (HEADER + ",50,1,2,,,,,TRAIN\n", r"FileList\.csv: column 'FileName' is empty in line 2"),
    ],
)
def test_echonet_table_errors(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_source(echonet(tmp_path, rows))


def test_echonet_without_file_list(tmp_path):
    with pytest.raises(UserError, match=r"FileList\.csv cannot be read \(No such file"):
        read_source(f"echonet_dynamic:{tmp_path}")
