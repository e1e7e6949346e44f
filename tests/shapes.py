"""The checker of signatures while tests run: an int is welcome where a float is wanted, as Python's typing has it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
