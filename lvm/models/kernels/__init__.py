"""Kernels in Triton; a package of its own, so that nothing imports them that only looks around."""
