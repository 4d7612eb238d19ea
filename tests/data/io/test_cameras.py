"""Calibrations: the user's one line, KITTI's, and the published values."""

import numpy as np
import pytest

from uda_jax.data.io import cameras
from uda_jax.data.io.archives import File
from uda_jax.errors import UserError


def written(tmp_path, content):
    path = tmp_path / cameras.FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return File(path)


def test_the_middle_of_the_image_is_one_half():
    # 4 columns have their middle between the second and the third, 1.5 from the centre of the first.
    camera = cameras.calibrated((2.0, 3.0), (1.5, 0.5), (2, 4))
    assert camera == ((0.5, 1.5, 0.5, 0.5), None)
    assert list(camera.maps) == ["intrinsics"] and camera.maps["intrinsics"].dtype == np.float32
    maps = camera._replace(baseline=0.25).maps
    assert maps["baseline"] == np.float32(0.25) and maps["baseline"].dtype == np.float32


@pytest.mark.parametrize("content", ["100 50 79.5 19.5 160 40", "# left camera\n\n100 50 79.5 19.5 160 40  # pixels\n"])
def test_one_line(tmp_path, content):
    assert cameras.read_line(written(tmp_path, content)) == ((0.625, 1.25, 0.5, 0.5), None)


def test_a_line_may_have_the_baseline(tmp_path):
    assert cameras.read_line(written(tmp_path, "100 50 79.5 19.5 160 40 0.54")).baseline == 0.54


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("100 50 79.5 19.5", r"expected one line 'fx fy cx cy width height' in pixels.*got '100 50 79.5 19.5'; write"),
        ("", "got 0 lines"),
        ("1 2 3 4 5 6\n1 2 3 4 5 6", "got 2 lines"),
        ("fx 2 3 4 5 6", "got 'fx 2 3 4 5 6'"),
        ("nan 2 3 4 5 6", "got 'nan 2 3 4 5 6'"),
        ("-1 2 3 4 5 6", "all above 0"),
        ("1 2 3 4 5 6 0", "all above 0"),
        ("160 40 100 50 79 19", "expected cx and cy within an image of 79x19 pixels, got 100 and 50; the order is"),
        (b"\xff\xfe1", "expected a text file"),
    ],
)
def test_wrong_lines_name_the_file(tmp_path, content, message):
    with pytest.raises(UserError, match=rf"intrinsics\.txt: .*{message}") as caught:
        cameras.read_line(written(tmp_path, content))
    assert "\n" not in str(caught.value)


KITTI = """calib_time: 09-Jan-2012 13:57:47
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 721.5377 0.0 609.5593 44.85728 0.0 721.5377 172.854 0.2163791 0.0 0.0 1.0 0.002745884
P_rect_03: 721.5377 0.0 609.5593 -339.5242 0.0 721.5377 172.854 2.199936 0.0 0.0 1.0 0.002729905
"""


def test_kitti_calibration(tmp_path):
    intrinsics, baseline = cameras.read_kitti(written(tmp_path, KITTI))
    np.testing.assert_allclose(intrinsics, [721.5377 / 1242, 721.5377 / 375, 610.0593 / 1242, 173.354 / 375])
    # (44.85728 + 339.5242) / 721.5377 metres.
    np.testing.assert_allclose(baseline, 0.532725, atol=1e-6)
    # What Monodepth2 takes for all drives.
    np.testing.assert_allclose(intrinsics, cameras.PUBLISHED["kitti"].intrinsics, atol=0.04)
    with pytest.raises(UserError, match="P_rect_03: expected 12 numbers"):
        cameras.read_kitti(written(tmp_path, KITTI.replace("P_rect_03", "P_rect_01")))


def test_cameras_are_those_of_the_nearest_folder(tmp_path):
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / cameras.FILE).write_text("100 50 79.5 19.5 160 40")
    (tmp_path / "one" / cameras.FILE).write_text("200 50 79.5 19.5 160 40")
    found = cameras.of_frames("video", tmp_path, ["one/deep/7", "two/3"], None, below=True)
    assert [cameras.nearest(name, found).intrinsics[0] for name in ("one/deep/7", "two/3")] == [1.25, 0.625]
    (tmp_path / cameras.FILE).unlink()
    with pytest.raises(UserError, match=r"no file .*intrinsics.txt with the intrinsics of 'two/3'; write a line 'fx"):
        cameras.of_frames("video", tmp_path, ["one/deep/7", "two/3"], None, below=True)


def test_known_cameras_and_other_files(tmp_path):
    found = cameras.of_frames("video", tmp_path, ["1"], "gta", below=True)
    assert cameras.nearest("a/1", found).intrinsics == (1.206285, 2.144507, 0.5, 0.5)
    path = tmp_path / "other.txt"
    path.write_text("100 50 79.5 19.5 160 40")
    assert cameras.of_frames("video", tmp_path, ["1"], str(path), below=True)[""].intrinsics[0] == 0.625
    with pytest.raises(UserError, match="video: camera: expected cityscapes, gta, kitti, synthia, or a file .*'gtav'"):
        cameras.of_frames("video", tmp_path, ["1"], "gtav", below=True)
