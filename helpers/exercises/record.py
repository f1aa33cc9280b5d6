"""Tries and solved exercises, kept in one small JSON file under `build/`, so that they survive the kernel."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from filelock import FileLock

from helpers.config import REPO_ROOT

__all__ = ["PROGRESS_FILE", "Entry", "note", "read"]

PROGRESS_FILE = REPO_ROOT / "build" / "exercises.json"
LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Entry:
    """One exercise: tries up to the first right answer, and whether there was one."""

    tries: int = 0
    solved: bool = False


def read() -> dict[str, Entry]:
    """What is on record; empty when nothing is, when the file is damaged, or when `TUTORIAL_PROGRESS=off`."""
    if _off():
        return {}
    try:
        stored = json.loads(PROGRESS_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        exercise_id: Entry(fields["tries"], fields["solved"])
        for exercise_id, fields in (stored.items() if isinstance(stored, dict) else ())
        if isinstance(fields, dict) and type(fields.get("tries")) is int and type(fields.get("solved")) is bool
    }


def note(exercise_id: str, *, solved: bool) -> Entry:
    """Count one more try; an exercise once solved keeps its numbers. Returns the new entry.

    A record that cannot be written is said in one line: the verdict matters more.
    """
    if _off():
        return Entry(1, solved)
    entry = Entry()
    try:
        PROGRESS_FILE.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(PROGRESS_FILE.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
            entries = read()
            entry = entries.get(exercise_id, entry)
            if not entry.solved:
                entry = entries[exercise_id] = Entry(entry.tries + 1, solved)
                draft = PROGRESS_FILE.with_suffix(f".{os.getpid()}.tmp")
                draft.write_text(json.dumps({name: asdict(e) for name, e in entries.items()}, indent=1), "utf-8")
                draft.replace(PROGRESS_FILE)
    except OSError as error:
        print(f"（进度没有记下：{error.strerror or type(error).__name__}）")
    return entry


def _off() -> bool:
    return os.environ.get("TUTORIAL_PROGRESS") == "off"
