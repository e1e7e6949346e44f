"""Any picture a user has, read into clean pixels.

Whatever the file holds (a phone's turned photograph, a cut-out with alpha, a print scan in CMYK, 16 bits, a palette, an
animation), what comes out is sRGB, uint8, upright, without alpha. What cannot be read is refused in one sentence.
"""

import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, ImageStat

from namesake.errors import Refusal

# Checked against the header before anything is decoded. 2^27 takes a phone's 108 megapixels, and bounds the memory of a
# decoded picture to 0.5 GB; one that is turned or has transparent parts stands there up to three times for a moment.
MAX_PIXELS = 2**27
STRIP = 2**20  # pixels of a grey of 16 bits or more that are brought to 8 at a time, in floats of four times the size
MIN_SIDE = 16
# A picture of one color along its long edges is padded to a square, whose memory goes with the square of the long side.
MAX_ASPECT = 32
MAX_BYTES = 2**30
# No model draws larger, so a picture is brought down to this short side (by whole numbers) as soon as it is decoded.
WORKING_SIDE = 2048

# What people have, and what Pillow reads by itself: EPS and WMF would start other programs.
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
    "QOI",
    "PCX",
    "PSD",
)


@dataclass(frozen=True)
class Picture:
    """A picture as it was read.

    pixels: uint8 [H, W, 3], sRGB. mask: True where the subject is (alpha of at least one half), None where the file has
    no alpha or it was not asked for. path: where it came from.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"] | None
    path: Path

    def within(self, side: int) -> "Picture":
        """The picture brought down to a short side of at most `side` pixels."""
        height, width = self.pixels.shape[:2]
        share = side / min(height, width)
        if share >= 1:
            return self
        sides = (round(share * width), round(share * height))
        pixels = np.asarray(Image.fromarray(self.pixels).resize(sides, Image.Resampling.LANCZOS, reducing_gap=2.0))
        mask = self.mask
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize(sides, Image.Resampling.NEAREST))
        return Picture(pixels, mask, self.path)

    def squared(self, size: int) -> "Picture":
        """The picture as `size` x `size` pixels, and its mask cut and scaled along with it. See `square`."""
        mask = self.mask
        if mask is not None and mask.shape != (size, size):
            whole = mask.astype(np.uint8) * 255
            mask = _fitted(whole, _window(self.pixels), size, "constant") >= 128  # padding is no subject
        return Picture(square(self.pixels, size), mask, self.path)


def read_pictures(paths: Iterable[Path | str], mask_from_alpha: bool = False, side: int | None = None) -> list[Picture]:
    """Read files and folders of pictures, in the order given and by name (2 before 10) inside a folder, each brought down
    to a short side of `side` pixels as it is read, where one is given.

    A folder is not searched below its first level; what does not end like a picture there is passed over.
    Raises Refusal for an empty name, a folder without pictures and for everything that `read_picture` refuses.
    """
    suffixes = _suffixes()
    pictures = []
    for named in paths:
        if named == "":  # a Path would take it for the current folder
            raise Refusal(
                'A picture has the empty name "", as a shell variable that is not set leaves it; name a file or a folder.'
            )
        path = Path(named)
        found = [path]
        if _is_dir(path):
            try:
                found = sorted(
                    (p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")),
                    key=lambda p: [(int(s), "") if s.isdecimal() else (-1, s) for s in re.split(r"(\d+)", p.name)],
                )
            except OSError as error:
                raise Refusal(f"The folder {_name(path)} cannot be opened: {error.strerror}.") from None
            if not found:
                other = sorted(p for p in path.iterdir() if p.suffix.lower() in (".heic", ".heif"))
                found = other[:1]  # which says what to do with it
            if not found:
                raise Refusal(f"The folder {_name(path)} holds no pictures; put some in it, or name a picture file.")
        for one in found:
            picture = read_picture(one, mask_from_alpha)
            pictures.append(picture if side is None else picture.within(side))
    if not pictures:
        raise Refusal("No picture was given; name at least one picture file.")
    return pictures


def picture_files(folder: Path) -> list[Path]:
    """Every file under a folder, at any depth, that ends like a picture, by path; hidden ones are passed over."""
    suffixes = _suffixes()
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
    )


def _suffixes() -> set[str]:
    return {suffix for suffix, format in Image.registered_extensions().items() if format in (*FORMATS, "MPO")}


def read_picture(path: Path | str, mask_from_alpha: bool = False, upright: bool = True) -> Picture:
    """Read one picture file: upright, sRGB, alpha laid on white (on grey where the subject itself is almost white).

    mask_from_alpha: also give the alpha, cut at one half, as a mask. upright: turned as its EXIF says.
    Raises Refusal for a file that is missing, no file, empty, truncated or no picture, for a side under 16 pixels, for
    more than 2^27 pixels and for a picture that is transparent all over.
    """
    path = Path(path)
    return decode_picture(_bytes(path), path, mask_from_alpha, upright)


def decode_picture(data: bytes, path: Path, mask_from_alpha: bool = False, upright: bool = True) -> Picture:
    """The picture in a file's bytes, as `read_picture` gives it; `path` is for the sentences of a Refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data, path)
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise Refusal(
                f"The picture {_name(path)} is only {width} x {height} pixels; "
                f"at least {MIN_SIDE} on each side are needed, so give a larger one."
            )
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise Refusal(
                f"The picture {_name(path)} is {width} x {height} pixels, more than {MAX_ASPECT} times as long as wide; cut "
                "it to what it shows."
            )
        if width * height > MAX_PIXELS:
            raise Refusal(
                f"The picture {_name(path)} is {width} x {height} pixels, more than the {MAX_PIXELS // 10**6} million "
                "that are read; make it smaller first."
            )
        try:
            return _decode(image, path, mask_from_alpha, upright)
        except (MemoryError, Refusal):
            raise
        except Exception:  # a broken file can raise anything in a plug-in
            raise Refusal(
                f"The picture {_name(path)} is damaged or cut off and cannot be read to its end; get a whole copy."
            ) from None


def with_masks(pictures: Sequence[Picture], paths: Sequence[Path | str]) -> list[Picture]:
    """The pictures with masks read from files, one for each in their order.

    A mask is any picture as large as its own: the subject is where it is light (128 or more), or, where it has alpha,
    where that is at least one half. Raises Refusal for another number of masks, another size, a mask without any
    subject, and everything that `read_picture` refuses.
    """
    if len(paths) != len(pictures):
        raise Refusal(f"{len(paths)} masks were given for {len(pictures)} pictures; give one for each, in their order.")
    masked = []
    for picture, path in zip(pictures, map(Path, paths), strict=True):
        sizes = [_full_size(one) for one in (path, picture.path)]
        if sizes[0] != sizes[1]:
            (width, height), (wanted, tall) = sizes
            raise Refusal(
                f"The mask {_name(path)} is {width} x {height} pixels and its picture {_name(picture.path)} {wanted} x "
                f"{tall}; a mask of the picture's size is wanted."
            )
        seen = read_picture(path, mask_from_alpha=True)
        inside = seen.pixels.mean(-1) >= 128 if seen.mask is None else seen.mask
        height, width = picture.pixels.shape[:2]
        if inside.shape != (height, width):  # large files come down as they are read, and not all formats alike
            inside = np.asarray(Image.fromarray(inside).resize((width, height), Image.Resampling.NEAREST))
        if not inside.any():
            raise Refusal(f"The mask {_name(path)} shows no subject; make it light where the subject is.")
        masked.append(replace(picture, mask=inside))
    return masked


def _full_size(path: Path) -> tuple[int, int]:
    """Width and height of a file's picture when it stands upright."""
    image = _open(_bytes(path), path)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # EXIF is often broken where the picture is whole
        turned = False
    return (image.height, image.width) if turned else (image.width, image.height)


def square(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Make a picture `size` x `size`, as little changed as can be.

    One that has this size already is returned as it is. A longer one is padded with its background where that is one
    color along both long edges (nothing is lost, and no seam shows), and cropped to its middle elsewhere.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    return _fitted(pixels, _window(pixels), size, "edge")


def _window(pixels: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int, int, int]:
    """The square (left, top, right, bottom) that `square` keeps; it reaches outside a picture that is to be padded."""
    height, width = pixels.shape[:2]
    edges = pixels[[0, -1]] if width > height else pixels[:, [0, -1]]
    plain = np.ptp(edges.reshape(-1, 3), axis=0).max() <= 8  # levels; JPEG noise on a flat ground stays below
    side = max(height, width) if plain else min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _fitted(
    array: np.ndarray, box: tuple[int, int, int, int], size: int, outside: Literal["edge", "constant"]
) -> np.ndarray:
    """The square `box` of an array as `size` x `size`. What is to be padded is brought near to that first: thin pictures
    of 16,000 pixels took 0.8 GB and more as squares."""
    factor = (box[2] - box[0]) // (4 * size)
    if factor > 1 and min(box) < 0:
        array = np.asarray(Image.fromarray(array).reduce(factor))
        box = (box[0] // factor, box[1] // factor, box[2] // factor, box[3] // factor)
    left, top, right, bottom = box
    height, width = array.shape[:2]
    rows, columns = (max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0))
    array = np.pad(array, (rows, columns) + ((0, 0),) * (array.ndim - 2), mode=outside)
    top, left = max(top, 0), max(left, 0)
    array = np.ascontiguousarray(array[top : top + box[3] - box[1], left : left + box[2] - box[0]])
    kernel = Image.Resampling.LANCZOS if len(array) > size else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(array).resize((size, size), kernel))


def _name(path: Path) -> str:
    return ascii(str(path)) if not str(path).isprintable() else f'"{path}"'


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _bytes(path: Path) -> bytes:
    """The whole file. Reading it once keeps every later failure a failure of its content."""
    try:
        if path.is_dir():
            raise Refusal(f"{_name(path)} is a folder where a picture file is wanted; name a file in it.")
        if path.exists() and not path.is_file():
            raise Refusal(f"{_name(path)} is not an ordinary file; give a picture file.")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            raise Refusal(
                f"The file {_name(path)} has {path.stat().st_size / 2**30:,.1f} GiB, more than the 1 that is read; make it "
                "smaller first."
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise Refusal(f"There is no file {_name(path)}; check the name and the folder.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, Refusal):
            raise
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"The file {_name(path)} cannot be opened: {reason}.") from None
    if not data:
        raise Refusal(f"The file {_name(path)} is empty; give a picture file.")
    return data


def _open(data: bytes, path: Path) -> Image.Image:
    """The header only: nothing is decoded yet."""
    Image.init()
    try:
        return Image.open(BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError:
        raise Refusal(
            f"The picture {_name(path)} has more than the {MAX_PIXELS // 10**6} million pixels that are read; "
            "make it smaller first."
        ) from None
    except MemoryError:
        raise
    except Exception:
        if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
            raise Refusal(f"{_name(path)} is a HEIC picture, which is not read here; save it as JPEG or PNG.") from None
        raise Refusal(
            f"The file {_name(path)} is not a picture that can be read (PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP, ...), "
            "or its beginning is damaged; save it as PNG or JPEG."
        ) from None


def _decode(image: Image.Image, path: Path, mask_from_alpha: bool, upright: bool) -> Picture:
    # JPEG brings itself down by up to 8 while decoding, and so never stands in memory at full size.
    image.draft(None, (WORKING_SIDE, WORKING_SIDE))
    with _silence() if image.format == "TIFF" else nullcontext():
        image.load()
    profile = image.info.get("icc_profile")
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, whose inks are inverted
    image = _eight_bit(image)
    image = _upright(image) if upright else image
    cut_out = image.has_transparency_data
    if image.mode != "RGBA" and (cut_out or image.mode not in ("L", "RGB", "CMYK", "LAB")):
        image = image.convert("RGBA" if cut_out else "RGB")
    factor = max(min(image.size) // WORKING_SIDE, max(image.size) // (4 * WORKING_SIDE))
    if factor > 1:
        image = image.reduce(factor)
    alpha = image.getchannel("A") if cut_out else None
    image = _to_srgb(image.convert("RGB") if cut_out else image, profile)
    if alpha is None or alpha.getextrema() == (255, 255):
        return Picture(np.array(image), None, path)
    subject = alpha.point([0] * 128 + [255] * 128)
    if subject.getbbox() is None:
        raise Refusal(f"The picture {_name(path)} is transparent all over; give one that shows something.")
    # White is what cut-outs are mostly shown on; a subject that is nearly white itself would vanish there.
    ground = 255 if ImageStat.Stat(image.convert("L"), subject).mean[0] < 215 else 128
    image = Image.composite(image, Image.new("RGB", image.size, (ground,) * 3), alpha)
    return Picture(np.array(image), np.asarray(subject) > 0 if mask_from_alpha else None, path)


_silenced = threading.Lock()  # two threads would give each other's silence back as the stream


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing reaches the process's error stream: libtiff tells of broken files there from C, past Python, and the user
    is to read our sentence alone. All threads are silenced, so keep it short."""
    with _silenced:
        try:
            kept = os.dup(2)
        except OSError:  # the stream is closed
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is often broken where the picture is whole
        return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greys of 16 and 32 bits and floats as "L", or "RGBA" with a transparent one; every other mode stays as it is."""
    if image.mode[0] not in "IF":
        return image
    width, height = image.size
    rows = max(1, STRIP // width)

    def strips() -> Iterator[tuple[slice, np.ndarray]]:
        for top in range(0, height, rows):
            strip = image.crop((0, top, width, min(top + rows, height)))
            yield slice(top, top + rows), np.nan_to_num(np.asarray(strip).astype(np.float32))

    high = max(float(values.max()) for _, values in strips())
    top = 65535.0 if image.mode[:4] == "I;16" else next((t for t in (255.0, 65535.0) if high <= t), high)
    if image.mode == "F" and high <= 1:
        top = 1.0
    clear = image.info.get("transparency")
    grey = np.empty((height, width), np.uint8)
    alpha = None if clear is None else np.empty_like(grey)
    for place, values in strips():
        grey[place] = (values.clip(0, top) * (255 / top) + 0.5).astype(np.uint8)
        if alpha is not None:
            alpha[place] = np.where(values == clear, 0, 255)
    shown = Image.fromarray(grey)
    if alpha is not None:
        shown = Image.merge("RGBA", (shown, shown, shown, Image.fromarray(alpha)))
    if "exif" in image.info:
        shown.info["exif"] = image.info["exif"]  # the orientation is read after this
    return shown


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """By the embedded profile (a phone's Display P3, a press's inks); without one, or with a broken one, plainly."""
    srgb = ImageCms.createProfile("sRGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            # Through a profile of sRGB itself nothing would change but the last bits.
            if image.mode != "RGB" or "sRGB" not in ImageCms.getProfileDescription(source):
                return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    if image.mode == "LAB":
        return ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB") or image
    return image.convert("RGB")
