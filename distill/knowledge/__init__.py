"""What experts see beside the label: where they looked (gaze) and what they marked (regions)."""
