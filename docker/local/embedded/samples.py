"""Puts the sample content into the lake: raw instruction rows, and Nightshift's own guide as the knowledge base."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path

from embedded.home import REPOSITORY, Home


@dataclass(frozen=True)
class Seed:
    """One folder of samples.

    Attributes:
        source: Folder in the repository.
        pattern: Which of its files are content.
        target: Folder in the lake, which mirrors the source.
    """

    source: Path
    pattern: str
    target: str


def seeds() -> list[Seed]:
    """Return the folders of samples; each folder of ``samples/raw`` is a dataset of its own."""
    raw = REPOSITORY / "docker" / "local" / "samples" / "raw"
    datasets = [Seed(path, "*.json*", f"raw/{path.name}") for path in sorted(raw.glob("*")) if path.is_dir()]
    return [*datasets, Seed(REPOSITORY / "docs" / "guide", "*.md", "documents/guide")]


def seed(home: Home) -> list[str]:
    """Mirror the samples into the lake.

    A file is copied only when its content differs, so an unchanged night sees unchanged files; a file that is gone
    from the samples goes from its folder of the lake. Other folders of the lake are not touched.

    Returns:
        Paths in the lake that were written or removed.
    """
    changed = []
    for one in seeds():
        target = home.lake / one.target
        target.mkdir(parents=True, exist_ok=True)
        wanted = {path.relative_to(one.source): path for path in one.source.rglob(one.pattern) if path.is_file()}
        changed += [f"{one.target}/{name}" for name, path in wanted.items() if _copy(path, target / name)]
        changed += [f"{one.target}/{name}" for name in _remove_others(target, set(wanted), one.pattern)]
    return sorted(changed)


def _copy(source: Path, target: Path) -> bool:
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
    return True


def _remove_others(folder: Path, wanted: set[Path], pattern: str) -> list[Path]:
    names = [path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()]
    removed = [name for name in names if name not in wanted]
    for name in removed:
        (folder / name).unlink()
    return removed
