"""The closed language of scene graphs: entities, predicates, synonyms, prompt lists, tracked tools, robot phases.

Data specification, sections 1, 4.2, 4.4, 6 and 10. Nothing else in this repository spells these names.
"""

from __future__ import annotations

ENTITIES = (
    "anaesthetist",
    "anesthesia_equipment",
    "assistant_surgeon",
    "c_arm",
    "circulator",
    "drape",
    "drill",
    "hammer",
    "head_surgeon",
    "instrument",
    "instrument_table",
    "mako_robot",
    "monitor",
    "mps",
    "mps_station",
    "nurse",
    "operating_table",
    "patient",
    "saw",
    "secondary_table",
    "student",
    "tracker",
    "unrelated_person",
)  # order of data/classes.txt; the index is the class number of the entity report

PREDICATES = (
    "assisting",
    "calibrating",
    "cementing",
    "cleaning",
    "closeTo",
    "cutting",
    "drilling",
    "hammering",
    "holding",
    "lyingOn",
    "manipulating",
    "preparing",
    "sawing",
    "scanning",
    "suturing",
    "touching",
)  # order of data/relationships.txt
NONE = "none"  # the 17th name of the score reports: no relation
SCORED_PREDICATES = (*PREDICATES, NONE)

PEOPLE = (
    "anaesthetist",
    "assistant_surgeon",
    "circulator",
    "head_surgeon",
    "mps",
    "nurse",
    "patient",
    "student",
    "unrelated_person",
)

# Predicates by how much they tell about what is going on (section 4.4), most telling first.
PREDICATE_LEVELS = (
    ("calibrating", "cementing", "cleaning", "cutting", "drilling", "hammering", "sawing", "scanning", "suturing"),
    ("assisting", "holding", "manipulating", "preparing", "touching"),
    ("closeTo", "lyingOn"),
)

# Spellings met in annotations and generated text (section 6). Role names are compared before blanks become underscores.
ROLE_SYNONYMS = {"head_surgent": "head_surgeon", "anesthetist": "anaesthetist"}
WORD_SYNONYMS = {
    "anaesthesia_equipment": "anesthesia_equipment",
    "anesthesia equipment": "anesthesia_equipment",
    "anaesthetist_station": "anesthesia_equipment",
    "close": "closeto",
    "close to": "closeto",
    "tool": "instrument",
    "opertating_table": "operating_table",
}
# Short names in the raw MM-OR labels (section 3).
RAW_ENTITY_NAMES = {"ot": "operating_table", "ae": "anesthesia_equipment", "anest": "anaesthetist"}

# What the prompt lists (section 4.2): 22 entities, blanks and underscores mixed, unrelated_person left out.
PROMPT_ENTITIES = (
    "head surgeon",
    "assistant surgeon",
    "circulator",
    "nurse",
    "anaesthetist",
    "mps",
    "patient",
    "student",
    "instrument table",
    "operating table",
    "secondary table",
    "anesthesia equipment",
    "c_arm",
    "mako_robot",
    "monitor",
    "mps_station",
    "tracker",
    "drape",
    "drill",
    "hammer",
    "saw",
    "instrument",
)

# Tools that the robot's tracking camera follows: unique_id in take_tracks -> name in the prompt.
TRACKER_OBJECTS = {
    "8000050": "base_array",
    "8000056": "calibration_array",
    "8000057": "upper_tracker",
    "8000058": "lower_tracker",
    "8000054": "green_tip",
    "8000053": "blue_tip",
    "8000999": "calibration_array",
}

# Phases of setting up the robot, in order and as the label files spell them.
ROBOT_PHASE_LABELS = (
    "Turn on",
    "Initial Calibration by MPS",
    "Dressing the robot, to make it sterile",
    "Install the Saw by nurse",
    "Install base array by nurse",
    "Install calibration array",
    "Calibrate the robot by nurse",
    "Remove calibration array",
    "Install actual Saw tip",
)
