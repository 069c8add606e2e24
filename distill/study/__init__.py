"""The study behind a student: teachers and students trained fold by fold, compared on clips that none of them has seen."""
