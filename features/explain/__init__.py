"""What an extractor saw in a clip: probabilities over time, maps of where, and checks of the maps."""
