"""sonokit: features learned from ultrasound video once, clinical questions answered from them in minutes.

The package is the repository's root; each folder is one floor of the house (see docs/architecture.md). Nothing is imported
here, so that ``import sonokit`` and ``sonokit --help`` stay instant.
"""

__version__ = "0.1.0"
