"""Training by distillation: views of images and clips, networks, teachers, what teachers said of the views, and the loop."""
