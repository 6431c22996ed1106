"""The sequence folder: frames, masks, arrays and pictures by artefact, wherever they lie.

Reading never executes anything, writing is atomic. A sweep's job writes into its own folder, laid over the sequence's: it reads
what is in its own folder first, and never writes into the sequence. Heavy packages are imported where they are needed: to find that
nothing has to be done takes none of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from holdprep.errors import HoldprepError, MissingArtefact
from holdprep.io.atomic import atomic_dir, atomic_path, write_bytes_atomic
from holdprep.io.bounded import read_json
from holdprep.io.matching import same_number
from holdprep.sequence.images import Images, Masks, Union, encode, image_files, write_image
from holdprep.sequence.layout import ENTITIES
from holdprep.sequence.paths import SequencePaths

if TYPE_CHECKING:
    import trimesh

    from holdprep.geometry.lens import Lens


class Sequence(SequencePaths):
    """One sequence under `data_root`; `overlay` is the folder that a sweep's job writes to instead.

    `staging` is the folder in which a running stage lays its outputs until they are complete; the stage reads them back from there.
    """

    # frames

    def frame_names(self) -> list[str]:
        """Stems of images/, numbers in numeric order: the one order of frames that every array here follows."""
        folder = self.path("images")
        files = image_files(folder) if folder.is_dir() else []
        if not files:
            raise MissingArtefact(f"{folder} holds no images: run stage=create with video=<file or folder> first")
        stems = [f.stem for f in files]
        twice = same_number(stems)
        if twice is not None:
            first, second = (files[i].name for i in twice)
            raise HoldprepError(f"{folder} holds two images of one frame, {first} and {second}: remove or rename one")
        return stems

    def images(self, lens: "Lens | None" = None) -> "Images":
        """The frames of images/, read when requested; with `lens` as a pinhole camera would have taken them."""
        self.frame_names()
        return Images(image_files(self.path("images")), lens=lens)

    def image_size(self) -> tuple[int, int]:
        """Width and height of images/."""
        height, width = self.images()[0].shape[:2]
        return width, height

    def read_frames(self) -> dict[str, Any]:
        """What is known of where images/ came from (processed/frames.json); empty where nothing is.

        Raises HoldprepError where it is damaged.
        """
        if not self.has("frames"):
            return {}
        try:
            record = read_json(self.path("frames"))
        except HoldprepError:
            record = None
        kinds: dict[str, Any] = {"source": str, "focal_px": int | float}
        if not isinstance(record, dict) or not all(isinstance(record.get(k), kind | None) for k, kind in kinds.items()):
            raise HoldprepError(f"{self.path('frames')} is damaged: delete it, or run stage=create force=true video=... again")
        return record

    # masks

    def entities(self) -> list[str]:
        """Entities that have processed masks."""
        return [e for e in ENTITIES if self.has(f"masks_{e}")]

    def masks(self, entity: str, kind: str = "masks", lens: "Lens | None" = None) -> "Masks":
        """The 0/255 masks of an entity (`kind` truth_masks: the true ones, again: the second pass'), read when requested, one a frame of images/.

        With `lens` those of the pictures that a pinhole camera would have taken.
        """
        folder = self.path(f"{kind}_{entity}")
        by_name = {f.stem: f for f in image_files(folder)}
        missing = [n for n in self.frame_names() if n not in by_name]
        if missing:
            raise HoldprepError(f"{folder} lacks {len(missing)} masks (first: {missing[0]}); run what makes them with force=true")
        return Masks([by_name[n] for n in self.frame_names()], lens=lens)

    def final_masks(self, entity: str, lens: "Lens | None" = None) -> "Masks":
        """The masks of an entity after the second pass where there was one, else those of stage segment; see `masks`."""
        return self.masks(entity, "again" if self.has(f"again_{entity}") else "masks", lens)

    def hand_pixels(self) -> Union:
        """The pixels of all hands together, one mask a frame of images/, read when requested; empty masks without hands."""
        width, height = self.image_size()
        hands = [self.masks(e) for e in self.entities() if e != "object"]
        return Union(hands, len(self.frame_names()), np.zeros((height, width), bool))

    def label_images(self, lens: "Lens | None" = None) -> "Images":
        """The merged label images (0, 50 object, 150 right, 250 left) of the final masks; with `lens` as a pinhole camera saw them."""
        folder = self.path("again" if self.has("again") else "masks")
        by_name = {f.stem: f for f in image_files(folder)}
        missing = [n for n in self.frame_names() if n not in by_name]
        if missing:
            raise HoldprepError(f"{folder} lacks {len(missing)} masks (first: {missing[0]}); run stage=segment force=true")
        return Images([by_name[n] for n in self.frame_names()], cv2.IMREAD_UNCHANGED, lens)

    # reading and writing

    def read_npy(self, artefact: str, *parts: str) -> Any:
        """An array, or a pickled dict of arrays; never executes what the file names."""
        from holdprep.io import safeio

        return safeio.load_npy(self.path(artefact, *parts))

    def write_npy(self, artefact: str, value: Any, *parts: str) -> None:
        """An array or a dict of arrays, readable by numpy 1.23 on Python 3.8."""
        from holdprep.io import safeio

        safeio.save_npy(self.target(artefact, *parts), value)

    def write_images(self, artefact: str, pictures: Iterator[tuple[str, np.ndarray]], *parts: str) -> None:
        """A folder of pictures (name with suffix, BGR or grey): the whole folder appears at once or not at all."""
        with atomic_dir(self.target(artefact, *parts)) as folder:
            for name, picture in pictures:
                write_image(folder / name, picture)

    def write_picture(self, artefact: str, picture: np.ndarray) -> Path:
        """One picture (BGR or grey); returns where it is."""
        target = self.target(artefact)
        write_bytes_atomic(target, encode(target, picture))
        return target

    def write_mesh(self, artefact: str, name: str, mesh: "trimesh.Trimesh") -> None:
        """A mesh as .ply."""
        with atomic_path(self.target(artefact, name)) as temporary:
            temporary.write_bytes(export(mesh, Path(name).suffix))


def export(geometry: "trimesh.PointCloud | trimesh.Trimesh", suffix: str) -> bytes:
    """A mesh or cloud as the bytes of a file."""
    data = geometry.export(file_type=suffix.removeprefix("."))
    return data if isinstance(data, bytes) else str(data).encode()
