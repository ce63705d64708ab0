"""What people in the simulated operating room say."""

from __future__ import annotations

# Topic -> phrases. Topics are predicates, the most telling first, and steps.
PHRASES: dict[str, tuple[str, ...]] = {
    "cementing": (
        "Cement is going on now.",
        "Keep the cement coming.",
        "Cement, thumb pressure, hold it.",
        "The cement is getting warm.",
        "Take the excess cement away.",
        "Four more minutes for the cement.",
    ),
    "scanning": (
        "X-ray on, stay back please.",
        "Taking a scan now.",
        "One more X-ray shot.",
        "Scan is running.",
        "Hold still for the image, X-ray.",
        "Lead aprons on, we scan.",
    ),
    "suturing": (
        "I am closing now.",
        "Next suture, please.",
        "Cut the thread here.",
        "Another stitch on this side.",
        "Suture the next layer.",
        "We close the skin.",
    ),
    "cleaning": (
        "Rinse and suction, please.",
        "Clean this side again.",
        "More saline, wash it out.",
        "Wipe that off.",
        "Suction here, we clean up.",
        "Let us wash the wound.",
    ),
    "cutting": (
        "Making the incision.",
        "Scalpel, I cut here.",
        "Cut a little further down.",
        "The skin is open, cutting deeper.",
        "Careful with the blade.",
        "Extend the incision.",
    ),
    "calibrating": (
        "Registering the point.",
        "Checkpoint taken, next one.",
        "The array is visible, go on.",
        "Collect the points on the bone.",
        "Calibration at sixty percent.",
        "Hold the probe still.",
    ),
    "drilling": ("Pin is going in.", "A bit deeper.", "Watch the angle of the pin.", "Second pin now."),
    "sawing": ("Resection is running.", "Stay in the green zone.", "Slower on the edge.", "Robot is in position."),
    "hammering": ("Once more.", "It is seated now.", "Trial is in.", "A little harder."),
    "preparing": (
        "Lift the leg please.",
        "Disinfect down to the ankle.",
        "Prepare the leg now.",
        "Second coat of disinfectant.",
    ),
    "arrival": ("Is the set complete?", "We start in ten minutes.", "Open the big tray.", "Where is the patient?"),
    "preparation": ("The patient is asleep.", "Lights over here.", "Antibiotics are given.", "Which side is it?"),
    "draping": ("The drape, please.", "Pull the drape over.", "Tape it down there.", "Drape is sterile."),
    "departure": ("Well done everybody.", "Wake up please.", "Call for the bed.", "Count is correct."),
}
# Topics that sensors other than the microphones hardly show: announced at once and mentioned often.
ANNOUNCED = ("cementing", "scanning", "suturing", "cleaning", "cutting", "calibrating", "preparing")
HAND_OVER = ("{tool} please.", "Give me the {tool}.", "The {tool}, thank you.", "Can I have the {tool}?")
CHATTER = (
    "Can you turn the music down?",
    "How was the weekend?",
    "The next case is at two.",
    "Somebody close the door.",
    "It is cold in here.",
    "Can everybody see the screen?",
    "Yes.",
    "One moment.",
    "That looks good.",
    "We need the cement later.",
    "Did you order the scan for tomorrow?",
    "Who does the rounds tonight?",
    "Blood pressure is stable.",
    "My pager is on the table.",
    "We will clean up afterwards.",
)
