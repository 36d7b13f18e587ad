"""A directory with a manifest and the files it names: whether it may be loaded; reads no weights, knows no engine.

Whatever is wrong with it (missing, altered, foreign, too new, for another engine) raises a :class:`BundleError` that
names the mending command; nothing else is ever raised.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import progress
from edge_runtime.bundle.manifest import BUILD_COMMAND, MANIFEST_NAME, FileEntry, Manifest
from edge_runtime.bundle.validation import manifest_from_json
from edge_runtime.errors import BundleCorruptError, BundleNotFoundError, BundleTargetError

# Hashing reads about 1 GB/s: half a second is worth knowing that no bit flipped, ten seconds on a drone is not.
HASH_AT_OPEN_LIMIT_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A directory and its verified manifest."""

    path: Path
    manifest: Manifest

    def file(self, entry: FileEntry) -> Path:
        """Where ``entry`` lies."""
        return self.path / entry.path


def load_bundle(path: str | Path, *, target: str | None = None, verify_hashes: bool | None = None) -> Bundle:
    """Read the manifest in ``path`` and check every file it names.

    Sizes are always checked. ``verify_hashes`` also reads each file and compares its SHA-256; None does so for
    bundles up to ``HASH_AT_OPEN_LIMIT_BYTES``. ``target`` refuses a bundle compiled for another engine.

    Raises:
        BundleNotFoundError: there is no directory, no manifest, or a named file is missing.
        BundleCorruptError: the manifest is not one of ours, or a file differs from it.
        BundleVersionError: the manifest was written by a newer builder.
        BundleTargetError: the bundle is for another engine than ``target``.
    """
    path = Path(path)
    manifest = manifest_from_json(_read_manifest_text(path))
    if target is not None and manifest.target != target:
        raise BundleTargetError(
            f"{path} was built for {manifest.target}, and this runtime executes {target}; "
            f"rebuild it: edge-engines build CHECKPOINT --recipe {manifest.recipe} --target {target} --out BUNDLE"
        )
    if verify_hashes is None:
        verify_hashes = manifest.size_bytes <= HASH_AT_OPEN_LIMIT_BYTES
    bundle = Bundle(path, manifest)
    check_files(bundle, verify_hashes=verify_hashes)
    return bundle


def check_files(bundle: Bundle, *, verify_hashes: bool) -> None:
    """Compare the size, and where asked the SHA-256, of every file with the manifest.

    Raises:
        BundleNotFoundError: a file is missing or cannot be read.
        BundleCorruptError: a file differs, or is a link that the engine will not follow.
    """
    manifest = bundle.manifest
    mend = (
        f"copy the bundle again, or rebuild it: edge-engines build CHECKPOINT --recipe {manifest.recipe} "
        f"--target {manifest.target} --out {bundle.path}"
    )
    if verify_hashes:
        progress.begin("comparing its files with their hashes", manifest.size_bytes)
    for entry in manifest.files:
        file = bundle.file(entry)
        try:
            size_bytes = file.stat().st_size if file.is_file() else None
            if size_bytes is None:
                raise BundleNotFoundError(f"{file} is missing, though {MANIFEST_NAME} names it; {mend}")
            if size_bytes != entry.size_bytes:
                raise BundleCorruptError(f"{file} has {size_bytes} bytes, expected {entry.size_bytes}; {mend}")
            if verify_hashes and (found := sha256_of_file(file)) != entry.sha256:
                raise BundleCorruptError(
                    f"{file} was altered: SHA-256 {found[:12]}..., expected {entry.sha256[:12]}...; {mend}"
                )
        except (BundleNotFoundError, BundleCorruptError):
            raise
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            raise BundleNotFoundError(f"{entry.path!r} of {bundle.path} cannot be read ({error}); {mend}") from error
    _check_links(bundle)


def _check_links(bundle: Bundle) -> None:
    """Refuse a graph whose weights are linked into another folder than itself: ONNX Runtime does not follow those."""
    for component in bundle.manifest.components:
        files = [bundle.file(entry) for entry in component.files]
        if not any(file.suffix == ".onnx" for file in files):
            continue
        folders = {file.resolve().parent for file in files}
        if len(folders) > 1:
            raise BundleCorruptError(
                f"{files[0]} and its weights are links into different folders ({', '.join(map(str, folders))}), "
                "which ONNX Runtime refuses to read. Of DVC: dvc config cache.type reflink,hardlink,copy, then dvc "
                "checkout --relink; of git-annex: git annex unlock; of others: cp -rL to a copy of the bundle"
            )


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read a mebibyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            progress.advance(len(block))
    return digest.hexdigest()


def _read_manifest_text(path: Path) -> str:
    try:
        if not path.is_dir():
            raise BundleNotFoundError(f"there is no bundle directory {path}; build one: {BUILD_COMMAND}")
        return (path / MANIFEST_NAME).read_text(encoding="utf-8")
    except BundleNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise BundleCorruptError(f"{path / MANIFEST_NAME} is not UTF-8 text; rebuild it: {BUILD_COMMAND}") from error
    except (OSError, ValueError) as error:
        hint = " (an interrupted build? run it again)" if path.name.endswith(".partial") else ""
        raise BundleNotFoundError(
            f"{path} holds no readable {MANIFEST_NAME}{hint}: {error}; build one: {BUILD_COMMAND}"
        ) from error
