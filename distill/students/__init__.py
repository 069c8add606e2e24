"""Students: networks small enough to run anywhere, what each of them costs, and how fast it is on this machine."""
