"""lvm: find out why a latent vector model fails its gate, and what fixes it."""

from lvm.core.packages import VERSION as __version__

__all__ = ["__version__"]
