"""Image backbones (timm) for grey ultrasound frames: building, temporal shift, saving and loading."""
