"""The columns of a table of pictures: which holds what."""

COLUMNS = ("file", "image", "label", "split", "group")
"""What a column can hold. A CSV has files, a Parquet table has images."""
TABLES = ("csv", "parquet")
"""Kinds of data with columns."""
COLUMNS_VALID = "pairs such as 'file=name,label=class' of " + ", ".join(COLUMNS) + ", each with the name of a column"


def parse_columns(text: str) -> dict[str, str]:
    """Return the names of columns by what they hold; an empty name means that no column holds it."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {what.strip(): name.strip() for what, _, name in pairs}


def is_columns(text: str) -> bool:
    """Return whether a text names columns, each once."""
    pairs = [pair for pair in text.split(",") if pair.strip()]
    return (
        all("=" in pair for pair in pairs)
        and len(parse_columns(text)) == len(pairs)
        and set(parse_columns(text)) <= set(COLUMNS)
    )


def standard_columns(text: str) -> str:
    """Return the standard spelling: in one order, without spaces."""
    named = parse_columns(text)
    return ",".join(f"{what}={named[what]}" for what in COLUMNS if what in named)
