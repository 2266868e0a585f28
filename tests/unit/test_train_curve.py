"""The learning curve: rows survive interruptions, a resumed run repeats nothing, the picture shows what the file says."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire.train.curve import COLUMNS, CurveRow, LearningCurve, TokenAxis, draw, read_curve, smoothed

finite = st.floats(allow_nan=False, allow_infinity=False)


def row(step: int, validation_loss: float | None = None) -> CurveRow:
    return CurveRow(
        step=step,
        tokens=step * 1024,
        train_loss=8.0 / step,
        validation_loss=validation_loss,
        learning_rate=3e-4,
        tokens_per_second=123.25,
        seconds=step * 0.1,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A curve of steps 1 to 6, with validation at every second."""
    path = tmp_path / "curve.csv"
    curve = LearningCurve.begin(path)
    for step in range(1, 7):
        curve.append(row(step, validation_loss=1.5 if step % 2 == 0 else None))
    return path


@given(loss=finite, validation_loss=st.none() | finite, rate=finite)
def test_every_row_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, loss: float, validation_loss: float | None, rate: float
) -> None:
    path = tmp_path_factory.mktemp("curve") / "curve.csv"
    written = replace(row(7), train_loss=loss, validation_loss=validation_loss, learning_rate=rate)
    LearningCurve.begin(path).append(written)
    assert read_curve(path) == (written,)


def test_file_is_a_plain_table(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "step,tokens,train_loss,validation_loss,learning_rate,tokens_per_second,seconds"
    assert lines[1] == "1,1024,8.0,,0.0003,123.25,0.1"
    assert lines[2].split(",")[3] == "1.5"


def test_resumed_curve_goes_on_after_its_checkpoint(path: Path) -> None:
    curve = LearningCurve.resume(path, step=3)
    assert [found.step for found in read_curve(path)] == [1, 2, 3]
    curve.append(row(4))
    assert read_curve(path) == (row(1), row(2, 1.5), row(3), row(4))


@pytest.mark.parametrize("num_bytes", range(1, 30))
def test_line_cut_off_by_a_crash_is_dropped(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])
    LearningCurve.resume(path, step=5).append(row(6))
    assert [found.step for found in read_curve(path)] == [1, 2, 3, 4, 5, 6]


def test_resuming_without_a_file_begins_one(tmp_path: Path) -> None:
    LearningCurve.resume(tmp_path / "new" / "curve.csv", step=3).append(row(4))
    assert read_curve(tmp_path / "new" / "curve.csv") == (row(4),)


def test_beginning_again_forgets_the_rows_before(path: Path) -> None:
    LearningCurve.begin(path)
    assert read_curve(path) == ()
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    assert [found.name for found in path.parent.iterdir()] == ["curve.csv"]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\n"])
def test_other_files_are_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"notes\.csv is not a learning curve"):
        LearningCurve.resume(path, step=1)
    assert path.read_bytes() == content


def test_damaged_row_is_named_by_its_line(path: Path) -> None:
    path.write_text(path.read_text().replace("3,3072,", "3,many,"))
    with pytest.raises(ConfigError, match="line 4 is '3,many"):
        read_curve(path)


def test_unwritable_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        LearningCurve.begin(tmp_path / "file" / "curve.csv")
    with pytest.raises(ConfigError, match="cannot be written"):
        LearningCurve(tmp_path).append(row(1))


@pytest.mark.parametrize("axis", TokenAxis)
def test_picture_is_a_png_of_the_promised_size(path: Path, axis: TokenAxis) -> None:
    image = path.with_name("curve.png")
    draw(path, image, axis)
    content = image.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1350, 750)
    assert sorted(found.name for found in path.parent.iterdir()) == ["curve.csv", "curve.png"]


def test_picture_has_a_point_for_every_validation_loss(path: Path) -> None:
    image = path.with_name("curve.svg")
    draw(path, image)
    uses = [found for found in ElementTree.parse(image).iter() if found.tag.endswith("}use")]  # noqa: S314 - our own file
    points = [found for found in uses if "#d55e00" in found.get("style", "")]
    assert len(points) == 3 + 1  # and the one in the legend


def test_single_row_can_be_drawn(tmp_path: Path) -> None:
    LearningCurve.begin(tmp_path / "curve.csv").append(row(1))
    draw(tmp_path / "curve.csv", tmp_path / "curve.png", TokenAxis.LOGARITHMIC)
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_drawing_leaves_the_global_state_of_matplotlib_alone(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from quire.train.curve import draw;"
        "print('matplotlib' in sys.modules);"
        "draw(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix('.png')); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_missing_matplotlib_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="without matplotlib"):
        draw(path, path.with_name("curve.png"))


def test_curve_without_rows_cannot_be_drawn(tmp_path: Path) -> None:
    LearningCurve.begin(tmp_path / "curve.csv")
    with pytest.raises(ConfigError, match="no rows yet"):
        draw(tmp_path / "curve.csv", tmp_path / "curve.png")


def test_unknown_image_format_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"curve\.bmp; limit: png, svg, pdf"):
        draw(path, path.with_name("curve.bmp"))


@given(values=st.lists(st.floats(-100, 100), min_size=1), num_rows=st.floats(0, 20))
def test_smoothing_stays_within_the_values(values: list[float], num_rows: float) -> None:
    means = smoothed(values, num_rows)
    assert len(means) == len(values)
    assert min(values) - 1e-9 <= min(means) <= max(means) <= max(values) + 1e-9


def test_smoothing_does_not_lag_on_a_slope() -> None:
    values = [float(value) for value in range(101)]
    assert smoothed(values, 5)[50] == pytest.approx(50)
