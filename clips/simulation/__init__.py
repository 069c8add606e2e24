"""Simulated lung ultrasound: patients, what their lungs show, the physics of the picture, and video files of it."""
