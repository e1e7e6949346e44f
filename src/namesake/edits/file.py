"""The concept file: one `.safetensors` with the tensors, and one entry "namesake" of JSON in its metadata.

Tensor keys: `sketch`, and for part number i `i.vectors.<text encoder>`, `i.down.<site>`, `i.up.<site>`,
`i.weight.<parameter>`. The header is read and judged before anything else of the file is.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from namesake.edits.kinds import (
    MAX_RANK,
    MAX_VECTORS,
    About,
    Edit,
    LowRankEdit,
    Part,
    SecondPath,
    TokenEdit,
    WeightEdit,
)
from namesake.edits.words import check_word
from namesake.errors import Refusal
from namesake.files import printable, write

FORMAT = 1
MAX_HEADER = 16 * 2**20  # SDXL's 560 sites make 130 KB, all its parameters 400 KB
KINDS: dict[type, str] = {TokenEdit: "word", LowRankEdit: "low rank", SecondPath: "second path", WeightEdit: "weights"}
MAX_TEXT = 500  # letters of a word, a class, a name; what is longer says nothing to a person
MAX_NOTE = 2**20  # letters of the description; its settings tell a few words of each picture, and folders are large
STORED = {"F16", "BF16", "F32", "F64"}
# Of each kind of tensor its axes, the most along each, and the most values in all of that kind together. The widest of
# SDXL: a word of 1,280, a convolution that takes 23,040, a table of 49,408 rows, 3.4 billion weights in all. Low rank is
# no use beyond 2**28: there the whole weights of SDXL's cross-attentions are smaller.
LIMITS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "sketch": ("[values]", (1024,), 1024),
    "vectors": ("[n, width]", (MAX_VECTORS, 2**14), 2**24),
    "down": ("[rank, in]", (MAX_RANK, 2**16), 2**28),
    "up": ("[out, rank]", (2**16, MAX_RANK), 2**28),
    "weight": ("at most four axes", (2**17, 2**16, 16, 16), 2**32),
}


# Writing


def save(edit: Edit, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write an edit, its tensors in `dtype` (a tensor that overflows it, in fp32), whole or not at all.

    Refused: an edit for a batch, values that are not finite, a place that cannot be written, a full disk.
    """
    import safetensors.torch

    tensors: dict[str, Tensor] = {}
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(edit.parts):
        settings, own = _apart(part)
        parts.append({"kind": KINDS[type(part)], **settings})
        tensors |= {f"{number}.{name}": _stored(name, tensor, dtype) for name, tensor in own.items()}
    about = {
        name: getattr(edit.about, name) for name in ("method", "class_word", "base", "versions", "created", "settings")
    }
    if edit.about.sketch is not None:
        tensors["sketch"] = _stored("sketch", edit.about.sketch, torch.float32)
    try:
        text = json.dumps({"format": FORMAT, "about": about, "parts": parts}, allow_nan=False, default=_plain)
        _check_strings([json.loads(text), list(tensors)])
        if len(text) > MAX_NOTE:
            raise Refusal(f"they are {len(text):,} letters long, at most {MAX_NOTE:,} are allowed")
    except (TypeError, ValueError) as reason:
        raise Refusal(f"The concept's settings cannot be kept in a file: {reason}.") from None
    write(safetensors.torch.save(tensors, {"namesake": text}), path, "concept")


def _apart(part: Part) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A part's settings, and its tensors by key."""
    if isinstance(part, TokenEdit):
        if any(vectors.ndim != 2 for vectors in part.vectors):
            raise Refusal("An edit for a whole batch cannot be saved; take the edit of one concept.")
        return {"placeholder": part.placeholder}, {f"vectors.{i}": v for i, v in enumerate(part.vectors)}
    if isinstance(part, LowRankEdit):
        if part.batch is not None:
            raise Refusal("An edit for a whole batch cannot be saved; take the edit of one concept.")
        tensors: dict[str, Tensor] = {}
        for path, (down, up) in part.factors.items():
            tensors |= {f"down.{path}": down, f"up.{path}": up}
        return {"alpha": part.alpha, "words": part.words}, tensors
    if isinstance(part, SecondPath):
        return {"hard_word": part.hard_word, "blend": part.blend, "where": part.where, "words": part.words}, {}
    return {}, {f"weight.{name}": weight for name, weight in part.weights.items()}


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.isfinite().all():
        raise Refusal(f"The concept holds values that are not finite (in {name}); make it again at a lower rate.")
    small = tensor.to(dtype)
    # A copy, because safetensors refuses tensors that share memory.
    return (small if small.isfinite().all() else tensor.float()).contiguous().clone()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


# Reading


def load(path: Path) -> Edit:
    """Read a concept file; tensors come as fp32. A Refusal for everything that is not a sound one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        header = _header(path)
        note, shapes = _note(path, header), _shapes(path, header)
        # All but the values is judged first: a small file can declare gigabytes, and reading them takes as much memory.
        _edit(path, note, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        # Copies, since the file stays open while a tensor is its memory, and Windows replaces no open file.
        tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(path).items()}
    except OSError as reason:
        raise Refusal(f"The concept file {printable(path)} cannot be read: {reason.strerror or reason}.") from None
    except SafetensorError as reason:
        raise Refusal(
            f"The concept file {printable(path)} is damaged ({printable(reason)}); get it or make it again."
        ) from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            _refuse(path, f"its tensor {name} holds values that are not finite")
    if set(tensors) != set(shapes):
        _refuse(path, "its header and its tensors differ")
    return _edit(path, note, tensors)


def _refuse(path: Path, what: str) -> NoReturn:
    raise Refusal(f"The concept file {printable(path)} is damaged or not a concept: {what}; get it or make it again.")


def _header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > size - 8 or file.read(1) != b"{":
            if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
                raise Refusal(
                    f"The concept file {printable(path)} is a pickle, which can run code and is never opened; get the "
                    "concept as .safetensors."
                )
            found = (
                "it is empty"
                if not size
                else "it is cut short"
                if length is not None and length <= MAX_HEADER
                else "its header is not one of safetensors"
            )
            _refuse(path, found)
        if length > MAX_HEADER:
            _refuse(path, f"its header is {length:,} bytes long, at most {MAX_HEADER:,} are allowed")
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        _refuse(path, "its header is not JSON")
    return header


def _note(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The entry "namesake", of this format."""
    metadata = header.get("__metadata__")
    text = metadata.get("namesake") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise Refusal(
            f"{printable(path)} is a .safetensors file but not a concept; make one with `namesake personalize`."
        )
    if len(text) > MAX_NOTE:
        _refuse(path, f"its description is {len(text):,} letters long, at most {MAX_NOTE:,} are allowed")
    try:
        note = json.loads(text)
        _check_strings([note, list(header)])
    except (ValueError, RecursionError) as reason:
        _refuse(path, str(reason) if isinstance(reason, Refusal) else "its description is not JSON")
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        found = note.get("format") if isinstance(note, dict) else None
        raise Refusal(
            f"The concept file {printable(path)} has the format {str(found)[:20]!r}, this version reads {FORMAT}; "
            "update namesake, or make the concept again."
        )
    return note


def _shapes(path: Path, header: dict[str, Any]) -> dict[str, list[int]]:
    shapes = {}
    values = dict.fromkeys(LIMITS, 0)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not (isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)):
            _refuse(path, f"its tensor {name} has no proper shape")
        if not isinstance(entry.get("dtype"), str) or entry["dtype"] not in STORED:
            _refuse(path, f"its tensor {name} is of type {str(entry.get('dtype'))[:20]!r}")
        kind = name if name == "sketch" else name.partition(".")[2].partition(".")[0]
        if kind not in LIMITS:
            _refuse(path, f"its tensor {name} is of no kind that this version knows")
        axes, most, together = LIMITS[kind]
        right = len(shape) <= 4 if kind == "weight" else len(shape) == len(most)
        if not right or any(n > limit for n, limit in zip(shape, most, strict=False)):
            _refuse(
                path, f"its tensor {name} has the shape {str(shape)[:60]}, where {axes} up to {list(most)} is allowed"
            )
        values[kind] += math.prod(shape)
        if values[kind] > together:
            _refuse(path, f"its tensors like {name} hold more than the {together:,} values that are allowed")
        shapes[name] = shape
    return shapes


def _check_strings(value: Any, longest: int = MAX_TEXT) -> None:
    """Refuse control characters and what else does not print, and texts without end, in any string, key or value."""
    if isinstance(value, str) and not value.isprintable():
        raise Refusal(f"the text {value[:40]!r} holds characters that do not print")
    if isinstance(value, str) and len(value) > longest:
        raise Refusal(f"the text {value[:40]!r} is {len(value):,} letters long, at most {longest:,} are allowed")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_strings(key)
            _check_strings(inner, MAX_NOTE if key == "settings" else longest)
    if isinstance(value, list):
        for inner in value:
            _check_strings(inner, longest)


def _edit(path: Path, note: dict[str, Any], tensors: dict[str, Tensor]) -> Edit:
    """The edit; every field is judged, since the file may say anything."""
    told = note.get("about")
    parts, names = note.get("parts"), {kind: cls for cls, kind in KINDS.items()}
    if not isinstance(told, dict) or not isinstance(parts, list):
        _refuse(path, "its description lacks what it is about, or its parts")
    sketch = tensors.pop("sketch", None)
    if sketch is not None and sketch.shape != (1024,):
        _refuse(path, f"its sketch of the base model has the shape {tuple(sketch.shape)}")

    def field(owner: dict[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
        value = owner.get(name)
        if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
            _refuse(path, f"its description has {str(value)[:40]!r} for {name}")
        return value

    def words(owner: dict[str, Any]) -> tuple[str, ...] | None:
        value = field(owner, "words", (list, type(None)))
        if value is not None and not all(isinstance(word, str) for word in value):
            _refuse(path, "its description names words that are no text")
        return None if value is None else tuple(value)

    held: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        held.setdefault(number, {})[rest] = tensor
    made: list[Part] = []
    used = 0
    try:
        for place, part in enumerate(parts):
            kind = names.get(str(part.get("kind"))) if isinstance(part, dict) else None
            if kind is None:
                _refuse(path, f"its part {place} is of no kind that this version knows")
            own = held.get(str(place), {})
            used += len(own)
            if kind is TokenEdit:
                placeholder = field(part, "placeholder", (str,))
                check_word(placeholder, ())
                vectors = tuple(own[f"vectors.{i}"] for i in range(len(own)))
                if any(v.ndim != 2 for v in vectors):
                    _refuse(path, "the vectors of its word are not [n, width]")
                made.append(TokenEdit(placeholder, vectors))
            elif kind is LowRankEdit:
                sites = [name.removeprefix("down.") for name in own if name.startswith("down.")]
                factors = {site: (own[f"down.{site}"], own[f"up.{site}"]) for site in sites}
                if len(own) != 2 * len(sites):
                    _refuse(path, f"the low-rank offsets of part {place} lack a factor")
                made.append(LowRankEdit(factors, float(field(part, "alpha", (int, float))), words(part)))
            elif kind is SecondPath:
                made.append(
                    SecondPath(
                        field(part, "hard_word", (str,)),
                        float(field(part, "blend", (int, float))),
                        field(part, "where", (str,)),
                        words(part),
                    )
                )
                used -= len(own)
            else:
                made.append(WeightEdit({name.removeprefix("weight."): tensor for name, tensor in own.items()}))
        if used != len(tensors):
            _refuse(path, "it holds tensors that belong to no part")
        versions = field(told, "versions", (dict,))
        about = About(
            field(told, "method", (str,)),
            field(told, "class_word", (str, type(None))),
            field(told, "base", (str,)),
            sketch,
            {k: str(v) for k, v in versions.items()},
            field(told, "created", (str,)),
            field(told, "settings", (dict,)),
        )
        return Edit(tuple(made), about)
    except KeyError as missing:
        _refuse(path, f"it lacks the tensor {missing}")
    except OverflowError:
        _refuse(path, "its description holds an absurd number")
    except Refusal as reason:
        if printable(path) in str(reason):
            raise
        raise Refusal(f"The concept file {printable(path)} is not sound. {reason}") from None
