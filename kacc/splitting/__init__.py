"""A model cut into models that run one after another, and the chain of their files."""

from kacc.splitting.chain import Chain
from kacc.splitting.model import split
from kacc.splitting.report import PartReport
from kacc.splitting.result import Split

__all__ = ["Chain", "PartReport", "Split", "split"]
