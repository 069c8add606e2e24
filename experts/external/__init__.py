"""An expert elsewhere: what its folder remembers of its training clips, drift from them, scores at another hospital."""
