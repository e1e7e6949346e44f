"""Whatever file a user gives is either read right or refused in one sentence."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from namesake.data.pictures import MAX_PIXELS, WORKING_SIDE, Picture, read_picture, read_pictures, square
from namesake.data.prompts import TEMPLATES
from namesake.errors import Refusal


@pytest.fixture
def painted() -> np.ndarray:
    """40 x 48 pixels without any symmetry: four colors in the corners, smooth between them."""
    y, x = np.mgrid[0:1:40j, 0:1:48j]
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], -1).round().astype(np.uint8)


def close(a, b, tolerance):
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b.astype(int)).mean() <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.tga", "a.qoi", "a.PNG"])
def test_lossless_files_come_back_to_the_bit(tmp_path, painted, name):
    Image.fromarray(painted).save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert np.array_equal(picture.pixels, painted)
    assert picture.pixels.dtype == np.uint8
    assert picture.mask is None
    assert picture.path == tmp_path / name


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.jp2"])
def test_lossy_files_come_back_alike(tmp_path, painted, name):
    if name in ("a.webp", "a.avif") and not features.check(name[2:]):
        pytest.skip(f"this Pillow has no {name[2:]}")
    Image.fromarray(painted).save(tmp_path / name, quality=95)
    close(read_picture(tmp_path / name).pixels, painted, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_exif_orientation_is_undone(tmp_path, painted, orientation, name):
    stored = {
        1: painted,
        2: painted[:, ::-1],
        3: painted[::-1, ::-1],
        4: painted[::-1],
        5: painted.transpose(1, 0, 2),
        6: painted.transpose(1, 0, 2)[::-1],
        7: painted.transpose(1, 0, 2)[::-1, ::-1],
        8: painted.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, quality=95)
    close(read_picture(tmp_path / name).pixels, painted, 4)


def test_broken_exif_does_not_cost_the_picture(tmp_path, painted):
    Image.fromarray(painted).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(40))
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, painted)


def test_alpha_is_laid_on_white_and_is_the_mask_on_request(tmp_path, painted):
    alpha = np.zeros((40, 48), np.uint8)
    alpha[10:30, 12:40] = 255
    Image.fromarray(np.dstack([painted, alpha])).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", mask_from_alpha=True)
    assert np.array_equal(picture.mask, alpha == 255)
    assert (picture.pixels[alpha == 0] == 255).all()
    assert np.array_equal(picture.pixels[alpha == 255], painted[alpha == 255])
    assert read_picture(tmp_path / "a.png").mask is None


def test_half_transparent_pixels_are_mixed_with_the_ground(tmp_path):
    Image.new("RGBA", (32, 32), (200, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(read_picture(tmp_path / "a.png").pixels[5, 5].astype(int) - (227, 127, 127)).max() <= 1


def test_a_white_cut_out_is_laid_on_grey(tmp_path):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 8:24] = (250, 250, 250, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert tuple(picture.pixels[0, 0]) == (128, 128, 128)
    assert tuple(picture.pixels[16, 16]) == (250, 250, 250)


def test_an_opaque_alpha_says_nothing(tmp_path, painted):
    Image.fromarray(np.dstack([painted, np.full((40, 48), 255, np.uint8)])).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", mask_from_alpha=True)
    assert picture.mask is None
    assert np.array_equal(picture.pixels, painted)


def test_grey_sixteen_bits_and_one_bit(tmp_path, painted):
    grey = painted[..., 0]
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.tiff")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "32.tiff")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tiff")
    for name in ("8.png", "16.png", "16.tiff", "32.tiff", "float.tiff"):
        close(read_picture(tmp_path / name).pixels, np.dstack([grey] * 3), 1 if name == "32.tiff" else 0)
    Image.fromarray(grey > 100).save(tmp_path / "1.png")
    assert np.array_equal(read_picture(tmp_path / "1.png").pixels[..., 1], (grey > 100) * np.uint8(255))


def png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_color(tmp_path, painted):
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).astype(">u2").tobytes() for row in painted)
    (tmp_path / "a.png").write_bytes(png(48, 40, 16, 2, rows))
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, painted)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_large_grey_of_many_bits_is_brought_to_eight_a_part_at_a_time(tmp_path, mode):
    """As floats all at once, 130 million pixels took 1.9 GB."""
    values = np.linspace(0, 65535, 4100).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    Image.fromarray(np.repeat(values[None], 4100, 0)).save(tmp_path / "a.tiff")
    tracemalloc.start()
    picture = read_picture(tmp_path / "a.tiff")
    peak = tracemalloc.get_traced_memory()[1] - (tmp_path / "a.tiff").stat().st_size
    tracemalloc.stop()
    assert picture.pixels.shape == (2050, 2050, 3)
    close(picture.pixels, np.broadcast_to(np.linspace(0, 255, 2050)[:, None], picture.pixels.shape), 1)
    assert peak < 4 * 4100**2  # one such copy would reach it


def test_a_transparent_grey_of_sixteen_bits(tmp_path, painted, monkeypatch):
    monkeypatch.setattr("namesake.data.pictures.STRIP", 48 * 7)  # the last part is a shorter one
    grey = painted[..., 0].astype(np.uint16) * 257
    grey[30:, 40:] = 4711
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    clear = b"tRNS" + struct.pack(">H", 4711)
    clear = struct.pack(">I", 2) + clear + struct.pack(">I", zlib.crc32(clear))
    (tmp_path / "a.png").write_bytes(png(48, 40, 16, 0, rows, clear))
    picture = read_picture(tmp_path / "a.png", mask_from_alpha=True)
    assert np.array_equal(picture.mask, grey != 4711)
    assert np.array_equal(picture.pixels[:30], np.dstack([painted[:30, :, 0]] * 3))
    assert (picture.pixels[30:, 40:] == 255).all()


def test_a_palette_with_a_transparent_color(tmp_path):
    image = Image.new("P", (32, 32), 0)
    image.putpalette([9, 9, 9, 200, 10, 30])
    image.paste(1, (8, 8, 24, 24))
    image.save(tmp_path / "a.png", transparency=0)
    picture = read_picture(tmp_path / "a.png", mask_from_alpha=True)
    assert tuple(picture.pixels[0, 0]) == (255, 255, 255)
    assert tuple(picture.pixels[16, 16]) == (200, 10, 30)
    assert picture.mask.sum() == 256
    assert picture.mask[16, 16]


def test_the_first_frame_of_an_animation(tmp_path, painted):
    frames = [Image.fromarray(painted), Image.fromarray(255 - painted)]
    for name in ("a.gif", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, **options)
        close(read_picture(tmp_path / name).pixels, painted, 12 if name == "a.gif" else 0)


def test_cmyk_as_adobe_writes_it_and_as_the_standard_has_it(tmp_path, painted):
    smooth = Image.fromarray(painted).resize((96, 80))
    buffer = io.BytesIO()
    smooth.convert("CMYK").save(buffer, "JPEG", quality=95, subsampling=0)
    adobe = buffer.getvalue()
    start = adobe.index(b"\xff\xee")  # the Adobe marker; without it, inks are not inverted
    length = struct.unpack(">H", adobe[start + 2 : start + 4])[0]
    (tmp_path / "adobe.jpg").write_bytes(adobe)
    close(read_picture(tmp_path / "adobe.jpg").pixels, np.asarray(smooth), 4)
    (tmp_path / "plain.jpg").write_bytes(adobe[:start] + adobe[start + 2 + length :])
    bare = read_picture(tmp_path / "plain.jpg").pixels
    inks = np.asarray(Image.fromarray(painted).resize((96, 80)).convert("CMYK")).astype(int)
    # Without the marker "no black ink" reads as "black ink everywhere".
    assert inks[..., 3].max() == 0
    assert bare.max() <= 8


def test_a_profile_is_followed(tmp_path):
    # Swapped primaries are what no one can overlook: this profile's "red" is green light.
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag in range(struct.unpack(">I", profile[128:132])[0]):
        at = 132 + 12 * tag
        name = bytes(profile[at : at + 4])
        if name in (b"rXYZ", b"gXYZ"):
            profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}[name]
        if name == b"desc":
            where, size = struct.unpack(">II", profile[at + 4 : at + 12])
            changed = bytes(profile[where : where + size]).replace(
                "sRGB".encode("utf-16-be"), "Odd!".encode("utf-16-be")
            )
            profile[where : where + size] = changed
    image.save(tmp_path / "a.png", icc_profile=bytes(profile))
    red, green, blue = read_picture(tmp_path / "a.png").pixels[3, 3].astype(int)
    assert green > 240
    assert red < 20
    assert blue < 20
    image.save(tmp_path / "b.png", icc_profile=b"no profile at all")
    assert tuple(read_picture(tmp_path / "b.png").pixels[3, 3]) == (255, 0, 0)


def test_a_huge_jpeg_is_brought_down_while_it_is_decoded(tmp_path):
    Image.new("L", (9000, 9000), 77).save(tmp_path / "a.jpg", quality=30)
    picture = read_picture(tmp_path / "a.jpg")
    assert WORKING_SIDE <= picture.pixels.shape[0] < 2 * WORKING_SIDE
    assert (picture.pixels == 77).all()


def refused(path, *words):
    with pytest.raises(Refusal) as caught:
        read_picture(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert path.name in message
    for word in words:
        assert word in message


def test_files_that_are_no_pictures(tmp_path, painted):
    refused(tmp_path / "missing.png", "no file")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.png").write_text("a cat, in words" * 100)
    refused(tmp_path / "text.png", "not a picture")
    (tmp_path / "zeros.jpg").write_bytes(bytes(4096))
    refused(tmp_path / "zeros.jpg", "not a picture")
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(200))
    refused(tmp_path / "a.heic", "HEIC")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.HEIC").write_bytes((tmp_path / "a.heic").read_bytes())
    with pytest.raises(Refusal, match="HEIC"):
        read_pictures([tmp_path / "phone"])
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n")
    refused(tmp_path / "a.eps", "not a picture")
    refused(tmp_path, "folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not an ordinary file")
    refused(tmp_path / ("x" * 300), "cannot be opened")
    Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(tmp_path / "nothing.png")
    refused(tmp_path / "nothing.png", "transparent")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, format):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format)
    whole = buffer.getvalue()
    for share in (0.001, 0.02, 0.1, 0.5, 0.9):
        path = tmp_path / f"{share}.{format.lower()}"
        path.write_bytes(whole[: max(1, int(len(whole) * share))])
        refused(path)


def test_libtiff_says_nothing_beside_our_sentence(tmp_path, capfd):
    """It writes to the error stream from C: "tempfile.tif: Using code not yet in table."."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "broken.tiff"
    Image.fromarray(noise).save(path, compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        middle = image.tag_v2[273][0] + image.tag_v2[279][0] // 3  # where the strip begins, and how long it is
    data[middle : middle + 60] = b"\xff" * 60
    path.write_bytes(data)
    with pytest.raises(OSError, match="decoder error"), Image.open(path) as image:
        image.load()
    assert "not yet in table" in capfd.readouterr().err  # or there is nothing to silence
    refused(path, "damaged")
    os.write(2, b"heard again")
    assert capfd.readouterr() == ("", "heard again")


def test_too_small(tmp_path):
    for size in ((1, 1), (15, 400)):
        Image.new("RGB", size).save(tmp_path / "small.png")
        refused(tmp_path / "small.png", f"{size[0]} x {size[1]}", "16")


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(tmp_path, width, height):
    assert width * height > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png(width, height, 8, 6, b""))
    tracemalloc.start()
    refused(tmp_path / "bomb.png", "134 million")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_a_strip_of_a_picture_is_refused_and_a_long_one_stays_small(tmp_path, monkeypatch):
    Image.new("RGB", (8000, 16)).save(tmp_path / "strip.png")
    refused(tmp_path / "strip.png", "8000 x 16", "32 times")
    Image.new("RGB", (20_000, 700)).save(tmp_path / "long.png")
    height, width = read_picture(tmp_path / "long.png").pixels.shape[:2]
    assert width < 8 * WORKING_SIDE
    assert abs(width / height - 20_000 / 700) < 1
    monkeypatch.setattr("namesake.data.pictures.MAX_BYTES", 100)
    refused(tmp_path / "long.png", "GiB")


def test_folders(tmp_path, painted):
    with pytest.raises(Refusal, match="holds no pictures"):
        read_pictures([tmp_path])
    (tmp_path / "notes.txt").write_text("not looked at")
    for name in ("b10.png", "b2.png", "a.jpg", ".hidden.png"):
        Image.fromarray(painted).save(tmp_path / name)
    pictures = read_pictures([tmp_path, tmp_path / "b2.png"])
    assert [p.path.name for p in pictures] == ["a.jpg", "b2.png", "b10.png", "b2.png"]
    with pytest.raises(Refusal, match="at least one"):
        read_pictures([])
    (tmp_path / "c.png").touch()
    with pytest.raises(Refusal, match=r"c\.png"):
        read_pictures([tmp_path])


def test_many_pictures_are_brought_down_as_they_are_read(tmp_path, painted):
    Image.fromarray(painted).save(tmp_path / "a.png")
    alpha = np.full((40, 48, 1), 255, np.uint8)
    alpha[:, :24] = 0
    Image.fromarray(np.concatenate([painted, alpha], -1)).save(tmp_path / "b.png")
    small, cut = read_pictures([tmp_path], mask_from_alpha=True, side=20)
    assert small.pixels.shape == (20, 24, 3)
    close(small.pixels, np.asarray(Image.fromarray(painted).reduce(2)), 3)
    assert cut.mask.tolist() == [[False] * 12 + [True] * 12] * 20
    assert read_pictures([tmp_path / "a.png"], side=40)[0].pixels.shape == painted.shape


def test_square_changes_nothing_without_need(painted):
    exact = np.ascontiguousarray(painted[:, :40])
    assert square(exact, 40) is exact


def test_square_crops_a_picture_and_pads_a_plain_ground(painted):
    cropped = square(painted, 40)
    assert np.array_equal(cropped, painted[:, 4:44])
    assert square(painted.transpose(1, 0, 2), 40).shape == (40, 40, 3)
    plain = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    plain[10:30, 2:58] = 0
    padded = square(plain, 60)
    assert np.array_equal(padded[10:50], plain)
    assert (padded[:10] == (10, 200, 30)).all()
    assert (padded[50:] == (10, 200, 30)).all()
    assert square(plain, 16).shape == (16, 16, 3)
    assert square(plain, 512).shape == (512, 512, 3)


def test_a_thin_picture_is_no_giant_square(tmp_path):
    plain = np.full((256, 8000, 3), 200, np.uint8)
    plain[100:200, 2000:3000] = (255, 0, 0)
    inside = plain[..., 1] == 0
    tracemalloc.start()
    fitted = Picture(plain, inside, tmp_path).squared(256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7  # the square of its long side has 192 MB
    assert fitted.mask is not None
    rows, columns = np.nonzero(fitted.mask)
    # A 31st as large: from 2,000 to 3,000 of 8,000 in one direction, about the middle of the other.
    assert abs(columns.min() - 64) <= 1
    assert abs(columns.max() - 95) <= 1
    assert abs(rows.mean() - 128) <= 1
    assert (fitted.pixels[fitted.mask][:, 0] > 210).all()
    assert (fitted.pixels[:100] == 200).all()


def test_a_mask_goes_where_its_picture_goes(tmp_path):
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[10:30, 2:58] = (10, 20, 200, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for size in (60, 30):
        part = read_picture(tmp_path / "a.png", mask_from_alpha=True).squared(size)
        blue = part.pixels[..., 0] < 132  # half way from the ground to the subject
        assert part.mask.shape == (size, size)
        assert (blue == part.mask).mean() > 0.97
        assert 0.25 < part.mask.mean() < 0.4


def test_templates_hold_the_word_once():
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 10
    assert all(text.count("{}") == 1 for text in TEMPLATES)
