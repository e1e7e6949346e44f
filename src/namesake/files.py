"""Files that are there whole or not at all, and folders that can be written to."""

import contextlib
import io
import json
import os
import re
import shlex
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from namesake.errors import Refusal


def write(data: bytes, path: Path, what: str) -> None:
    """Write a file beside its place and rename it: there is the whole file or what was there before.

    Raises:
        Refusal: the place cannot be written, or the disk is full; `what` names the thing in the sentence.
    """
    beside = path.absolute().parent / f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as reason:
        raise Refusal(
            f"The {what} cannot be written to {printable(path)}: {reason.strerror or reason}; choose another place."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_array(array: np.ndarray, path: Path, what: str) -> None:
    """An array as `.npy`; else as `write`."""
    data = io.BytesIO()
    np.save(data, array)
    write(data.getvalue(), path, what)


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """A checkpoint of torch; else as `write`."""
    import torch

    data = io.BytesIO()
    torch.save(dict(state), data)
    write(data.getvalue(), path, "checkpoint")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, none where there is no file; a line that a kill has cut counts as not written."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def cut_lines(path: Path, step: int) -> list[dict[str, Any]]:
    """A curve, JSON lines with a "step" each, without what came after a step, which a run that goes on there writes anew."""
    kept = [line for line in (read_lines(path) if step else []) if line["step"] <= step]
    write("".join(json.dumps(line) + "\n" for line in kept).encode(), path, "curve")
    return kept


def folder_for(folder: Path, option: str = "-o") -> Path:
    """A folder that is there and can be written to; it is made where it is missing.

    Raises:
        Refusal: it cannot be made or written to; `option` names another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f'The folder "{printable(folder)}" cannot be made: {error.strerror}; name another with {option}.'
        ) from None
    check_writable(folder, option)
    return folder


@contextlib.contextmanager
def filled(folder: Path, option: str = "-o") -> Iterator[Path]:
    """A folder as `folder_for` gives it, to put files into; where none came into it, it goes again if it was made for them.

    Raises:
        Refusal: as `folder_for`.
    """
    made = [one for one in (folder, *folder.parents) if not os.path.exists(one)]
    try:
        yield folder_for(folder, option)
    finally:
        with contextlib.suppress(OSError):  # it holds something
            for one in made:
                one.rmdir()


def check_writable(folder: Path, option: str = "-o") -> None:
    """Refuse a folder that cannot be written to, by trying, so that a long work is not done in vain."""
    trial = folder / f".namesake-{uuid.uuid4().hex[:8]}"
    try:
        with open(trial, "xb") as file:
            file.write(b"0")
    except OSError as error:
        raise Refusal(
            f'The folder "{printable(folder)}" cannot be written to: {error.strerror}; name another with {option}.'
        ) from None
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)


def quoted(value: str | Path) -> str:
    """A name as a shell takes it: Windows' own knows no single quotes."""
    text = str(value)
    if os.name != "nt":
        return shlex.quote(text)
    return text if re.fullmatch(r"[\w@%+=:,./\\-]+", text, re.ASCII) else f'"{text}"'


def printable(value: object) -> str:
    """A file's name, or what a library says of its content, without what would act on a terminal."""
    return str(value) if str(value).isprintable() else ascii(str(value))
