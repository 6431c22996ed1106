"""Scale by what was measured of the object, on rendered sequences whose hands the hand model cannot represent, with structure from motion.

As a command, `python -m tests.benchmarks --measured N`. The default tracker's hand of average length is aligned without a measured size, and
with each source: two points clicked in three frames each or in one, a printed marker (boxes), depth maps with smooth errors of 3 %.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import trimesh
import yaml

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.geometry.rigid import apply
from holdprep.quality.truth import GroundTruth, load_truth
from holdprep.sequence import Sequence, image_files, read_image, write_image
from holdprep.stages.create import DEPTH_UNITS_PER_M
from holdprep.synth.film import Shot
from tests.benchmarks.calibration import GIVEN, Sample, judged, prepare, refused, samples
from tests.benchmarks.measure import Row, row
from tests.running import run

MARKER_MM, TEXELS, MARGIN = 30.0, 240, 40
CLICK_PX = 1.5  # standard deviation of clicks, which are rounded to pixels
BLOTCH_PX, BLOTCH_STD = 25.0, 0.03  # size and standard deviation of a depth map's errors
VISIBLE_M = 0.002
NOTHING = ("object.marker_mm=null", "align.depth_maps=null")


def measure_measured(root: Path, count: int) -> Iterator[Row]:
    """The errors of `count` sequences with each source, boxes in turn with other objects, then medians and largest size errors of each source."""
    every = samples()
    boxes, others = ([s for s in every if (s.object == "box") == is_box] for is_box in (True, False))
    chosen = [sample for pair in zip(boxes, others[::4], strict=False) for sample in pair][:count]
    rows: list[Row] = []
    for sample in chosen:
        own = measure_sample(sample, root)
        rows += own
        yield from own
    for source in ("none", "points", "one_frame", "marker", "depth_maps"):
        of_source = [r for r in rows if str(r["case"]).endswith(f":{source}")]
        for name in ("size_error_pct", "size_interval_pct", "mrrpe_mm"):
            values = np.abs([float(r["value"]) for r in of_source if r["metric"] == name])
            if len(values):
                yield row(f"all:{source}", "align", f"median_{name}", np.median(values))
                yield row(f"all:{source}", "align", f"worst_{name}", values.max())


def measure_sample(sample: Sample, root: Path) -> list[Row]:
    """The rows of one sequence; a row `refused` where a stage refuses it."""
    given = (f"seq={sample.name}", *GIVEN, "hand=mediapipe")
    try:
        seq = prepare(sample, root, with_marker if sample.object == "box" else None)
        for stage in ("hand_pose", "register"):
            run(root, root / "out" / sample.name, f"stage={stage}", *given)
    except HoldprepError as error:
        print(f"{sample.name}: {error}")
        return [refused(sample.name)]
    return measure_sources(sample, seq, given)


def measure_sources(sample: Sample, seq: Sequence, given: tuple[str, ...]) -> list[Row]:
    """The rows of a registered sequence, aligned with each source."""
    root = seq.data_root
    sources = {"none": NOTHING, "points": NOTHING, "one_frame": NOTHING}
    sources["depth_maps"] = ("object.marker_mm=null", f"align.depth_maps={write_maps(seq)}")
    sources |= {"marker": (f"object.marker_mm={MARKER_MM}", "align.depth_maps=null")} if sample.object == "box" else {}
    rows: list[Row] = []
    for source, overrides in sources.items():
        case = f"{sample.name}:{source}"
        seq.path("points").unlink(missing_ok=True)
        if source in ("points", "one_frame"):
            write_points(seq, 3 if source == "points" else 1)
        try:
            found = run(root, root / "out" / sample.name, "stage=align", "force=true", *given, *overrides)
            metrics = judged(root, sample, (*given, *overrides), found["align.ho"]["metrics"])
        except HoldprepError as error:
            print(f"{case}: {error}")
            rows.append(refused(case))
            continue
        alone = found["align.o"]["metrics"].get("scale.depth_maps.scale")
        if alone is not None:
            true_scale = found["align.ho"]["metrics"]["object.scale"] / (1 + metrics["size_error_pct"] / 100)
            metrics["alone_error_pct"] = 100 * (alone / true_scale - 1)
        rows += [row(case, "align", name, value) for name, value in metrics.items()]
    return rows


def with_marker(truth: GroundTruth, t: int, shot: Shot) -> Shot:
    """The shot with markers 0 to 5 on the faces of a box, as far as the hand does not hide them."""
    assert truth.T_cam_obj is not None and truth.object_vertices_m is not None
    half, T = np.abs(truth.object_vertices_m).max(axis=0), truth.T_cam_obj[t]
    drawn = shot.image.copy()
    for number in range(6):
        axis, sign = number % 3, 1 if number < 3 else -1
        across, up = np.roll(np.eye(3), axis, axis=1)[1], sign * np.roll(np.eye(3), axis, axis=1)[2]
        square = sign * np.eye(3)[axis] * half + MARKER_MM / 2e3 * np.array([up - across, across + up, across - up, -across - up])
        corners = project(apply(T, square), truth.K).astype(np.float32)
        if np.cross(corners[1] - corners[0], corners[2] - corners[0]) > 0:  # seen from outside
            marker = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), number, TEXELS)
            picture = 40 + 0.7 * np.pad(marker, MARGIN, constant_values=255)[..., None].repeat(3, axis=2)
            texels = np.float32([[0, 0], [TEXELS, 0], [TEXELS, TEXELS], [0, TEXELS]]) + np.float32(MARGIN - 0.5)
            H = cv2.getPerspectiveTransform(texels, corners)
            size = drawn.shape[1::-1]
            cv2.warpPerspective(picture.astype(np.uint8), H, size, dst=drawn, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT)
    blurred = cv2.GaussianBlur(drawn, (0, 0), 0.6)
    changed = (drawn != shot.image).any(axis=2) & shot.masks["object"]
    return replace(shot, image=np.where(changed[..., None], blurred, shot.image))


def write_points(seq: Sequence, frames: int) -> None:
    """points.yaml with two far points of the object, each clicked in `frames` frames that show it; one: both in the same frame."""
    truth, rng = load_truth(seq.path("truth")), np.random.default_rng(0)
    assert truth.T_cam_obj is not None
    points, _ = trimesh.sample.sample_surface(trimesh.Trimesh(truth.object_vertices_m, truth.object_faces, process=False), 400, seed=0)
    px = np.stack([project(apply(T, points), truth.K) for T in truth.T_cam_obj])
    seen = np.stack([_visible(seq, truth, points, t) for t in range(len(truth.names))])
    often = np.flatnonzero(seen.mean(axis=0) > 0.3) if frames > 1 else np.flatnonzero(seen[seen.sum(axis=1).argmax()])
    apart = np.linalg.norm(points[often, None] - points[often], axis=-1)
    pair = often[list(np.unravel_index(apart.argmax(), apart.shape))]
    clicks: dict[str, dict[str, list[float]]] = {}
    for label, point in zip("ab", pair, strict=True):
        shown = np.flatnonzero(seen[:, point]) if frames > 1 else seen.sum(axis=1).argmax(keepdims=True)
        for t in shown[np.linspace(0, len(shown) - 1, frames).round().astype(int)]:
            clicks.setdefault(truth.names[t], {})[label] = (px[t, point] + CLICK_PX * rng.normal(size=2)).round().tolist()
    seq.path("points").write_text(yaml.safe_dump({"distance_mm": 1e3 * float(apart.max()), "frames": clicks}))


def _visible(seq: Sequence, truth: GroundTruth, points: np.ndarray, t: int) -> np.ndarray:
    """(N,) bool: points (N, 3) that a frame shows."""
    assert truth.T_cam_obj is not None
    at = apply(truth.T_cam_obj[t], points)
    column, row_ = project(at, truth.K).round().astype(int).T
    depth_m = read_image(seq.path("truth_depth", f"{truth.names[t]}.png"), cv2.IMREAD_UNCHANGED) / DEPTH_UNITS_PER_M
    inside = (column >= 0) & (row_ >= 0) & (column < depth_m.shape[1]) & (row_ < depth_m.shape[0])
    found = np.zeros(len(points), bool)
    found[inside] = np.abs(depth_m[row_[inside], column[inside]] - at[inside, 2]) < VISIBLE_M
    return found


def write_maps(seq: Sequence) -> Path:
    """A folder of depth maps: the true depth, of another gain in each frame, times smooth errors."""
    folder, rng = seq.data_root / "maps" / seq.name, np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for file in image_files(seq.path("truth_depth")):
        depth = read_image(file, cv2.IMREAD_UNCHANGED).astype(float)
        blotches = cv2.GaussianBlur(rng.normal(size=depth.shape), (0, 0), BLOTCH_PX)
        depth *= rng.uniform(0.5, 3.0) * np.exp(BLOTCH_STD * blotches / blotches.std())
        write_image(folder / file.name, depth.clip(0, 65535).astype(np.uint16))
    return folder
