"""Pictures by the million: the data sets that people have, as they have them, read one by one and mixed.

A source is a sequence of square pictures, uint8 `[S, S, 3]`; what cannot be read raises a Refusal. A `Mixture` draws
from several by weight. Which picture a row of a run shows is a function of the row alone, so that a run can be taken up
anywhere; a broken picture gives way to another one of its source and is counted.
"""

import csv
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from namesake.data.pictures import decode_picture, picture_files, read_picture, square
from namesake.errors import Refusal
from namesake.machine import cores

SHARD = 1000  # pictures
ORDER = 0  # the seed of the order in which they come into shards
# Rows after which the sources of a mixture come in the same order again. A prime, since a row's place in its batch says
# which timesteps it sees (`stratified`): with a factor in common a place of the cycle would meet only a few, ever.
CYCLE = 997
GIVE_UP = 2 * SHARD  # broken pictures in a row
JUMP = 1009  # rows on to the one that stands in for a broken one: prime, and out of a shard of 1,000


def framed(
    pixels: UInt8[np.ndarray, "H W 3"], box: tuple[float, float, float, float], about: float, size: int
) -> UInt8[np.ndarray, "S S 3"]:
    """A picture cut to a box with some context, `size` x `size`.

    The window is a square as wide as the box's longer side times (1 + about), moved inside the picture. Where the
    picture is too small for that, it is as large as can be and then made square as any picture is (`square`).

    Args:
        box: left, top, right, bottom, as shares of the picture.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = (share * side for share, side in zip(box, (width, height) * 2, strict=True))
    side = max(right - left, bottom - top, 1.0) * (1 + about)
    wide, tall = min(round(side) or 1, width), min(round(side) or 1, height)
    x = min(max(round((left + right - wide) / 2), 0), width - wide)
    y = min(max(round((top + bottom - tall) / 2), 0), height - tall)
    return square(pixels[y : y + tall, x : x + wide], size)


@runtime_checkable
class Source(Protocol):
    """Square pictures of one data set."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        """Raises Refusal where the picture cannot be read."""
        ...


class Files(Sequence[Path]):
    """Paths without an object for each: every worker that reads ahead has a copy, and an object of a million takes half a
    gigabyte."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._names = np.array([os.fsencode(file) for file in files], dtype=bytes)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return Path(os.fsdecode(bytes(self._names[index])))


class Folder:
    """All picture files under a folder, at any depth, in the order of their names."""

    def __init__(self, folder: Path, size: int) -> None:
        self.name, self.size = str(folder), size
        self.files = Files(picture_files(folder))
        if not self.files:
            raise Refusal(f'The folder "{folder}" holds no pictures.')

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        return square(read_picture(self.files[index]).pixels, self.size)


class ImageNet(Folder):
    """ImageNet-1K as the folder that people have: `train/<wnid>/*.JPEG`, or the folder `train` itself.

    Its quirks (JPEGs with four inks, PNGs that are called JPEG) are `read_picture`'s business. It has no boxes of all
    its pictures; they are mostly of one thing, so they are made square as they are.
    """

    def __init__(self, folder: Path, size: int) -> None:
        train = next(
            (place for place in (folder / "train", folder / "ILSVRC/Data/CLS-LOC/train", folder) if _wnids(place)), None
        )
        if train is None:
            raise Refusal(f'The folder "{folder}" is not ImageNet as it is known: train/<wnid>/*.JPEG is wanted.')
        self.name, self.size = str(folder), size
        files = (train / wnid / name for wnid in _wnids(train) for name in sorted(os.listdir(train / wnid)))
        kinds = (".jpeg", ".jpg", ".png")
        self.files = Files(file for file in files if file.suffix.lower() in kinds and not file.name.startswith("."))
        if not self.files:
            raise Refusal(f'The folders in "{train}" hold no pictures.')


def _wnids(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if re.fullmatch(r"n\d{8}", name))


class OpenImages:
    """Open Images V4 to V7: pictures anywhere under a folder, and the boxes of `*annotations-bbox.csv` there.

    Where there are tables of training pictures (`train-...` of V4, `oidv6-train-...`), those of validation and test
    beside them are left out.
    Each picture is cut to its largest object, with `about` of its side as context. Boxes of groups, of depictions and
    of views from inside are left out, as are those whose longer side is below `least` of the picture's (200 of the 1,024
    pixels of most), and pictures without a box that is left. A flag that is unknown (-1) counts as not set. Pictures that
    EXIF would turn (one in forty) stay as they are stored.
    """

    FLAGS = ("IsGroupOf", "IsDepiction", "IsInside")
    SIDES = ("XMin", "YMin", "XMax", "YMax")

    def __init__(self, folder: Path, size: int, about: float = 0.2, least: float = 0.2) -> None:
        self.name, self.size, self.about, self.least = str(folder), size, about, least
        tables = sorted(folder.rglob("*annotations-bbox.csv"))
        if not tables:
            raise Refusal(f'There is no *annotations-bbox.csv under "{folder}"; put the boxes of Open Images there.')
        tables = [table for table in tables if table.name.startswith(("train", "oidv6-train"))] or tables
        found = {file.stem: file for file in picture_files(folder)}
        boxes: dict[str, tuple[float, ...]] = {}
        for table in tables:
            for name, box in self._rows(table, least):
                known = boxes.get(name)
                if name in found and (known is None or _area(box) > _area(known)):
                    boxes[name] = box
        if not boxes:
            raise Refusal(
                f'No picture under "{folder}" has a box that is wanted; are the pictures of its tables there?'
            )
        names = sorted(boxes)
        self.files = Files(found[name] for name in names)
        self.boxes: Float[np.ndarray, "N 4"] = np.array([boxes[name] for name in names], np.float32)

    def _rows(self, table: Path, least: float) -> Iterator[tuple[str, tuple[float, ...]]]:
        with open(table, newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file)
            header = next(_lines(reader, table), [])
            lacking = [name for name in ("ImageID", *self.SIDES, *self.FLAGS) if name not in header]
            if lacking:
                raise Refusal(f'The table "{table}" has no column {lacking[0]}; the boxes of Open Images are wanted.')
            name, *rest = (header.index(column) for column in ("ImageID", *self.SIDES, *self.FLAGS))
            sides, flags = rest[:4], rest[4:]
            for row in _lines(reader, table):
                try:
                    if any(row[flag] == "1" for flag in flags):
                        continue
                    box = tuple(float(row[side]) for side in sides)
                except (IndexError, ValueError):
                    raise Refusal(f'The table "{table}" has a row that is no box (line {reader.line_num}).') from None
                if max(box[2] - box[0], box[3] - box[1]) >= least and _area(box) > 0:
                    yield row[name], box

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        left, top, right, bottom = self.boxes[index].tolist()
        picture = read_picture(self.files[index], upright=False)  # boxes are of pictures as they are stored
        return framed(picture.pixels, (left, top, right, bottom), self.about, self.size)


def _lines(reader: Iterator[list[str]], table: Path) -> Iterator[list[str]]:
    try:
        yield from filter(None, reader)  # an empty line is no row
    except csv.Error as reason:
        raise Refusal(f'The table "{table}" cannot be read ({reason}); get it again.') from None


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


class Shards:
    """WebDataset shards: the `.tar` files of a folder, or where it has none those of its subfolders, each sample with
    one picture (`.jpg`, `.png`, `.webp`).

    A shard is held in memory while its pictures are asked for, and `order` goes through one shard after the other. The
    one before is held too, since what stands in for a broken picture lies in another shard (`JUMP`), and the next row
    in the first again; one that cannot be read is tried once.

    How many samples each has is read from `sizes.json` beside them (`write_shards` leaves one) or counted, and then
    kept in `counts.json` where that can be written. A shard that is cut off is a short one.
    """

    KINDS = ("jpg", "jpeg", "png", "webp")

    def __init__(self, folder: Path, size: int) -> None:
        self.name, self.size = str(folder), size
        shown = "[!.]*.tar"  # macOS leaves hidden ones beside others
        self.files = sorted(folder.glob(shown)) or sorted(folder.rglob(shown))
        if not self.files:
            raise Refusal(f'The folder "{folder}" holds no shards (*.tar), nor do its subfolders; name another.')
        self.ends = np.cumsum(_counts(folder, self.files))
        if not self.ends[-1]:
            raise Refusal(f'The shards of "{folder}" hold no pictures.')
        self._open: dict[int, list[dict[str, Any]]] = {}  # two, the last one asked for behind
        self._lost: dict[int, str] = {}  # shards that cannot be read, and why

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getstate__(self) -> dict[str, Any]:  # for the workers of a loader, who hold shards of their own
        return {**self.__dict__, "_open": {}}

    def order(self, chance: np.random.Generator) -> np.ndarray:
        """All numbers, shard by shard: the shards shuffled, and the samples of each."""
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.concatenate(
            [starts[k] + chance.permutation(self.ends[k] - starts[k]) for k in chance.permutation(len(self.files))]
        )

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        number = index - (int(self.ends[shard - 1]) if shard else 0)
        samples, where = self._held(shard), self.files[shard]
        if number >= len(samples):
            raise Refusal(f'The shard "{where}" has {len(samples)} samples, fewer than were counted.')
        sample = samples[number]
        # webdataset ends a sample's name at the first dot: of "photo.final.jpg" the suffix is "final.jpg".
        ends = [*self.KINDS, *(suffix for kind in self.KINDS for suffix in sample if suffix.endswith(f".{kind}"))]
        data = next((sample[suffix] for suffix in ends if suffix in sample), None)
        if data is None:
            raise Refusal(f'The sample {sample["__key__"]} of the shard "{where}" has no picture.')
        return square(decode_picture(data, where / sample["__key__"]).pixels, self.size)

    def _held(self, shard: int) -> list[dict[str, Any]]:
        if shard in self._lost:
            raise Refusal(self._lost[shard])
        samples = self._open.pop(shard, None)
        if samples is None:
            while len(self._open) > 1:  # before the new one is read, so that there are never three
                del self._open[next(iter(self._open))]
            try:
                samples = _samples(self.files[shard])
            except Refusal as refusal:
                self._lost[shard] = str(refusal)
                raise
        self._open[shard] = samples
        return samples


def _sizes(folder: Path) -> dict[str, int]:
    found = _note(folder / "sizes.json")
    return {name: count for name, count in found.items() if type(count) is int and count >= 0}


def _counts(folder: Path, files: Sequence[Path]) -> list[int]:
    """How many samples each shard of a folder has. Several processes may count at once; the last one's note stays."""
    from namesake.files import write

    sizes, place = _sizes(folder), folder / "counts.json"
    names = [file.relative_to(folder).as_posix() for file in files]
    before = _note(place)
    now = {}
    try:
        for file, name in zip(files, names, strict=True):
            if name in sizes:
                continue
            try:
                mark = [file.stat().st_size, file.stat().st_mtime_ns]
            except OSError as reason:
                raise _unread(file, reason) from None
            known = before.get(name)
            if not (isinstance(known, list) and known[:-1] == mark and type(known[-1]) is int):
                known = [*mark, _count(file)]
            now[name] = known
    finally:  # what was counted before a refusal or Ctrl-C is not lost
        after = {**before, **now}
        if after != before:
            with suppress(Refusal):  # such as a data set that only its owner may write to
                write(json.dumps(after).encode(), place, "count of the shards")
    return [sizes[name] if name in sizes else now[name][-1] for name in names]


def _note(path: Path) -> dict[str, Any]:
    """What a file in JSON says; nothing where it is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _samples(file: Path) -> list[dict[str, Any]]:
    """The samples of a shard, their files as bytes by suffix; of one that is cut off, those before the cut."""
    import webdataset

    reasons: list[Exception] = []
    # Which process and which worker reads what is not webdataset's to say: `Mixture` tells every one its rows.
    found = webdataset.WebDataset(
        [file.resolve().as_uri()],  # as text "C:" would be a protocol, and braces are spread out
        shardshuffle=False,
        empty_check=False,
        nodesplitter=None,
        workersplitter=None,
        handler=reasons.append,  # and its None ends the shard: a tar file that is cut off raises what it likes
    )
    samples = list(found)
    if reasons and not samples:
        raise _unread(file, reasons[0])
    return samples


def _count(file: Path) -> int:
    """How many samples `_samples` finds in a shard, or one less where the cut is right behind one. Only its headers are
    read: a data set may have 300 GB."""
    from webdataset.tariterators import group_by_keys

    try:
        with tarfile.open(file) as tar:
            names = ({"fname": name, "data": b"", "__url__": ""} for name in _names(tar))
            return sum(1 for _ in group_by_keys(names, handler=lambda reason: False))
    except Exception as reason:
        raise _unread(file, reason) from None


def _names(tar: tarfile.TarFile) -> Iterator[str]:
    """The names of the files in a shard, up to one that is cut off."""
    last: tarfile.TarInfo | None = None
    while True:
        try:
            entry = tar.next()
        except OSError:  # the disk's fault, and not the shard's
            raise
        except Exception:
            return
        # With the next header reached, the file before it is there to its end.
        if last is not None and last.isreg() and not re.match(r"__[^/]*__($|/)", last.name):  # webdataset's own notes
            yield last.name
        if entry is None:
            return
        last = entry


def _unread(file: Path, reason: Exception) -> Refusal:
    """What tarfile and webdataset say has several lines, or names of their own objects."""
    told = getattr(reason, "strerror", None) or "it is no tar file, or cut off before its first sample"
    return Refusal(f'The shard "{file}" cannot be read ({told}); make it again or delete it.')


def write_shards(source: Source, folder: Path, size: int) -> Iterator[int]:
    """Turn a source into WebDataset shards of 1,000 JPEGs; yields how many of its pictures are done.

    Its pictures are shuffled, since a run goes through one shard after the other: in ImageNet's own order a batch of 64
    would show two classes. Shards that are there already are kept, so an interrupted run goes on where it stopped. Broken
    pictures are left out. size: of the pictures, pixels a side. `sizes.json` says how many samples each shard has,
    `source.json` what they were made of.

    Raises:
        Refusal: the folder holds shards of other pictures, of another kind or size.
    """
    import webdataset

    from namesake.files import write

    folder.mkdir(parents=True, exist_ok=True)
    made_of = str(Path(source.name).resolve())
    note = {"source": made_of, "kind": type(source).__name__, "pictures": len(source), "size": size, "order": ORDER}
    note |= {name: getattr(source, name) for name in ("about", "least") if hasattr(source, name)}
    if any(folder.glob("*.tar")) and _note(folder / "source.json") != note:
        raise Refusal(
            f'The folder "{folder}" holds shards of other pictures than {source.name}, or made of them otherwise; name '
            "another folder."
        )
    write(json.dumps(note).encode(), folder / "source.json", "note on the shards")
    sizes, order = _sizes(folder), np.random.default_rng(ORDER).permutation(len(source))
    with ThreadPoolExecutor(cores()) as pool:  # what takes time, Pillow, lets others work
        for start in range(0, len(source), SHARD):
            place = folder / f"shard-{start // SHARD:06d}.tar"
            numbers = order[start : start + SHARD].tolist()
            if not (place.exists() and place.name in sizes):
                data = BytesIO()
                packed = zip(numbers, pool.map(partial(_packed, source), numbers), strict=True)
                sound = [(number, jpeg) for number, jpeg in packed if jpeg]
                with webdataset.TarWriter(data, mtime=0) as tar:
                    for number, jpeg in sound:
                        tar.write({"__key__": f"{number:09d}", "jpg": jpeg})
                write(data.getvalue(), place, "shard")
                sizes[place.name] = len(sound)
                write(json.dumps(sizes, indent=0).encode(), folder / "sizes.json", "list of shards")
            yield start + len(numbers)


def _packed(source: Source, number: int) -> bytes:
    """A picture as a JPEG; no bytes where it is broken."""
    packed = BytesIO()
    try:
        Image.fromarray(source[number]).save(packed, "JPEG", quality=95, subsampling=0)
    except Refusal:
        return b""
    return packed.getvalue()


class Mixture:
    """Rows of pictures from several sources.

    Each source is gone through in a new random order again and again; the sources come in turn, as often as their
    weights say, in a cycle of 997 rows.

    Args:
        sources: one or several.
        weights: of each, above 0; by default each source's number of pictures.
        seed: of all orders.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        weights = [float(len(source)) for source in sources] if weights is None else list(weights)
        if not sources or len(weights) != len(sources) or not all(0 < weight < np.inf for weight in weights):
            raise Refusal(f"The weights of the data are {weights}; one number above 0 for each source is wanted.")
        self.sources, self.seed = list(sources), seed
        shares = np.array(weights) / sum(weights) * CYCLE
        counts = np.maximum(1, np.floor(shares).astype(int))
        for place in np.argsort(np.floor(shares) - shares)[: max(0, CYCLE - counts.sum())]:
            counts[place] += 1
        for _ in range(counts.sum() - CYCLE):  # the rarest come once nevertheless, at the cost of the most frequent
            counts[counts.argmax()] -= counts.max() > 1
        turns = np.repeat(np.arange(len(sources)), counts)
        self._turns = np.random.default_rng([seed, 0x717]).permutation(turns)
        self._ranks = np.array([(self._turns[:k] == s).sum() for k, s in enumerate(self._turns)])
        self._counts = counts
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self._broken: set[tuple[int, int]] = set()
        self._order = lru_cache(maxsize=2 * len(self.sources))(self._new_order)

    def _new_order(self, source: int, epoch: int) -> np.ndarray:
        chance = np.random.default_rng([self.seed, source, epoch])
        own = getattr(self.sources[source], "order", None)
        return chance.permutation(len(self.sources[source])) if own is None else own(chance)

    def _place(self, row: int) -> tuple[int, int, int]:
        """The source of a row, how often it was gone through before, and the row's place in its order."""
        cycle, place = divmod(row, len(self._turns))
        source = int(self._turns[place])
        return source, *divmod(cycle * int(self._counts[source]) + int(self._ranks[place]), len(self.sources[source]))

    def pick(self, row: int) -> tuple[int, int]:
        """The source of a row and the number of its picture in it."""
        source, epoch, number = self._place(row)
        return source, int(self._order(source, epoch)[number])

    def read(self, rows: Sequence[int]) -> tuple[UInt8[np.ndarray, "B S S 3"], list[int], int]:
        """The pictures of some rows, a number for each picture that no other has, and how many of the rows show another
        one since their own is broken.

        Raises:
            Refusal: 2,000 pictures are broken, one after the other.
        """
        pictures, origin, skipped = [], [], 0
        for row in rows:
            source, epoch, number = self._place(row)
            order = self._order(source, epoch)
            # Not to the one beside it: the rows of a whole broken shard would all come to one picture.
            jump = next(some for some in (JUMP, JUMP + 4, 1) if len(order) % some or some == 1)
            reason: Refusal | str = "they were met before."
            for tried in range(GIVE_UP):
                index = int(order[(number + tried * jump) % len(order)])
                if (source, index) not in self._broken:
                    try:
                        pictures.append(self.sources[source][index])
                        break
                    except Refusal as refusal:
                        self._broken.add((source, index))
                        reason = refusal
            else:
                raise Refusal(f"{GIVE_UP} pictures of {self.sources[source].name} in a row cannot be read; {reason}")
            skipped += tried > 0
            origin.append(int(self._starts[source]) + index)
        return np.stack(pictures), origin, skipped

    def __getstate__(self) -> dict[str, Any]:  # for the workers of a loader
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2 * len(self.sources))(self._new_order)


KINDS: dict[str, Any] = {"folder": Folder, "imagenet": ImageNet, "openimages": OpenImages, "shards": Shards}


def source(text: str) -> tuple[Callable[[int], Source], float | None]:
    """What makes the source that "kind:folder" or "kind:folder@weight" names, of the side of its pictures in pixels, and
    its weight.

    Raises:
        Refusal: another form, an unknown kind, a folder that is not there, a weight that is no number above 0.
    """
    kind, colon, rest = text.partition(":")
    if kind not in KINDS or not colon or not rest:
        raise Refusal(f'The data "{text}" is not understood; {", ".join(f"{k}:DIR" for k in KINDS)} are, with @WEIGHT.')
    place, at, weight = rest.rpartition("@")
    if not at or Path(rest).is_dir():  # "you@host" may be a folder's name
        place, at, weight = rest, "", ""
    folder = Path(place)
    if not folder.is_dir():
        raise Refusal(f'There is no folder "{folder}" for the data "{text}".')
    return partial(KINDS[kind], folder), weight_of(weight, text) if at else None


def weight_of(weight: str, text: str) -> float:
    """The weight in the name of some data; Refusal where it is no number above 0."""
    try:
        share = float(weight)
    except ValueError:
        share = 0.0
    if not 0 < share < np.inf:
        raise Refusal(f'The weight "{weight}" of the data "{text}" is no number above 0.')
    return share
