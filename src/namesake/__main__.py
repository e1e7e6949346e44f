"""The program's door: `namesake`, and `python -m namesake`."""


def main() -> int:
    """The command line, where Ctrl-C ends without a traceback from its first moment on."""
    try:
        from namesake.cli import main as answer
    except KeyboardInterrupt:
        return 130
    return answer()


if __name__ == "__main__":
    raise SystemExit(main())
