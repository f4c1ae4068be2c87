"""What the recipes reach on real images, each by one command: python -m bench.recipes NAME."""
