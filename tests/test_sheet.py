"""Pictures on their way out."""

import os

import numpy as np
import pytest
from PIL import Image

from namesake.errors import Refusal
from namesake.sheet import PAPER, contact_sheet, read_settings, save_png


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def test_small_pictures_are_enlarged_pixel_by_pixel(noise):
    sheet = np.asarray(contact_sheet([[noise]], cell=200))
    large = noise.repeat(3, 0).repeat(3, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, large.shape)[..., 0, :, :, :]
    assert any(np.array_equal(window, large) for row in windows for window in row)


def test_a_long_prompt_makes_a_high_sheet_and_no_wide_one(noise):
    short, long = (contact_sheet([[noise]], title="a cat on the beach " * times) for times in (1, 30))
    assert long.width < 700
    assert long.height > short.height + 300


def test_words_and_pictures_find_room(noise):
    wide = np.zeros((50, 700, 3), np.uint8)
    bare = contact_sheet([[noise, None], [wide]])
    full = contact_sheet(
        [[noise, None], [wide]],
        ["a long title that must be broken " * 3, "b"],
        ["cat", "<my-cat>"],
        captions=[["seed 1", ""], ["seed 2"]],
        title="everything",
    )
    assert full.width > bare.width
    assert full.height > bare.height + 100
    for sheet in (bare, full):
        pixels = np.asarray(sheet)
        border = np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)])
        assert (border == PAPER).all()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])


def test_settings_come_back_and_a1111_can_read_them(tmp_path, noise):
    settings = {
        "prompt": "<my-cat> à la mer",
        "negative": "dog",
        "seed": 7,
        "steps": 25,
        "size": [64, 96],
        "blend": 0.25,
    }
    save_png(noise, tmp_path / "a.png", settings)
    assert read_settings(tmp_path / "a.png") == settings
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), noise)
        lines = image.info["parameters"].split("\n")
    assert lines[0] == "<my-cat> à la mer"
    assert lines[1] == "Negative prompt: dog"
    assert lines[2] == "Steps: 25, Seed: 7, Size: 96x64"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, noise, monkeypatch):
    save_png(noise, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match="No space left"):
        save_png(255 - noise, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(Refusal, match="cannot be written"):
        save_png(noise, tmp_path / "none" / "a.png")


def test_settings_of_other_files_are_refused(tmp_path, noise):
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    for name in ("a.png", "b.png", "missing.png"):
        with pytest.raises(Refusal, match="does not say"):
            read_settings(tmp_path / name)
