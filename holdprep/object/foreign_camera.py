"""One pinhole camera with at most one radial coefficient, from the cameras of COLMAP and nerfstudio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdprep.errors import HoldprepError

# parameters by COLMAP's names of its models; f stands for fx and fy
PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
ORDER = {"k1": 3, "k2": 5, "k3": 7, "k4": 3, "k5": 5, "k6": 7, "p1": 2, "p2": 2}  # powers of the radius
NEGLIGIBLE_PX = 0.05  # at the corner


@dataclass(frozen=True)
class ForeignCamera:
    """A camera as another tool writes it: its model, image size (width, height) and parameters; the first pixel's centre is at 0.5."""

    model: str
    size: tuple[int, int]
    values: Mapping[str, float]

    @classmethod
    def of_params(cls, model: str, size: tuple[int, int], params: Sequence[float]) -> "ForeignCamera":
        """From the list of a COLMAP model's parameters; those of models that are not known are empty."""
        return cls(model, size, dict(zip(PARAMETERS.get(model, ()), map(float, params), strict=False)))

    def focal_px(self) -> tuple[float, float]:
        return self.values.get("fx", self.values.get("f", np.nan)), self.values.get("fy", self.values.get("f", np.nan))


def single_camera(source: str, cameras: Sequence[ForeignCamera], image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) with pixel centres at integers, and SIMPLE_RADIAL's k (1,) or (0,), of the camera that all images have.

    Raises HoldprepError for several cameras, another size than `image_size` (width, height), and distortion of other kinds.
    """
    first = cameras[0]
    if any(not _alike(camera, first) for camera in cameras):
        distinct = {(c.model, c.size, *c.values.values()) for c in cameras}
        focal = [c.focal_px()[0] for c in cameras]
        what = ", ".join(sorted({c.model for c in cameras}))
        raise HoldprepError(
            f"{source} has several cameras ({len(distinct)} for {len(cameras)} images: {what}, focal lengths {min(focal):.0f} to {max(focal):.0f} "
            "px), one is needed: run COLMAP again with --ImageReader.single_camera 1, on the images of one camera"
        )
    if first.model not in PARAMETERS:
        raise HoldprepError(f"{source} has a {first.model} camera, {', '.join(PARAMETERS)} are read: undistort the images first")
    if first.size != image_size:
        raise HoldprepError(
            f"{source} was made from images of {first.size[0]} x {first.size[1]}, images/ has {image_size[0]} x {image_size[1]}: "
            "use images of the same size"
        )
    fx, fy = first.focal_px()
    K = np.array([[fx, 0, first.values["cx"] - 0.5], [0, fy, first.values["cy"] - 0.5], [0, 0, 1]])
    if not np.isfinite(K).all() or fx <= 0 or fy <= 0:
        raise HoldprepError(f"{source} has a camera without a focal length or centre ({dict(first.values)})")
    return K, _distortion(source, first, K)


def _alike(a: ForeignCamera, b: ForeignCamera) -> bool:
    same_kind = a.model == b.model and a.size == b.size and a.values.keys() == b.values.keys()
    return same_kind and np.allclose(list(a.values.values()), list(b.values.values()), rtol=1e-6)


def _distortion(source: str, camera: ForeignCamera, K: np.ndarray) -> np.ndarray:
    """SIMPLE_RADIAL's k (1,), or (0,); coefficients that move the corner by less than NEGLIGIBLE_PX are none."""
    radius = float(np.linalg.norm(np.array(camera.size) / 2 / [K[0, 0], K[1, 1]]))
    found = {n: v for n, v in camera.values.items() if n in ORDER and abs(v) * radius ** ORDER[n] * K[0, 0] > NEGLIGIBLE_PX}
    if found.keys() - {"k1"}:
        listed = ", ".join(f"{name} {value:g}" for name, value in found.items())
        raise HoldprepError(
            f"{source} has a {camera.model} camera with distortion ({listed}), of which k1 alone is read: undistort the images first "
            "(colmap image_undistorter), or run COLMAP with SIMPLE_RADIAL"
        )
    is_radial = camera.model == "SIMPLE_RADIAL" or bool(found)
    return np.array([camera.values["k1"]]) if is_radial else np.zeros(0)
