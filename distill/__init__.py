"""Tiny models taught by large ones and by experts' eyes: teachers, students, expert knowledge, landmarks, export."""
