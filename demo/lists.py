"""The lists that the demo's signals go by, made from the corpus: entries, classes and blocked phrases."""

from __future__ import annotations

from pathlib import Path

from demo.corpus import load_concepts

ENTRIES, CLASSES, BLOCKED = "entries.txt", "classes.txt", "blocked.txt"
# Phrases of shops and download pages, as the demo's captions in the manner of LAION have them.
BLOCKED_PHRASES = ("free download", "free printable", "royalty free", "best price", "t-shirt")


def class_names() -> list[str]:
    """Names of the concepts that the class list has: the hundred everyday ones."""
    table = load_concepts()
    return [str(name) for name in table.filter(table["everyday"])["name"].to_pylist()]


def entry_names() -> list[str]:
    """The metadata entries: names and keywords of all concepts, each once, sorted."""
    table = load_concepts()
    keywords = {word for words in table["keywords"].to_pylist() for word in words}
    return sorted(keywords | set(table["name"].to_pylist()))


def write_lists(folder: Path) -> None:
    """Write the three lists into `folder`, one text a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in ((ENTRIES, entry_names()), (CLASSES, class_names()), (BLOCKED, list(BLOCKED_PHRASES))):
        (folder / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
