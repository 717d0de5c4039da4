"""The passes over pixels: moments, affine, and of backward masked, products and blend."""
