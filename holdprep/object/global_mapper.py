"""Global mapping as a second opinion: all rotations at once from the relative ones, then positions and points (Pan et al. 2024).

It does not grow a model frame by frame, so that it does not repeat the flips of incremental mapping.
"""

import pycolmap

from holdprep.object.colmap import Model, copy_database, read_model
from holdprep.object.diagnosis import MIN_MATCHES, MappingRun
from holdprep.object.focal import MAX_STDERR, set_focal, stderr_ratio
from holdprep.object.mapper import map_in_temporal_order
from holdprep.object.workspace import Workspace

_MIN_FRAMES = 3


def map_frames(workspace: Workspace, num_incremental: int, seed: int, number: int) -> tuple[list[Model], list[MappingRun]]:
    """Mapping `number` over `workspace.keys`: incremental below `num_incremental`, else global. Returns what `map_in_temporal_order` does."""
    if number < num_incremental:
        return map_in_temporal_order(workspace, num_incremental, seed, number)
    return map_globally(workspace, seed, number)


def map_globally(workspace: Workspace, seed: int, number: int) -> tuple[list[Model], list[MappingRun]]:
    """The models of one global mapping, largest first, as `map_in_temporal_order` returns them; written to sparse_<number>."""
    output = workspace.folder / f"sparse_{number}"
    output.mkdir(parents=True, exist_ok=True)
    database = output / "database.db"  # its own: an incremental mapping may open the other one at the same time
    copy_database(workspace.folder, database)
    found = pycolmap.global_mapping(database, workspace.folder / "images", output, _options(workspace, seed))
    database.unlink()
    models, runs = [], []
    for i, reconstruction in found.items():
        if workspace.refine_focal and stderr_ratio(reconstruction) >= MAX_STDERR:
            set_focal(reconstruction, float(workspace.K[0, 0]) * workspace.crop.upsample)
        frames = reconstruction.num_reg_frames() if reconstruction.num_points3D() else 0
        (camera,) = reconstruction.cameras.values()
        runs.append(MappingRun(frames, frames, float(camera.mean_focal_length() / max(camera.width, camera.height))))
        if frames >= _MIN_FRAMES:
            models.append(read_model(reconstruction, workspace.crop, number, output / str(i)))
    return sorted(models, key=lambda model: (-len(model.poses), -model.num_observations)), runs


def _options(workspace: Workspace, seed: int) -> pycolmap.GlobalPipelineOptions:
    """One thread and a fixed seed, so that the same seed gives the same models; the distortion is left to the complete model."""
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = seed
    options.mapper.rotation_averaging.random_seed = options.mapper.global_positioning.random_seed = seed
    options.mapper.retriangulation.random_seed = seed
    options.mapper.global_positioning.use_gpu = False
    options.mapper.bundle_adjustment.refine_focal_length = workspace.refine_focal
    options.mapper.bundle_adjustment.refine_extra_params = False
    options.image_names = [f"{name}.png" for name in workspace.keys]
    options.min_num_matches = MIN_MATCHES
    return options
