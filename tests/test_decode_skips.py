"""Files that give no picture: each is a `SkippedPhoto` that says why in plain words."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.errors import SkippedPhoto
from clipsearch.photos.decode import NotAPhoto, decode_photo, digest_photo

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "QOI")


def picture(form: str) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, form)
    return out.getvalue()


def reason(path: Path) -> str:
    with pytest.raises(SkippedPhoto) as caught:
        decode_photo(path, side_px=32)
    assert caught.value.path == str(path)
    assert str(path) not in caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jpg",
            b"Dear diary, today I took no photo.",
            "named .jpg, but no picture of a known kind",
        ),
        ("a.png", b"<svg/>", "named .png, but no picture of a known kind"),
        ("a.JPG", b"", "empty (0 bytes)"),
        ("a.jpg", bytes(1000), "named .jpg, but no picture of a known kind"),
        ("a.jpg", b"\xff\xd8\xff", "damaged, or a variant of JPEG that is not supported"),
        ("a.jxl", b"\xff\x0a" + bytes(50), "JPEG XL is not supported"),
    ],
)
def test_a_file_named_like_a_photo_says_why_it_is_none(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason(tmp_path / name) == said
    with pytest.raises(SkippedPhoto) as caught:
        decode_photo(tmp_path / name, side_px=32)
    assert not isinstance(caught.value, NotAPhoto)


@pytest.mark.parametrize("content", [b"", b"words", b"P5 is a good name", b"BM, as in Benchmark"])
def test_a_file_that_nobody_would_take_for_a_photo_is_told_apart(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "README").write_bytes(content)
    for read in (lambda path: decode_photo(path, side_px=32), digest_photo):
        with pytest.raises(NotAPhoto):
            read(tmp_path / "README")


def test_a_file_of_no_known_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "film"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    with pytest.raises(NotAPhoto):
        decode_photo(path, side_px=32)
    with path.open("r+b") as file:
        file.write(b"\xff\xd8\xff\xe0")
    assert reason(path) == "1,099.5 GB, too large to be read at once"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_cut_short_is_skipped(tmp_path: Path, form: str, share: float) -> None:
    whole = picture(form)
    path = tmp_path / "photo"
    path.write_bytes(whole[: int(len(whole) * share)])
    said = reason(path)
    assert said.startswith(("cut short", "damaged"))
    assert form in said


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_anywhere_skips_the_photo_or_leaves_a_picture(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    content = bytearray(picture(form))
    for _ in range(data.draw(st.integers(1, 6))):
        # Most of a file is pixels; what decoders stumble over is near its beginning.
        place = data.draw(st.integers(0, min(200, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    try:
        photo = decode_photo(path, side_px=32, max_megapixels=4)
    except SkippedPhoto:
        return  # anything else that is raised fails the test
    assert photo.image.mode == "RGB"
    assert digest_photo(path) == photo.digest


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_skipped_at_once_even_behind_a_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "a pipe or a device, not a file"
    assert reason(tmp_path / "link.jpg") == "a pipe or a device, not a file"


def test_places_without_a_file_are_skipped(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.jpg") == "there is no such file"
    assert reason(tmp_path) == "a folder, not a file"
    with pytest.raises(SkippedPhoto):
        decode_photo(b"a\0b.jpg", side_px=32)


DECODE_AS_SOMEBODY = """
import os, sys
sys.path.insert(0, sys.argv[2])
from clipsearch.errors import SkippedPhoto
from clipsearch.photos.decode import decode_photo  # before the change: the code may be root's
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
try:
    decode_photo(sys.argv[1], side_px=32)
except SkippedPhoto as skipped:
    print(skipped.reason)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_file_without_permission_is_skipped() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "a.jpg").write_bytes(picture("JPEG"))
        (folder / "a.jpg").chmod(0)
        package = Path(__file__).parent.parent
        run = subprocess.run(
            [sys.executable, "-c", DECODE_AS_SOMEBODY, folder / "a.jpg", package],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(folder)
    assert run.stdout == "no permission to read it\n"
