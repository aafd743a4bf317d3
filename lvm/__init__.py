"""lvm: find out why a latent vector model fails its gate, and what fixes it."""

__version__ = "0.1.0"
