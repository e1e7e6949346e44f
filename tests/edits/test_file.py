"""The concept file: what goes in comes out, and nothing else comes in."""

import json
import os
import pickle
import resource
import struct
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from bench import WORD, random_edit
from safetensors import safe_open
from safetensors.torch import save_file

from namesake.edits import (
    About,
    Edit,
    LowRankEdit,
    SecondPath,
    TokenEdit,
    WeightEdit,
    about,
    check_base,
    check_word,
    edited,
    sketch,
    stack,
)
from namesake.errors import Refusal


def flat(edit: Edit) -> dict[str, torch.Tensor]:
    """Every tensor of an edit by a name."""
    found = {}
    for number, part in enumerate(edit.parts):
        if isinstance(part, TokenEdit):
            found |= {f"{number} {i}": v for i, v in enumerate(part.vectors)}
        elif isinstance(part, LowRankEdit):
            found |= {f"{number} {path} {i}": f for path, pair in part.factors.items() for i, f in enumerate(pair)}
        elif isinstance(part, WeightEdit):
            found |= {f"{number} {name}": w for name, w in part.weights.items()}
    return found


def settings(edit: Edit) -> list:
    named = ("placeholder", "alpha", "hard_word", "blend", "where", "words")
    return [(type(p).__name__, {n: getattr(p, n) for n in named if hasattr(p, n)}) for p in edit.parts]


@pytest.fixture
def concept(xl) -> Edit:
    edit = random_edit(xl, n=2)
    whole = WeightEdit({"unet.conv_in.bias": torch.full((16,), 1e5), "text_encoder_2.text_projection.weight":
                        torch.ones(48, 48)})  # fmt: skip
    return Edit((*edit.parts, whole), about(xl, "test", "cat", steps=12, rate=2e-3, note="für Mia"))


@pytest.fixture
def file(concept, tmp_path) -> Path:
    concept.save(tmp_path / "concept.safetensors")
    return tmp_path / "concept.safetensors"


def rewritten(file: Path, note=None, tensors=None, metadata=None) -> Path:
    """The file with changes, written as an attacker would: by safetensors itself."""
    with safe_open(file, "pt") as opened:
        held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        told = json.loads(opened.metadata()["namesake"])
    if note is not None:
        note(told)
    if tensors is not None:
        tensors(held)
    save_file(held, file, {"namesake": json.dumps(told)} if metadata is None else metadata)
    return file


def test_round_trip(concept, file):
    back = Edit.load(file)
    maps = Path("/proc/self/maps")
    assert not maps.is_file() or str(file) not in maps.read_text()  # Windows replaces no file that is somebody's memory
    assert settings(back) == settings(concept)
    for name, tensor in flat(concept).items():
        kept = tensor.half() if tensor.abs().max() < 6e4 else tensor
        assert torch.equal(flat(back)[name], kept.float()), name
    for name in ("method", "class_word", "base", "versions", "created", "settings"):
        assert getattr(back.about, name) == getattr(concept.about, name)
    assert torch.equal(back.about.sketch, concept.about.sketch)
    again = file.with_name("again.safetensors")
    back.save(again)
    assert again.read_bytes() == file.read_bytes()
    assert [p.name for p in file.parent.iterdir() if p.name not in (file.name, again.name)] == []


def test_a_stack_round_trip(sd, tmp_path):
    both = stack(random_edit(sd, word="<one>"), random_edit(sd, seed=1, word="<two>", hard="dog"))
    both.save(tmp_path / "both")
    assert settings(Edit.load(tmp_path / "both")) == settings(both)


def test_the_same_picture_from_the_file(xl, concept, file):
    prompt = f"a {WORD} on the beach"
    with edited(xl, concept):
        before = xl(prompt)
    with edited(xl, Edit.load(file)):
        after = xl(prompt)
    assert (after - before).abs().max() < 1e-2 * before.abs().max()  # fp16 keeps 11 bits of each value


# The base


def test_the_sketch_knows_its_base(make_bench, concept, sd):
    xl = make_bench("sdxl")
    first = sketch(xl)
    with edited(xl, Edit(concept.parts[:2], concept.about), rows="all"):
        assert torch.equal(sketch(xl), first)  # taken without edits
    xl.unet.to(torch.bfloat16)
    try:
        assert not torch.equal(sketch(xl), first)
        check_base(concept, xl)  # precision does not matter
    finally:
        xl.unet.to(torch.float64)
    with pytest.raises(Refusal, match="another architecture"):
        check_base(concept, sd, any_base=True)


@pytest.mark.parametrize("which", ["unet", "text encoder"])
def test_other_weights_are_refused(make_bench, minis, which):
    from bench import bench

    on = make_bench("sd15", torch.float32)
    edit = Edit(random_edit(on).parts, about(on, "test"))
    tuned = bench(minis["sd15"], torch.float32)
    model = tuned.unet if which == "unet" else tuned.text_encoders[0]
    for parameter in model.parameters():
        parameter += 0.02 * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Refusal, match="--any-base"), edited(tuned, edit):
        pass
    with edited(tuned, edit, any_base=True):
        pass


# What is refused


def set_about(name, value):
    return lambda note: note["about"].__setitem__(name, value)


def set_part(number, name, value):
    return lambda note: note["parts"][number].__setitem__(name, value)


SITE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
NOTES = {
    "control characters": (set_about("method", "\x1b[2J"), "do not print"),
    "bidirectional override": (set_about("class_word", "cat\u202e"), "do not print"),
    "control characters in a key": (lambda note: note["about"]["settings"].update({"\n": 1}), "do not print"),
    "another format": (lambda note: note.update(format=2), "format '2'"),
    "no parts": (lambda note: note.pop("parts"), "lacks"),
    "parts of no kind": (set_part(0, "kind", "exec"), "no kind"),
    "a part that is no object": (lambda note: note["parts"].__setitem__(0, 7), "no kind"),
    "a blend beyond 1": (set_part(2, "blend", 7.0), "blend is 7"),
    "a blend that is not a number": (set_part(2, "blend", float("nan")), "for blend"),
    "a blend in words": (set_part(2, "blend", "much"), "for blend"),
    "an absurd alpha": (set_part(1, "alpha", 1e300), "alpha of the low-rank offsets is 1e\\+300"),
    "an infinite alpha": (set_part(1, "alpha", float("inf")), "for alpha"),
    "an alpha beyond floats": (set_part(1, "alpha", 10**400), "absurd"),
    "a malformed word": (set_part(0, "placeholder", "cat"), "malformed"),
    "a word of 70 letters": (set_part(0, "placeholder", f"<{'a' * 68}>"), "malformed"),
    "a word that it lacks": (set_part(1, "words", ["<dog>"]), "lacks"),
    "words that are numbers": (set_part(1, "words", [1]), "no text"),
    "another place": (set_part(2, "where", "everywhere"), "everywhere"),
    "settings that are a list": (set_about("settings", []), "for settings"),
    "a class without end": (set_about("class_word", "cat" * 1000), "3,000 letters"),
    "a hard word without end": (set_part(2, "hard_word", "cat" * 1000), "3,000 letters"),
    "a version without end": (set_about("versions", {"torch": "2" * 3000}), "3,000 letters"),
    "a library without end": (set_about("versions", {"torch" * 600: "2"}), "3,000 letters"),
    "words without end": (set_part(1, "words", ["<" + "a" * 2998 + ">"]), "3,000 letters"),
    "settings without end": (set_about("settings", {str(n): "x" * 500 for n in range(3000)}), "letters long"),
}


@pytest.mark.parametrize("case", NOTES)
def test_hostile_descriptions(file, case):
    change, words = NOTES[case]
    with pytest.raises(Refusal, match=words) as refused:
        Edit.load(rewritten(file, note=change))
    assert str(refused.value).isprintable()
    assert str(file) in str(refused.value)


def put(name, tensor):
    return lambda tensors: tensors.__setitem__(name, tensor)


TENSORS = {
    "a vector that is not a matrix": (put("0.vectors.0", torch.ones(2, 3, 32)), "n, width"),
    "NaN": (put("0.vectors.0", torch.full((2, 32), float("nan"))), "not finite"),
    "a rank of a million": (put(f"1.down.{SITE}", torch.zeros(10**6, 1)), "rank"),
    "factors of different rank": (put(f"1.down.{SITE}", torch.zeros(5, 32)), "factors of shape"),
    "a lacking factor": (lambda tensors: tensors.pop(f"1.down.{SITE}"), "lack"),
    "a value beyond fp32": (put("0.vectors.0", torch.full((2, 32), 1e200, dtype=torch.float64)), "not finite"),
    "integers": (put("0.vectors.0", torch.ones(2, 32, dtype=torch.int64)), "type"),
    "no values": (put("0.vectors.0", torch.ones(0, 32)), "shape"),
    "tensors of no part": (put("9.vectors.0", torch.ones(2, 32)), "no part"),
    "too many vectors": (put("0.vectors.0", torch.ones(5000, 32)), "n, width"),
    "a word that is too wide": (put("0.vectors.0", torch.ones(1, 2**14 + 1)), "n, width"),
    "an offset that takes too much": (put(f"1.down.{SITE}", torch.ones(1, 2**16 + 1)), "rank, in"),
    "an offset that gives too much": (put(f"1.up.{SITE}", torch.ones(2**16 + 1, 1)), "out, rank"),
    "an offset that is a vector": (put(f"1.up.{SITE}", torch.ones(4)), "out, rank"),
    "weights of five axes": (put("3.weight.unet.conv_in.bias", torch.ones(1, 1, 1, 1, 1)), "at most four axes"),
    "a kernel that is too wide": (put("3.weight.unet.conv_in.weight", torch.ones(1, 1, 17, 1)), "at most four axes"),
    "a tensor of no kind": (put("0.secret", torch.ones(1)), "no kind"),
    "a long sketch": (put("sketch", torch.ones(1025)), "1025"),
    "a short sketch": (put("sketch", torch.ones(10)), "sketch"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_hostile_tensors(file, case):
    change, words = TENSORS[case]
    with pytest.raises(Refusal, match=words):
        Edit.load(rewritten(file, tensors=change))


LARGE = {
    "a word of half a million vectors": {"0.vectors.0": [2**19, 2**10]},
    "a word of a thousand text encoders": {f"0.vectors.{i}": [64, 2**14] for i in range(1000)},
    "offsets that take too much together": {f"1.down.{i}": [1024, 2**16] for i in range(5)},
    "offsets that give too much together": {f"1.up.{i}": [2**16, 1024] for i in range(5)},
    "a weight of 16 billion": {"3.weight.unet.conv_in.weight": [2**17, 2**16, 2, 1]},
    "weights of 9 billion together": {f"3.weight.{i}": [2**16, 2**15] for i in range(4)},
    "tensors of no part": {"9.vectors.0": [64, 1024]},
    "half of an offset": {"1.down.a": [1024, 2**16]},
}


@pytest.mark.parametrize("case", LARGE)
def test_shapes_are_judged_before_values_are_read(file, case, monkeypatch):
    """A file with holes costs its writer nothing, and its reader what it declares."""

    def read(_):
        raise AssertionError("the values were read")

    monkeypatch.setattr("safetensors.torch.load_file", read)
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header |= {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in LARGE[case].items()}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(Refusal, match="damaged or not a concept"):
        Edit.load(file)


def test_sites_that_do_not_exist(xl, concept, file):
    low = concept.of(LowRankEdit)[0]
    moved = LowRankEdit({"down_blocks.7.nowhere": low.factors[SITE]}, 1.0)
    Edit((concept.parts[0], moved), concept.about).save(file)
    with pytest.raises(Refusal, match=r"no site down_blocks\.7"), edited(xl, Edit.load(file)):
        pass
    Edit((WeightEdit({"vae.secret": torch.ones(1)}),), concept.about).save(file)
    with pytest.raises(Refusal, match="no such parameter"), edited(xl, Edit.load(file)):
        pass


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


def test_hostile_files(file):
    sound = file.read_bytes()
    length = struct.unpack("<Q", sound[:8])[0]
    cases = {
        "it is empty": b"",
        "cut short": sound[: length // 2],
        "damaged": sound[:-100],
        "not one of safetensors": struct.pack("<Q", 2**60) + sound[8:],
        "not JSON": sound[:8] + b"{" * length + sound[8 + length :],
        "pickle": pickle.dumps(Bomb()),
        "header": b"hello, this is text",
        "not a concept": None,
    }
    for words, data in cases.items():
        if data is None:
            save_file({"a": torch.ones(3)}, file)
        else:
            file.write_bytes(data)
        with pytest.raises(Refusal, match=words) as refused:
            Edit.load(file)
        assert "\n" not in str(refused.value)
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(Refusal, match="pickle"):
        Edit.load(file)
    with pytest.raises(Refusal, match="cannot be read"):
        Edit.load(file.with_name("missing"))
    with pytest.raises(Refusal, match="cannot be read"):
        Edit.load(file.parent)


ENTRIES = {
    "a type that is a list": {"dtype": ["F32"]},
    "a type that is an object": {"dtype": {"F": 32}},
    "a type that is a number": {"dtype": 7},
    "no type": {"dtype": None},
    "a type that would act on the terminal": {"dtype": "\x1b[2J"},
    "a shape of lists": {"shape": [[2], [32]]},
    "a shape that is a number": {"shape": 64},
    "a shape that is true": {"shape": [True, 32]},
    "a shape beyond integers": {"shape": [2**40, 2**40]},
    "no shape": {"shape": None},
    "places that are text": {"data_offsets": ["\x1b[2J", "b"]},
    "a place before the start": {"data_offsets": [-1, 4]},
    "a place beyond integers": {"data_offsets": [0, 2**70]},
    "a place of three": {"data_offsets": [0, 1, 2]},
    "a place that is an object": {"data_offsets": {"a": 1}},
    "no place": {"data_offsets": None},
    "no object but a list": [],
    "no object but a text": "F32",
    "no object but a number": 7,
    "nothing": None,
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_malformed_entry_in_a_file_that_would_act_on_the_terminal(file, case):
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, entry = json.loads(data[8 : 8 + length]), ENTRIES[case]
    header["0.vectors.0"] = header["0.vectors.0"] | entry if isinstance(entry, dict) else entry
    text = json.dumps(header).encode()
    odd = file.with_name("a\x1b[2J.safetensors")
    odd.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(Refusal, match="damaged") as refused:
        Edit.load(odd)
    assert str(refused.value).isprintable()


def test_a_long_header(file, monkeypatch):
    monkeypatch.setattr("namesake.edits.file.MAX_HEADER", 1000)
    with pytest.raises(Refusal, match="1,000 are allowed"):
        Edit.load(file)


def test_nothing_half_written(concept, file):
    """A full disk, played by the limit on the size of a file; and a place that is none."""
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(Refusal, match="cannot be written"):
            concept.save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
    for place in (file / "inside", file.parent / "no" / "folder", file.parent, file / "a\x1b[2J"):
        with pytest.raises(Refusal, match="cannot be written") as refused:
            concept.save(place)
        assert str(refused.value).isprintable()
    assert list(file.parent.iterdir()) == [file]


def test_what_cannot_be_saved(sd, file):
    with pytest.raises(Refusal, match="batch"):
        random_edit(sd, batch=2).save(file)
    with pytest.raises(Refusal, match="not finite"):
        Edit((TokenEdit(WORD, (torch.tensor([[float("inf")]]),)),), About("test")).save(file)
    for bad in ({"a": object()}, {"a": float("nan")}, {"a": "\x07"}):
        with pytest.raises(Refusal, match="cannot be kept"):
            Edit((), About("test", settings=bad)).save(file)
    with pytest.raises(Refusal, match="cannot be kept"):
        Edit((), About("test", settings={"context": "x" * 2**20})).save(file)
    Edit((), About("test", settings={"context": "... in the snow; " * 1000})).save(file)  # of a thousand pictures
    assert len(Edit.load(file).about.settings["context"]) == 17_000


# Words


@pytest.mark.parametrize("word", ["", "  ", "cat", "<My-Cat>", "<my cat>", "<>", "<-a>", "<a", f"<{'a' * 80}>", "<é>"])
def test_malformed_words(sd, word):
    with pytest.raises(Refusal, match="empty" if not word.strip() else "malformed"):
        check_word(word, sd.tokenizers)


def test_taken_words(sd):
    check_word("<my-cat-2>", sd.tokenizers, ["<my-cat>"])
    with pytest.raises(Refusal, match="taken"):
        check_word("<my-cat>", sd.tokenizers, ["<my-cat>"])
    import copy

    tokenizer = copy.deepcopy(sd.tokenizers[0])
    tokenizer.add_tokens(["<my-cat>"])
    with pytest.raises(Refusal, match="already in"):
        check_word("<my-cat>", [tokenizer])


def test_kinds_refuse_nonsense():
    for blend in (-0.1, 1.1, float("nan")):
        with pytest.raises(Refusal, match="blend"):
            SecondPath("cat", blend)
    with pytest.raises(Refusal, match="alpha"):
        LowRankEdit({}, float("nan"))
    with pytest.raises(Refusal, match="batch sizes"):
        LowRankEdit({"a": (torch.ones(2, 1, 4), torch.ones(2, 4, 1)), "b": (torch.ones(1, 4), torch.ones(4, 1))}, 1.0)
    token = TokenEdit(WORD, (torch.ones(1, 4),))
    with pytest.raises(Refusal, match="twice"):
        Edit((token, token), About("test"))
    for other in (
        SecondPath("dog"),  # for the same word
        SecondPath("dog", words=()),
        SecondPath("dog", 0.5, words=()),
        SecondPath("dog", 0.25, "unet", words=()),
    ):
        agrees = other.words == () and other.blend == 0.25 and other.where == "attention"
        with nullcontext() if agrees else pytest.raises(Refusal, match="second paths of the edit disagree"):
            Edit((token, SecondPath("cat", 0.25), other), About("test"))
