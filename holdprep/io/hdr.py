"""HDR pictures (PQ, HLG; BT.2020) in SDR (sRGB), by the published transfer functions and a curve for highlights.

PQ: SMPTE ST 2084. HLG: ITU-R BT.2100, for a display of 1000 cd/m^2. White of SDR is HDR's reference white of 203 cd/m^2 (ITU-R BT.2408).
"""

from functools import lru_cache

import cv2
import numpy as np

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
NAMES = {PQ: "PQ", HLG: "HLG"}
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
KNEE = 0.8  # of SDR's white: darker colours keep their value, brighter ones are compressed
BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
LUMA = np.array([[0.2627, 0.6780, 0.0593]])
STEPS = 4096  # of the table from linear light to sRGB's code


def is_hdr(transfer: int) -> bool:
    """True for the transfer characteristics (ITU-T H.273) that an SDR screen cannot show."""
    return transfer in NAMES


def name(transfer: int) -> str:
    """PQ or HLG."""
    return NAMES[transfer]


def to_sdr(rgb16: np.ndarray, transfer: int) -> np.ndarray:
    """BGR uint8 of a picture (H, W, 3) uint16 RGB in BT.2020's colours and the coding `transfer`."""
    light = np.take(_decoding(transfer), rgb16)
    if transfer == HLG:  # the display's gamma, on the scene's luminance
        luminance = np.maximum(cv2.transform(light, LUMA), 1e-6)
        light *= ((PEAK_NITS / WHITE_NITS) * cv2.pow(luminance, 0.2))[..., None]
    planes = [np.maximum(plane, 0) for plane in cv2.split(cv2.transform(light, BT2020_TO_BT709))]
    brightest = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
    gain = highlights(brightest) / np.maximum(brightest, 1e-6)
    codes = [np.take(_srgb(), (cv2.sqrt(plane * gain) * (STEPS - 1) + 0.5).astype(np.uint16), mode="clip") for plane in planes]
    return np.asarray(cv2.merge(codes[::-1]))


def highlights(value: np.ndarray) -> np.ndarray:
    """Linear light (1 = SDR's white) compressed to at most 1: the identity up to the knee, then a hyperbola of the same slope."""
    over = np.maximum(value - KNEE, 0)
    return np.minimum(value, KNEE) + over * (1 - KNEE) / (over + 1 - KNEE)


@lru_cache(maxsize=2)
def _decoding(transfer: int) -> np.ndarray:
    """Linear light of the 65536 codes: PQ in units of SDR's white, HLG of the scene in 0..1."""
    code = np.arange(65536) / 65535
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = code ** (1 / m2)
        return (10_000 / WHITE_NITS * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=1)
def _srgb() -> np.ndarray:
    """sRGB's codes of linear light; the table is over its square root, which spaces dark tones finely enough."""
    linear = (np.arange(STEPS) / (STEPS - 1)) ** 2
    return np.round(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).astype(np.uint8)
