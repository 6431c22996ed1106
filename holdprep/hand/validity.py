"""Validity of registered frames: agreement with the mask, and outliers in time."""

import numpy as np
import torch
from torch import Tensor

from holdprep.hand import infill
from holdprep.hand.model import HandModel
from holdprep.hand.registration import Registration

MIN_IOU = 0.5  # of silhouette and mask, where both are visible
MIN_EXPLAINED = 0.25  # of the mask's edge


def valid_frames(model: HandModel, fit: Registration, iou: np.ndarray, explained: np.ndarray, *, z: float) -> Tensor:
    """(T,) bool: frames with a target that are no outliers in time (`infill.outliers`, robust `z`) and agree with the mask.

    `iou`, `explained` (T,) are the results of `Outlines.agreement`; NaN, where the mask gives no information, counts as agreement.
    """
    is_valid = fit.is_valid & ~infill.outliers(model, fit.params, fit.error_m, fit.is_valid, z=z)
    disagrees = (iou < MIN_IOU) | (explained < MIN_EXPLAINED)
    agreeing = is_valid & ~torch.from_numpy(disagrees)
    return agreeing if bool(agreeing.any()) else is_valid  # where all disagree, infill is impossible, and gates stop the run
