"""The formats of 3D Slicer: against its published schema, its own files, and the geometry of an image."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_infoaug.data import LandmarkTable, landmark_datalist, read_landmarks, write_landmarks

AFIDS = Path(__file__).parents[3] / "shared" / "data" / "afids"
NAN = np.nan
# What markups-schema-v1.0.3.json of 3D Slicer says of the properties that we write; all of these are required here.
POINT = {
    "id": {"type": "string"},
    "label": {"type": "string"},
    "description": {"type": "string"},
    "position": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    "selected": {"type": "boolean"},
    "locked": {"type": "boolean"},
    "visibility": {"type": "boolean"},
    "positionStatus": {"type": "string", "enum": ["undefined", "preview", "defined"]},
}
MARKUP = {
    "type": {"enum": ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"]},
    "coordinateSystem": {"enum": ["LPS", "RAS"]},
    "coordinateUnits": {"enum": ["mm", "um"]},
    "locked": {"type": "boolean"},
    "fixedNumberOfControlPoints": {"type": "boolean"},
    "labelFormat": {"type": "string"},
}


def an_object(properties, required=None):
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties) if required is None else required,
        "additionalProperties": False,
    }


SCHEMA = an_object(
    {
        # Slicer opens no file whose schema it does not know
        "@schema": {"type": "string", "pattern": r"markups-schema-v1\.[0-9]+\.[0-9]+\.json#*$"},
        "markups": {
            "type": "array",
            "minItems": 1,
            "items": an_object(
                MARKUP
                | {
                    "controlPoints": {
                        "type": "array",
                        "items": an_object(POINT, required=sorted(set(POINT) - {"position"})),
                    }
                }
            ),
        },
    }
)
TABLE = LandmarkTable(["AC", "PC", "left, horn"], {"a": [[1, 2.5, -3], [NAN] * 3, [0, 1e-9, 7]]}, {"a": [0.5, NAN, 1]})


def parsed(folder, table):
    write_landmarks(folder / "a.mrk.json", table)
    return json.loads((folder / "a.mrk.json").read_text(), parse_constant=pytest.fail)  # JSON knows no NaN


@pytest.mark.parametrize("space", [None, "RAS", "LPS"])
def test_markups_follow_slicers_schema(tmp_path, space):
    content = parsed(tmp_path, LandmarkTable(TABLE.labels, TABLE.points, TABLE.scores, space))
    jsonschema = pytest.importorskip("jsonschema", reason="it checks the schema")
    jsonschema.validate(content, SCHEMA)
    (markup,) = content["markups"]
    assert markup["type"] == "Fiducial"
    assert markup["coordinateSystem"] == (space or "LPS")
    first, missing, _ = markup["controlPoints"]
    assert first["position"] == [1, 2.5, -3]
    assert first["description"] == "score 0.5"
    assert "position" not in missing
    assert missing["positionStatus"] == "undefined"
    assert len({point["id"] for point in markup["controlPoints"]}) == 3


def test_fcsv_is_as_slicer_writes_it(tmp_path):
    write_landmarks(tmp_path / "a.fcsv", TABLE.to("RAS"))
    version, space, columns, *lines = (tmp_path / "a.fcsv").read_text().splitlines()
    assert version.startswith("# Markups fiducial file version = 5")
    assert space == "# CoordinateSystem = RAS"
    assert columns == "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    assert lines[0] == "1,1.0,2.5,-3.0,0,0,0,1,1,1,0,AC,score 0.5,,2,0"
    assert lines[1] == "2,0.0,0.0,0.0,0,0,0,1,0,1,0,PC,score nan,,0,0"
    assert next(csv.reader([lines[2]]))[11] == "left, horn"


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_labels_and_notes_of_any_text_come_back(tmp_path, suffix):
    labels = ["a,b", 'c"d', "e\rf", "g\nh", "#i", "=1+1"]
    notes = {"im": np.array(["j\rk", "l\nm", "", 'n"', ",", "# columns = x"])}
    table = LandmarkTable(labels, {"im": np.ones((6, 3))}, notes=notes)
    write_landmarks(tmp_path / f"im{suffix}", table)
    found = read_landmarks(tmp_path / f"im{suffix}")
    assert list(found.labels) == labels
    if suffix != ".csv":
        assert found.notes["im"].tolist() == notes["im"].tolist()


@pytest.mark.parametrize("suffix", [".fcsv", ".mrk.json"])
@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_coordinates_agree_with_the_affine_of_a_turned_volume(tmp_path, suffix, space):
    """A mark at a voxel comes back at that voxel; in LPS the file says what SimpleITK says of the voxel."""
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation @ np.diag([0.5, 2.0, 1.25]), [10, -20, 30]
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7), np.int16), affine), tmp_path / "a.nii.gz")
    affine, image = nib.load(tmp_path / "a.nii.gz").affine, sitk.ReadImage(tmp_path / "a.nii.gz")
    voxels = np.array([[1.0, 2, 3], [8, 0, 6], [2.5, 3.25, 0.125]])
    world = np.c_[voxels, np.ones(3)] @ affine[:3].T  # RAS
    (tmp_path / "marks").mkdir()
    path = tmp_path / "marks" / f"a{suffix}"
    write_landmarks(path, LandmarkTable("pqr", {"a": world}, space="RAS").to(space))

    physical = np.array([image.TransformContinuousIndexToPhysicalPoint(voxel) for voxel in voxels.tolist()])
    if suffix == ".fcsv":
        raw = np.loadtxt(path, delimiter=",", usecols=(1, 2, 3))
    else:
        raw = np.array([p["position"] for p in json.loads(path.read_text())["markups"][0]["controlPoints"]])
    np.testing.assert_allclose(raw, physical if space == "LPS" else physical * [-1, -1, 1], atol=1e-4)
    (item,) = landmark_datalist(tmp_path / "a.nii.gz", tmp_path / "marks")
    back = np.linalg.solve(affine, np.c_[item["landmarks"], np.ones(3)].T).T[:, :3]
    np.testing.assert_allclose(back, voxels, atol=1e-4)


def test_the_name_of_the_coordinate_system_in_small_letters_counts(tmp_path):
    (tmp_path / "a.fcsv").write_text("# coordinatesystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,p,,\n")
    assert read_landmarks(tmp_path / "a.fcsv").space == "LPS"


@pytest.mark.parametrize("space", ["0", "1", "RAS", "LPS"])
@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ("id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID", 'F_1,1,2,3,0,0,0,1,1,1,0,"a, b",score,node'),
        ("id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID", '1,1,2,3,0,0,0,1,1,1,0,"a, b",,node,2,0'),
        ("label,x,y,z,sel,vis", '"a, b",1,2,3,1,1'),
        (None, '1,1,2,3,0,0,0,1,1,1,0,"a, b",,'),
    ],
)
def test_fcsv_of_several_versions_of_slicer(tmp_path, space, columns, line):
    header = f"# Markups fiducial file version = 4.10\n# CoordinateSystem = {space}\n# a remark\n"
    (tmp_path / "a.fcsv").write_text(header + (f"# columns = {columns}\n" if columns else "") + line + "\n\n")
    table = read_landmarks(tmp_path / "a.fcsv")
    assert (table.labels, table.scores, table.space) == (("a, b",), None, {"0": "RAS", "1": "LPS"}.get(space, space))
    assert table.points["a"].tolist() == [[1, 2, 3]]


def test_fcsv_without_coordinate_system_is_ras(tmp_path):
    (tmp_path / "a.fcsv").write_text("1,1,2,3,0,0,0,1,1,1,0,p,,\n2,0,0,0,0,0,0,1,1,1,0,q,,,0,0\n")
    table = read_landmarks(tmp_path / "a.fcsv")
    assert table.space == "RAS"
    np.testing.assert_array_equal(table.points["a"], [[1, 2, 3], [NAN] * 3])


def test_markups_as_slicer_writes_them(tmp_path):
    """Several markups in a file, each with its axes, others than points passed over, no position as an empty string."""
    content = parsed(tmp_path, TABLE)
    (markup,) = content["markups"]
    other = copy.deepcopy(markup) | {"controlPoints": [{"label": "more", "position": [7, 8, 9]}]}
    del other["coordinateSystem"]
    markup["controlPoints"][1]["position"] = ""
    content["markups"] += [{"type": "Line", "controlPoints": "any"}, other | {"coordinateUnits": ["mm", "UCUM", "mm"]}]
    content["markups"].append(
        other | {"coordinateSystem": "RAS", "controlPoints": [{"label": " turned", "position": ["7", 8, 9]}]}
    )
    (tmp_path / "a.mrk.json").write_bytes(json.dumps(content).encode("utf-16"))
    table = read_landmarks(tmp_path / "a.mrk.json")
    assert table.labels == (*TABLE.labels, "more", "turned")
    assert table.space == "LPS"
    np.testing.assert_array_equal(table.points["a"], [*TABLE.points["a"], [7, 8, 9], [-7, -8, 9]])
    np.testing.assert_array_equal(table.scores["a"], [0.5, NAN, 1, NAN, NAN])


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
def test_a_position_that_slicer_does_not_call_defined_is_missing(tmp_path, status):
    """A preview follows the mouse, and what is missing is shown at 0."""
    content = parsed(tmp_path, TABLE)
    content["markups"][0]["controlPoints"][0] |= {"position": [0, 0, 0], "positionStatus": status}
    (tmp_path / "a.mrk.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(
        read_landmarks(tmp_path / "a.mrk.json").points["a"], [[NAN] * 3, *TABLE.points["a"][1:]]
    )
    line = "{0},5,6,7,0,0,0,1,1,1,0,{0},,,{1},0\n"
    number = ["undefined", "preview", "defined", "missing"].index(status)
    (tmp_path / "b.fcsv").write_text(line.format("p", number) + line.format("q", 2))
    np.testing.assert_array_equal(read_landmarks(tmp_path / "b.fcsv").points["b"], [[NAN] * 3, [5, 6, 7]])


def test_fcsv_that_a_spreadsheet_has_saved(tmp_path):
    """It fills all lines up to the same length."""
    columns = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    (tmp_path / "a.fcsv").write_text(
        f"# CoordinateSystem = LPS,,,,,,,,,,,,,,,\n# columns = {columns},,\n"
        "1,1,2,3,0,0,0,1,1,1,0,p,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,q,,,3,0\n,,,,,,,,,,,,,,,\n"
    )
    table = read_landmarks(tmp_path / "a.fcsv")
    assert table.space == "LPS"
    np.testing.assert_array_equal(table.points["a"], [[1, 2, 3], [NAN] * 3])


@pytest.mark.parametrize("commas", [1, 2, 3])
@pytest.mark.parametrize("ending", ["", ",2,0"])
def test_fcsv_with_decimal_commas_is_refused(tmp_path, commas, ending):
    position = ",".join(["1,5"] * commas + ["7"] * (3 - commas))
    (tmp_path / "a.fcsv").write_text(f"1,{position},0,0,0,1,1,1,0,p,,{ending}\n")
    with pytest.raises(ValueError, match=r"a\.fcsv, line 1` must be a line of 14 cells with decimal points"):
        read_landmarks(tmp_path / "a.fcsv")


@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"markups": [' + "1" * 5000 + "x"])
def test_broken_json(tmp_path, content):
    (tmp_path / "a.mrk.json").write_text(content)
    with pytest.raises(ValueError, match=r"`path` must be a readable landmark file in UTF-8, got .*a\.mrk\.json: "):
        read_landmarks(tmp_path / "a.mrk.json")


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        ("coordinateSystem", "IJK", "markup 0, coordinateSystem` must be RAS or LPS, got 'IJK'"),
        ("coordinateUnits", "um", "markup 0, coordinateUnits` must be mm, got 'um'"),
        ("coordinateUnits", 5, "markup 0, coordinateUnits` must be mm, got 5"),
        ("controlPoints", None, "markup 0, controlPoints` must be a list, got None"),
        ("controlPoints", [], "a.mrk.json` must be a table with a landmark"),
        ("controlPoints", [3], "markup 0, control point 0` must be a JSON object, got 3"),
        ("label", "PC", "markup 0, control point 1` must be a landmark .* 'PC' of image 'a' again, .* control point 0"),
        ("label", "", "control point 0, label` must be a name, got ''"),
        ("label", None, "control point 0, label` must be a name, got None"),
        ("position", [1, 2], "control point 0, position` must be three numbers"),
        ("position", [1, 2, True], "control point 0, position` must be a finite number.*True"),
        ("position", [1, 2, 10**400], "control point 0, position` must be a finite number.*inf"),
        ("position", [1, 2, "1_0"], "control point 0, position` must be a finite number.*'1_0'"),
        ("coordinateUnits", ["m", "UCUM", "metre"], "markup 0, coordinateUnits` must be mm, got \\['m'"),
        ("label", " \u200b", "control point 0, label` must be a name, got"),
        ("position", [1, 2, "three"], "control point 0, position` must be a finite number.*'three'"),
        ("position", [1, 2, None], "control point 0, position` must be a finite number.*None"),
        ("position", [1, 2, np.inf], "control point 0, position` must be a finite number.*inf"),
        ("position", [1, 2, NAN], "control point 0, .* must be all given or none"),
        (
            "positionStatus",
            "lost",
            "control point 0, positionStatus` must be one of undefined, preview, defined, missing",
        ),
    ],
)
def test_faulty_markups(tmp_path, place, value, error):
    content = parsed(tmp_path, TABLE)
    (markup,) = content["markups"]
    (markup if place.startswith("co") else markup["controlPoints"][0])[place] = value
    (tmp_path / "a.mrk.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=error):
        read_landmarks(tmp_path / "a.mrk.json")


@pytest.mark.parametrize("text", ["[]", "{}", '{"markups": {}}', "null"])
def test_other_json(tmp_path, text):
    (tmp_path / "a.mrk.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.mrk\.json` must be JSON of 3D Slicer with a list `markups`"):
        read_landmarks(tmp_path / "a.mrk.json")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("# CoordinateSystem = 2\n", "a.fcsv, line 1, CoordinateSystem` must be 0, 1, RAS or LPS, got 2"),
        ("# columns = id,x,y,z\n", "a.fcsv, line 1` must be column names with `label`"),
        ("# columns = label,x,y,z\np,1,2\n", "a.fcsv, line 2` must be a line of 4 cells, got 3 cells"),
        ("# columns = label,x,y,z\np,1,2,c\n", "a.fcsv, line 2, column z` must be a finite number"),
        ("# columns = label,x,y,z\n,1,2,3\n", "a.fcsv, line 2, column label` must be a name"),
        ("# columns = label,x,y,z,x\n", "a.fcsv, line 1` must be column names with `x` once"),
        ("# columns = label,x,y,z\np,1,2,3,4\n", "a.fcsv, line 2` must be .* position status 0 to 3 more"),
        ("# columns = label,x,y,z\np,1,2,3,2,0,0\n", "a.fcsv, line 2` must be .* position status 0 to 3 more"),
        ("# columns = label,x,y,z\np,1,2,3\np,1,2,3\n", "a.fcsv, line 3` must be .* 'p' of image 'a' again"),
        ("# nothing\n", "a.fcsv` must be a table with a landmark"),
    ],
)
def test_faulty_fcsv(tmp_path, text, error):
    (tmp_path / "a.fcsv").write_text(text)
    with pytest.raises(ValueError, match=error):
        read_landmarks(tmp_path / "a.fcsv")


@pytest.mark.skipif(not AFIDS.is_dir(), reason="AFIDs fiducials not at hand")
def test_real_file():
    path = AFIDS / "tpl-MNI152NLin2009cAsym_res-01_T1w.fcsv"
    table = read_landmarks(path)
    assert table.labels == tuple(map(str, range(1, 33)))
    assert table.space == "RAS"
    assert table.scores is None
    raw = np.loadtxt(path, delimiter=",", usecols=(1, 2, 3))
    np.testing.assert_array_equal(table.points[path.stem], raw)
    assert np.linalg.norm(raw[0]) < 6  # the anterior commissure is near the origin of this space
