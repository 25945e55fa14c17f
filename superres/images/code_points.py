"""Colours that are given as code points (ITU-T H.273): AVIF's and HEIC's `nclx`, PNG's `cICP`."""

import numpy as np
import numpy.typing as npt

from superres.images.icc_profiles import Chromaticities, Colours

Numbers = npt.NDArray[np.float64]

D65 = (0.3127, 0.329)
C = (0.31, 0.316)
SRGB_PRIMARIES: Chromaticities = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, *D65)
# H.273, table 2, without X, Y and Z (10), which no display has.
SMPTE_170M: Chromaticities = (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65)
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_PRIMARIES,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, *C),
    5: (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, *D65),
    6: SMPTE_170M,
    7: SMPTE_170M,
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *C),
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, *D65),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *D65),
    22: (0.63, 0.34, 0.295, 0.605, 0.155, 0.077, *D65),
}
UNSPECIFIED, SRGB, PQ, HLG = 2, 13, 16, 18
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# How television's signals are shown (ITU-R BT.1886), whatever cameras do to them.
VIDEO_CURVE = (2.4,)
SMPTE_240M_CURVE = (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0913)
# H.273, table 3.
CURVES: dict[int, tuple[float, ...]] = {
    1: VIDEO_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: VIDEO_CURVE,
    7: SMPTE_240M_CURVE,
    8: (1.0,),
    SRGB: SRGB_CURVE,
    14: VIDEO_CURVE,
    15: VIDEO_CURVE,
    17: (2.6, (52.37 / 48) ** (1 / 2.6), 0.0, 0.0, 0.0),
}
# Chromium shows AVIFs with these as sRGB: what wrote them meant a picture, not a television signal.
MEANT_AS_SRGB = frozenset({1, UNSPECIFIED, 6, 14, 15})
CURVE_SAMPLES = 1024
# ITU-R BT.2408: diffuse white in HDR, and the peak of HLG's reference display, in cd/m2.
WHITE_NITS, PEAK_NITS = 203, 1000
# Of white: up to here brightness is kept, and highlights are compressed above.
KNEE = 0.6


def are_known(primaries: int, transfer: int) -> bool:
    """Tell whether code points have a meaning here."""
    return primaries in PRIMARIES and (transfer in CURVES or transfer in {PQ, HLG})


def find_colours(primaries: int, transfer: int) -> Colours | None:
    """Return the meaning of code points; None if they mean sRGB, or nothing that is known.

    The brightness of HDR (PQ and HLG) has no place in a profile's curve. There it is what fits
    into a standard range, for programs that do not know the code points in the profile.
    """
    if not are_known(primaries, transfer) or (primaries, transfer) == (1, SRGB):
        return None
    if transfer in {PQ, HLG}:
        return Colours(PRIMARIES[primaries], make_hdr_curve(transfer), (primaries, transfer))
    return Colours(PRIMARIES[primaries], CURVES[transfer])


def find_photo_colours(primaries: int, transfer: int) -> Colours | None:
    """Return the meaning of an AVIF's or HEIC's code points, as `find_colours`."""
    return find_colours(
        1 if primaries == UNSPECIFIED else primaries,
        SRGB if transfer in MEANT_AS_SRGB else transfer,
    )


def make_hdr_curve(transfer: int) -> tuple[float, ...]:
    """Return a curve whose white is diffuse white, with highlights compressed up to the peak."""
    samples = np.linspace(0, 1, CURVE_SAMPLES)
    nits = decode_pq(samples) if transfer == PQ else decode_hlg(samples)
    light = nits / WHITE_NITS
    room = 1 - KNEE
    compressed = KNEE + room * (1 - np.exp(-np.maximum(light - KNEE, 0) / room))
    return tuple(np.where(light < KNEE, light, compressed).tolist())


def decode_pq(samples: Numbers) -> Numbers:
    """Return the luminance of PQ samples in cd/m2 (ITU-R BT.2100, table 4)."""
    roots = samples ** (32 / 2523)
    share = np.maximum(roots - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * roots)
    return np.asarray(10_000 * share ** (8192 / 1305))


def decode_hlg(samples: Numbers) -> Numbers:
    """Return the luminance of grey HLG samples in cd/m2 (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(samples <= 0.5, samples**2 / 3, (np.exp((samples - c) / a) + b) / 12)
    return np.asarray(PEAK_NITS * scene**1.2)
