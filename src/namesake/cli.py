"""The command line: each command reads its options, calls one function and says what came of it.

Nothing heavy is imported before a command needs it, so that `namesake --help` answers at once.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from namesake.errors import Refusal

if TYPE_CHECKING:
    from namesake.recipes import Progress

app = typer.Typer(
    name="namesake",
    help="One picture gets its own word: personalize a text-to-image diffusion model from a single picture.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
picturebook = typer.Typer(help="The picture book: its drawings, its model, its judge.", no_args_is_help=True)
app.add_typer(picturebook, name="picturebook")

# What helps where the memory is not enough, for the commands that have more to offer than a smaller model.
LIGHTER = {
    "pretrain": "make a step of more parts (--accumulation), or compute activations twice (--checkpointing); "
    "'namesake plan' says what a step takes",
    "personalize": "ask for less (--low-memory), try a method of fewer rows (--method; 'namesake methods' "
    "lists them), or a smaller --model",
    "generate": "ask for less (--low-memory), try a smaller --size, a smaller --count, or a smaller --model",
}

# How torch says that memory is out, on a GPU and on the CPU of each system; torch.OutOfMemoryError is a RuntimeError.
TOO_MUCH = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")

# What typer raises for a command line that it cannot read. Newer versions carry click inside, and name it nowhere.
Unreadable: Any = typer.BadParameter.__mro__[2]

# Text, as a Path would make the current folder of an empty name.
Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE", help="One picture or several of one thing.")]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        envvar="NAMESAKE_MODEL",
        help="picturebook, a diffusers folder, a hub id or a .safetensors checkpoint.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed gives the same result.")]
Class = Annotated[str | None, typer.Option("--class", metavar="WORD", help="What the picture shows, such as cat.")]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Another setting, such as rank=8; 'namesake methods' lists them."),
]


@app.command()
def personalize(
    pictures: Pictures,
    word: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="The new word, such as <my-cat>; made of the class by default."),
    ] = None,
    class_word: Annotated[
        list[str] | None, typer.Option("--class", metavar="WORD", help="What the picture shows, such as cat.")
    ] = None,
    model: Model = "picturebook",
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="How the word is learned (see 'namesake methods'); by an encoder where one is at hand."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of tuning, instead of the number that suits the method.")
    ] = None,
    seed: Seed = 0,
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="Each picture or folder is a concept of its own; learn all in one run, into one file."
        ),
    ] = False,
    prior: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Pictures of the class, instead of those that the model draws of it itself."),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Look only where this picture is light; give one for each picture, in order."
        ),
    ] = None,
    alpha: Annotated[
        bool, typer.Option("--alpha", help="Look only at what the picture's alpha channel leaves.")
    ] = False,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="End before the last step where the loss has settled (DVAR).")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An encoder's file, recipe or hub id, or none; else the shipped one."),
    ] = None,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Half of the GPU's memory and less, a third more computation.")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Also draw the word after 0, 1, 2, 4, 8, ... steps, beside the file.")
    ] = False,
    setting: Set = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The concept file to write, or a folder for it.")
    ] = Path(),
) -> None:
    """Give what a picture shows a word of its own, in a small file."""
    from namesake import recipes

    if mask and alpha:
        raise Refusal("Masks come from files (--mask) or from the alpha channel (--alpha); give one of them.")
    made = recipes.personalize(
        pictures,
        word=word or None,
        class_word=class_word or None,
        model=model,
        method=method,
        steps=steps,
        seed=seed,
        together=together,
        prior=prior or (),
        mask=mask or alpha,
        until_settled=until_settled,
        encoder=encoder,
        low_memory=low_memory,
        strip=strip,
        settings=_settings(setting),
        output=output,
        report=_report(),
    )
    assert made.path is not None
    names = made.edit.placeholders
    seconds = sum(made.seconds.values())
    how = "DATE, from the encoder's prediction" if made.edit.about.method == "DATE" else made.edit.about.method
    print(f"{made.path}: {' '.join(names)}, by {how}, {made.path.stat().st_size / 1000:,.0f} kB, {seconds:.1f} s")
    if made.strip is not None:
        print(made.strip)
    print(_next(f"{' next to '.join(names)} on the beach", made.path, model))
    made.check_finished()  # where Ctrl-C ended it the word is kept, and what a shell would do next is not done


@app.command()
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help='What to draw, such as "<my-cat> on the beach, watercolor".')
    ],
    concept: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A concept file; give it again for a second one.")
    ] = None,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Personalize this picture first, and keep no file.")
    ] = None,
    class_word: Class = None,
    model: Model = "picturebook",
    count: Annotated[int, typer.Option(metavar="N", help="How many pictures.")] = 4,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of the scheduler.")] = 25,
    guidance: Annotated[
        float | None, typer.Option(metavar="X", help="How strictly the prompt is followed; 1 is without.")
    ] = None,
    blend: Annotated[
        float | None, typer.Option(metavar="X", help="0 follows the prompt most, 1 the picture (alpha_blend).")
    ] = None,
    scale: Annotated[float, typer.Option(metavar="X", help="The factor on the concept's weight offsets.")] = 1.0,
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help="dpm++, ddim, euler, ... or a class of diffusers.")
    ] = "dpm++",
    size: Annotated[int | None, typer.Option(metavar="N", help="Pixels a side; the model's own by default.")] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Also on other weights of the same architecture.")
    ] = False,
    low_memory: Annotated[bool, typer.Option("--low-memory", help="Less of the GPU's memory, in more time.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write to.")] = Path(
        "out"
    ),
) -> None:
    """Draw pictures of a prompt, with new words in it or without."""
    from namesake import recipes

    paths = recipes.generate_pictures(
        prompt,
        concepts=concept or (),
        picture=picture,
        class_word=class_word,
        model=model,
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        blend=blend,
        scale=scale,
        scheduler=scheduler,
        size=size,
        output_dir=output,
        any_base=any_base,
        low_memory=low_memory,
        report=_report(),
    )
    print(*paths, sep="\n")


@app.command()
def merge(
    concepts: Annotated[list[Path], typer.Argument(metavar="FILE", help="Concept files of Custom Diffusion.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The concept file to write.")],
    model: Model = "picturebook",
    keep: Annotated[
        float, typer.Option(metavar="X", help="Below 1: store changes at low rank, with this share of their strength.")
    ] = 1.0,
) -> None:
    """Make one file of several concepts, so that one prompt can hold all; or make one concept smaller."""
    from namesake import recipes

    path, error = recipes.merge(concepts, model=model, keep=keep, output=output, report=_report())
    lost = f", with an error of {error:.1%}" if keep < 1 else ""
    print(f"{path}: {path.stat().st_size / 1000:,.0f} kB{lost}")


@app.command()
def methods() -> None:
    """List how a word can be learned: what each method trains, stores and costs."""
    from namesake import recipes

    print(recipes.methods())


@app.command()
def show(
    concept: Annotated[Path, typer.Argument(metavar="FILE", help="A concept file.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", envvar="NAMESAKE_MODEL", help="Where to look up the nearest words.")
    ] = None,
) -> None:
    """Say what a concept file holds, how and when it was made."""
    from namesake import recipes

    if model is not None:
        _report().say(f"looking up the nearest words in {model}")
    print(recipes.show(concept, model))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write to.")] = Path(
        "out/demo"
    ),
) -> None:
    """Draw the shipped example picture in new scenes."""
    from namesake import recipes

    made = recipes.demo(output, _report())
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in made.seconds.items())
    print(f"{made.sheet}")
    print(f"{times}; peak memory {made.memory / 2**20:,.0f} MiB")
    print(f"{made.concept}: {made.concept.stat().st_size / 1000:,.0f} kB")
    print(_next(f"{made.word} in the snow", made.concept, "picturebook"))


@app.command()
def pretrain(
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="picturebook, also with -context or -views; sd15, sd21 or sdxl, also with -50k for fewer steps.",
        ),
    ] = "picturebook",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:DIR",
            help="imagenet, openimages, shards or folder, @WEIGHT behind it; or picturebook. Again to mix.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Another base model than the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps of the optimizer.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Pictures of a step, over all processes.")] = None,
    accumulation: Annotated[
        int | None, typer.Option(metavar="N", help="Parts of a step; they do not see each other's words.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="X", help="AdamW's, after the warm-up; may be another with --resume.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory, a fifth more computation.")
    ] = False,
    setting: Set = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that read pictures ahead.")] = 4,
    tracker: Annotated[str | None, typer.Option(metavar="NAME", help="tensorboard, wandb, trackio, ...")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="The folder of the run.")] = None,
) -> None:
    """Pre-train an encoder, alone or under accelerate launch."""
    from namesake import recipes

    path = recipes.pretrain(
        recipe,
        data=data or (),
        model=model,
        steps=steps,
        batch=batch,
        accumulation=accumulation,
        rate=rate,
        checkpointing=checkpointing,
        settings=_settings(setting),
        seed=seed,
        resume=resume,
        workers=workers,
        tracker=tracker,
        output=output,
        report=_report(aloud=True),  # days of work, mostly where nobody reads along
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")


@app.command()
def plan(
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="As in pretrain; give it again for another column."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of a step, instead of the recipe's and the tuning's.")
    ] = None,
) -> None:
    """Say what pre-training and tuning will take: parameters, FLOPs, memory. Needs no weights and no GPU."""
    from namesake import recipes

    print(recipes.plan(recipe or ["picturebook"], batch=batch))


@app.command()
def shards(
    data: Annotated[str, typer.Argument(metavar="KIND:DIR", help="imagenet, openimages or folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write to.")],
    size: Annotated[int, typer.Option(metavar="N", help="Pixels a side.")] = 512,
) -> None:
    """Turn a data set into WebDataset shards for pretrain."""
    from namesake import recipes

    print(f"{output}: {recipes.shards(data, output, size, _report()):,} pictures")


@picturebook.command("draw")
def picturebook_draw(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = Path("out/picturebook/sheets"),
    seed: Seed = 0,
    count: Annotated[int, typer.Option(metavar="N", help="Drawings on the sheet of drawings.")] = 60,
    size: Annotated[int, typer.Option(metavar="N", help="Pixels a side of each drawing.")] = 64,
    split: Annotated[str, typer.Option(metavar="NAME", help="training, tuning or reporting concepts.")] = "tuning",
    category: Annotated[str | None, typer.Option(metavar="NAME", help="Only this category.")] = None,
    style: Annotated[str | None, typer.Option(metavar="NAME", help="Only this style.")] = None,
    place: Annotated[str | None, typer.Option(metavar="NAME", help="Only this place.")] = None,
) -> None:
    """Write contact sheets of the picture book's drawings."""
    from namesake.picturebook import draw_sheets

    print(*draw_sheets.main(output, seed, count, size, split, category, style, place), sep="\n")


@picturebook.command("train")
def picturebook_train(
    preset: Annotated[str, typer.Option(metavar="NAME", help="cpu or gpu.")] = "cpu",
    work: Annotated[Path, typer.Option(metavar="DIR", help="Drawings, checkpoints, curves, sheets.")] = Path(
        "out/picturebook"
    ),
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write; the shipped one by default.")
    ] = None,
    stage: Annotated[str, typer.Option(metavar="NAME", help="One stage only.")] = "",
    steps: Annotated[int, typer.Option(metavar="N", help="Another number of steps for that stage.")] = 0,
) -> None:
    """Train the model and its judge, on from where it stopped."""
    from namesake.picturebook import train

    train.main(preset, work, model, stage, steps)


@picturebook.command("check")
def picturebook_check(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = Path("out/picturebook/check"),
    model: Annotated[Path | None, typer.Option(metavar="DIR", help="The model; the shipped one by default.")] = None,
    judge: Annotated[Path | None, typer.Option(metavar="FILE", help="The judge; the shipped one by default.")] = None,
    count: Annotated[int, typer.Option(metavar="N", help="Prompts.")] = 600,
    seed: Seed = 0,
    docs: Annotated[Path | None, typer.Option(metavar="FILE", help="A page that gets the table.")] = None,
) -> None:
    """Measure model and judge; exit with 0 where all bars hold."""
    from namesake.picturebook import check

    if not check.main(output, model, judge, count, seed, docs):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. What the user did wrong is one sentence, never a traceback."""
    _quiet()
    return _answer(app, None if arguments is None else list(arguments))


def _settings(given: Sequence[str] | None) -> dict[str, str]:
    """Settings as `NAME=VALUE`, by name."""
    found = {}
    for text in given or ():
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign):
            raise Refusal(f"The setting {text!a} is not understood; NAME=VALUE is wanted.")
        found[name] = value
    return found


def _next(prompt: str, concept: Path, model: str) -> str:
    """The command that draws a new word, as this shell can call it: `make demo` runs in no activated environment."""
    from shutil import which

    from namesake.files import quoted

    called = Path(sys.argv[0])
    own = quoted(called) if called.stem == "namesake" and which("namesake") is None else "namesake"
    other = "" if os.environ.get("NAMESAKE_MODEL", "picturebook") == model else f" --model {quoted(model)}"
    return f'Next: {own} generate "{prompt}" --concept {quoted(concept)}{other}'


def script(function: Callable[..., None]) -> int:
    """Run a script of `runs/`, whose options are the function's parameters, and answer as `main` does."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command()(function)
    return _answer(alone)


def _answer(commands: typer.Typer, given: list[str] | None = None) -> int:
    """given: by default the process's own arguments, whose patterns (*.png) typer then expands on Windows, as shells do
    elsewhere."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that this terminal cannot spell ends no work that is done
            stream.reconfigure(errors="backslashreplace")
    try:
        status = commands(args=given, standalone_mode=False)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
        if status == 130:  # newer typers make a status of the interrupt
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except Refusal as refusal:
        return _fail(str(refusal), 2)
    except Unreadable as error:
        text = error.format_message()
        if text.startswith("Usage:"):  # no command was named
            print(text)
            return 2
        return _fail(f"{text.rstrip('.')}; see --help.", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:
        # The reader has gone; Python would complain again when it flushes at the end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        return _fail(_too_large(given), 2)
    except OSError as error:
        place = f'"{error.filename}": ' if error.filename else ""
        return _fail(f"{place}{error.strerror or error}.", 2)
    except RuntimeError as error:
        if any(said in str(error) for said in TOO_MUCH):
            return _fail(_too_large(given), 2)
        raise


def _too_large(given: Sequence[str] | None) -> str:
    arguments = sys.argv[1:] if given is None else given
    remedy = LIGHTER.get(next(iter(arguments), ""), "try a smaller model")
    return f"There is not enough memory for this; {remedy}."


def _fail(sentence: str, status: int) -> int:
    with suppress(OSError):
        print(f"namesake: {sentence}", file=sys.stderr)
    return status


def _quiet() -> None:
    """Keep what the libraries say from the user; to be called before they are imported."""
    for name, value in {
        "DIFFUSERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _report(aloud: bool = False) -> Any:
    """What long calls tell goes to standard error: warnings always, the rest only where a person reads it, or `aloud`."""
    from rich import progress as parts
    from rich.console import Console

    from namesake.recipes import Report

    console = Console(stderr=True)

    class Terminal(Report):
        def warn(self, sentence: str) -> None:
            console.print(f"namesake: {sentence}", style="yellow", markup=False, highlight=False, soft_wrap=True)

        def say(self, sentence: str) -> None:
            if aloud or console.is_terminal:
                console.print(sentence, style="dim", markup=False, highlight=False, soft_wrap=True)

        @contextmanager
        def bar(self, title: str) -> "Iterator[Progress | None]":
            if not console.is_terminal:
                yield None
                return
            columns = (
                parts.TextColumn("{task.description}", markup=False),
                parts.BarColumn(),
                parts.MofNCompleteColumn(),
                parts.TimeElapsedColumn(),
                parts.TextColumn("left"),
                parts.TimeRemainingColumn(),
            )
            with parts.Progress(*columns, console=console) as bars:
                task = bars.add_task(title, total=None)
                yield lambda done, total: bars.update(task, completed=done, total=total)

    return Terminal()


if __name__ == "__main__":
    sys.exit(main())
