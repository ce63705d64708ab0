"""What EgoExOR's files mean: numbers of sources and words, order of channels, correction of the gaze, known splits.

Facts of the published data card and code, and of people who measured the public files; `check` compares them with the
files that are there.
"""

from __future__ import annotations

from typing import Literal

Colours = Literal["true_rgb", "as_trained", "as_evaluated"]
Gaze = Literal["corrected", "stored"]
Pictures = Literal["jpg", "png"]

BLANK = "blank"  # a place of the camera axis that no camera fills
NOBODY = -1  # in the house layout, in place of the place of a camera
EGO = ("head_surgeon", "assistant", "circulator", "anesthetist")
EXTERIOR = ("external_1", "external_2", "external_3", "external_4", "external_5")
SOURCES = {
    name: number
    for number, name in enumerate((*EGO, "or_light", "microscope", *EXTERIOR, "simstation", "ultrasound"), start=1)
} | {BLANK: -1}

# Numbers of the words in `scene_graph`: places in these, with the spellings of the files.
RAW_ENTITIES = (
    *("anaesthetist", "anesthesia_equipment", "antiseptic", "assistant", "bin", "body_marker", "circulator", "cotton"),
    *("curette", "dressing_material", "forceps", "gloves", "head_surgeon", "health_monitor", "herbal_disk"),
    *("instrument_table", "instruments", "microcope", "microscope_controller", "microscope_eye", "microscope_screen"),
    *("needle", "operating_room", "operating_table", "operation_table", "patient", "scalpel", "scissors", "syringe"),
    *("tissue_mark", "tissue_paper", "ultrasound_gel", "ultrasound_machine", "ultrasound_probe", "ultrasound_screen"),
    *("unsterile_instruments", "vertebrae"),
)
RAW_PREDICATES = (
    *("anesthasing", "applying", "aspirating", "checking", "closeTo", "controlling", "cutting", "disinfection"),
    *("dressing", "dropping", "entering", "holding", "injecting", "inserting", "looking", "lyingOn", "manipulating"),
    *("positioning", "preparing", "removing", "scanning", "touching", "wearing"),
)
# Cameras whose red and blue change places on import. The files hold the exterior cameras as RGB and all others as BGR.
# The published training swaps some of them, the published evaluation all: whoever repeats either wants its pictures.
SWAPPED: dict[Colours, frozenset[str]] = {
    "true_rgb": frozenset(SOURCES) - {*EXTERIOR, BLANK},
    "as_trained": frozenset({*EGO, "simstation", "ultrasound"}),
    "as_evaluated": frozenset(SOURCES) - {BLANK},
}

# The glasses of these people were off by so much in these takes; to be added to their points.
GAZE_OFFSET = (-9.0, -4.0)  # px of a picture of GAZE_FRAME px
GAZE_FRAME = 336  # px
_OFF: dict[str, dict[str, range]] = {  # role -> surgery and procedure -> takes
    "assistant": {"Ultrasound_1": range(1, 2), "Ultrasound_2": range(1, 7)},
    "head_surgeon": {"Ultrasound_3": range(1, 5), "Ultrasound_4": range(1, 7)},
    "anesthetist": {"MISS_1": range(1, 4), "MISS_2": range(1, 5), "MISS_3": range(1, 4)},
    "circulator": {"MISS_1": range(4, 5), "MISS_3": range(4, 7), "MISS_4": range(1, 3)},
}
GAZE_IS_OFF = frozenset(
    (role, f"{procedure}_{take}")
    for role, where in _OFF.items()
    for procedure, takes in where.items()
    for take in takes
)

AUDIO_RATE = 48_000  # Hz
RATES = (15.0, 6.0)  # frames per second: as documented, and as counts of the public files suggest
FRAMES = (84_553, 33_574)  # of all takes: as documented, and as counted by users of the public files

# Takes of validation and test as others have reconstructed them; all others are training. To compare with, never to
# split by.
_COUNTS = {
    "MISS_1": 4,
    "MISS_2": 4,
    "MISS_3": 6,
    "MISS_4": 2,
    "Ultrasound_1": 1,
    "Ultrasound_2": 6,
    "Ultrasound_3": 4,
    "Ultrasound_4": 6,
    "Ultrasound_5": 8,
}
EXPECTED_TAKES = tuple(f"{procedure}_{take}" for procedure, count in _COUNTS.items() for take in range(1, count + 1))
_HELD_OUT = {
    "test": "MISS_1_1 MISS_2_2 MISS_3_6 Ultrasound_2_2 Ultrasound_3_4 Ultrasound_4_5 Ultrasound_5_6",
    "val": "MISS_1_4 MISS_2_1 MISS_3_1 MISS_4_1 Ultrasound_2_6 Ultrasound_3_1 Ultrasound_4_3 Ultrasound_5_3",
}
EXPECTED_SPLITS = dict.fromkeys(EXPECTED_TAKES, "train") | {
    take: split for split, takes in _HELD_OUT.items() for take in takes.split()
}
