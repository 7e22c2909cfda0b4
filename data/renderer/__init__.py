"""Seeded pictures of things in the world, painted with numpy and Pillow alone."""
