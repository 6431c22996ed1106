"""The sequence folder: the only place that knows a file's name (the layout is HOLD's; see README, "The sequence folder").

Reading never executes anything, writing is atomic. A sweep's job writes into its own folder, laid over the sequence's: it reads
what is in its own folder first, and never writes into the sequence. Heavy packages are imported where they are needed: to find that
nothing has to be done takes none of them.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from holdprep.atomic import atomic_dir, atomic_path, write_bytes_atomic
from holdprep.errors import HoldprepError, MissingArtefact

if TYPE_CHECKING:
    import trimesh

    from holdprep.geometry.lens import Lens

ENTITIES = ("right", "left", "object")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MODES = ("h", "o", "ho")
RECORDS = Path("processed", ".holdprep")  # what stages recorded, and their scratch

# artefact -> path in the sequence folder
ARTEFACTS: dict[str, str] = {
    "video": "video.mp4",
    "prompts": "prompts.yaml",
    "overrides": "holdprep.yaml",
    "images": "images",
    "images_zip": "images.zip",
    "raw_images": "processed/raw_images",
    "frames": "processed/frames.json",
    **{f"sam_{e}": f"processed/sam/{e}/images_masks" for e in ENTITIES},
    **{f"masks_{e}": f"processed/sam/{e}/masks_processed" for e in ENTITIES},
    "masks": "processed/masks",
    "images_object": "processed/images_object",
    "boxes": "processed/boxes.npy",
    "crop_image": "processed/crop_image",
    "v3d": "processed/v3d.npy",
    "j2d": "processed/j2d.full.npy",
    "v3d_metro": "processed/v3d_ra.npy",
    "j2d_metro": "processed/j2d.crop.npy",
    "keypoints_vis": "processed/2d_keypoints",
    "hpe_vis": "processed/hpe_vis",
    "hand_check": "processed/hand_check.png",
    "fit_init": "processed/hold_fit.init.npy",
    "fit_slerp": "processed/hold_fit.slerp.npy",
    "fit_meshes": "processed/mesh_fit_vis",
    "colmap": "processed/colmap",
    "colmap_2d": "processed/colmap_2d",
    **{f"ckpt_{m}": f"processed/mano_fit_ckpt/{m}/last.ckpt" for m in MODES},
    "fit_aligned": "processed/hold_fit.aligned.npy",
    "align_vis": "processed/align_vis",
    "truth": "ground_truth/truth.npz",
    **{f"truth_masks_{e}": f"ground_truth/masks/{e}" for e in ENTITIES},
    "truth_depth": "ground_truth/depth",
    "build": "build",
    "report": "report.html",
    "zip": "../<seq>.zip",  # in an overlay within it: see Sequence.place
}


class Sequence:
    """One sequence under `data_root`; `overlay` is the folder that a sweep's job writes to instead.

    `staging` is the folder in which a running stage lays its outputs until they are complete; the stage reads them back from there.
    """

    def __init__(self, data_root: Path, name: str, overlay: Path | None = None, staging: Path | None = None) -> None:
        self.name = name
        self.data_root = data_root
        self.root = data_root / name
        self.overlay = overlay
        self.staging = staging

    # paths

    @property
    def home(self) -> Path:
        """The folder that a run changes: the overlay if there is one, else the sequence folder."""
        return self.overlay or self.root

    def staged(self, folder: Path) -> "Sequence":
        """The same sequence, written into `folder` and read from there first."""
        return Sequence(self.data_root, self.name, self.overlay, folder)

    def place(self, folder: Path, artefact: str, *parts: str) -> Path:
        """Where an artefact lies in one of the folders that make up the sequence; the packed build lies beside the sequence folder."""
        if artefact == "zip":
            return (self.data_root if folder == self.root else folder) / f"{self.name}.zip"
        return Path(folder, ARTEFACTS[artefact], *parts)

    def path(self, artefact: str, *parts: str) -> Path:
        """Where an artefact is read from: what the running stage has written, the overlay, then the sequence folder."""
        if self.staging is not None and self.place(self.staging, artefact).exists():
            return self.place(self.staging, artefact, *parts)
        if self.overlay is not None and (self.place(self.overlay, artefact).exists() or artefact in self.absent()):
            return self.place(self.overlay, artefact, *parts)
        return self.place(self.root, artefact, *parts)

    def target(self, artefact: str, *parts: str) -> Path:
        """Where an artefact is written to; its parent folder is made."""
        path = self.place(self.staging or self.home, artefact, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, artefact: str) -> bool:
        """True if the artefact is there (a folder must not be empty)."""
        path = self.path(artefact)
        return path.is_file() or (path.is_dir() and any(path.iterdir()))

    def absent(self) -> frozenset[str]:
        """Artefacts of the sequence folder that this overlay's stages no longer make: they are not read through the overlay."""
        try:
            return frozenset(json.loads((self.home / RECORDS / "absent.json").read_text())) if self.overlay is not None else frozenset()
        except FileNotFoundError:
            return frozenset()

    def write_absent(self, artefacts: frozenset[str]) -> None:
        """Say which artefacts of the sequence folder are not read through the overlay."""
        path = self.home / RECORDS / "absent.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, json.dumps(sorted(artefacts)).encode())

    # frames

    def frame_names(self) -> list[str]:
        """Stems of images/, numbers in numeric order: the one order of frames that every array here follows."""
        folder = self.path("images")
        files = image_files(folder) if folder.is_dir() else []
        if not files:
            raise MissingArtefact(f"{folder} holds no images: run stage=create with video=<file or folder> first")
        stems = [f.stem for f in files]
        if len(set(stems)) != len(stems):
            twice = next(s for s in stems if stems.count(s) > 1)
            raise HoldprepError(f"{folder} holds two images named {twice}: a frame's name must be unique without its suffix")
        return stems

    def images(self, lens: "Lens | None" = None) -> "Images":
        """The frames of images/, read when asked for; with `lens` as a pinhole camera would have taken them."""
        self.frame_names()
        return Images(image_files(self.path("images")), lens=lens)

    def image_size(self) -> tuple[int, int]:
        """Width and height of images/."""
        height, width = self.images()[0].shape[:2]
        return width, height

    def read_frames(self) -> dict[str, Any]:
        """What is known of where images/ came from (processed/frames.json); empty where nothing is. Raises HoldprepError where it is damaged."""
        if not self.has("frames"):
            return {}
        try:
            record = json.loads(self.path("frames").read_text())
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise HoldprepError(f"{self.path('frames')} is damaged: delete it, or run stage=create force=true video=... again")
        return record

    # masks

    def entities(self) -> list[str]:
        """Entities that have processed masks."""
        return [e for e in ENTITIES if self.has(f"masks_{e}")]

    def masks(self, entity: str, kind: str = "masks", lens: "Lens | None" = None) -> "Masks":
        """The 0/255 masks of an entity (`kind` truth_masks: the true ones), read when asked for, one a frame of images/.

        With `lens` those of the pictures that a pinhole camera would have taken.
        """
        folder = self.path(f"{kind}_{entity}")
        by_name = {f.stem: f for f in image_files(folder)}
        missing = [n for n in self.frame_names() if n not in by_name]
        if missing:
            raise HoldprepError(f"{folder} lacks {len(missing)} masks (first: {missing[0]}); run what makes them with force=true")
        return Masks([by_name[n] for n in self.frame_names()], lens=lens)

    def label_images(self, lens: "Lens | None" = None) -> "Images":
        """The merged label images of processed/masks (0, 50 object, 150 right, 250 left); with `lens` as a pinhole camera saw them."""
        folder = self.path("masks")
        by_name = {f.stem: f for f in image_files(folder)}
        missing = [n for n in self.frame_names() if n not in by_name]
        if missing:
            raise HoldprepError(f"{folder} lacks {len(missing)} masks (first: {missing[0]}); run stage=segment force=true")
        return Images([by_name[n] for n in self.frame_names()], cv2.IMREAD_UNCHANGED, lens)

    # reading and writing

    def read_npy(self, artefact: str, *parts: str) -> Any:
        """An array, or a pickled dict of arrays; never executes what the file names."""
        from holdprep import safeio

        return safeio.load_npy(self.path(artefact, *parts))

    def write_npy(self, artefact: str, value: Any, *parts: str) -> None:
        """An array or a dict of arrays, readable by numpy 1.23 on Python 3.8."""
        from holdprep import safeio

        safeio.save_npy(self.target(artefact, *parts), value)

    def write_images(self, artefact: str, pictures: Iterator[tuple[str, np.ndarray]], *parts: str) -> None:
        """A folder of pictures (name with suffix, BGR or grey): the whole folder appears at once or not at all."""
        with atomic_dir(self.target(artefact, *parts)) as folder:
            for name, picture in pictures:
                write_image(folder / name, picture)

    def write_picture(self, artefact: str, picture: np.ndarray) -> Path:
        """One picture (BGR or grey); returns where it is."""
        target = self.target(artefact)
        write_bytes_atomic(target, _encode(target, picture))
        return target

    def write_mesh(self, artefact: str, name: str, mesh: "trimesh.Trimesh") -> None:
        """A mesh as .ply."""
        with atomic_path(self.target(artefact, name)) as temporary:
            temporary.write_bytes(_export(mesh, Path(name).suffix))

    def write_colmap(
        self, arrays: dict[str, np.ndarray], clouds: dict[str, tuple[np.ndarray, np.ndarray | None]], tracks: dict[str, np.ndarray]
    ) -> None:
        """processed/colmap/: arrays as <name>.npy, clouds of points (N, 3) with RGB colours, what else we know as tracks.npz."""
        import trimesh

        from holdprep import safeio

        with atomic_dir(self.target("colmap")) as folder:
            for name, array in arrays.items():
                safeio.save_npy(folder / f"{name}.npy", array)
            for name, (points, colors) in clouds.items():
                (folder / name).write_bytes(_export(trimesh.PointCloud(points, colors=colors), Path(name).suffix))
            np.savez_compressed(folder / "tracks.npz", **tracks)  # type: ignore[arg-type]

    def read_colmap(self) -> dict[str, np.ndarray]:
        """intrinsic, o2w, normalization_mat and the canonical cloud, from whoever wrote them; our tracks.npz where there is one."""
        import trimesh

        found = {
            name: np.asarray(self.read_npy("colmap", f"{name}.npy"), dtype=np.float64) for name in ("intrinsic", "o2w", "normalization_mat")
        }
        cloud = trimesh.load(self.path("colmap", "sparse_points_normalized.obj"), process=False)
        found["points_cano"] = np.asarray(cloud.vertices, dtype=np.float64)  # type: ignore[attr-defined]
        frames = len(self.frame_names())
        if found["o2w"].shape != (frames, 4, 4):
            raise HoldprepError(
                f"{self.path('colmap', 'o2w.npy')} has shape {found['o2w'].shape}, images/ has {frames} frames: run stage=object_pose again"
            )
        tracks = self.path("colmap", "tracks.npz")
        if tracks.is_file():
            with np.load(tracks, allow_pickle=False) as file:
                found |= dict(file)
        return found

    def lens(self) -> "Lens | None":
        """The lens that everything after object_pose looks past; None where pictures, masks and keypoints are used as they are."""
        tracks = self.path("colmap", "tracks.npz")
        if not tracks.is_file():
            return None
        with np.load(tracks, allow_pickle=False) as file:
            k = float(file["lens"]) if "lens" in file else 0.0
        from holdprep.geometry.lens import Lens

        return Lens(np.asarray(self.read_npy("colmap", "intrinsic.npy"), np.float64), k, self.image_size()) if k else None

    def write_colmap_2d(self, keypoints_px: np.ndarray, pictures: Iterator[tuple[str, np.ndarray]]) -> None:
        """processed/colmap_2d/: keypoints.npy (T, N, 2), alignment's object target, and one picture a frame."""
        from holdprep import safeio

        with atomic_dir(self.target("colmap_2d")) as folder:
            safeio.save_npy(folder / "keypoints.npy", keypoints_px)
            for name, picture in pictures:
                write_image(folder / name, picture)

    def pack(self) -> Path:
        """Zip the build, without vis/, with HOLD's arc-names <seq>/build/...; returns where the zip lies once the stage has ended."""
        build = self.path("build")
        with atomic_path(self.target("zip")) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(p for p in build.rglob("*") if p.is_file()):
                relative = file.relative_to(build)
                if relative.parts[0] != "vis":
                    _pack(archive, file, Path(self.name, "build", relative), zipfile.ZIP_DEFLATED)
        return self.place(self.home, "zip")

    def write_images_zip(self) -> None:
        """images.zip, what a web segmentation tool is fed."""
        with atomic_path(self.target("images_zip")) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for file in image_files(self.path("images")):
                _pack(archive, file, Path("images", file.name), zipfile.ZIP_STORED)

    # scratch

    def work_dir(self, stage: str) -> Path:
        """A stage's scratch folder, kept for inspection."""
        path = self.home / RECORDS / "work" / stage
        path.mkdir(parents=True, exist_ok=True)
        return path


class Images(Seq[np.ndarray]):
    """Pictures on disk as a sequence: read when asked for, the last one kept; seen past `lens` where there is one."""

    def __init__(self, files: list[Path], flags: int = cv2.IMREAD_COLOR, lens: "Lens | None" = None) -> None:
        self.files = files
        self._flags = flags
        self._lens = lens
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self.files))[index]
        last = self._last  # threads may read at once
        if last is None or last[0] != index:
            self._last = last = (index, self._read(self.files[index]))
        return last[1]

    def _read(self, path: Path) -> np.ndarray:
        return self._straight(read_image(path, self._flags), cv2.INTER_LINEAR if self._flags == cv2.IMREAD_COLOR else cv2.INTER_NEAREST)

    def _straight(self, picture: np.ndarray, interpolation: int) -> np.ndarray:
        return picture if self._lens is None else self._lens.picture(picture, interpolation)


class Masks(Images):
    """Binary masks on disk as a sequence of bool arrays."""

    def _read(self, path: Path) -> np.ndarray:
        return self._straight(read_image(path, cv2.IMREAD_GRAYSCALE), cv2.INTER_NEAREST) > 0


def image_files(folder: Path) -> list[Path]:
    """The pictures of a folder, numbers in their names in numeric order; hidden files are passed over."""

    def key(path: Path) -> list[tuple[int, int | str]]:
        return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.stem) if part]

    found = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]
    return sorted(found, key=key)


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """A picture as BGR (or as `flags` say); raises HoldprepError naming the file if it cannot be decoded."""
    data = np.fromfile(path, dtype=np.uint8)
    picture = cv2.imdecode(data, flags) if len(data) else None
    if picture is None:
        raise HoldprepError(f"{path} is not a readable picture ({len(data)} bytes): replace or remove it")
    return picture


def write_image(path: Path, picture: np.ndarray) -> None:
    """A picture, encoded by its suffix; JPEG at quality 97."""
    path.write_bytes(_encode(path, picture))


def _encode(path: Path, picture: np.ndarray) -> bytes:
    ok, data = cv2.imencode(path.suffix, picture, [cv2.IMWRITE_JPEG_QUALITY, 97] if path.suffix == ".jpg" else [])
    if not ok:
        raise HoldprepError(f"cannot encode {path}: shape {picture.shape}, dtype {picture.dtype}")
    return data.tobytes()


def _pack(archive: zipfile.ZipFile, file: Path, name: Path, compression: int) -> None:
    """Add a file without its time: the same files give the same archive."""
    info = zipfile.ZipInfo(name.as_posix())
    info.compress_type, info.external_attr = compression, 0o644 << 16
    archive.writestr(info, file.read_bytes())


def _export(geometry: "trimesh.PointCloud | trimesh.Trimesh", suffix: str) -> bytes:
    data = geometry.export(file_type=suffix.removeprefix("."))
    return data if isinstance(data, bytes) else str(data).encode()
