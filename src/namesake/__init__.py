"""One picture gets its own word: personalize a text-to-image diffusion model from a single picture, in seconds.

    from namesake import Backbone, personalize
    from namesake.generate import generate

    backbone = Backbone.load()
    made = personalize(["cat.png"], class_word="cat", model=backbone)
    pictures = generate(backbone, "<my-cat> on the beach", made.edit, count=4)

`made.edit.save("my-cat.safetensors")` keeps it. A loaded diffusers pipeline takes an edit with one line and is then
called as ever: `with edited(Backbone.from_pipeline(pipe), Edit.load("my-cat.safetensors")): pipe("<my-cat> asleep")`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namesake.backbone import Backbone
    from namesake.data.pictures import read_picture, read_pictures
    from namesake.edits import Edit, edited, stack
    from namesake.errors import Refusal
    from namesake.recipes import personalize
    from namesake.sheet import contact_sheet, save_png

# A name costs its room only when it is first asked for, so that `import namesake` and `namesake --help` cost nothing.
# `generate` is not among them: the module of that name would take the function's place once it is imported.
_ROOMS = {
    "Backbone": "backbone",
    "Edit": "edits",
    "Refusal": "errors",
    "contact_sheet": "sheet",
    "edited": "edits",
    "personalize": "recipes",
    "read_picture": "data.pictures",
    "read_pictures": "data.pictures",
    "save_png": "sheet",
    "stack": "edits",
}

__all__ = [
    "Backbone",
    "Edit",
    "Refusal",
    "contact_sheet",
    "edited",
    "personalize",
    "read_picture",
    "read_pictures",
    "save_png",
    "stack",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'namesake' has no attribute '{name}'")
    return getattr(import_module(f"namesake.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
