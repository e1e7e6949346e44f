"""Data sets in the forms that people have them, headers and quirks included, and how they are mixed."""

import gzip
import io
import json
import os
import pickle
import tarfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from namesake.data import sources
from namesake.data.pictures import read_picture
from namesake.data.sources import CYCLE, Folder, ImageNet, Mixture, OpenImages, Shards, framed, source, write_shards
from namesake.errors import Refusal

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 40), (30, 40, 220), (128, 128, 128)
V4 = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
V6 = V4 + ",XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"


def plain(color, size=(64, 48)):
    return Image.new("RGB", size, color)


def near(pixels, color, share=0.9):
    return (np.abs(pixels.astype(int) - color).max(-1) < 24).mean() >= share


def imagenet(root):
    """Three folders: an ordinary JPEG, one with four inks as Adobe writes them, a PNG that is called JPEG, a broken one."""
    for wnid in ("n01440764", "n02105855", "n07697537"):
        (root / "train" / wnid).mkdir(parents=True)
    (root / "val").mkdir()
    plain(RED).save(root / "train/n01440764/n01440764_18.JPEG")
    inks = Image.new("CMYK", (64, 64), (225, 55, 215, 0))  # green, inverted as Adobe's files are
    inks.save(root / "train/n01440764/n01440764_2.JPEG", quality=95)
    plain(BLUE).save(root / "train/n02105855/n02105855_2933.JPEG", "PNG")
    data = io.BytesIO()
    plain(RED).save(data, "JPEG")
    (root / "train/n07697537/n07697537_1.JPEG").write_bytes(data.getvalue()[:300])
    (root / "train/n07697537/n07697537_3.txt").write_text("no picture")
    return root


def test_imagenet_as_it_is_four_inks_and_a_png_in_disguise(tmp_path):
    found = ImageNet(imagenet(tmp_path / "in"), 32)
    assert [file.name for file in found.files] == [
        "n01440764_18.JPEG",
        "n01440764_2.JPEG",
        "n02105855_2933.JPEG",
        "n07697537_1.JPEG",
    ]
    assert all(found[k].shape == (32, 32, 3) and found[k].dtype == np.uint8 for k in range(3))
    assert near(found[0], RED)
    red, green, blue = found[1].reshape(-1, 3).mean(0)
    assert green > red + 60
    assert green > blue + 60
    assert near(found[2], BLUE)
    with pytest.raises(Refusal, match=r"n07697537_1\.JPEG"):
        found[3]
    assert len(ImageNet(tmp_path / "in" / "train", 32)) == 4
    (next((tmp_path / "in" / "train").iterdir()) / "._n07697537_1.JPEG").write_bytes(b"left by macOS")
    assert len(ImageNet(tmp_path / "in", 32)) == 4
    with pytest.raises(Refusal, match="train/<wnid>"):
        ImageNet(tmp_path, 32)


def openimages(root, header=V6):
    """Pictures with a green and a blue thing, and boxes of both; red ones that no box of theirs lets through."""
    (root / "train_0").mkdir(parents=True)
    picture = np.full((100, 200, 3), GREY, np.uint8)
    picture[10:50, 10:50], picture[20:90, 100:190] = GREEN, BLUE
    for name in ("0001eeaf4aed83f9", "000595fe6fee6369", "00075905539074f2"):
        Image.fromarray(picture).save(root / "train_0" / f"{name}.jpg", quality=95, subsampling=0)
    more = ",0.1" * 8 if header == V6 else ""
    rows = [
        # the largest is a group, or a depiction, or seen from inside; an unknown flag is none
        ("0001eeaf4aed83f9", 0.05, 0.25, 0.1, 0.5, "0,0,0,0,0"),
        ("0001eeaf4aed83f9", 0.5, 0.95, 0.2, 0.9, "1,1,-1,0,0"),
        ("0001eeaf4aed83f9", 0.0, 1.0, 0.0, 1.0, "0,0,1,0,0"),
        ("000595fe6fee6369", 0.0, 1.0, 0.0, 1.0, "0,0,0,1,0"),
        ("000595fe6fee6369", 0.05, 0.25, 0.1, 0.5, "0,0,0,0,0"),
        ("000595fe6fee6369", 0.5, 0.55, 0.2, 0.3, "0,0,0,0,0"),
        ("00075905539074f2", 0.0, 0.1, 0.0, 0.1, "0,0,0,0,0"),  # too small
        ("00075905539074f2", 0.0, 1.0, 0.0, 1.0, "0,0,0,0,1"),
        ("000a1249af2bc5f0", 0.0, 1.0, 0.0, 1.0, "0,0,0,0,0"),  # not among the pictures
    ]
    text = "".join(f"{i},xclick,/m/01g317,1,{a},{b},{c},{d},{flags}{more}\n" for i, a, b, c, d, flags in rows)
    name = "oidv6-train-annotations-bbox.csv" if header == V6 else "train-annotations-bbox.csv"
    (root / name).write_text(f"{header}\n{text}")
    return root


@pytest.mark.parametrize("header", [V4, V6], ids=["V4", "V6"])
def test_open_images_is_cut_to_the_largest_thing_that_counts(tmp_path, header):
    found = OpenImages(openimages(tmp_path, header), 40, about=0.0)
    assert [file.stem for file in found.files] == ["0001eeaf4aed83f9", "000595fe6fee6369"]
    assert near(found[0], BLUE, 0.7)  # 90 x 70 in a window of 90 x 90
    assert near(found[1], GREEN)
    about = OpenImages(tmp_path, 40, about=0.5)[1]
    assert near(about[15:25, 15:25], GREEN)
    assert near(about[:3], GREY, 0.8)
    (tmp_path / "train-more-annotations-bbox.csv").write_text("ImageID,XMin\n")
    with pytest.raises(Refusal, match="no column YMin"):
        OpenImages(tmp_path, 40)
    (tmp_path / "train-more-annotations-bbox.csv").write_text(f"{V4}\nx,y\n")
    with pytest.raises(Refusal, match="line 2"):
        OpenImages(tmp_path, 40)


@pytest.mark.parametrize("header", [V4, V6], ids=["V4", "V6"])
def test_open_images_for_validation_are_not_trained_on(tmp_path, header):
    openimages(tmp_path, header)
    (tmp_path / "validation").mkdir()
    plain(RED).save(tmp_path / "validation/0009bad4d8539bb4.jpg")
    row = "0009bad4d8539bb4,xclick,/m/01g317,1,0,1,0,1,0,0,0,0,0"
    (tmp_path / "validation-annotations-bbox.csv").write_text(f"{V4}\n{row}\n")
    assert [file.stem for file in OpenImages(tmp_path, 40).files] == ["0001eeaf4aed83f9", "000595fe6fee6369"]
    next(tmp_path.glob("*train-*.csv")).unlink()
    assert [file.stem for file in OpenImages(tmp_path, 40).files] == ["0009bad4d8539bb4"]


def test_a_table_of_boxes_may_have_a_mark_before_it_and_empty_lines(tmp_path):
    table = openimages(tmp_path) / "oidv6-train-annotations-bbox.csv"
    table.write_text("\n" + table.read_text().replace("\n", "\n\n") + "\r\n", encoding="utf-8-sig")
    assert len(OpenImages(tmp_path, 40)) == 2


def test_boxes_are_of_pictures_as_they_are_stored(tmp_path):
    openimages(tmp_path)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # a viewer turns it by a quarter
    place = tmp_path / "train_0/0001eeaf4aed83f9.jpg"
    with Image.open(place) as stored:
        stored.save(place, quality=95, subsampling=0, exif=turned)
    assert read_picture(place).pixels.shape == (200, 100, 3)
    assert near(OpenImages(tmp_path, 40, about=0.0)[0], BLUE, 0.7)


def test_a_window_stays_inside_the_picture():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :, 0] = np.arange(200)
    box = (0.9, 0.4, 1.0, 0.6)  # 20 x 20 pixels at the right edge
    cut = framed(picture, box, 1.0, 40)
    assert (cut[0, 0, 0], cut[0, -1, 0]) == (160, 199)
    whole = framed(picture[:, :100], (0.0, 0.0, 1.0, 1.0), 1.0, 100)
    assert np.array_equal(whole, picture[:, :100])


def test_shards_give_back_what_went_in_without_what_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr("namesake.data.sources.SHARD", 3)
    folder = imagenet(tmp_path / "in")
    plain(GREEN).save(folder / "train/n07697537/n07697537_9.JPEG")
    images = ImageNet(folder, 32)
    place = tmp_path / "shards"
    assert list(write_shards(images, place, 32)) == [3, 5]
    assert sorted(path.name for path in place.iterdir()) == [
        *("shard-000000.tar", "shard-000001.tar", "sizes.json", "source.json")
    ]
    assert json.loads((place / "sizes.json").read_text()) == {"shard-000000.tar": 2, "shard-000001.tar": 2}
    with tarfile.open(place / "shard-000000.tar") as tar:
        names = tar.getnames()
    with tarfile.open(place / "shard-000001.tar") as tar:
        names += tar.getnames()
    came = [int(name.removesuffix(".jpg")) for name in names]
    assert sorted(came) == [0, 1, 2, 4]
    assert came != [0, 1, 2, 4]  # shuffled, since a run goes through one shard after the other
    found = Shards(place, 32)
    assert len(found) == 4
    for k, wanted in enumerate(came):
        assert np.abs(found[k].astype(int) - images[wanted]).mean() < 3
    order = found.order(np.random.default_rng(0)).tolist()
    assert sorted(order) == [0, 1, 2, 3]
    assert {*order[:2]} in ({0, 1}, {2, 3})  # a shard is gone through before the next

    before = (place / "shard-000000.tar").stat().st_mtime_ns
    (place / "shard-000001.tar").unlink()
    list(write_shards(images, place, 32))  # goes on where it stopped
    assert (place / "shard-000000.tar").stat().st_mtime_ns == before
    assert len(Shards(place, 32)) == 4
    (place / "._shard-000000.tar").write_bytes(b"left by macOS")
    assert len(Shards(place, 32)) == 4
    # The same files as another kind of source are other pictures.
    whole = Folder(folder, 32)
    whole.name = images.name
    with pytest.raises(Refusal, match="made of them otherwise"):
        list(write_shards(whole, place, 32))


def tarred(path, *colors, suffix="png"):
    """A shard as others make them."""
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("__notes__/of/webdataset.json"))
        for number, color in enumerate(colors):
            data = io.BytesIO()
            plain(color).save(data, "PNG")
            for end, content in (("json", b"{}"), (suffix, data.getvalue()), ("txt", b"a thing")):
                entry = tarfile.TarInfo(f"a/{number:05d}.{end}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def test_shards_of_others_are_counted_and_broken_ones_refused(tmp_path):
    tarred(tmp_path / "00000.tar", RED, BLUE)
    found = Shards(tmp_path, 32)
    assert len(found) == 2
    assert near(found[1], BLUE)
    assert near(found[0], RED)
    for content in (b"no tar file" * 100, b""):
        (tmp_path / "00001.tar").write_bytes(content)
        with pytest.raises(Refusal, match=r'00001\.tar" cannot be read \(it is no tar file, [a-z ]*\); make it again'):
            Shards(tmp_path, 32)


def test_shards_of_others_are_counted_once_and_by_their_headers(tmp_path, monkeypatch):
    counted, count = [], sources._count
    monkeypatch.setattr(sources, "_samples", None)
    monkeypatch.setattr(sources, "_count", lambda file: counted.append(file.name) or count(file))
    tarred(tmp_path / "00000.tar", RED, BLUE)
    tarred(tmp_path / "00001.tar", GREEN)
    for _ in range(2):
        assert len(Shards(tmp_path, 32)) == 3
        assert counted == ["00000.tar", "00001.tar"]
    tarred(tmp_path / "00001.tar", GREEN, RED, BLUE)
    assert len(Shards(tmp_path, 32)) == 5
    assert counted[2:] == ["00001.tar"]
    os.utime(tmp_path / "00000.tar", ns=(0, 0))
    (tmp_path / "00002.tar").write_bytes(b"no tar file")
    with pytest.raises(Refusal, match=r"00002\.tar"):
        Shards(tmp_path, 32)
    (tmp_path / "00002.tar").unlink()
    assert len(Shards(tmp_path, 32)) == 5
    assert counted[3:] == ["00000.tar", "00002.tar"]  # what was counted before the refusal is kept
    (tmp_path / "counts.json").unlink()
    (tmp_path / "counts.json").mkdir()  # nothing can be kept
    assert len(Shards(tmp_path, 32)) == 5
    assert not list(tmp_path.glob("*.part"))


def test_a_shard_that_is_cut_off_is_a_short_one(tmp_path):
    whole = tarred(tmp_path / "00000.tar", RED, BLUE, GREEN).read_bytes()
    tarred(tmp_path / "00001.tar", GREEN)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        picture, text = (tar.getmember(f"a/00002.{suffix}") for suffix in ("png", "txt"))
    for cut, sound in ((picture.offset_data + 40, 2), (text.offset_data + 3, 3), (text.offset + 100, 3)):
        (tmp_path / "00000.tar").write_bytes(whole[:cut])
        found = Shards(tmp_path, 32)
        assert len(found) == 4  # of the third its JSON at least
        assert all(near(found[number], (RED, BLUE, GREEN)[number]) for number in range(sound))
        assert near(found[3], GREEN)
        if sound == 2:
            with pytest.raises(Refusal, match="has no picture"):
                found[2]
    (tmp_path / "sizes.json").write_text('{"00000.tar": 9}')  # of the whole
    found = Shards(tmp_path, 32)
    assert near(found[1], BLUE)
    with pytest.raises(Refusal, match="has 3 samples, fewer"):
        found[3]


def test_shards_of_others_may_have_dots_in_names_and_lie_in_subfolders(tmp_path):
    for folder, color in (("b", BLUE), ("a/deep", GREEN)):
        (tmp_path / folder).mkdir(parents=True)
        tarred(tmp_path / folder / "00000.tar", color, suffix="final.PNG")
    found = Shards(tmp_path, 32)
    assert len(found) == 2
    assert near(found[0], GREEN)
    assert near(found[1], BLUE)
    assert len(Shards(tmp_path, 32)) == 2  # by counts.json, two of one name
    tarred(tmp_path / "00000.tar", RED)
    found = Shards(tmp_path, 32)
    assert len(found) == 1  # those of the folder itself alone, if it has some
    assert near(found[0], RED)


def test_broken_pictures_and_shards_are_not_paid_for_by_the_row(tmp_path, monkeypatch):
    """In shards of 6 in the place of 1,000, whose broken pictures are stood in for by others 7 rows on."""
    monkeypatch.setattr(sources, "JUMP", 7)
    read, samples = [], sources._samples
    monkeypatch.setattr(sources, "_samples", lambda file: read.append(file.name) or samples(file))
    for number in range(5):
        tarred(tmp_path / f"{number}.tar", *[RED] * 6)
    (tmp_path / "sizes.json").write_text(json.dumps({f"{number}.tar": 6 for number in range(5)}))
    spoilt = (tmp_path / "0.tar").read_bytes().replace(b"\x89PNG", b"spoilt")
    (tmp_path / "0.tar").write_bytes(spoilt)
    (tmp_path / "2.tar").write_bytes(b"no tar file")
    found = Shards(tmp_path, 32)
    monkeypatch.setattr(found, "order", lambda chance: np.arange(30))
    pictures, _, skipped = Mixture([found]).read(range(24))
    assert skipped == 12
    assert all(near(picture, RED) for picture in pictures)
    assert read == [f"{number}.tar" for number in (0, 1, 2, 3, 1, 4)]  # row 5 needs three, so row 6 the second again


def one_row(pictures, row):
    return pictures.read([row])


def test_every_worker_and_process_reads_any_shard(tmp_path, monkeypatch):
    """webdataset would give a shard to one worker of one process, and fail where there are two."""
    for number in range(6):
        plain(RED if number % 2 else BLUE).save(tmp_path / f"{number}.png")
    monkeypatch.setattr("namesake.data.sources.SHARD", 2)
    list(write_shards(Folder(tmp_path, 32), tmp_path / "out", 32))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    pictures = Mixture([Shards(tmp_path / "out", 32)])
    pictures.read([0])
    sent = pickle.loads(pickle.dumps(pictures))
    assert pictures.sources[0]._open
    assert not sent.sources[0]._open  # a worker is not sent what another one holds
    rows = torch.utils.data.DataLoader(range(6), batch_size=None, num_workers=2, collate_fn=partial(one_row, sent))
    found = [(origin[0], near(picture[0], RED), skipped) for picture, origin, skipped in rows]
    came = np.random.default_rng(0).permutation(6)
    assert sorted(found) == [(number, bool(came[number] % 2), 0) for number in range(6)]


class Numbers:
    def __init__(self, name, count, broken=()):
        self.name, self.count, self.broken = name, count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise Refusal(f"picture {index} is broken.")
        return np.full((2, 2, 3), index % 256, np.uint8)


def test_a_mixture_keeps_to_its_weights_and_misses_nothing():
    both = [Numbers("one", 30), Numbers("two", 7)]
    mixture = Mixture(both, [3, 1], seed=5)
    picks = [mixture.pick(row) for row in range(2 * CYCLE)]
    assert sum(source == 0 for source, _ in picks) == 2 * 748  # three quarters of 997
    for number, count in enumerate((30, 7)):
        drawn = [index for source, index in picks if source == number]
        for epoch in range(3):
            assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))
        assert drawn[:count] != drawn[count : 2 * count]
    again = pickle.loads(pickle.dumps(Mixture(both, [3, 1], seed=5)))  # as a loader's worker gets it
    assert [again.pick(row) for row in (1989, 0, 777)] == [picks[row] for row in (1989, 0, 777)]
    assert [Mixture(both, [3, 1], seed=6).pick(row) for row in range(9)] != picks[:9]
    by_size = Mixture(both)
    assert sum(by_size.pick(row)[0] == 0 for row in range(CYCLE)) == 808  # 30 of 37


@pytest.mark.parametrize("weights", [[999, 1], [0.9999, 0.00005, 0.00005]], ids=["rare", "very rare"])
def test_a_rare_source_meets_every_place_of_a_batch(weights):
    """A row's place in its batch says which timesteps it sees."""
    mixture, batch = Mixture([Numbers("one", 50_000) for _ in weights], weights), 16
    drawn = np.array([mixture.pick(row)[0] for row in range(batch * CYCLE)])
    for number in range(1, len(weights)):
        rows = np.flatnonzero(drawn == number)
        assert len(rows) == batch  # once in a cycle
        assert len(set(rows % batch)) == batch


def test_a_broken_picture_gives_way_to_the_next_and_is_counted():
    mixture = Mixture([Numbers("one", 5, broken={2}), Numbers("two", 5)], [1, 1])
    pictures, origin, skipped = mixture.read(range(40))
    lost = [mixture.pick(row) == (0, 2) for row in range(80)]
    assert skipped == sum(lost[:40]) > 1
    assert mixture.read(range(40, 80))[2] == sum(lost[40:])  # each row once
    apart = [Mixture([Numbers("one", 5, broken={2}), Numbers("two", 5)], [1, 1]).read([row]) for row in range(80)]
    assert [one[2] for one in apart] == lost  # whoever reads which rows
    for row, picture, number in zip(range(40), pictures, origin, strict=True):
        source, index = mixture.pick(row)
        if (source, index) != (0, 2):
            assert (picture == index).all()
            assert number == 5 * source + index
        else:
            assert number in (0, 1, 3, 4)
            assert (picture == number).all()
        assert origin[row] == apart[row][1][0]
    with pytest.raises(Refusal, match="cannot be read; picture"):
        Mixture([Numbers("one", 3, broken={0, 1, 2})]).read([0])
    for count in (1009, 1013, 1009 * 1013):  # every other one can stand in, whatever the number
        mixture = Mixture(
            [Numbers("one", count, broken={mixture.pick(0)[1]}) for mixture in [Mixture([Numbers("", count)])]]
        )
        assert mixture.read([0])[2] == 1


def test_a_broken_shard_is_not_one_picture_a_thousand_times():
    class Ordered(Numbers):
        def order(self, chance):
            return np.arange(self.count)

    mixture = Mixture([Ordered("shards", 3000, broken=set(range(1000, 2000)))])
    _, origin, skipped = mixture.read(range(3000))
    assert skipped == 1000
    assert len(set(origin)) == 2000
    assert max(np.bincount(origin)) <= 3


def test_data_is_named_by_kind_folder_and_weight(tmp_path):
    plain(RED).save(tmp_path / "b.png")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    plain(BLUE).save(tmp_path / "deep/er/a.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("no picture")
    make, weight = source(f"folder:{tmp_path}")
    found = make(16)
    assert isinstance(found, Folder)
    assert (len(found), weight) == (2, None)
    assert near(found[0], RED)
    assert near(found[1], BLUE)
    assert source(f"folder:{tmp_path}@0.5")[1] == 0.5
    (tmp_path / "me@host").mkdir()
    assert source(f"folder:{tmp_path}/me@host")[1] is None
    assert source(f"folder:{tmp_path}/me@host@2")[1] == 2
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "train-annotations-bbox.csv").write_bytes(gzip.compress(V4.encode()))
    for text, match in (
        ("coco:here", "not understood"),
        ("folder", "not understood"),
        (f"folder:{tmp_path}/none", "no folder"),
        *((f"folder:{tmp_path}@{weight}", "no number above 0") for weight in ("much", "-1", "0", "nan", "inf")),
        (f"shards:{tmp_path}", "no shards"),
        (f"openimages:{tmp_path}", "annotations-bbox"),
        (f"openimages:{packed}", "no column ImageID"),
    ):
        with pytest.raises(Refusal, match=match):
            source(text)[0](16)
    for weights in ([1.0, 2.0], [0.0], [float("nan")]):
        with pytest.raises(Refusal, match="weights"):
            Mixture([found], weights)
