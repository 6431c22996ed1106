"""Where every artefact lies in the sequence folder (the layout is HOLD's; see holdprep/README.md, "The sequence folder")."""

from pathlib import Path

ENTITIES = ("right", "left", "object")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MODES = ("h", "o", "ho")
RECORDS = Path("processed", ".holdprep")  # what stages recorded, and their scratch
ABSENT = "absent.json"  # beside the records of an overlay: artefacts that are not read through it

# artefact -> path in the sequence folder
ARTEFACTS: dict[str, str] = {
    "video": "video.mp4",
    "prompts": "prompts.yaml",
    "points": "points.yaml",
    "overrides": "holdprep.yaml",
    "images": "images",
    "images_zip": "images.zip",
    "raw_images": "processed/raw_images",
    "frames": "processed/frames.json",
    **{f"sam_{e}": f"processed/sam/{e}/images_masks" for e in ENTITIES},
    **{f"masks_{e}": f"processed/sam/{e}/masks_processed" for e in ENTITIES},
    "masks": "processed/masks",
    "images_object": "processed/images_object",
    "second_pass": "processed/second_pass/frames.json",
    **{f"again_{e}": f"processed/second_pass/{e}" for e in ENTITIES},
    "again": "processed/second_pass/masks",
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
    "truth": "ground_truth/truth.npz",
    **{f"truth_masks_{e}": f"ground_truth/masks/{e}" for e in ENTITIES},
    "truth_depth": "ground_truth/depth",
    "build": "build",
    "report": "report.html",
    "overlay": "overlay.mp4",
    "view": "view.html",
    "view_rrd": "view.rrd",
    "zip": "../<seq>.zip",  # in an overlay within it: see Sequence.place
}
