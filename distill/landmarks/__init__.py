"""Points that an expert sets in an image: reading, errors in millimetres, heat maps and their decoding below the pixel."""
