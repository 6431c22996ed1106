"""Archives: the build as HOLD's trainer unpacks it, and the frames for a web segmentation tool."""

import zipfile
from pathlib import Path

from holdprep.io.atomic import atomic_path
from holdprep.sequence.folder import Sequence
from holdprep.sequence.images import image_files


def pack(seq: Sequence) -> Path:
    """Zip the build, without vis/, with HOLD's arc-names <seq>/build/...; returns where the zip lies once the stage has ended."""
    build = seq.path("build")
    with atomic_path(seq.target("zip")) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in build.rglob("*") if p.is_file()):
            relative = file.relative_to(build)
            if relative.parts[0] != "vis":
                _pack(archive, file, Path(seq.name, "build", relative), zipfile.ZIP_DEFLATED)
    return seq.place(seq.home, "zip")


def write_images_zip(seq: Sequence) -> None:
    """images.zip, what a web segmentation tool is fed."""
    with atomic_path(seq.target("images_zip")) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in image_files(seq.path("images")):
            _pack(archive, file, Path("images", file.name), zipfile.ZIP_STORED)


def _pack(archive: zipfile.ZipFile, file: Path, name: Path, compression: int) -> None:
    """Add a file without its time: the same files give the same archive."""
    info = zipfile.ZipInfo(name.as_posix())
    info.compress_type, info.external_attr = compression, 0o644 << 16
    archive.writestr(info, file.read_bytes())
