"""What a store and a label column give away before anyone is proud of a score."""

from .finding import Finding, Level
from .report import AuditReport, require_free, write_audit
from .run import audit

__all__ = ["AuditReport", "Finding", "Level", "audit", "require_free", "write_audit"]
