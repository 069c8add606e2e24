"""What a clip is: manifest, decoding, sampling, frame cache, augmentation, patient splits, simulated clips."""
