"""How the networks learn: losses, augmentation, averaging, and one step of each stage."""
